package user

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pquerna/otp/totp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

// world is the service over real databases; what lies outside the package is faked.
type world struct {
	*Service
	store     *Store
	clock     *testenv.FakeClock
	signer    *auth.Signer
	people    *fakePeople
	pinNeeded bool
	activated []int64 // by the hook inside the transaction
}

type fakePeople struct {
	down      bool
	activated []int64
}

const (
	theStudy       = 77
	theParticipant = 4711
)

func (f *fakePeople) Lookup(_ context.Context, study, number string) (int64, int64, error) {
	if study != "EP-001" || number != "0001" {
		return 0, 0, errs.Absent("participant")
	}
	return theParticipant, theStudy, nil
}

func (f *fakePeople) Number(_ context.Context, participant int64) (int64, string, error) {
	if f.down {
		return 0, "", errs.Away("shard", errors.New("down"))
	}
	return theStudy, "0001", nil
}

func (f *fakePeople) Activated(participant int64) { f.activated = append(f.activated, participant) }

func (w *world) PinRequired(context.Context, int64) (bool, error) { return w.pinNeeded, nil }

// Open "opens" a secret that is sealed by putting the associated data before it.
func (w *world) Open(sealed, associated []byte) ([]byte, error) {
	if len(sealed) < len(associated) || string(sealed[:len(associated)]) != string(associated) {
		return nil, errors.New("does not open")
	}
	return sealed[len(associated):], nil
}

type ids struct{ next func() int64 }

func (i ids) NextN(n int) ([]int64, error) {
	out := make([]int64, n)
	for k := range out {
		out[k] = i.next()
	}
	return out, nil
}

// worlds returns one world per kind of database.
func worlds(t *testing.T) map[string]*world {
	t.Helper()
	shards := testenv.Shards(t)
	out := make(map[string]*world)
	for dialect, meta := range testenv.Databases(t, "meta") {
		w := &world{clock: testenv.Clock(time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)), people: &fakePeople{}}
		signer, err := auth.NewSigner([]byte("0123456789abcdef0123456789abcdef"), w.clock.Now)
		if err != nil {
			t.Fatal(err)
		}
		w.signer = signer
		w.store = &Store{Meta: meta, Shards: shards[dialect], Activated: func(_ *gorm.DB, participant int64) error {
			w.activated = append(w.activated, participant)
			return nil
		}}
		config := quick()
		w.Service = New(config, Parts{
			Accounts: w.store, Participants: w.people, Policies: w, Tokens: signer, Secrets: w, Hasher: NewHasher(config, rand.Reader),
			IDs: ids{testenv.IDs()}, Random: rand.Reader, Now: w.clock.Now, Logger: slog.New(slog.DiscardHandler),
		})
		out[dialect] = w
	}
	return out
}

// each runs a test in every world.
func each(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	for dialect, w := range worlds(t) {
		t.Run(dialect, func(t *testing.T) { test(t, w) })
	}
}

func code(err error) string {
	if err == nil {
		return "ok"
	}
	if e, ok := errs.As(err); ok {
		return e.Code
	}
	return "internal: " + err.Error()
}

func want(t *testing.T, what string, err error, code_ string) {
	t.Helper()
	if code(err) != code_ {
		t.Errorf("%s: %v, want %s", what, err, code_)
	}
}

