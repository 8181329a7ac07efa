// Package submission decides what one submission is: its identity, the form in which it travels through the log, when two
// submissions are the same, and what its receipt says.
//
// Identity is (participant, UUID made by the device). The first body that is processed under an identity owns it: the same
// body again is the same submission, another body is a conflict and is kept aside. Bodies are compared by the SHA-256 of
// the exact bytes of the "response" member as they were received.
package submission

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/trace"
)

// ReasonLocked is why a record is kept outside of its study's data: the study was locked when the shard first saw it.
const ReasonLocked = "study_locked"

// Topics of the log that carry submissions.
const (
	Topic     = "submissions"      // accepted records on their way to the processor
	DeadTopic = "submissions.dead" // copies of quarantined records, with the reason
	Events    = "events"           // what happened to responses, for every other consumer
)

// State is where a submission is on its way.
type State string

// The states of a receipt. Received is the only one that still changes.
const (
	Received    State = "received"    // durable, not yet processed
	Stored      State = "stored"      // checked and stored as a response
	Quarantined State = "quarantined" // authentic, but it does not fit; waits for a person
	Conflict    State = "conflict"    // another body came under the same UUID; the first is intact, the second kept aside
)

// Key says which key sealed a record's payload.
type Key uint8

// The keys of a payload.
const (
	KeyParticipant Key = 1 // the participant's own data key
	KeyIntake      Key = 2 // the door's key: the participant's key could not be read at that moment
)

// Record is an accepted submission as it travels: everything about it in clear except the answers.
type Record struct {
	ID          int64 // Snowflake, given at the door
	Participant int64
	Study       int64
	Task        int64
	Submission  uuid.UUID
	ReceivedAt  time.Time // when the door had the whole body, UTC, microseconds
	SHA256      [32]byte  // of the response member's exact bytes
	Key         Key
	Source      string // request id at the door, for the audit trail
	Sealed      []byte // the response member, encrypted; Associated is its associated data
	Trace       string // W3C traceparent of the request or what came after it; empty where nobody follows
}

// Associated returns the associated data that binds a sealed body to study, participant and UUID, so that a body moved to
// another row does not open.
func Associated(study, participant int64, id uuid.UUID) []byte {
	b := make([]byte, 0, 64)
	b = append(b, "eprod/submission/1/"...)
	b = binary.BigEndian.AppendUint64(b, uint64(study))
	b = binary.BigEndian.AppendUint64(b, uint64(participant))
	return append(b, id[:]...)
}

// Associated is Associated of the record's own identity.
func (r *Record) Associated() []byte { return Associated(r.Study, r.Participant, r.Submission) }

const (
	headName     = "eprod-record"
	headVersion  = 1
	headSize     = 1 + 8 + 8 + 8 + 8 + 16 + 8 + 32 + 1
	sourceHeader = "eprod-request"
	maxSource    = 64 // bytes; what is longer could not be stored, and would stop the partition
)

// Partition returns the partition of a participant's bucket: consecutive buckets share one, so that a consumer's batch
// touches as few shards as possible.
func Partition(participant int64, partitions int) int32 {
	return int32(db.Bucket(participant) * partitions / db.Buckets)
}

// Message returns the record as a log message for the given partition.
func (r *Record) Message(partition int32) kafka.Message {
	h := make([]byte, 0, headSize)
	h = append(h, headVersion)
	h = binary.BigEndian.AppendUint64(h, uint64(r.ID))
	h = binary.BigEndian.AppendUint64(h, uint64(r.Participant))
	h = binary.BigEndian.AppendUint64(h, uint64(r.Study))
	h = binary.BigEndian.AppendUint64(h, uint64(r.Task))
	h = append(h, r.Submission[:]...)
	h = binary.BigEndian.AppendUint64(h, uint64(r.ReceivedAt.UnixMicro()))
	h = append(h, r.SHA256[:]...)
	h = append(h, byte(r.Key))
	m := kafka.Message{
		Topic: Topic, Partition: partition, Value: r.Sealed,
		Headers: []kafka.Header{{Key: headName, Value: h}, {Key: sourceHeader, Value: []byte(r.Source)}},
	}
	if r.Trace != "" {
		m.Headers = append(m.Headers, kafka.Header{Key: trace.HeaderName, Value: []byte(r.Trace)})
	}
	return m
}

