package db

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/eprod/eprod/internal/errs"
)

// Standing says who may write a study's data on a shard. It is kept there, and every transaction that writes asks it before it
// writes: whatever a process believes of the study, a closed one does not change.
type Standing string

// The standings of a study. One that a shard has never heard of is open.
const (
	Open    Standing = "open"    // everybody
	Closing Standing = "closing" // only what was accepted before: see Pass
	Closed  Standing = "closed"  // nobody
)

// Pass says which standings a transaction may write under.
type Pass int

// The passes.
const (
	Ordinary Pass = iota // open studies only
	Drain                // closing ones too: the processor, for what was accepted while the study was open
	Keeper               // closed ones too: the archive, which moves rows and changes none
)

// admits reports whether a pass opens a standing.
func (p Pass) admits(s Standing) bool {
	switch s {
	case Closed:
		return p == Keeper
	case Closing:
		return p != Ordinary
	default:
		return true
	}
}

// Doors is what a transaction was told when it asked: it holds until the transaction ends. A study's standing on this shard
// cannot come into force, and a bucket cannot leave, before all transactions have ended that were told otherwise.
type Doors struct{ standings map[int64]Standing }

// Of returns a study's standing.
func (d Doors) Of(study int64) Standing {
	if s, ok := d.standings[study]; ok {
		return s
	}
	return Open
}

// AllOpen reports whether every study is open.
func (d Doors) AllOpen() bool { return len(d.standings) == 0 }

// Open leaves the rows of studies that are not open out of a query. The name of the studies' column is code.
func (d Doors) Open(query *gorm.DB, study string) *gorm.DB {
	if d.AllOpen() {
		return query
	}
	return query.Where(study+" NOT IN ?", padded(slices.Sorted(maps.Keys(d.standings))))
}

// standings is what is known of a shard's studies as of an epoch. It is never changed.
type standings struct {
	epoch int64
	of    map[int64]Standing // without the open ones
}

// Ask must come before every other statement of a transaction that writes data of participants in these buckets. It takes a shared
// lock on the buckets' rows, which SetStanding and a bucket's move wait for, and tells the standings of all studies. An error that
// IsMoved recognises says that a bucket is not on this shard (any more), or that it is being copied to another: then only those may
// write that say whose data they change. See AskOf, which is the rule.
func (d *DB) Ask(tx *gorm.DB, buckets ...int) (Doors, error) {
	doors, watched, err := d.ask(tx, buckets)
	if err == nil && len(watched) > 0 {
		err = errMoved()
	}
	return doors, err
}

// AskOf is Ask for a transaction that writes data of these participants and of nobody else. While their bucket is being copied to
// another shard it notes, in the same transaction, that they have changed.
func (d *DB) AskOf(tx *gorm.DB, participants ...int64) (Doors, error) {
	buckets := make([]int, len(participants))
	for i, p := range participants {
		buckets[i] = Bucket(p)
	}
	doors, watched, err := d.ask(tx, buckets)
	if err != nil || len(watched) == 0 {
		return doors, err
	}
	return doors, note(tx, watched, participants)
}

// AskWho is AskOf for one bucket whose participants are looked up, by who, only where they have to be known.
func (d *DB) AskWho(tx *gorm.DB, bucket int, who func() ([]int64, error)) (Doors, error) {
	doors, watched, err := d.ask(tx, []int{bucket})
	if err != nil || len(watched) == 0 {
		return doors, err
	}
	participants, err := who()
	if err != nil {
		return doors, err
	}
	return doors, note(tx, watched, participants)
}

func (d *DB) ask(tx *gorm.DB, buckets []int) (Doors, []int, error) {
	var rows []bucketRow
	if err := share(tx).Table("bucket").Select("bucket", "standing", "epoch").Where("bucket IN ?", padded(buckets)).Find(&rows).Error; err != nil {
		return Doors{}, nil, err
	}
	var watched []int
	epoch, here := int64(0), 0
	for _, r := range rows {
		if r.Standing.writable() {
			here++
		}
		if r.Standing == Watched {
			watched = append(watched, r.Bucket)
		}
		epoch = max(epoch, r.Epoch)
	}
	if here < distinct(buckets) {
		return Doors{}, nil, errMoved()
	}
	doors, err := d.doors(tx, epoch)
	return doors, watched, err
}

