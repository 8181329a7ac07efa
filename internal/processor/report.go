package processor

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/submission"
)

// entry is the audit entry of a stored, quarantined or conflicting record. The content is named by its hash: answers are
// never written in clear beside the record itself.
func entry(id int64, at time.Time, r *submission.Record, action, table string, about ...member) audit.Entry {
	state := object(append(slices.Clip(about),
		member{"submission", r.Submission.String()}, member{"sha256", hex.EncodeToString(r.SHA256[:])},
		member{"task", strconv.FormatInt(r.Task, 10)}, member{"receivedAt", submission.Timestamp(r.ReceivedAt)}))
	return audit.Entry{ID: id, At: at, Zone: "UTC", ActorKind: "participant", Actor: r.Participant, Action: action,
		Record: table, RecordID: r.ID, Study: r.Study, Participant: r.Participant, New: state, Source: r.Source}
}

// event tells other consumers what happened, by ids only.
func event(id int64, at time.Time, r *submission.Record, kind string, about ...member) outbox.Event {
	return outbox.Event{ID: id, Topic: submission.Events, Type: kind, Study: r.Study, Participant: r.Participant, Payload: object(append(slices.Clip(about), who(r)...)), At: at}
}

// deadLetter copies a quarantined record to the dead-letter topic, still sealed. It shares the record's id, so that a copy
// relayed twice is recognisable.
func deadLetter(q *submission.Quarantine, at time.Time) outbox.Event {
	payload := object(append(who(&q.Record), member{"sha256", hex.EncodeToString(q.SHA256[:])}, member{"reason", q.Reason},
		member{"key", strconv.Itoa(int(q.Key))}, member{"sealed", base64.StdEncoding.EncodeToString(q.Sealed)}))
	return outbox.Event{ID: q.ID, Topic: submission.DeadTopic, Type: submission.EventQuarantined, Study: q.Study, Participant: q.Participant,
		Payload: payload, At: at}
}

func who(r *submission.Record) []member {
	return []member{{"id", strconv.FormatInt(r.ID, 10)}, {"study", strconv.FormatInt(r.Study, 10)}, {"participant", strconv.FormatInt(r.Participant, 10)},
		{"task", strconv.FormatInt(r.Task, 10)}, {"submission", r.Submission.String()}, {"receivedAt", submission.Timestamp(r.ReceivedAt)}}
}

// member is one string of a flat JSON object.
type member struct{ name, value string }

// object writes members as a JSON object. It stands in the path of every record, where reflection over maps costs more than
// the rest of the report.
func object(members []member) []byte {
	size := 2
	for _, m := range members {
		size += len(m.name) + len(m.value) + 6
	}
	b := append(make([]byte, 0, size), '{')
	for i, m := range members {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, m.name) // fails only for bytes that are no UTF-8, and then replaces them
		b = append(b, ':')
		b, _ = jsontext.AppendQuote(b, m.value)
	}
	return append(b, '}')
}
