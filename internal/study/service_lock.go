package study

import (
	"context"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
)

// Closures keeps the lockings of studies; see Store for the promises.
type Closures interface {
	ByID(ctx context.Context, id int64) (Study, error)
	// BeginLock makes an active study a locking one; errs.Stale where it is not as it was read.
	BeginLock(ctx context.Context, was Study, c Closure, entry audit.Entry) error
	// Closure returns the last locking of a study, or errs.NotFound.
	Closure(ctx context.Context, study int64) (Closure, error)
	// AskUnlock and AgreeUnlock write who wants to unlock; errs.Stale where the locking is not as it was read.
	AskUnlock(ctx context.Context, was, is Closure, entry audit.Entry) error
	AgreeUnlock(ctx context.Context, was, is Closure, entry audit.Entry) error
}

// Passwords confirms that the signed-in person is at the keyboard.
type Passwords interface {
	// Confirm refuses a wrong password as errs.Forbidden and counts it like a failed sign-in.
	Confirm(ctx context.Context, staff int64, password, source string) error
}

// LockService decides who may lock and unlock a study. It is safe for concurrent use.
type LockService struct {
	Closures  Closures
	Catalog   *Catalog
	Guard     auth.Guard
	Passwords Passwords
	IDs       IDs
	Now       func() time.Time
	// Finish carries an agreed unlock out at once, as far as it goes; what is left, Locker does.
	Finish func(ctx context.Context, c Closure) error
}

// ask checks what locking and unlocking have in common: the right, the password, the reason.
func (s *LockService) ask(ctx context.Context, id int64, password, reason string) (a act, st Study, err error) {
	who, err := s.Guard.Study(ctx, id, auth.StudyLock)
	if err != nil {
		return act{}, Study{}, err
	}
	if f := reasonFinding(reason); len(f) > 0 {
		return act{}, Study{}, errs.InvalidField(f...)
	}
	if st, err = s.Closures.ByID(ctx, id); err != nil {
		return act{}, Study{}, err
	}
	if a, err = (&Service{Parts{IDs: s.IDs, Now: s.Now}}).begin(ctx, who); err != nil {
		return act{}, Study{}, err
	}
	return a, st, s.Passwords.Confirm(ctx, who.ID, password, a.source)
}

// Lock begins to lock an active study. From now on it takes nothing new; it is locked when all that was accepted before is stored,
// which Locker sees to. Of several people at once one begins, the others are errs.Conflict.
func (s *LockService) Lock(ctx context.Context, id int64, password, reason string) (Closure, error) {
	a, st, err := s.ask(ctx, id, password, reason)
	if err != nil {
		return Closure{}, err
	}
	if st.Status != Active {
		return Closure{}, errNotActive(st.Status)
	}
	c := Closure{ID: a.id, Study: id, State: ClosureLocking, Step: stepDoors, StepAt: a.at, By: a.who.ID, At: a.at, Reason: reason}
	e := a.entry("study.lock", "study", id, id, map[string]string{"status": Active}, map[string]string{"status": Locking})
	e.Reason = reason
	err = s.Closures.BeginLock(ctx, st, c, e)
	s.Catalog.Forget(ctx, id)
	if errs.KindOf(err) == errs.Stale { // somebody else was faster, or changed the study meanwhile
		if now, readErr := s.Closures.ByID(ctx, id); readErr == nil && now.Status != Active {
			err = errNotActive(now.Status)
		}
	}
	return c, err
}

// Closure returns a study and its last locking; one without an id where it was never locked.
func (s *LockService) Closure(ctx context.Context, id int64) (Study, Closure, error) {
	if _, err := s.Guard.Study(ctx, id, auth.StudyRead); err != nil {
		return Study{}, Closure{}, err
	}
	st, err := s.Closures.ByID(ctx, id)
	if err != nil {
		return Study{}, Closure{}, err
	}
	c, err := s.Closures.Closure(ctx, id)
	if errs.KindOf(err) == errs.NotFound {
		err = nil
	}
	return st, c, err
}

// Unlock asks for a locked study to be opened, or agrees where somebody else has asked: then it is opened, and the study that is
// returned is active, or will be as soon as all shards answer.
func (s *LockService) Unlock(ctx context.Context, id int64, password, reason string) (Study, Closure, error) {
	a, st, err := s.ask(ctx, id, password, reason)
	if err != nil {
		return Study{}, Closure{}, err
	}
	was, err := s.Closures.Closure(ctx, id)
	if errs.KindOf(err) == errs.NotFound || err == nil && (st.Status != Locked || was.State != ClosureLocked) {
		return Study{}, Closure{}, errNotLocked(st.Status)
	}
	if err != nil {
		return Study{}, Closure{}, err
	}
	is := was
	if was.UnlockBy == 0 {
		is.UnlockBy, is.UnlockAt, is.UnlockReason = a.who.ID, a.at, reason
		e := a.entry("study.unlock_request", "study", id, id, nil, nil)
		e.Reason = reason
		return st, is, s.Closures.AskUnlock(ctx, was, is, e)
	}
	if was.UnlockBy == a.who.ID {
		return Study{}, Closure{}, errSecondPerson()
	}
	is.State, is.ReleasedBy, is.ReleasedAt, is.ReleasedReason = ClosureUnlocking, a.who.ID, a.at, reason
	e := a.entry("study.unlock", "study", id, id, map[string]string{"status": Locked}, map[string]string{"status": Active})
	e.Reason = reason
	if err := s.Closures.AgreeUnlock(ctx, was, is, e); err != nil {
		return Study{}, Closure{}, err
	}
	if err := s.Finish(ctx, is); err != nil {
		return st, is, nil // agreed and written down; Locker goes on with it
	}
	if st, err = s.Closures.ByID(ctx, id); err != nil {
		return st, is, err
	}
	is, err = s.Closures.Closure(ctx, id)
	return st, is, err
}
