package study

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/lock"
)

// Progress keeps how far lockings have come; see Store for the promises.
type Progress interface {
	ByID(ctx context.Context, id int64) (Study, error)
	Unfinished(ctx context.Context) ([]Closure, error)
	Advance(ctx context.Context, c Closure) error
	FinishLock(ctx context.Context, c Closure, entry audit.Entry) error
	FinishUnlock(ctx context.Context, c Closure, entry audit.Entry) error
	Barriers(ctx context.Context, lock int64) (map[int32]bool, error)
}

// Data is a study's data on the shards; see ClosingStore for the promises.
type Data interface {
	// Stand lets a standing come into force on every shard, unless a younger locking was there: errs.Stale.
	Stand(ctx context.Context, study int64, standing db.Standing, lock int64) error
	// Quiet ends everything that would still be sent, and reports how many messages are on their way.
	Quiet(ctx context.Context, study int64, patient bool, at time.Time) (sending int64, err error)
	// Fill counts and hashes the study's data into a report.
	Fill(ctx context.Context, study int64, r *Report) error
}

// Intake is what is still on its way to the shards.
type Intake interface {
	// Spooled returns how many records of a study wait in the spools.
	Spooled(ctx context.Context, study int64) (int64, error)
	// Barrier sends a mark of a locking behind everything that a partition of the log has. The processor reports it as passed
	// when all before it is stored.
	Barrier(ctx context.Context, lock int64, partition int32) error
	// Resend hands records that came too late for the locked study to the log once more, until they are processed, and returns how
	// many are not.
	Resend(ctx context.Context, study int64) (int64, error)
}

// Followers are the consumers of what happens to responses.
type Followers interface {
	// Behind says, in words, who has not yet seen what was committed before it was first asked for a locking; "" when all have.
	Behind(ctx context.Context, lock int64) (string, error)
}

// Attester signs documents; see auth.Signer.Attest.
type Attester interface {
	Attest(kind string, document []byte) (string, error)
}

// LockerParts are what Locker needs. All are required.
type LockerParts struct {
	Progress   Progress
	Data       Data
	Intake     Intake
	Followers  Followers
	Catalog    *Catalog
	Locks      lock.Locker // keeps two processes from doing the same work; what is right is decided on the shards
	Attester   Attester
	IDs        IDs
	Partitions int
	Now        func() time.Time
	Logger     *slog.Logger
}

// Locker carries lockings and unlockings out, step by step. Every step can be begun again, by any process.
type Locker struct {
	LockerParts
	config LockConfig
}

// NewLocker returns a locker.
func NewLocker(config LockConfig, parts LockerParts) *Locker { return &Locker{parts, config} }

// Run goes on with what is unfinished until ctx ends.
func (l *Locker) Run(ctx context.Context) error {
	tick := time.NewTicker(l.config.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := l.Once(ctx); err != nil && ctx.Err() == nil {
			l.Logger.WarnContext(ctx, "the locking of a study waits", "error", err)
		}
	}
}

// Once goes on with every unfinished locking as far as it goes now.
func (l *Locker) Once(ctx context.Context) error {
	unfinished, err := l.Progress.Unfinished(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for _, c := range unfinished {
		if err := l.alone(ctx, c); err != nil {
			problems = append(problems, fmt.Errorf("study %d: %w", c.Study, err))
		}
	}
	return errors.Join(problems...)
}

// Finish opens a study whose unlock is agreed to, within a short time; see Once for what is left.
func (l *Locker) Finish(ctx context.Context, c Closure) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return l.alone(ctx, c)
}

// alone goes on with one locking, unless another process does.
func (l *Locker) alone(ctx context.Context, c Closure) error {
	lease, err := l.Locks.Acquire(ctx, "study-lock/"+strconv.FormatInt(c.Study, 10), l.config.Lease, lock.Renew(time.Hour))
	if errs.KindOf(err) == errs.Conflict && err != nil {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // ends with the lease, which is released below
		<-lease.Done()
		stop()
	}()
	defer func() { _ = lease.Release(context.WithoutCancel(ctx)) }() // it ends by itself
	if c.State == ClosureUnlocking {
		return l.open(ctx, c)
	}
	return l.lock(ctx, c)
}

// step is a part of the locking. It returns what it waits for, in words; "" when it is done.
type step struct {
	name string
	run  func(ctx context.Context, c *Closure) (waiting string, err error)
}

func (l *Locker) steps() []step {
	return []step{{stepDoors, l.doors}, {stepSpools, l.spools}, {stepBarrier, l.barrier}, {stepFollowers, l.followers}, {stepMessages, l.quiet},
		{stepClose, l.shut}, {stepReport, l.report}}
}

func (l *Locker) lock(ctx context.Context, c Closure) error {
	reached := false
	for _, s := range l.steps() {
		if reached = reached || s.name == c.Step; !reached {
			continue
		}
		if s.name != c.Step {
			c.Step, c.Waiting, c.StepAt = s.name, "", l.now()
			if err := l.Progress.Advance(ctx, c); err != nil {
				return err
			}
			l.Logger.InfoContext(ctx, "a study is being locked", "study", c.Study, "step", c.Step)
		}
		waiting, err := s.run(ctx, &c)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if waiting != "" {
			if waiting == c.Waiting {
				return nil
			}
			c.Waiting = waiting
			return l.Progress.Advance(ctx, c)
		}
	}
	if !reached {
		return fmt.Errorf("unknown step %q", c.Step)
	}
	return nil
}

