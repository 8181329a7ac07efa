package user

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
)

// Accounts is what the service asks of its store; see Store for the promises.
type Accounts interface {
	AddStaff(ctx context.Context, a Staff, entry audit.Entry) error
	StaffByName(ctx context.Context, username string) (Staff, error)
	StaffByID(ctx context.Context, id int64) (Staff, error)
	Usernames(ctx context.Context, ids []int64) (map[int64]string, error)
	StaffSignedIn(ctx context.Context, session Session, step int64, entry audit.Entry) error
	StaffFailed(ctx context.Context, id int64, count func(Attempts) Attempts, entry audit.Entry) error
	Refused(ctx context.Context, entry audit.Entry) error

	AccountByActivation(ctx context.Context, bucket int, hash [32]byte) (Account, error)
	Account(ctx context.Context, participant int64) (Account, error)
	Activate(ctx context.Context, hash [32]byte, pinHash string, session Session, entry audit.Entry) error
	ParticipantSignedIn(ctx context.Context, session Session, entry audit.Entry) error
	ParticipantFailed(ctx context.Context, participant int64, count func(Attempts) Attempts, entry audit.Entry) error

	Session(ctx context.Context, place Place, id int64) (Session, error)
	Rotate(ctx context.Context, place Place, id int64, from, to [32]byte, expires time.Time) (bool, error)
	EndSession(ctx context.Context, place Place, id int64, entry audit.Entry) error
}

// Participants knows participants by number and by id.
type Participants interface {
	// Lookup finds a participant by its number in a study, named by id or protocol number; errs.NotFound if there is none.
	Lookup(ctx context.Context, study, number string) (participant, studyID int64, err error)
	// Number returns a participant's study and number; errs.Unavailable if its shard does not answer.
	Number(ctx context.Context, participant int64) (studyID int64, number string, err error)
	// Activated tells that the participant has just signed in for the first time.
	Activated(participant int64)
}

// Policies knows what a study asks of its participants.
type Policies interface {
	PinRequired(ctx context.Context, study int64) (bool, error)
}

// Tokens signs access tokens.
type Tokens interface {
	Issue(p auth.Principal, ttl time.Duration) (string, error)
}

// Secrets opens what is kept sealed in the metadata database.
type Secrets interface {
	Open(sealed, associated []byte) ([]byte, error)
}

// IDs gives Snowflake ids; it refuses rather than repeat one.
type IDs interface {
	NextN(n int) ([]int64, error)
}

// Parts are what sign-in needs. All are required.
type Parts struct {
	Accounts     Accounts
	Participants Participants
	Policies     Policies
	Tokens       Tokens
	Secrets      Secrets
	Hasher       *Hasher
	IDs          IDs
	Random       io.Reader
	Now          func() time.Time
	Logger       *slog.Logger
}

// Service signs people in and out. It is safe for concurrent use.
type Service struct {
	Parts
	config Config
}

// New returns the service.
func New(config Config, parts Parts) *Service { return &Service{Parts: parts, config: config} }

// SignedIn is what a client gets for a good sign-in.
type SignedIn struct {
	Access, Refresh string
	ExpiresIn       time.Duration // of the access token
	Participant     int64         // these three only for participants, and not after a refresh
	Study           int64
	Number          string
}

// The actions in the audit trail.
const (
	actionAccount  = "account.create"
	actionLogin    = "auth.login"
	actionFailed   = "auth.failed"
	actionActivate = "auth.activate"
	actionLogout   = "auth.logout"
	actionReused   = "auth.refresh_reused"
)

