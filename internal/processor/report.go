package processor

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/submission"
)

// entry is the audit entry of a stored, quarantined or conflicting record. The content is named by its hash: answers are
// never written in clear beside the record itself.
func entry(id int64, at time.Time, r *submission.Record, action, table string, about map[string]string) audit.Entry {
	state := map[string]string{
		"submission": r.Submission.String(), "sha256": hex.EncodeToString(r.SHA256[:]),
		"task": strconv.FormatInt(r.Task, 10), "receivedAt": submission.Timestamp(r.ReceivedAt),
	}
	for k, v := range about {
		state[k] = v
	}
	return audit.Entry{ID: id, At: at, Zone: "UTC", ActorKind: "participant", Actor: r.Participant, Action: action,
		Record: table, RecordID: r.ID, Study: r.Study, Participant: r.Participant, New: object(state), Source: r.Source}
}

// event tells other consumers what happened, by ids only.
func event(id int64, at time.Time, r *submission.Record, kind string, about map[string]string) outbox.Event {
	payload := map[string]string{
		"id": strconv.FormatInt(r.ID, 10), "study": strconv.FormatInt(r.Study, 10), "participant": strconv.FormatInt(r.Participant, 10),
		"task": strconv.FormatInt(r.Task, 10), "submission": r.Submission.String(), "receivedAt": submission.Timestamp(r.ReceivedAt),
	}
	for k, v := range about {
		payload[k] = v
	}
	return outbox.Event{ID: id, Topic: submission.Events, Type: kind, Study: r.Study, Participant: r.Participant, Payload: object(payload), At: at}
}

// deadLetter copies a quarantined record to the dead-letter topic, still sealed. It shares the record's id, so that a copy
// relayed twice is recognisable.
func deadLetter(q *submission.Quarantine, at time.Time) outbox.Event {
	payload := map[string]string{
		"id": strconv.FormatInt(q.ID, 10), "study": strconv.FormatInt(q.Study, 10), "participant": strconv.FormatInt(q.Participant, 10),
		"task": strconv.FormatInt(q.Task, 10), "submission": q.Submission.String(), "sha256": hex.EncodeToString(q.SHA256[:]),
		"receivedAt": submission.Timestamp(q.ReceivedAt), "reason": q.Reason,
		"key": strconv.Itoa(int(q.Key)), "sealed": base64.StdEncoding.EncodeToString(q.Sealed),
	}
	return outbox.Event{ID: q.ID, Topic: submission.DeadTopic, Type: "submission.quarantine", Study: q.Study, Participant: q.Participant,
		Payload: object(payload), At: at}
}

// object encodes a map of strings; that cannot fail.
func object(m map[string]string) []byte {
	b, _ := json.Marshal(m)
	return b
}