// enrolled adds an account with an activation code and returns the code.
func (w *world) enrolled(t *testing.T) string {
	t.Helper()
	activation, hash, err := NewActivation(theParticipant, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	err = w.store.Shards.For(theParticipant).Tx(t.Context(), func(tx *gorm.DB) error {
		return AddAccounts(tx, []Account{{Participant: theParticipant, Study: theStudy, Activation: &hash}})
	})
	if err != nil {
		t.Fatal(err)
	}
	return activation
}

// actions returns what the audit trail of a database says, oldest first.
func actions(t *testing.T, d *db.DB) []string {
	t.Helper()
	entries, err := audit.List(t.Context(), d, audit.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, 0, len(entries))
	for i := len(entries) - 1; i >= 0; i-- {
		out = append(out, entries[i].Action)
	}
	return out
}

func TestStaffAccounts(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		id, err := w.AddStaff(ctx, " Anna@Example.org ", "correct horse", auth.StudyManager)
		want(t, "add", err, "ok")
		_, err = w.AddStaff(ctx, "anna@example.ORG", "another one", auth.Monitor)
		want(t, "add again", err, "already_exists")
		_, err = w.AddStaff(ctx, "!", "short", "boss")
		want(t, "add nonsense", err, "invalid_field")
		if e, _ := errs.As(err); len(e.Findings) != 3 {
			t.Errorf("findings: %v, want one per field", e.Findings)
		}
		if got, err := w.Staff(ctx, "ANNA@example.org"); got != id || err != nil {
			t.Errorf("Staff = %d, %v; want %d", got, err, id)
		}
		_, err = w.Staff(ctx, "nobody")
		want(t, "unknown", err, "not_found")
		names, err := w.Usernames(ctx, []int64{id, 1})
		if diff := cmp.Diff(map[int64]string{id: "anna@example.org"}, names); diff != "" || err != nil {
			t.Errorf("Usernames: %v %s", err, diff)
		}
		if diff := cmp.Diff([]string{"account.create"}, actions(t, w.store.Meta)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLogin(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		id, err := w.AddStaff(ctx, "anna", "correct horse", auth.Administrator)
		if err != nil {
			t.Fatal(err)
		}
		in, err := w.Login(ctx, "Anna", "correct horse", "", "request-1")
		if err != nil {
			t.Fatal(err)
		}
		p, err := w.signer.Verify(in.Access)
		if err != nil || p.ID != id || p.Kind != auth.KindStaff || p.Role != auth.Administrator || p.Session == 0 {
			t.Errorf("principal %+v, %v", p, err)
		}
		if in.ExpiresIn != auth.MaxTTL {
			t.Errorf("ExpiresIn %s", in.ExpiresIn)
		}
		_, err = w.Login(ctx, "anna", "wrong", "", "")
		wrong := err
		want(t, "wrong password", err, "unauthenticated")
		_, err = w.Login(ctx, "nobody", "wrong", "", "")
		want(t, "unknown user", err, "unauthenticated")
		if wrong.Error() != err.Error() {
			t.Errorf("the refusals differ: %q and %q", wrong, err)
		}
		if diff := cmp.Diff([]string{"account.create", "auth.login", "auth.failed", "auth.failed"}, actions(t, w.store.Meta)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestProgramsSignInAsServices(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		if _, err := w.AddStaff(ctx, "exporter", "correct horse", auth.Service); err != nil {
			t.Fatal(err)
		}
		in, err := w.Login(ctx, "exporter", "correct horse", "", "")
		if err != nil {
			t.Fatal(err)
		}
		next, err := w.Refresh(ctx, in.Refresh, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range []string{in.Access, next.Access} {
			if p, err := w.signer.Verify(token); err != nil || p.Kind != auth.KindService || p.Role != auth.Service {
				t.Errorf("principal %+v, %v; want a service", p, err)
			}
		}
	})
}

func TestLoginLocksOut(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		if _, err := w.AddStaff(ctx, "anna", "correct horse", auth.Monitor); err != nil {
			t.Fatal(err)
		}
		try := func(password string) error {
			_, err := w.Login(ctx, "anna", password, "", "")
			return err
		}
		for range w.config.FreeAttempts {
			want(t, "wrong", try("wrong"), "unauthenticated")
		}
		want(t, "right after the free attempts", try("correct horse"), "ok")
		for range w.config.FreeAttempts + 1 {
			want(t, "wrong", try("wrong"), "unauthenticated")
		}
		want(t, "right while locked", try("correct horse"), "unauthenticated")
		w.clock.Advance(w.config.LockBase)
		want(t, "wrong after the lock", try("wrong"), "unauthenticated")
		w.clock.Advance(w.config.LockBase)
		want(t, "right in the second, longer lock", try("correct horse"), "unauthenticated")
		w.clock.Advance(w.config.LockBase)
		want(t, "right after the second lock", try("correct horse"), "ok")
	})
}

func TestOneTimeCode(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		id, err := w.AddStaff(ctx, "anna", "correct horse", auth.Monitor)
		if err != nil {
			t.Fatal(err)
		}
		const secret = "JBSWY3DPEHPK3PXP"
		sealed := append(otpAssociated(id), secret...)
		err = w.store.Meta.Tx(ctx, func(tx *gorm.DB) error {
			return tx.Exec("UPDATE staff_user SET otp_secret = ? WHERE id = ?", sealed, id).Error
		})
		if err != nil {
			t.Fatal(err)
		}
		login := func(password, otp string) error {
			_, err := w.Login(ctx, "anna", password, otp, "")
			return err
		}
		now, err := totp.GenerateCode(secret, w.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		want(t, "no code", login("correct horse", ""), "otp_required")
		want(t, "wrong password tells nothing of codes", login("wrong", now), "unauthenticated")
		want(t, "wrong code", login("correct horse", "000000"), "otp_required")
		want(t, "right code", login("correct horse", now), "ok")
		want(t, "the same code again", login("correct horse", now), "otp_required")
		w.clock.Advance(time.Minute)
		next, err := totp.GenerateCode(secret, w.clock.Now().Add(-30*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		want(t, "code of a clock that is slow", login("correct horse", next), "ok")
	})
}

func TestDisabledStaff(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		id, err := w.AddStaff(ctx, "anna", "correct horse", auth.Monitor)
		if err != nil {
			t.Fatal(err)
		}
		in, err := w.Login(ctx, "anna", "correct horse", "", "")
		if err != nil {
			t.Fatal(err)
		}
		err = w.store.Meta.Tx(ctx, func(tx *gorm.DB) error { return tx.Exec("UPDATE staff_user SET disabled = 1 WHERE id = ?", id).Error })
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Login(ctx, "anna", "correct horse", "", "")
		want(t, "login", err, "unauthenticated")
		_, err = w.Refresh(ctx, in.Refresh, "")
		want(t, "refresh", err, "unauthenticated")
	})
}

func TestActivate(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		w.pinNeeded = true
		activation := w.enrolled(t)
		for name, bad := range map[string]string{"garbage": "abc", "another code": otherCode(t)} {
			_, err := w.Activate(ctx, bad, "1234", "")
			want(t, name, err, "unauthenticated")
		}
		_, err := w.Activate(ctx, activation, "", "")
		want(t, "without PIN", err, "invalid_field")
		if e, _ := errs.As(err); len(e.Findings) != 1 || e.Findings[0].Pointer != "/pin" {
			t.Errorf("findings %v, want /pin", e.Findings)
		}
		_, err = w.Activate(ctx, activation, "12", "")
		want(t, "short PIN", err, "invalid_field")
		w.people.down = true
		_, err = w.Activate(ctx, activation, "1234", "")
		want(t, "shard away", err, "unavailable")
		w.people.down = false
		in, err := w.Activate(ctx, activation, "1234", "request-1")
		if err != nil {
			t.Fatal(err) // none of the failures above may have used the code up
		}
		if in.Participant != theParticipant || in.Study != theStudy || in.Number != "0001" {
			t.Errorf("signed in %+v", in)
		}
		p, err := w.signer.Verify(in.Access)
		if err != nil || p.Kind != auth.KindParticipant || p.ID != theParticipant || p.Study != theStudy {
			t.Errorf("principal %+v, %v", p, err)
		}
		_, err = w.Activate(ctx, activation, "1234", "")
		want(t, "second use", err, "unauthenticated")
		if diff := cmp.Diff([]int64{theParticipant}, w.activated); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]int64{theParticipant}, w.people.activated); diff != "" {
			t.Error(diff)
		}
		for _, c := range []struct{ study, number, pin, want string }{
			{"EP-001", "0001", "1234", "ok"}, {"EP-001", "0001", "9999", "unauthenticated"}, {"EP-001", "0002", "1234", "unauthenticated"},
			{"EP-002", "0001", "1234", "unauthenticated"},
		} {
			_, err := w.SignIn(ctx, c.study, c.number, c.pin, "")
			want(t, c.study+" "+c.number+" "+c.pin, err, c.want)
		}
		if diff := cmp.Diff([]string{"auth.activate", "auth.login", "auth.failed"}, actions(t, w.store.Shards.For(theParticipant))); diff != "" {
			t.Error(diff)
		}
	})
}

