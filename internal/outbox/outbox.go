// Package outbox decides how events leave a transaction: as rows written in it, relayed to the log at least once, by any
// number of processes, in no promised order between transactions. An event keeps its id however often it is relayed, so
// that consumers can tell copies.
package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/kafka"
)

// Event says that something happened, by ids and words only: no health data, unless it is sealed.
type Event struct {
	ID          int64 // Snowflake, the same in every copy
	Topic       string
	Type        string // record.verb
	Study       int64
	Participant int64  // chooses the partition; 0 means partition 0
	Payload     []byte // JSON object
	At          time.Time
	Trace       string // W3C traceparent, may be empty
}

// Headers of a relayed event.
const (
	HeaderID   = "eprod-event"
	HeaderType = "eprod-type"
	HeaderAt   = "eprod-at"
)

var columns = []string{"id", "topic", "kind", "study_id", "participant_id", "payload", "trace", "created_at"}

// Add writes events in tx, the transaction of what they tell about.
func Add(tx *gorm.DB, events ...Event) error {
	rows := make([][]any, len(events))
	for i := range events {
		e := &events[i]
		if !json.Valid(e.Payload) {
			return fmt.Errorf("outbox: the payload of %s is not JSON", e.Type)
		}
		rows[i] = []any{e.ID, e.Topic, e.Type, e.Study, e.Participant, e.Payload, e.Trace, db.Micros(e.At)}
	}
	if err := db.Insert(tx, "outbox", columns, rows); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// Publisher makes messages durable in the log: nil means that all in-sync replicas have all of them.
type Publisher interface {
	Publish(ctx context.Context, messages []kafka.Message) error
}

// Config bounds a relay.
type Config struct {
	Interval time.Duration `koanf:"interval"` // how often the table is looked at when nobody notifies
	Batch    int           `koanf:"batch"`    // rows of one transaction
	MaxPause time.Duration `koanf:"maxPause"` // longest pause after failures in a row
}

// DefaultConfig returns settings that add little to an idle database.
func DefaultConfig() Config {
	return Config{Interval: time.Second, Batch: 500, MaxPause: 10 * time.Second}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	if c.Interval <= 0 {
		problems = append(problems, fmt.Errorf("interval: %v: must be above zero, such as 1s", c.Interval))
	}
	if c.Batch < 1 || c.Batch > 5000 {
		problems = append(problems, fmt.Errorf("batch: %d: must be between 1 and 5000", c.Batch))
	}
	if c.MaxPause < c.Interval {
		problems = append(problems, fmt.Errorf("maxPause: %v: must be at least interval", c.MaxPause))
	}
	return errors.Join(problems...)
}

// Relay hands one database's events to the log.
type Relay struct {
	db         *db.DB
	log        Publisher
	partitions int
	config     Config
	logger     *slog.Logger
	wake       chan struct{}
}

// NewRelay returns a relay; partitions is the partition count of the topics.
func NewRelay(d *db.DB, log Publisher, partitions int, config Config, logger *slog.Logger) *Relay {
	return &Relay{db: d, log: log, partitions: partitions, config: config, logger: logger, wake: make(chan struct{}, 1)}
}

// Notify says that rows were committed. It never waits.
func (r *Relay) Notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run relays until ctx ends and returns when no transaction is open.
func (r *Relay) Run(ctx context.Context) error {
	pause, failing := r.config.Interval, false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		err := r.drain(ctx)
		switch {
		case err == nil:
			pause = r.config.Interval
		case ctx.Err() != nil:
			return nil
		default:
			if !failing {
				r.logger.WarnContext(ctx, "outbox waits", "database", r.db.Name, "error", err)
			}
			pause = min(2*pause, r.config.MaxPause)
			if !waited(ctx, pause) {
				return nil
			}
		}
		failing = err != nil
		timer.Reset(pause)
	}
}

// waited keeps a relay that fails from being woken at once by every commit.
func waited(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *Relay) drain(ctx context.Context) error {
	for ctx.Err() == nil {
		n, err := r.Once(ctx)
		if err != nil || n < r.config.Batch {
			return err
		}
	}
	return ctx.Err()
}

// Once relays one batch and returns its size. Rows are claimed, published and deleted in one transaction: whatever fails,
// they stay, and may be published again with the same ids. Rows that another relay holds are left to it. Rows are found by
// being there, never by "id greater than the last": ids become visible in the order of commits, not of numbers.
func (r *Relay) Once(ctx context.Context) (int, error) {
	if n, err := r.Depth(ctx); err != nil || n == 0 {
		return 0, err
	}
	published := 0
	err := r.db.Tx(ctx, func(tx *gorm.DB) error {
		var rows []row
		if err := db.SkipLocked(tx).Table("outbox").Select(columns).Order("id").Limit(r.config.Batch).Find(&rows).Error; err != nil || len(rows) == 0 {
			published = 0
			return err
		}
		messages, ids := make([]kafka.Message, len(rows)), make([]int64, len(rows))
		for i := range rows {
			messages[i], ids[i] = r.message(&rows[i]), rows[i].ID
		}
		if err := r.log.Publish(ctx, messages); err != nil {
			return err
		}
		published = len(rows)
		return tx.Exec("DELETE FROM outbox WHERE id IN ?", ids).Error
	})
	if err != nil {
		return 0, db.Error("outbox", err)
	}
	return published, nil
}

// Depth returns how many events wait, counting no further than 10,000.
func (r *Relay) Depth(ctx context.Context) (int64, error) {
	var n int64
	err := r.db.Read(ctx).Raw("SELECT COUNT(*) FROM (SELECT 1 FROM outbox LIMIT 10000) AS waiting").Scan(&n).Error
	return n, db.Error("outbox", err)
}

type row struct {
	ID            int64
	Topic         string
	Kind          string
	StudyID       int64
	ParticipantID int64
	Payload       []byte
	Trace         string
	CreatedAt     int64
}

func (r *Relay) message(row *row) kafka.Message {
	partition := int32(0)
	if row.ParticipantID != 0 {
		partition = int32(db.Bucket(row.ParticipantID) * r.partitions / db.Buckets)
	}
	headers := []kafka.Header{
		{Key: HeaderID, Value: strconv.AppendInt(nil, row.ID, 10)},
		{Key: HeaderType, Value: []byte(row.Kind)},
		{Key: HeaderAt, Value: []byte(db.Time(row.CreatedAt).Format(time.RFC3339Nano))},
	}
	if row.Trace != "" {
		headers = append(headers, kafka.Header{Key: "traceparent", Value: []byte(row.Trace)})
	}
	return kafka.Message{Topic: row.Topic, Partition: partition, Headers: headers, Value: row.Payload}
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