// doors returns the standings of the studies as of an epoch or younger.
func (d *DB) doors(tx *gorm.DB, epoch int64) (Doors, error) {
	if known := d.studies.Load(); known != nil && known.epoch >= epoch {
		return Doors{known.of}, nil
	}
	known, err := readStandings(tx)
	if err != nil {
		return Doors{}, err
	}
	for was := d.studies.Load(); was == nil || was.epoch < known.epoch; was = d.studies.Load() {
		if d.studies.CompareAndSwap(was, known) {
			break
		}
	}
	return Doors{known.of}, nil
}

// share locks the rows that a query reads against changes until the transaction ends.
func share(tx *gorm.DB) *gorm.DB {
	if tx.Name() == string(SQLite) {
		return tx
	}
	return tx.Clauses(clause.Locking{Strength: "SHARE"})
}

// padded returns a list, its last member repeated, in one of few lengths, so that few statements are prepared.
func padded[T any](list []T) []T {
	size := len(list)
	for _, n := range [...]int{1, 4, 16, 64, Buckets} {
		if len(list) <= n {
			size = n
			break
		}
	}
	out := slices.Clone(list)
	for len(out) > 0 && len(out) < size {
		out = append(out, list[len(list)-1])
	}
	return out
}

func distinct(buckets []int) int {
	var seen [Buckets]bool
	n := 0
	for _, b := range buckets {
		if !seen[b] {
			seen[b] = true
			n++
		}
	}
	return n
}

func readStandings(tx *gorm.DB) (*standings, error) {
	var rows []struct {
		StudyID  int64
		Standing string
		Epoch    int64
	}
	if err := tx.Table("study_standing").Select("study_id", "standing", "epoch").Find(&rows).Error; err != nil {
		return nil, err
	}
	s := &standings{of: make(map[int64]Standing)}
	for _, r := range rows {
		s.epoch = max(s.epoch, r.Epoch)
		if Standing(r.Standing) != Open {
			s.of[r.StudyID] = Standing(r.Standing)
		}
	}
	return s, nil
}

// Claim names what a transaction is about to write: data of one participant. Study 0 stands for the participant's own.
type Claim struct {
	Study, Participant int64
	Pass               Pass
}

// Admit asks for one claim and refuses it where the study is closed to it: errs.Conflict with the code study_locked. See Ask.
func (d *DB) Admit(tx *gorm.DB, c Claim) error {
	doors, err := d.AskOf(tx, c.Participant)
	if err != nil || doors.AllOpen() {
		return err
	}
	if c.Study == 0 {
		err := tx.Table("participant").Select("study_id").Where("id = ?", c.Participant).Limit(1).Scan(&c.Study).Error
		if err != nil {
			return err
		}
	}
	return doors.Admit(c.Study, c.Pass)
}

// Admit refuses a study that is closed to the pass: errs.Conflict with the code study_locked.
func (d Doors) Admit(study int64, pass Pass) error {
	if s := d.Of(study); !pass.admits(s) {
		return ErrClosed(s)
	}
	return nil
}

// Write runs fn in a transaction of the participant's shard that was admitted, on the shard that the participant has moved to where
// that happens meanwhile: fn may run again. See DB.Tx and DB.Admit for the errors.
func (s *Shards) Write(ctx context.Context, c Claim, fn func(tx *gorm.DB) error) error {
	return s.Tx(ctx, Bucket(c.Participant), func(shard *DB, tx *gorm.DB) error {
		if err := shard.Admit(tx, c); err != nil {
			return err
		}
		return fn(tx)
	})
}

// ErrClosed is the refusal of a study that takes no more writes.
func ErrClosed(s Standing) *errs.Error {
	detail := "the study is locked; nothing of it can change"
	if s == Closing {
		detail = "the study is being locked; it takes nothing new"
	}
	return errs.New(errs.Conflict, CodeClosed, detail)
}

// CodeClosed is the code of the refusal of a study that takes no more writes.
const CodeClosed = "study_locked"