// AddStaff makes a staff account and returns its id. Its refusals are errs.Unprocessable with every finding and
// errs.Conflict for a user name that is taken. Who may call it is the caller's business: the command line may.
func (s *Service) AddStaff(ctx context.Context, username, password string, role auth.Role) (int64, error) {
	username = normalUsername(username)
	findings := append(usernameFindings(username), passwordFindings(password)...)
	if _, err := auth.ParseRole(string(role)); err != nil {
		findings = append(findings, errs.Finding{Pointer: "/role", Code: "unknown_role", Detail: err.Error()})
	}
	if len(findings) > 0 {
		return 0, errs.InvalidField(findings...)
	}
	hash, err := s.Hasher.Hash(ctx, password)
	if err != nil {
		return 0, fmt.Errorf("hash password: %w", err)
	}
	ids, err := s.IDs.NextN(2)
	if err != nil {
		return 0, fmt.Errorf("id of an account: %w", err)
	}
	now := s.Now()
	account := Staff{ID: ids[0], Username: username, PasswordHash: hash, Role: role, CreatedAt: now}
	by, _ := auth.From(ctx)
	entry := audit.Entry{ID: ids[1], At: now, Zone: "UTC", ActorKind: actorKind(by), Actor: by.ID, Action: actionAccount,
		Record: "staff_user", RecordID: account.ID, New: fmt.Appendf(nil, `{"role":%q}`, role)}
	return account.ID, s.Accounts.AddStaff(ctx, account, entry)
}

func actorKind(p auth.Principal) string {
	if p.ID == 0 {
		return "system"
	}
	return string(p.Kind)
}

// Staff returns the id of a user name's account, or errs.NotFound.
func (s *Service) Staff(ctx context.Context, username string) (int64, error) {
	a, err := s.Accounts.StaffByName(ctx, normalUsername(username))
	return a.ID, err
}

// Usernames returns the user names of those staff ids that exist.
func (s *Service) Usernames(ctx context.Context, ids []int64) (map[int64]string, error) {
	return s.Accounts.Usernames(ctx, ids)
}

// Login signs a staff member in. A wrong name, a wrong password and a locked account are one errs.Unauthenticated; a missing
// or wrong one-time code has the code otp_required, and only once the password is right.
func (s *Service) Login(ctx context.Context, username, password, otp, source string) (SignedIn, error) {
	staff, err := s.Accounts.StaffByName(ctx, normalUsername(username))
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return SignedIn{}, err
	}
	right, err := s.Hasher.Matches(ctx, password, staff.PasswordHash)
	if err != nil {
		return SignedIn{}, err
	}
	now := s.Now()
	if staff.ID == 0 || staff.Disabled || staff.Attempts.Locked(now) {
		return SignedIn{}, s.refuse(ctx, auth.Principal{Kind: auth.KindStaff, ID: staff.ID}, source, errSignIn())
	}
	if !right {
		return SignedIn{}, s.staffFailed(ctx, staff.ID, source, errSignIn())
	}
	step, err := s.secondFactor(ctx, &staff, otp, source)
	if err != nil {
		return SignedIn{}, err
	}
	session, token, entry, err := s.session(auth.KindStaff, staff.ID, 0, s.config.StaffSession, actionLogin, source)
	if err != nil {
		return SignedIn{}, err
	}
	if err := s.Accounts.StaffSignedIn(ctx, session, step, entry); err != nil {
		return SignedIn{}, orElse(err, errSignIn())
	}
	return s.tokens(auth.Principal{Kind: kindOf(staff.Role), ID: staff.ID, Role: staff.Role, Session: session.ID}, token)
}

// Confirm makes sure that the person who signed in is at the keyboard: the password of the account again. A wrong one is
// errs.Forbidden with the code wrong_password, and counts like a failed sign-in; so is an account that is locked or disabled.
func (s *Service) Confirm(ctx context.Context, id int64, password, source string) error {
	names, err := s.Accounts.Usernames(ctx, []int64{id})
	if err != nil {
		return err
	}
	staff, err := s.Accounts.StaffByName(ctx, names[id])
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return err
	}
	right, err := s.Hasher.Matches(ctx, password, staff.PasswordHash)
	if err != nil {
		return err
	}
	if staff.ID == 0 || staff.Disabled || staff.Attempts.Locked(s.Now()) {
		return errPassword()
	}
	if !right {
		return s.staffFailed(ctx, staff.ID, source, errPassword())
	}
	return nil
}

func errPassword() *errs.Error {
	return errs.New(errs.Forbidden, "wrong_password", "the password is not the one of your account")
}

// kindOf tells programs from people: both sign in alike.
func kindOf(r auth.Role) auth.Kind {
	if r == auth.Service {
		return auth.KindService
	}
	return auth.KindStaff
}

