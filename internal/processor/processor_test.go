package processor

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/task"
)

var at = time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)

func verdictOf(id, participant, taskID int64, submitted byte, body byte, reason string) verdict {
	v := verdict{record: submission.Record{ID: id, Participant: participant, Study: 1, Task: taskID, Submission: uuid.UUID{15: submitted},
		SHA256: [32]byte{body}, ReceivedAt: at}, reason: reason}
	v.response = submission.Response{Record: v.record}
	v.done = task.Completion{Task: task.Task{ID: taskID, Participant: participant}, Submission: v.record.Submission, Response: id}
	return v
}

// outcome is a fate in a form that is easy to read in a table.
type outcome struct {
	Stored, Quarantined, Conflicts []int64
	Reasons                        []string
	Receipts                       map[int64]submission.State
	Late                           []int64
	Duplicates                     int
}

func outcomeOf(f fate) outcome {
	o := outcome{Receipts: map[int64]submission.State{}, Duplicates: f.duplicates}
	for _, r := range f.responses {
		o.Stored = append(o.Stored, r.ID)
	}
	for _, q := range f.quarantine {
		o.Quarantined, o.Reasons = append(o.Quarantined, q.ID), append(o.Reasons, q.Reason)
	}
	for _, c := range f.conflicts {
		o.Conflicts = append(o.Conflicts, c.ID)
	}
	for _, l := range f.late {
		o.Late = append(o.Late, l.ID)
	}
	for _, r := range f.receipts {
		o.Receipts[r.ID] = r.State
	}
	return o
}

// inClosed puts a verdict into the study that is closed in these tests.
func inClosed(v verdict) verdict {
	v.record.Study = 66
	return v
}

func closedStudy(study int64) bool { return study == 66 }

