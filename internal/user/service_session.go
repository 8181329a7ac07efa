package user

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Refresh exchanges a refresh token for new tokens. Each token works once; one that was used already ends its session,
// since then two parties hold it. Every refusal is errs.Unauthenticated.
func (s *Service) Refresh(ctx context.Context, token, source string) (SignedIn, error) {
	old, ok := readRefresh(token)
	if !ok {
		return SignedIn{}, errRefresh()
	}
	place := old.place()
	session, err := s.Accounts.Session(ctx, place, old.session)
	if err != nil {
		return SignedIn{}, orElse(err, errRefresh())
	}
	now := s.Now()
	if !old.of(&session) || !now.Before(session.ExpiresAt) {
		return SignedIn{}, errRefresh()
	}
	who, err := s.holder(ctx, &session)
	if err != nil {
		return SignedIn{}, err
	}
	next, err := old.next(s.Random)
	if err != nil {
		return SignedIn{}, err
	}
	expires := session.ExpiresAt
	if session.Kind == auth.KindParticipant {
		expires = now.Add(s.config.ParticipantSession)
	}
	rotated := old.currentHash() == session.Current
	if rotated {
		if rotated, err = s.Accounts.Rotate(ctx, place, session.ID, session.Current, next.currentHash(), expires); err != nil {
			return SignedIn{}, err
		}
	}
	if !rotated {
		s.Logger.WarnContext(ctx, "a refresh token came a second time; its session ends", "session.id", session.ID, "kind", string(session.Kind))
		return SignedIn{}, s.end(ctx, place, who, actionReused, source, errRefresh())
	}
	return s.tokens(who, next)
}

// holder returns who a session belongs to now; a disabled account's sessions are worth nothing.
func (s *Service) holder(ctx context.Context, session *Session) (auth.Principal, error) {
	who := auth.Principal{Kind: session.Kind, ID: session.Account, Study: session.Study, Session: session.ID}
	if session.Kind != auth.KindStaff {
		return who, nil
	}
	staff, err := s.Accounts.StaffByID(ctx, session.Account)
	if err == nil && staff.Disabled {
		err = errRefresh()
	}
	who.Role, who.Kind = staff.Role, kindOf(staff.Role)
	return who, err
}

// Logout ends the session of a refresh token, or without one the session of the caller's access token. A session that has
// ended already is no error.
func (s *Service) Logout(ctx context.Context, token, source string) error {
	if token == "" {
		who, ok := auth.From(ctx)
		if !ok {
			return errs.NoCredentials("send the refresh token in the body, or the access token as Authorization: Bearer")
		}
		return s.end(ctx, placeOf(who), who, actionLogout, source, nil)
	}
	r, ok := readRefresh(token)
	if !ok {
		return nil
	}
	session, err := s.Accounts.Session(ctx, r.place(), r.session)
	if errs.KindOf(err) == errs.NotFound && err != nil || err == nil && !r.of(&session) {
		return nil
	}
	if err != nil {
		return err
	}
	who := auth.Principal{Kind: session.Kind, ID: session.Account, Study: session.Study, Session: session.ID}
	return s.end(ctx, r.place(), who, actionLogout, source, nil)
}

// end deletes a session and then returns the refusal, which may be nil; a failure to delete comes first.
func (s *Service) end(ctx context.Context, place Place, who auth.Principal, action, source string, refusal error) error {
	entry, err := s.entry(who, action, source)
	if err != nil {
		return err
	}
	if err := s.Accounts.EndSession(ctx, place, who.Session, entry); err != nil {
		return err
	}
	return refusal
}

func (r refresh) place() Place {
	if r.kind == refreshStaff {
		return Place{Kind: auth.KindStaff}
	}
	return Place{Kind: auth.KindParticipant, Bucket: int(r.bucket)}
}

func placeOf(p auth.Principal) Place {
	if p.Kind == auth.KindParticipant {
		return Place{Kind: p.Kind, Bucket: db.Bucket(p.ID)}
	}
	return Place{Kind: auth.KindStaff}
}