// IsClosed reports whether an error is, or wraps, ErrClosed.
func IsClosed(err error) bool {
	e, ok := errs.As(err)
	return ok && e.Code == CodeClosed
}

var errElsewhere = errors.New("the bucket is on another shard")

func errMoved() error {
	return errs.Away("the participant's shard", errElsewhere).WithRetryAfter(time.Second)
}

// IsMoved reports whether a transaction was refused because a bucket is on another shard than the caller believed, or on its way.
func IsMoved(err error) bool { return errors.Is(err, errElsewhere) }

func errStale() error {
	return errs.New(errs.Stale, "stale", "the study has been locked or unlocked by somebody else meanwhile")
}

// order is how the standings of one fence follow one another.
func (s Standing) order() int {
	switch s {
	case Closing:
		return 1
	case Closed:
		return 2
	default:
		return 3
	}
}

// SetStanding lets a study's standing come into force on a shard. When it returns nil, every transaction that was told another
// standing has ended. It may be repeated, and finishes what an earlier call left half done. Fence is the number of the procedure that
// closes the study and opens it again, in that order; younger ones are greater. A procedure that another has overtaken, or that goes
// back, is refused as errs.Stale. While buckets are on their way to or from the shard, a study can only be opened: errs.Unavailable.
func (d *DB) SetStanding(ctx context.Context, study int64, standing Standing, fence int64) error {
	var epoch int64
	err := d.Tx(ctx, func(tx *gorm.DB) error {
		// The first row orders the changes of a shard: an epoch stands for all of them up to it.
		if err := ForUpdate(tx.Table("study_standing")).Select("epoch").Where("study_id = 0").Scan(&epoch).Error; err != nil {
			return err
		}
		var now struct {
			Standing string
			Fence    int64
		}
		found := ForUpdate(tx.Table("study_standing")).Select("standing", "fence").Where("study_id = ?", study).Limit(1).Scan(&now)
		if found.Error != nil {
			return found.Error
		}
		if now.Fence > fence || now.Fence == fence && found.RowsAffected == 1 && Standing(now.Standing).order() > standing.order() {
			return errStale()
		}
		epoch++
		if err := quiet(tx, standing); err != nil {
			return err
		}
		if err := tx.Exec("UPDATE study_standing SET epoch = ? WHERE study_id = 0", epoch).Error; err != nil {
			return err
		}
		done := tx.Exec("UPDATE study_standing SET standing = ?, epoch = ?, fence = ? WHERE study_id = ?", string(standing), epoch, fence, study)
		if done.Error != nil || done.RowsAffected == 1 {
			return done.Error
		}
		return Insert(tx, "study_standing", []string{"study_id", "standing", "epoch", "fence"}, [][]any{{study, string(standing), epoch, fence}})
	})
	if err != nil {
		return Error("standing of a study", err)
	}
	for bucket := range Buckets { // one by one: a writer waits for one other transaction, not for 256
		err := d.Tx(ctx, func(tx *gorm.DB) error {
			return tx.Exec("UPDATE bucket SET epoch = ? WHERE bucket = ? AND epoch < ?", epoch, bucket, epoch).Error
		})
		if err != nil {
			return Error("standing of a study", err)
		}
	}
	return nil
}

// WhileClosing must come first in a transaction that writes of a study only while it is being closed: it keeps the standing until the
// transaction ends, and refuses another one as errs.Stale. Nobody else is asked then: no bucket is on its way (see NoneClosing).
func WhileClosing(tx *gorm.DB, study int64) error {
	var standing string
	if err := share(tx).Table("study_standing").Select("standing").Where("study_id = ?", study).Limit(1).Scan(&standing).Error; err != nil {
		return err
	}
	if Standing(standing) != Closing {
		return errStale()
	}
	return nil
}

// StandingOf returns a study's standing as the shard has it now. SetStanding may not have finished.
func (d *DB) StandingOf(ctx context.Context, study int64) (Standing, error) {
	known, err := readStandings(d.Read(ctx))
	if err != nil {
		return "", Error("standing of a study", err)
	}
	return Doors{known.of}.Of(study), nil
}