// SignIn signs a participant in by study (id or protocol number), participant number and PIN.
func (s *Service) SignIn(ctx context.Context, study, number, pin, source string) (SignedIn, error) {
	account, err := s.lookup(ctx, study, number)
	if err != nil {
		return SignedIn{}, err
	}
	right, err := s.Hasher.Matches(ctx, pin, account.PINHash)
	if err != nil {
		return SignedIn{}, err
	}
	now := s.Now()
	who := auth.Principal{Kind: auth.KindParticipant, ID: account.Participant, Study: account.Study}
	if account.Participant == 0 || account.Closed || account.Attempts.Locked(now) {
		return SignedIn{}, s.refuse(ctx, who, source, errParticipant())
	}
	if !right {
		entry, err := s.entry(who, actionFailed, source)
		if err != nil {
			return SignedIn{}, err
		}
		if err := s.Accounts.ParticipantFailed(ctx, account.Participant, s.count(now), entry); err != nil {
			return SignedIn{}, err
		}
		return SignedIn{}, errParticipant()
	}
	session, token, entry, err := s.session(auth.KindParticipant, account.Participant, account.Study, s.config.ParticipantSession, actionLogin, source)
	if err != nil {
		return SignedIn{}, err
	}
	_, number, err = s.Participants.Number(ctx, account.Participant)
	if err != nil {
		return SignedIn{}, err
	}
	if err := s.Accounts.ParticipantSignedIn(ctx, session, entry); err != nil {
		return SignedIn{}, orElse(err, errParticipant())
	}
	who.Session = session.ID
	out, err := s.tokens(who, token)
	out.Participant, out.Study, out.Number = account.Participant, account.Study, number
	return out, err
}

// lookup returns an empty account for a number that does not exist, so that the caller goes on as if it did.
func (s *Service) lookup(ctx context.Context, study, number string) (Account, error) {
	participant, _, err := s.Participants.Lookup(ctx, study, number)
	if err == nil {
		var account Account
		if account, err = s.Accounts.Account(ctx, participant); err == nil {
			return account, nil
		}
	}
	if errs.KindOf(err) == errs.NotFound {
		return Account{}, nil
	}
	return Account{}, err
}

// Activate signs a participant in with an activation code, which works once, and sets the PIN. The PIN may be empty only if
// the study makes it optional; no slow hash is computed then.
func (s *Service) Activate(ctx context.Context, code, pin, source string) (SignedIn, error) {
	bucket, hash, ok := readActivation(code)
	if !ok {
		return SignedIn{}, errCode()
	}
	account, err := s.Accounts.AccountByActivation(ctx, bucket, hash)
	if err != nil {
		return SignedIn{}, orElse(err, errCode())
	}
	if account.Closed {
		return SignedIn{}, errCode()
	}
	study, number, err := s.Participants.Number(ctx, account.Participant)
	if err != nil {
		return SignedIn{}, err
	}
	pinHash, err := s.newPIN(ctx, study, pin)
	if err != nil {
		return SignedIn{}, err
	}
	session, token, entry, err := s.session(auth.KindParticipant, account.Participant, study, s.config.ParticipantSession, actionActivate, source)
	if err != nil {
		return SignedIn{}, err
	}
	if err := s.Accounts.Activate(ctx, hash, pinHash, session, entry); err != nil {
		return SignedIn{}, orElse(err, errCode())
	}
	s.Participants.Activated(account.Participant)
	out, err := s.tokens(auth.Principal{Kind: auth.KindParticipant, ID: account.Participant, Study: study, Session: session.ID}, token)
	out.Participant, out.Study, out.Number = account.Participant, study, number
	return out, err
}

func (s *Service) newPIN(ctx context.Context, study int64, pin string) (hash string, err error) {
	if pin == "" {
		required, err := s.Policies.PinRequired(ctx, study)
		if err == nil && required {
			err = errPINRequired()
		}
		return "", err
	}
	if f := pinFindings(pin); len(f) > 0 {
		return "", errs.InvalidField(f...)
	}
	return s.Hasher.Hash(ctx, pin)
}
