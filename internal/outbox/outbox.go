// Package outbox decides how events leave a transaction: as rows written in it, relayed to the log at least once, by any
// number of processes, in no promised order between transactions. An event keeps its id however often it is relayed, so
// that consumers can tell copies.
package outbox

import (
	"encoding/json"
	"fmt"
	"strconv"
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

// message is the same for the same row, however often it is made.
func (r *row) message(partitions int) kafka.Message {
	partition := int32(0)
	if r.ParticipantID != 0 {
		partition = int32(db.Bucket(r.ParticipantID) * partitions / db.Buckets)
	}
	headers := []kafka.Header{
		{Key: HeaderID, Value: strconv.AppendInt(nil, r.ID, 10)},
		{Key: HeaderType, Value: []byte(r.Kind)},
		{Key: HeaderAt, Value: []byte(db.Time(r.CreatedAt).Format(time.RFC3339Nano))},
	}
	if r.Trace != "" {
		headers = append(headers, kafka.Header{Key: "traceparent", Value: []byte(r.Trace)})
	}
	return kafka.Message{Topic: r.Topic, Partition: partition, Headers: headers, Value: r.Payload}
}