// session makes a session with its first refresh token and the audit entry of its opening.
func (s *Service) session(kind auth.Kind, account, study int64, ttl time.Duration, action, source string) (Session, refresh, audit.Entry, error) {
	ids, err := s.IDs.NextN(1)
	if err != nil {
		return Session{}, refresh{}, audit.Entry{}, fmt.Errorf("id of a session: %w", err)
	}
	token, err := newRefresh(kind, account, ids[0], s.Random)
	if err != nil {
		return Session{}, refresh{}, audit.Entry{}, err
	}
	who := auth.Principal{Kind: kind, ID: account, Study: study, Session: ids[0]}
	entry, err := s.entry(who, action, source)
	if err != nil {
		return Session{}, refresh{}, audit.Entry{}, err
	}
	session := Session{ID: ids[0], Kind: kind, Account: account, Study: study, Family: token.familyHash(), Current: token.currentHash(),
		CreatedAt: entry.At, ExpiresAt: entry.At.Add(ttl)}
	return session, token, entry, nil
}

// entry describes a sign-in event. Record is the session; it has none where the sign-in failed.
func (s *Service) entry(who auth.Principal, action, source string) (audit.Entry, error) {
	ids, err := s.IDs.NextN(1)
	if err != nil {
		return audit.Entry{}, fmt.Errorf("id of an audit entry: %w", err)
	}
	e := audit.Entry{ID: ids[0], At: s.Now(), Zone: "UTC", ActorKind: string(who.Kind), Actor: who.ID, Action: action,
		Record: "session", RecordID: who.Session, Study: who.Study, Source: source}
	if who.Kind == auth.KindParticipant {
		e.Participant = who.ID
	}
	return e, nil
}

func (s *Service) tokens(who auth.Principal, token refresh) (SignedIn, error) {
	access, err := s.Tokens.Issue(who, s.config.AccessTTL)
	if err != nil {
		return SignedIn{}, fmt.Errorf("access token: %w", err)
	}
	return SignedIn{Access: access, Refresh: token.String(), ExpiresIn: s.config.AccessTTL}, nil
}

// refuse records an attempt that is not counted: nobody's account, or one that is locked anyway.
func (s *Service) refuse(ctx context.Context, who auth.Principal, source string, refusal error) error {
	entry, err := s.entry(who, actionFailed, source)
	if err != nil {
		return err
	}
	if err := s.Accounts.Refused(ctx, entry); err != nil {
		return err
	}
	return refusal
}

func (s *Service) staffFailed(ctx context.Context, id int64, source string, refusal error) error {
	entry, err := s.entry(auth.Principal{Kind: auth.KindStaff, ID: id}, actionFailed, source)
	if err != nil {
		return err
	}
	if err := s.Accounts.StaffFailed(ctx, id, s.count(entry.At), entry); err != nil {
		return err
	}
	return refusal
}

func (s *Service) count(now time.Time) func(Attempts) Attempts {
	return func(a Attempts) Attempts {
		return a.Fail(now, s.config.FreeAttempts, s.config.LockBase, s.config.LockLimit)
	}
}

// otpPeriod is the time step of RFC 6238.
const otpPeriod = 30

// secondFactor returns the time step of a good one-time code, and 0 for an account that has no second factor. A step before
// or after the present one is good too, since clocks differ (RFC 6238, section 5.2).
func (s *Service) secondFactor(ctx context.Context, staff *Staff, code, source string) (int64, error) {
	if staff.OTPSecret == nil {
		return 0, nil
	}
	if code == "" {
		return 0, errOTP()
	}
	secret, err := s.Secrets.Open(staff.OTPSecret, otpAssociated(staff.ID))
	if err != nil {
		return 0, fmt.Errorf("one-time code secret of account %d: %w", staff.ID, err)
	}
	now := s.Now().Unix() / otpPeriod
	for step := now - 1; step <= now+1; step++ {
		good, err := hotp.ValidateCustom(code, uint64(step), string(secret), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err == nil && good && step > staff.OTPStep {
			return step, nil
		}
	}
	return 0, s.staffFailed(ctx, staff.ID, source, errOTP())
}

// otpAssociated binds a sealed secret to its account.
func otpAssociated(staff int64) []byte {
	return append([]byte("eprod/staff_user/otp_secret/"), strconv.FormatInt(staff, 10)...)
}

// orElse replaces "not found" by the refusal that may be told; every other failure stays.
func orElse(err, refusal error) error {
	if errs.KindOf(err) == errs.NotFound {
		return refusal
	}
	return err
}