func TestSettle(t *testing.T) {
	stored := known{
		receipts: map[submission.Identity]submission.Receipt{{Participant: 7, Submission: uuid.UUID{15: 1}}: {ID: 1, SHA256: [32]byte{'a'}, State: submission.Stored}},
		tasks:    map[task.Key]uuid.UUID{{Participant: 7, Task: 70}: {15: 1}},
	}
	quarantined := known{receipts: map[submission.Identity]submission.Receipt{
		{Participant: 7, Submission: uuid.UUID{15: 1}}: {ID: 1, SHA256: [32]byte{'a'}, State: submission.Quarantined}}}
	cases := []struct {
		name  string
		have  known
		batch []verdict
		want  outcome
	}{
		{"ClosedStudySameBody", stored, []verdict{inClosed(verdictOf(2, 7, 70, 1, 'a', ""))}, outcome{Receipts: map[int64]submission.State{}, Duplicates: 1}},
		{"ClosedStudyNewSubmissions", stored, []verdict{inClosed(verdictOf(2, 7, 71, 2, 'a', "")), verdictOf(3, 8, 80, 3, 'b', ""), inClosed(verdictOf(4, 7, 70, 4, 'c', ReasonInvalid))},
			outcome{Stored: []int64{3}, Late: []int64{2, 4}, Receipts: map[int64]submission.State{3: submission.Stored}}},
		{"ClosedStudyOtherBody", stored, []verdict{inClosed(verdictOf(2, 7, 70, 1, 'b', ""))}, outcome{Late: []int64{2}, Receipts: map[int64]submission.State{}}},
		{"First", known{}, []verdict{verdictOf(1, 7, 70, 1, 'a', "")},
			outcome{Stored: []int64{1}, Receipts: map[int64]submission.State{1: submission.Stored}}},
		{"SameBodyTwiceInBatch", known{}, []verdict{verdictOf(1, 7, 70, 1, 'a', ""), verdictOf(2, 7, 70, 1, 'a', "")},
			outcome{Stored: []int64{1}, Receipts: map[int64]submission.State{1: submission.Stored}, Duplicates: 1}},
		{"OtherBodyInBatch", known{}, []verdict{verdictOf(1, 7, 70, 1, 'a', ""), verdictOf(2, 7, 70, 1, 'b', "")},
			outcome{Stored: []int64{1}, Conflicts: []int64{2}, Receipts: map[int64]submission.State{1: submission.Stored}}},
		{"SameConflictTwice", known{}, []verdict{verdictOf(1, 7, 70, 1, 'a', ""), verdictOf(2, 7, 70, 1, 'b', ""), verdictOf(3, 7, 70, 1, 'b', "")},
			outcome{Stored: []int64{1}, Conflicts: []int64{2}, Receipts: map[int64]submission.State{1: submission.Stored}, Duplicates: 1}},
		{"StoredBefore", stored, []verdict{verdictOf(2, 7, 70, 1, 'a', "")}, outcome{Receipts: map[int64]submission.State{}, Duplicates: 1}},
		{"ConflictWithStored", stored, []verdict{verdictOf(2, 7, 70, 1, 'b', "")}, outcome{Conflicts: []int64{2}, Receipts: map[int64]submission.State{}}},
		{"QuarantinedBeforeSameBody", quarantined, []verdict{verdictOf(2, 7, 70, 1, 'a', "")}, outcome{Receipts: map[int64]submission.State{}, Duplicates: 1}},
		{"QuarantinedBeforeOtherBody", quarantined, []verdict{verdictOf(2, 7, 70, 1, 'b', "")}, outcome{Conflicts: []int64{2}, Receipts: map[int64]submission.State{}}},
		{"TaskCompletedByAnother", stored, []verdict{verdictOf(2, 7, 70, 2, 'c', "")},
			outcome{Quarantined: []int64{2}, Reasons: []string{ReasonTaskCompleted}, Receipts: map[int64]submission.State{2: submission.Quarantined}}},
		{"TwoForOneTaskInBatch", known{}, []verdict{verdictOf(1, 7, 70, 1, 'a', ""), verdictOf(2, 7, 70, 2, 'b', "")},
			outcome{Stored: []int64{1}, Quarantined: []int64{2}, Reasons: []string{ReasonTaskCompleted},
				Receipts: map[int64]submission.State{1: submission.Stored, 2: submission.Quarantined}}},
		{"QuarantineDoesNotCompleteTheTask", known{}, []verdict{verdictOf(1, 7, 70, 1, 'a', ReasonInvalid), verdictOf(2, 7, 70, 2, 'b', "")},
			outcome{Stored: []int64{2}, Quarantined: []int64{1}, Reasons: []string{ReasonInvalid},
				Receipts: map[int64]submission.State{1: submission.Quarantined, 2: submission.Stored}}},
		{"SameUUIDOfOthers", known{}, []verdict{verdictOf(1, 7, 70, 1, 'a', ""), verdictOf(2, 8, 80, 1, 'b', "")},
			outcome{Stored: []int64{1, 2}, Receipts: map[int64]submission.State{1: submission.Stored, 2: submission.Stored}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, outcomeOf(settle(c.batch, c.have, closedStudy, at))); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestSettleLosesNothing: every record of a batch ends in exactly one of four places, whatever came before it, and
// processing the same batch again changes nothing.
func TestSettleLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "records")
		batch := make([]verdict, n)
		for i := range batch {
			participant := rapid.Int64Range(1, 3).Draw(t, "participant")
			batch[i] = verdictOf(int64(i+1), participant, participant*10+rapid.Int64Range(0, 2).Draw(t, "task"),
				rapid.ByteRange(1, 4).Draw(t, "uuid"), rapid.ByteRange('a', 'c').Draw(t, "body"),
				rapid.SampledFrom([]string{"", "", ReasonInvalid}).Draw(t, "reason"))
		}
		f := settle(batch, known{}, closedStudy, at)
		if total := len(f.responses) + len(f.quarantine) + len(f.conflicts) + f.duplicates; total != n {
			t.Fatalf("%d records in, %d accounted for", n, total)
		}
		if len(f.receipts) != len(f.responses)+len(f.quarantine) {
			t.Fatalf("%d receipts for %d responses and %d quarantined", len(f.receipts), len(f.responses), len(f.quarantine))
		}
		have := known{receipts: map[submission.Identity]submission.Receipt{}, tasks: map[task.Key]uuid.UUID{}}
		for _, r := range f.receipts {
			have.receipts[submission.Identity{Participant: r.Participant, Submission: r.Submission}] = r
		}
		for _, d := range f.done {
			have.tasks[task.Key{Participant: d.Task.Participant, Task: d.Task.ID}] = d.Submission
		}
		again := settle(batch, have, closedStudy, at)
		if len(again.responses)+len(again.quarantine)+len(again.receipts) != 0 {
			t.Fatalf("the second time stores again: %+v", outcomeOf(again))
		}
	})
}
