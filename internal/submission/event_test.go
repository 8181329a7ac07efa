package submission_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/submission"
)

func TestEventOf(t *testing.T) {
	const payload = `{"id":"9","study":"3","participant":"7","task":"5","submission":"6f1c3a5e-8d6e-4b62-9c5c-1a2b3c4d5e6f","receivedAt":"2026-11-23T20:00:00.000001Z","reason":"x"}`
	whole := `{"questionnaire":"https://example.org/q","version":"1",` + payload[1:]
	want := submission.Event{State: submission.Quarantined, ID: 9, Study: 3, Participant: 7, Submission: uuid.MustParse("6f1c3a5e-8d6e-4b62-9c5c-1a2b3c4d5e6f"),
		ReceivedAt: time.Date(2026, 11, 23, 20, 0, 0, 1000, time.UTC)}
	stored, conflict := want, want
	stored.State, stored.Questionnaire, stored.Version = submission.Stored, "https://example.org/q", "1"
	conflict.State = submission.Conflict
	for _, c := range []struct {
		kind, payload string
		ours, fails   bool
		want          submission.Event
	}{
		{submission.EventStored, whole, true, false, stored},
		{submission.EventQuarantined, payload, true, false, want},
		{submission.EventConflict, payload, true, false, conflict},
		{"alert.raise", payload, false, false, submission.Event{}},
		{"", payload, false, false, submission.Event{}},
		{submission.EventStored, "junk", true, true, submission.Event{}},
		{submission.EventStored, "{}", true, true, submission.Event{}},
		{submission.EventStored, `{"id":9}`, true, true, submission.Event{}},
		{submission.EventStored, whole + "x", true, true, submission.Event{}},
	} {
		m := kafka.Message{Value: []byte(c.payload), Headers: []kafka.Header{{Key: "other", Value: []byte("x")}, {Key: outbox.HeaderType, Value: []byte(c.kind)}}}
		got, ours, err := submission.EventOf(m)
		if ours != c.ours || (err != nil) != c.fails {
			t.Errorf("%s %s: %v, %v", c.kind, c.payload, ours, err)
		}
		if !c.fails {
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s: %s", c.kind, diff)
			}
		}
	}
}

func BenchmarkEventOf(b *testing.B) {
	m := kafka.Message{Headers: []kafka.Header{{Key: outbox.HeaderType, Value: []byte(submission.EventStored)}},
		Value: []byte(`{"questionnaire":"https://example.org/q","version":"1","id":"383140337935187968","study":"383140337935187968","participant":"383140337935187968","task":"383140337935187968","submission":"6f1c3a5e-8d6e-4b62-9c5c-1a2b3c4d5e6f","receivedAt":"2026-11-23T20:00:00.000001Z"}`)}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := submission.EventOf(m); err != nil {
			b.Fatal(err)
		}
	}
}