func (l *Locker) now() time.Time { return l.Now().UTC().Truncate(time.Microsecond) }

// doors lets nothing new in, and gives all processes time to learn of it: what a door accepts in spite of that is still stored if
// it arrives before the study is closed.
func (l *Locker) doors(ctx context.Context, c *Closure) (string, error) {
	if err := l.Data.Stand(ctx, c.Study, db.Closing, c.ID); err != nil {
		return "", err
	}
	if left := c.StepAt.Add(l.config.Settle).Sub(l.now()); left > 0 {
		return "the doors of all processes to learn of it", nil
	}
	return "", nil
}

func (l *Locker) spools(ctx context.Context, c *Closure) (string, error) {
	n, err := l.Intake.Spooled(ctx, c.Study)
	if err != nil || n == 0 {
		return "", err
	}
	return fmt.Sprintf("%d records in the spools", n), nil
}

// barrier sends the marks that have not come through, and waits for them. One that is sent twice does no harm.
func (l *Locker) barrier(ctx context.Context, c *Closure) (string, error) {
	passed, err := l.Progress.Barriers(ctx, c.ID)
	if err != nil || len(passed) >= l.Partitions {
		return "", err
	}
	const again = 30 * time.Second
	if c.Waiting != "" && l.now().Sub(c.StepAt) < again {
		return barrierWaits, nil // sent already
	}
	for p := range int32(l.Partitions) {
		if passed[p] {
			continue
		}
		if err := l.Intake.Barrier(ctx, c.ID, p); err != nil {
			return "", err
		}
	}
	if c.Waiting != "" {
		c.StepAt = l.now()
		if err := l.Progress.Advance(ctx, *c); err != nil {
			return "", err
		}
	}
	return barrierWaits, nil
}

const barrierWaits = "the processor to store what was accepted before"

// followers waits as long as it takes: what a consumer would find in a locked study could not be written any more.
func (l *Locker) followers(ctx context.Context, c *Closure) (string, error) {
	return l.Followers.Behind(ctx, c.ID)
}

// quiet ends messages and reminders. Calls that are on their way to a gateway have until the lease of a message is over.
func (l *Locker) quiet(ctx context.Context, c *Closure) (string, error) {
	const longest = time.Minute
	sending, err := l.Data.Quiet(ctx, c.Study, l.now().Sub(c.StepAt) < longest, l.now())
	if err != nil || sending == 0 {
		return "", err
	}
	return fmt.Sprintf("%d messages on their way to a gateway", sending), nil
}

func (l *Locker) shut(ctx context.Context, c *Closure) (string, error) {
	return "", l.Data.Stand(ctx, c.Study, db.Closed, c.ID)
}

func (l *Locker) report(ctx context.Context, c *Closure) (string, error) {
	st, err := l.Progress.ByID(ctx, c.Study)
	if err != nil {
		return "", err
	}
	c.LockedAt = l.now()
	r := Report{Study: strconv.FormatInt(c.Study, 10), Protocol: st.Protocol, Lock: strconv.FormatInt(c.ID, 10), LockedAt: c.LockedAt, Reason: c.Reason}
	if err := l.Data.Fill(ctx, c.Study, &r); err != nil {
		return "", err
	}
	if c.Report, err = json.Marshal(r); err != nil {
		return "", err
	}
	if c.Signature, err = l.Attester.Attest("eprod-lock-report", c.Report); err != nil {
		return "", err
	}
	e, err := l.entry("study.locked", *c, map[string]string{"status": Locking}, map[string]any{"status": Locked, "shards": r.Shards})
	if err != nil {
		return "", err
	}
	err = l.Progress.FinishLock(ctx, *c, e)
	l.Catalog.Forget(ctx, c.Study)
	if err == nil {
		l.Logger.InfoContext(ctx, "a study is locked", "study", c.Study, "responses", r.Responses, "quarantined", r.Quarantined)
	}
	return "", err
}

// open lets everybody write again, once what came too late while the study was locked has been handed to the log once more and is
// processed.
func (l *Locker) open(ctx context.Context, c Closure) error {
	if err := l.Data.Stand(ctx, c.Study, db.Open, c.ID); err != nil {
		return err
	}
	e, err := l.entry("study.unlocked", c, map[string]string{"status": Locked}, map[string]string{"status": Active})
	if err != nil {
		return err
	}
	if late, err := l.Intake.Resend(ctx, c.Study); err != nil || late > 0 {
		return err
	}
	err = l.Progress.FinishUnlock(ctx, c, e)
	l.Catalog.Forget(ctx, c.Study)
	if err == nil {
		l.Logger.InfoContext(ctx, "a study is unlocked", "study", c.Study)
	}
	return err
}

// entry is the audit entry of what the program does by itself once people have decided it.
func (l *Locker) entry(action string, c Closure, before, after any) (audit.Entry, error) {
	ids, err := l.IDs.NextN(1)
	if err != nil {
		return audit.Entry{}, err
	}
	return audit.Entry{ID: ids[0], At: l.now(), Zone: "UTC", ActorKind: "system", Action: action, Record: "study", RecordID: c.Study, Study: c.Study,
		Old: object(before), New: object(after), Source: "lock " + strconv.FormatInt(c.ID, 10)}, nil
}
