package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
)

// Bounds that are no settings.
const (
	batchBytes   = 4 << 20          // payload of one batch; a single larger event is a batch of its own
	maxAside     = 1000             // rows with events that the log will never take, before the relay stops for help
	onceTimeout  = 15 * time.Second // of one batch
	drainTimeout = 5 * time.Second  // of what is left when the process stops
)

// Publisher makes messages durable in the log: nil means that all in-sync replicas have all of them. An error of a permanent
// kind means that the log will never take one of them.
type Publisher interface {
	Publish(ctx context.Context, messages []kafka.Message) error
}

// Config bounds a relay.
type Config struct {
	Interval time.Duration `koanf:"interval"` // how often the table is looked at when nobody notifies
	Gather   time.Duration `koanf:"gather"`   // after a commit, how long others may join before the round begins
	Batch    int           `koanf:"batch"`    // rows of one transaction
	MaxPause time.Duration `koanf:"maxPause"` // longest pause after failures in a row
}

// DefaultConfig returns settings that add little to an idle database.
func DefaultConfig() Config {
	return Config{Interval: time.Second, Gather: 50 * time.Millisecond, Batch: 500, MaxPause: 10 * time.Second}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	if c.Interval <= 0 {
		problems = append(problems, fmt.Errorf("interval: %v: must be above zero, such as 1s", c.Interval))
	}
	if c.Gather <= 0 || c.Gather > 10*time.Second {
		problems = append(problems, fmt.Errorf("gather: %v: must be above zero and at most 10s", c.Gather))
	}
	if c.Batch < 1 || c.Batch > 5000 {
		problems = append(problems, fmt.Errorf("batch: %d: must be between 1 and 5000", c.Batch))
	}
	if c.MaxPause < c.Interval {
		problems = append(problems, fmt.Errorf("maxPause: %v: must be at least interval", c.MaxPause))
	}
	return errors.Join(problems...)
}

// Relay hands one database's events to the log. Notify and Depth may be called by anybody; Run and Once have one caller.
type Relay struct {
	db         *db.DB
	log        Publisher
	partitions int
	config     Config
	logger     *slog.Logger
	wake       chan struct{}
	aside      map[int64]bool // rows with an event that the log will never take
}

// NewRelay returns a relay; partitions is the partition count of the topics.
func NewRelay(d *db.DB, log Publisher, partitions int, config Config, logger *slog.Logger) *Relay {
	return &Relay{db: d, log: log, partitions: partitions, config: config, logger: logger, wake: make(chan struct{}, 1), aside: make(map[int64]bool)}
}

// Notify says that rows were committed. It never waits.
func (r *Relay) Notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run relays until ctx ends, then finishes the batch in hand, tries once more what was committed meanwhile, and returns
// when no transaction is open. What could not be relayed stays for the next process.
func (r *Relay) Run(ctx context.Context) error {
	work := context.WithoutCancel(ctx)
	pause, wake := r.config.Interval, r.wake
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return r.finish(work)
		case <-wake:
			// What is committed meanwhile goes along: one round for many commits.
			gather := time.NewTimer(r.config.Gather)
			select {
			case <-gather.C:
			case <-ctx.Done():
				gather.Stop()
				return r.finish(work)
			}
		case <-timer.C:
		}
		err := r.drain(ctx, work, r.config.Batch)
		if err == nil {
			pause, wake = r.config.Interval, r.wake
		} else {
			if wake != nil {
				r.logger.WarnContext(ctx, "outbox waits", "database", r.db.Name, "error", err)
			}
			pause, wake = min(2*pause, r.config.MaxPause), nil // while it fails, commits do not wake it
		}
		timer.Reset(pause)
	}
}

func (r *Relay) finish(work context.Context) error {
	work, cancel := context.WithTimeout(work, drainTimeout)
	defer cancel()
	if err := r.drain(work, work, 1); err != nil {
		r.logger.WarnContext(work, "outbox stops with events left", "database", r.db.Name, "error", err)
	}
	return nil
}

// drain relays batch after batch until one has fewer than enough rows, or stop ends.
func (r *Relay) drain(stop, work context.Context, enough int) error {
	for stop.Err() == nil {
		rows, _, err := r.once(work)
		if err != nil || rows < enough {
			return err
		}
	}
	return nil
}

// Once relays one batch and returns how many events it dealt with. Rows are deleted after they were published:
// whatever fails in between, they stay, and may be published again with the same ids. Rows are found by being there, never
// by "id greater than the last": ids become visible in the order of commits, not of numbers.
func (r *Relay) Once(ctx context.Context) (int, error) {
	_, events, err := r.once(ctx)
	return events, err
}

func (r *Relay) once(ctx context.Context) (taken, events int, err error) {
	ctx, cancel := context.WithTimeout(ctx, onceTimeout)
	defer cancel()
	var waiting []int64
	if err := r.claim(r.db.Read(ctx)).Limit(1).Pluck("id", &waiting).Error; err != nil || len(waiting) == 0 {
		return 0, 0, db.Error("outbox", err)
	}
	batch := func(tx *gorm.DB, remove func(ids []int64) error) error {
		taken, events = 0, 0
		rows, err := r.load(tx)
		if err != nil || len(rows) == 0 {
			return err
		}
		ids, n, err := r.deliver(tx.Statement.Context, rows)
		if err != nil {
			return err
		}
		taken, events = len(rows), n
		return remove(ids)
	}
	if r.db.Dialect == db.SQLite {
		// The file has one process and one relay. A transaction would keep every other writer waiting for the log.
		err = batch(r.db.Read(ctx), func(ids []int64) error {
			return r.db.Tx(ctx, func(tx *gorm.DB) error { return remove(tx, ids) })
		})
	} else {
		err = r.db.Tx(ctx, func(tx *gorm.DB) error {
			return batch(tx, func(ids []int64) error { return remove(tx, ids) })
		})
	}
	if err != nil {
		return 0, 0, db.Error("outbox", err)
	}
	return taken, events, nil
}

