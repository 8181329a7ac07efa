package task

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

var doneAt = time.Date(2026, 11, 23, 20, 0, 0, 123000, time.UTC)

func completion(participant, id int64, submission byte) Completion {
	return Completion{Task: Task{ID: id, Participant: participant, Study: 3, Rule: "r", Date: Date{2026, 11, 23}, Questionnaire: "q|1", Zone: "UTC"},
		Submission: uuid.UUID{submission, 15: byte(id)}, Response: 9, CapturedAt: doneAt.Add(-time.Minute), ReceivedAt: doneAt}
}

// each runs a test over every kind of database.
func each(t *testing.T, test func(t *testing.T, shards *db.Shards)) {
	t.Helper()
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) { test(t, shards) })
	}
}

// complete writes completions of one participant.
func complete(t *testing.T, shards *db.Shards, completions ...Completion) error {
	t.Helper()
	return shards.For(completions[0].Task.Participant).Tx(t.Context(), func(tx *gorm.DB) error { return Complete(tx, completions) })
}

// TestOneSubmissionCompletesATask: the primary key decides, on both databases, and a refused batch leaves nothing.
func TestOneSubmissionCompletesATask(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		store := &Store{Shards: shards}
		first := completion(7, 5, 1)
		first.Late = true
		if err := complete(t, shards, first); err != nil {
			t.Fatal(err)
		}
		for name, batch := range map[string][]Completion{
			"another submission":  {completion(7, 5, 2)},
			"the same once more":  {first},
			"with a new one":      {completion(7, 6, 2), completion(7, 5, 2)},
			"twice in one batch":  {completion(7, 8, 2), completion(7, 8, 3)},
			"after many new ones": append(many(7, 100, 300), completion(7, 5, 2)),
		} {
			if err := complete(t, shards, batch...); !db.IsDuplicate(err) {
				t.Errorf("%s: %v, want a duplicate", name, err)
			}
		}
		if err := complete(t, shards, completion(9, 5, 4)); err != nil {
			t.Errorf("the same task id of another participant: %v", err)
		}
		done, err := store.Done(t.Context(), 7, ids(1, 400))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[int64]Done{5: {Submission: first.Submission, Late: true, CapturedAt: doneAt.Add(-time.Minute), ReceivedAt: doneAt}}, done); diff != "" {
			t.Error(diff)
		}
	})
}

func many(participant, from, to int64) []Completion {
	var out []Completion
	for id := from; id < to; id++ {
		out = append(out, completion(participant, id, 1))
	}
	return out
}

func ids(from, to int64) []int64 {
	var out []int64
	for id := from; id < to; id++ {
		out = append(out, id)
	}
	return out
}

// TestDone: a list longer than one statement takes is answered whole, and only for the participant and the ids asked for.
func TestDone(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		store := &Store{Shards: shards}
		for _, participant := range []int64{7, 8} {
			for part := int64(0); part < 1200; part += 300 {
				if err := complete(t, shards, many(participant, part+1, part+301)...); err != nil {
					t.Fatal(err)
				}
			}
		}
		done, err := store.Done(t.Context(), 7, ids(101, 1301))
		if err != nil || len(done) != 1100 {
			t.Fatalf("%d completions, %v; want 1100", len(done), err)
		}
		for id, d := range done {
			if id < 101 || id > 1200 || d != (Done{Submission: uuid.UUID{1, 15: byte(id)}, CapturedAt: doneAt.Add(-time.Minute), ReceivedAt: doneAt}) {
				t.Errorf("task %d: %+v", id, d)
			}
		}
		for name, c := range map[string]struct {
			participant int64
			ids         []int64
		}{"no ids": {7, nil}, "unknown ids": {7, ids(2000, 2010)}, "nobody": {6, ids(1, 10)}} {
			if done, err := store.Done(t.Context(), c.participant, c.ids); err != nil || done == nil || len(done) != 0 {
				t.Errorf("%s: %v, %v", name, done, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := store.Done(ctx, 7, ids(1, 2)); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("while the shard does not answer: %v, want unavailable", err)
		}
	})
}

// TestDoneFor: keys of many participants of one shard, more than one statement takes, seen in the caller's transaction.
func TestDoneFor(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		want := map[Key]uuid.UUID{}
		var keys []Key
		err := shards.All()[0].Tx(t.Context(), func(tx *gorm.DB) error {
			var completions []Completion
			for participant := int64(1); participant <= 50; participant++ {
				for id := participant * 10; id < participant*10+5; id++ {
					keys = append(keys, Key{participant, id})
					if id%2 == 0 {
						completions = append(completions, completion(participant, id, 1))
						want[Key{participant, id}] = completions[len(completions)-1].Submission
					}
				}
			}
			if err := Complete(tx, completions); err != nil {
				return err
			}
			got, err := DoneFor(tx, keys)
			if err != nil {
				return err
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("in the transaction:\n%s", diff)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		none, err := DoneFor(shards.All()[0].Read(t.Context()), nil)
		if err != nil || len(none) != 0 {
			t.Errorf("no keys: %v, %v", none, err)
		}
		if none, err = DoneFor(shards.All()[1].Read(t.Context()), keys); err != nil || len(none) != 0 {
			t.Errorf("on the other shard: %v, %v", none, err)
		}
		// Participant 1 and task 20 are both asked for, but not together.
		if err := complete(t, shards, completion(1, 20, 3)); err != nil {
			t.Fatal(err)
		}
		got, err := DoneFor(shards.For(1).Read(t.Context()), []Key{{1, 11}, {2, 20}})
		if _, crossed := got[Key{1, 20}]; err != nil || crossed {
			t.Errorf("a key that nobody asked for: %v, %v", got, err)
		}
	})
}

// TestNobodyIsRemindedOfAClosedStudy: tasks of a study that is being closed, or is closed, are left as they are and keep nobody else's
// from being looked at.
func TestNobodyIsRemindedOfAClosedStudy(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		store, shard := &Store{Shards: shards}, shards.For(7)
		const closed, open = 3, 4
		for study, ids := range map[int64][]int64{closed: {1, 2, 3}, open: {4}} {
			for _, id := range ids {
				_, err := shard.Pool().ExecContext(t.Context(), "INSERT INTO task (participant_id, id, study_id, bucket, rule, date, win, questionnaire, schedule_version, opens_at, due_at, closes_at, grace_until, "+
					"zone, state, zone_data, issued_at, changed_at, remind_at) VALUES (7, ?, ?, ?, 'r', '2026-11-23', 0, 'q|1', 1, 0, 0, 0, 0, 'UTC', 'issued', '', 0, 0, ?)", id, study, db.Bucket(7), id)
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, standing := range []db.Standing{db.Closing, db.Closed} {
			if err := shard.SetStanding(t.Context(), closed, standing, 1); err != nil {
				t.Fatal(err)
			}
			lease := doneAt.Add(time.Duration(i+1) * time.Minute)
			due, err := store.Remindable(t.Context(), shard, lease.Add(-time.Second), lease, 2)
			if err != nil || len(due) != 1 || due[0].Task.ID != 4 {
				t.Errorf("%s: %+v, %v; want the other study's task", standing, due, err)
			}
		}
		var untouched int64
		if err := shard.Read(t.Context()).Table("task").Where("study_id = ? AND remind_at = id", closed).Count(&untouched).Error; err != nil || untouched != 3 {
			t.Errorf("%d of 3 tasks are as they were: %v", untouched, err)
		}
	})
}