func otherCode(t *testing.T) string {
	t.Helper()
	c, _, err := NewActivation(theParticipant, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestActivateWithoutPIN(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		activation := w.enrolled(t)
		for range cap(w.Hasher.admitted) { // no place for a hash: the path must not need one
			w.Hasher.admitted <- struct{}{}
		}
		if _, err := w.Activate(ctx, activation, "", ""); err != nil {
			t.Fatal(err)
		}
		for range cap(w.Hasher.admitted) {
			<-w.Hasher.admitted
		}
		_, err := w.SignIn(ctx, "EP-001", "0001", "", "")
		want(t, "sign in without a PIN", err, "unauthenticated")
	})
}

func TestParticipantLocksOut(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		if _, err := w.Activate(ctx, w.enrolled(t), "1234", ""); err != nil {
			t.Fatal(err)
		}
		for range w.config.FreeAttempts + 1 {
			_, err := w.SignIn(ctx, "EP-001", "0001", "9999", "")
			want(t, "wrong", err, "unauthenticated")
		}
		_, err := w.SignIn(ctx, "EP-001", "0001", "1234", "")
		want(t, "right while locked", err, "unauthenticated")
		w.clock.Advance(w.config.LockBase)
		_, err = w.SignIn(ctx, "EP-001", "0001", "1234", "")
		want(t, "right after the lock", err, "ok")
	})
}