// claim selects what may be relayed.
func (r *Relay) claim(tx *gorm.DB) *gorm.DB {
	tx = tx.Table("outbox").Order("id")
	if len(r.aside) > 0 {
		tx = tx.Where("id NOT IN ?", slices.Sorted(maps.Keys(r.aside)))
	}
	return tx
}

// load claims a batch; on MySQL, rows that another relay holds are left to it.
func (r *Relay) load(tx *gorm.DB) ([]row, error) {
	var sizes []struct{ ID, Size int64 }
	if err := r.claim(db.SkipLocked(tx)).Select("id", "LENGTH(payload) AS size").Limit(r.config.Batch).Find(&sizes).Error; err != nil || len(sizes) == 0 {
		return nil, err
	}
	total, ids := int64(0), make([]int64, 0, len(sizes))
	for _, s := range sizes {
		if total += s.Size; total > batchBytes && len(ids) > 0 {
			break
		}
		ids = append(ids, s.ID)
	}
	rows := make([]row, 0, len(ids))
	for piece := range slices.Chunk(ids, maxIn) {
		var some []row
		if err := tx.Table("outbox").Select(columns).Where("id IN ?", padded(piece)).Order("id").Find(&some).Error; err != nil {
			return nil, err
		}
		rows = append(rows, some...)
	}
	return rows, nil
}

// letter is one event on its way, and the row that it came in.
type letter struct {
	row     int64
	event   *stored
	message kafka.Message
}

// deliver publishes the events of rows and returns the rows that may be deleted, and how many events they had.
func (r *Relay) deliver(ctx context.Context, rows []row) (done []int64, events int, err error) {
	var letters []letter
	for i := range rows {
		inside, err := rows[i].unpack()
		if err != nil && len(r.aside) < maxAside {
			r.aside[rows[i].ID] = true
			r.logger.ErrorContext(ctx, "a row of the outbox cannot be read and stays", "database", r.db.Name, "row", rows[i].ID, "error", err)
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		for j := range inside {
			letters = append(letters, letter{rows[i].ID, &inside[j], inside[j].message(r.partitions)})
		}
	}
	if err := r.publish(ctx, letters); err != nil {
		return nil, 0, err
	}
	for i := range rows {
		if !r.aside[rows[i].ID] {
			done = append(done, rows[i].ID)
		}
	}
	return done, len(letters), nil
}

// publish hands letters to the log. An event that the log will never take must not hold up the others for ever: it is found
// by halving, reported, and its row stays in the table.
func (r *Relay) publish(ctx context.Context, letters []letter) error {
	messages := make([]kafka.Message, len(letters))
	for i := range letters {
		messages[i] = letters[i].message
	}
	err := r.log.Publish(ctx, messages)
	switch {
	case err == nil:
		return nil
	case !errs.Permanent(err) || len(r.aside) >= maxAside:
		return err
	case len(letters) == 1:
		r.aside[letters[0].row] = true
		e := letters[0].event
		r.logger.ErrorContext(ctx, "an event is refused by the log and stays in the outbox", "database", r.db.Name, "event", e.ID,
			"type", e.Type, "bytes", len(e.Payload), "error", err)
		return nil
	}
	half := len(letters) / 2
	if err := r.publish(ctx, letters[:half]); err != nil {
		return err
	}
	return r.publish(ctx, letters[half:])
}

func remove(tx *gorm.DB, ids []int64) error {
	for piece := range slices.Chunk(ids, maxIn) {
		if err := tx.Exec("DELETE FROM outbox WHERE id IN ?", padded(piece)).Error; err != nil {
			return err
		}
	}
	return nil
}

// maxIn is the longest list of ids in one statement.
const maxIn = 128

// padded repeats the last id until the list has one of a few lengths, so that few statements have to be prepared.
func padded(ids []int64) []int64 {
	size := maxIn
	for _, n := range [...]int{1, 8, 32} {
		if len(ids) <= n {
			size = n
			break
		}
	}
	out := slices.Clone(ids)
	for len(out) < size {
		out = append(out, ids[len(ids)-1])
	}
	return out
}

// Depth returns how many events wait, counting no further than 2,000 rows.
func (r *Relay) Depth(ctx context.Context) (int64, error) {
	var n int64
	err := r.db.Read(ctx).Raw("SELECT COALESCE(SUM(events), 0) FROM (SELECT events FROM outbox LIMIT 2000) AS waiting").Scan(&n).Error
	return n, db.Error("outbox", err)
}

// Oldest returns when the first waiting row was written: the zero time where there is none.
func (r *Relay) Oldest(ctx context.Context) (time.Time, error) {
	var written []int64
	err := r.db.Read(ctx).Table("outbox").Order("id").Limit(1).Pluck("created_at", &written).Error
	if err != nil || len(written) == 0 {
		return time.Time{}, db.Error("outbox", err)
	}
	return db.Time(written[0]), nil
}

// Relays runs one relay per database.
type Relays []*Relay

// Run runs all until ctx ends.
func (rs Relays) Run(ctx context.Context) error {
	var running sync.WaitGroup
	problems := make([]error, len(rs))
	for i, r := range rs {
		running.Go(func() { problems[i] = r.Run(ctx) })
	}
	running.Wait()
	return errors.Join(problems...)
}