// FromMessage reads a record back. Its error means that the message is not one of ours or was damaged: it can never be
// processed as it is.
func FromMessage(m kafka.Message) (Record, error) {
	var r Record
	var h []byte
	for _, header := range m.Headers {
		switch header.Key {
		case headName:
			h = header.Value
		case sourceHeader:
			r.Source = strings.ToValidUTF8(string(header.Value[:min(len(header.Value), maxSource)]), "")
		}
	}
	if len(h) != headSize || h[0] != headVersion {
		return Record{}, fmt.Errorf("record header has %d bytes, want %d bytes of version %d", len(h), headSize, headVersion)
	}
	r.ID = int64(binary.BigEndian.Uint64(h[1:]))
	r.Participant = int64(binary.BigEndian.Uint64(h[9:]))
	r.Study = int64(binary.BigEndian.Uint64(h[17:]))
	r.Task = int64(binary.BigEndian.Uint64(h[25:]))
	copy(r.Submission[:], h[33:49])
	r.ReceivedAt = time.UnixMicro(int64(binary.BigEndian.Uint64(h[49:]))).UTC()
	copy(r.SHA256[:], h[57:89])
	r.Key = Key(h[89])
	r.Sealed, r.Trace = m.Value, m.Traceparent()
	if r.Key != KeyParticipant && r.Key != KeyIntake {
		return Record{}, fmt.Errorf("record header names key %d, want 1 or 2", r.Key)
	}
	return r, nil
}

const barrierHeader = "eprod-barrier"

// Barrier is a mark in the log, not a record: everything that a partition has before it was accepted before a study's locking began to
// wait for it.
type Barrier struct{ Lock int64 }

// Message returns the mark for a partition.
func (b Barrier) Message(partition int32) kafka.Message {
	return kafka.Message{Topic: Topic, Partition: partition, Headers: []kafka.Header{{Key: barrierHeader, Value: binary.BigEndian.AppendUint64(nil, uint64(b.Lock))}}}
}

// BarrierOf returns the mark that a message is; false for every other message.
func BarrierOf(m kafka.Message) (Barrier, bool) {
	for _, h := range m.Headers {
		if h.Key == barrierHeader && len(h.Value) == 8 {
			return Barrier{int64(binary.BigEndian.Uint64(h.Value))}, true
		}
	}
	return Barrier{}, false
}

// Receipt is what a device may know about its submission.
type Receipt struct {
	ID          int64
	Participant int64
	Study       int64
	Task        int64
	Submission  uuid.UUID
	SHA256      [32]byte
	State       State
	ReceivedAt  time.Time
	ProcessedAt time.Time      // zero while received
	Findings    []errs.Finding // of a quarantined submission
}

// Receipt returns the receipt of a record that is durable and not yet processed.
func (r *Record) Receipt() Receipt {
	return Receipt{
		ID: r.ID, Participant: r.Participant, Study: r.Study, Task: r.Task, Submission: r.Submission,
		SHA256: r.SHA256, State: Received, ReceivedAt: r.ReceivedAt,
	}
}

// Hash returns the receipt's content hash as lower-case hex.
func (r Receipt) Hash() string { return hex.EncodeToString(r.SHA256[:]) }

// Response is a stored, checked submission. Sealed stays encrypted until somebody with the right to read opens it.
type Response struct {
	Record
	Site          int64
	Questionnaire string // canonical url
	Version       string
	Status        string // the QuestionnaireResponse's own status
	Authored      string // as the device wrote it, with its offset
	Zone          string // the participant's zone that the task's window was computed in
	Late          bool   // captured or received after closes, inside the grace
	StoredAt      time.Time
}

// Quarantine is an authentic submission that waits for a person.
type Quarantine struct {
	Record
	Site     int64          // 0 where the participant is unknown
	Reason   string         // stable word, see the processor
	Findings []errs.Finding // what does not fit; never an answer
	At       time.Time
}

// ParseUUID reads a device-made identifier: the canonical 36-character form or urn:uuid: before it, of any version.
func ParseUUID(s string) (uuid.UUID, error) {
	id, err := uuid.Parse(s)
	if err != nil || (len(s) != 36 && len(s) != 45) || id == uuid.Nil {
		return uuid.Nil, errs.New(errs.Unprocessable, "invalid_response", "identifier.value must be a UUID made by the device").
			WithFindings([]errs.Finding{{Pointer: "/response/identifier/value", Expression: "QuestionnaireResponse.identifier.value",
				Code: "identifier_not_uuid", Detail: "the identifier must be a UUID such as 6f1c3a5e-8d6e-4b62-9c5c-1a2b3c4d5e6f"}})
	}
	return id, nil
}
