package submission

import (
	"errors"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/strictjson"
)

// The types of events about submissions.
const (
	EventStored      = "response.store"
	EventQuarantined = "submission.quarantine"
	EventConflict    = "submission.conflict"
)

// Event is what a record of the topic Events says of a submission.
type Event struct {
	State         State // Stored, Quarantined or Conflict
	ID            int64
	Study         int64
	Participant   int64
	Submission    uuid.UUID
	ReceivedAt    time.Time
	Questionnaire string // canonical url, of stored ones
	Version       string
}

// EventOf reads an event; ours is false for one that is about something else. An error means that it will never be readable.
func EventOf(m kafka.Message) (e Event, ours bool, err error) {
	for _, h := range m.Headers {
		if h.Key == outbox.HeaderType {
			switch string(h.Value) {
			case EventStored:
				e.State = Stored
			case EventQuarantined:
				e.State = Quarantined
			case EventConflict:
				e.State = Conflict
			}
		}
	}
	if e.State == "" {
		return e, false, nil
	}
	return e, true, e.read(string(m.Value))
}

func (e *Event) read(text string) error {
	var in strictjson.Reader
	in.Reset(text)
	var problems []error
	number := func(into *int64) {
		digits, _ := in.String()
		n, err := strconv.ParseInt(digits, 10, 64)
		*into = n
		problems = append(problems, err)
	}
	for in.Enter('{'); in.More(); {
		switch in.Name() {
		case "id":
			number(&e.ID)
		case "study":
			number(&e.Study)
		case "participant":
			number(&e.Participant)
		case "submission":
			id, _ := in.String()
			var err error
			e.Submission, err = uuid.Parse(id)
			problems = append(problems, err)
		case "receivedAt":
			at, _ := in.String()
			var err error
			e.ReceivedAt, err = time.Parse(time.RFC3339Nano, at)
			problems = append(problems, err)
		case "questionnaire":
			e.Questionnaire, _ = in.String()
		case "version":
			e.Version, _ = in.String()
		default:
			in.Skip()
		}
	}
	if err := errors.Join(append(problems, in.End())...); err != nil {
		return err
	}
	if e.ID == 0 || e.Submission == uuid.Nil {
		return errors.New("an event of a submission must name it")
	}
	return nil
}
