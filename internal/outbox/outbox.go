// Package outbox decides how events leave a transaction: as rows written in it, relayed to the log at least once, by any
// number of processes, in no promised order between transactions. An event keeps its id however often it is relayed, so
// that consumers can tell copies.
package outbox

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/trace"
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
	Trace       string // W3C traceparent; empty: that of the transaction, where it follows one trace (trace.HeaderFor where several)
}

// Headers of a relayed event.
const (
	HeaderID   = "eprod-event"
	HeaderType = "eprod-type"
	HeaderAt   = "eprod-at"
)

// Bounds of one row.
const (
	rowEvents = 500
	rowBytes  = 128 << 10 // payload; a single larger event is a row of its own
)

var columns = []string{"id", "events", "payload", "created_at"}

// stored is an event as a row's payload holds it: the payload is a JSON array of them. Events of one transaction share rows,
// because most of what a row costs does not depend on its size.
type stored struct {
	ID          int64          `json:"id"`
	Topic       string         `json:"topic"`
	Type        string         `json:"type"`
	Study       int64          `json:"study"`
	Participant int64          `json:"participant"`
	At          int64          `json:"at"` // microseconds since 1970
	Trace       string         `json:"trace,omitempty"`
	Payload     jsontext.Value `json:"payload"`
}

// Add writes events in tx, the transaction of what they tell about. It fails with an error that db.IsDuplicate recognises
// when the id of a row's first event is there already.
func Add(tx *gorm.DB, events ...Event) error {
	var rows [][]any
	within := trace.Header(tx.Statement.Context)
	for len(events) > 0 {
		n, payload, err := pack(events, within)
		if err != nil {
			return err
		}
		rows = append(rows, []any{events[0].ID, n, payload, db.Micros(events[0].At)})
		events = events[n:]
	}
	if err := db.Insert(tx, "outbox", columns, rows); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// Last returns the greatest id of the rows that a database has now; 0 where none waits. What is committed has an id up to it, whoever's
// clock it was written by.
func Last(ctx context.Context, d *db.DB) (int64, error) {
	var id int64
	err := d.Read(ctx).Raw("SELECT COALESCE(MAX(id), 0) FROM outbox").Scan(&id).Error
	return id, db.Error("outbox", err)
}

// UpTo returns how many rows of a database still wait whose ids are not above one.
func UpTo(ctx context.Context, d *db.DB, id int64) (int64, error) {
	var n int64
	err := d.Read(ctx).Table("outbox").Where("id <= ?", id).Count(&n).Error
	return n, db.Error("outbox", err)
}

// pack puts as many events as one row may hold into a payload; within is the trace of those that name none.
func pack(events []Event, within string) (n int, payload []byte, err error) {
	payload = append(payload, '[')
	for i := range events[:min(len(events), rowEvents)] {
		e := &events[i]
		raw, err := json.Marshal(stored{e.ID, e.Topic, e.Type, e.Study, e.Participant, db.Micros(e.At), cmp.Or(e.Trace, within), e.Payload})
		if err != nil {
			return 0, nil, fmt.Errorf("outbox: the payload of %s is not JSON: %w", e.Type, err)
		}
		if i > 0 {
			if len(payload)+len(raw) > rowBytes {
				break
			}
			payload = append(payload, ',')
		}
		payload = append(payload, raw...)
		n++
	}
	return n, append(payload, ']'), nil
}

// row is one row of the table.
type row struct {
	ID      int64
	Events  int
	Payload []byte
}

// unpack returns the events of a row.
func (r *row) unpack() ([]stored, error) {
	var events []stored
	if err := json.Unmarshal(r.Payload, &events); err != nil {
		return nil, fmt.Errorf("outbox row %d: %w", r.ID, err)
	}
	return events, nil
}

func (e *stored) message(partitions int) kafka.Message {
	partition := int32(0)
	if e.Participant != 0 {
		partition = int32(db.Bucket(e.Participant) * partitions / db.Buckets)
	}
	headers := []kafka.Header{
		{Key: HeaderID, Value: strconv.AppendInt(nil, e.ID, 10)},
		{Key: HeaderType, Value: []byte(e.Type)},
		{Key: HeaderAt, Value: []byte(db.Time(e.At).Format(time.RFC3339Nano))},
	}
	if e.Trace != "" {
		headers = append(headers, kafka.Header{Key: trace.HeaderName, Value: []byte(e.Trace)})
	}
	return kafka.Message{Topic: e.Topic, Partition: partition, Headers: headers, Value: e.Payload}
}
