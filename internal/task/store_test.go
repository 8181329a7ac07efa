package task

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/testenv"
)

// TestOneSubmissionCompletesATask: the primary key decides, on both databases.
func TestOneSubmissionCompletesATask(t *testing.T) {
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			at := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
			first := Completion{Task: Task{ID: 5, Participant: 7, Study: 3, Rule: "r", Date: Date{2026, 11, 23}, Questionnaire: "q|1", Zone: "UTC"}, Submission: uuid.UUID{1}, Response: 9, Late: true, CompletedAt: at}
			complete := func(c Completion) error {
				return shards.For(7).Tx(t.Context(), func(tx *gorm.DB) error { return Complete(tx, []Completion{c}) })
			}
			if err := complete(first); err != nil {
				t.Fatal(err)
			}
			second := first
			second.Submission = uuid.UUID{2}
			if err := complete(second); !db.IsDuplicate(err) {
				t.Fatalf("got %v, want a duplicate", err)
			}
			done, err := (&Store{Shards: shards}).Done(t.Context(), 7, []int64{4, 5})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[int64]Done{5: {Submission: uuid.UUID{1}, Late: true, CompletedAt: at}}, done); diff != "" {
				t.Error(diff)
			}
			by, err := DoneFor(shards.For(7).Read(t.Context()), []Key{{7, 5}, {7, 6}, {8, 5}})
			if err != nil || len(by) != 1 || by[Key{7, 5}] != (uuid.UUID{1}) {
				t.Errorf("%v %v", by, err)
			}
		})
	}
}
