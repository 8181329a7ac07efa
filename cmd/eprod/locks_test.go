package main

import (
	"context"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/safety"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/testenv"
)

// TestFollowersOfALock: a locking waits for what was in the outboxes and in the log when it asked first, in every group of safety; neither what
// comes later, nor another locking, nor any clock moves that mark.
func TestFollowersOfALock(t *testing.T) {
	shard := testenv.SQLite(t, "shard")
	add := func(id int64, at time.Time) {
		t.Helper()
		err := shard.Tx(t.Context(), func(tx *gorm.DB) error {
			return outbox.Add(tx, outbox.Event{ID: id, Topic: submission.Events, Type: "response.store", Study: 1, Participant: 1, At: at, Payload: []byte(`{}`)})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	relayed := func(id int64) {
		t.Helper()
		if err := shard.Tx(t.Context(), func(tx *gorm.DB) error { return tx.Exec("DELETE FROM outbox WHERE id = ?", id).Error }); err != nil {
			t.Fatal(err)
		}
	}
	events, urgent := kafka.Group{Name: safetyGroup, Topic: submission.Events}, kafka.Group{Name: urgentGroup, Topic: safety.UrgentTopic}
	done, ends := map[kafka.Group]int64{}, map[kafka.Group]int64{}
	f := &followers{shards: func() []*db.DB { return []*db.DB{shard} }, lag: func(_ context.Context, groups []kafka.Group) ([]kafka.Behind, error) {
		var out []kafka.Behind
		for _, g := range groups {
			out = append(out, kafka.Behind{Group: g, Next: done[g], Records: ends[g] - done[g]})
		}
		return out, nil
	}}
	want := func(lock int64, text string) {
		t.Helper()
		if got, err := f.Behind(t.Context(), lock); err != nil || got != text {
			t.Errorf("lock %d waits for %q, %v; want %q", lock, got, err, text)
		}
	}
	add(10, time.Now().Add(time.Hour)) // by a host whose clock is ahead
	want(1, "1 rows of events to be relayed")
	add(11, time.Now().Add(-time.Hour)) // later, by one whose clock is behind
	relayed(10)
	done[events], ends[events], done[urgent], ends[urgent] = 4, 6, 0, 1
	want(1, "safety to follow 2 records of events")
	ends[events], ends[urgent] = 60, 10 // others go on
	want(2, "1 rows of events to be relayed")
	done[events] = 5
	want(1, "safety to follow 1 records of events")
	done[events] = 6
	want(1, "safety-urgent to follow 1 records of alerts.urgent")
	done[urgent] = 1
	want(1, "")
	relayed(11)
	want(2, "safety to follow 54 records of events")
	done[events], done[urgent] = 60, 10
	want(2, "")
	if len(f.marks) > 0 {
		t.Errorf("%d lockings are remembered that go on", len(f.marks))
	}
	for lock := range int64(3 * maxMarks) {
		add(100, time.Now())
		want(1000+lock, "1 rows of events to be relayed")
		relayed(100)
	}
	if len(f.marks) > maxMarks {
		t.Errorf("%d lockings are remembered", len(f.marks))
	}
}
