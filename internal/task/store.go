package task

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
)

// Completion says that a submission completed a task.
type Completion struct {
	Task        Task
	Submission  uuid.UUID
	Response    int64
	Late        bool
	CompletedAt time.Time
}

var columns = []string{"participant_id", "id", "study_id", "rule", "date", "win", "questionnaire", "schedule_version", "opens_at", "due_at", "closes_at",
	"zone", "state", "late", "submission", "response_id", "completed_at"}

// Complete writes completions in tx. A task that is completed already makes the call fail with a duplicate: the primary key
// (participant, task) lets one submission complete a task, whatever happens at once.
func Complete(tx *gorm.DB, completions []Completion) error {
	rows := make([][]any, len(completions))
	for i := range completions {
		c := &completions[i]
		t := &c.Task
		late := 0
		if c.Late {
			late = 1
		}
		rows[i] = []any{t.Participant, t.ID, t.Study, t.Rule, t.Date.String(), t.Window, t.Questionnaire, t.ScheduleVersion, db.Micros(t.OpensAt),
			db.Micros(t.DueAt), db.Micros(t.ClosesAt), t.Zone, string(Completed), late, c.Submission[:], c.Response, db.Micros(c.CompletedAt)}
	}
	return db.Insert(tx, "task", columns, rows)
}

// DoneFor returns which of the tasks are completed and by which submission, read in tx; all must live on tx's shard.
func DoneFor(tx *gorm.DB, keys []Key) (map[Key]uuid.UUID, error) {
	done := make(map[Key]uuid.UUID)
	for chunk := range slices.Chunk(keys, 100) {
		participants, ids := make([]int64, len(chunk)), make([]int64, len(chunk))
		for i, k := range chunk {
			participants[i], ids[i] = k.Participant, k.Task
		}
		var rows []doneRow
		err := tx.Table("task").Select("participant_id", "id", "submission").
			Where("participant_id IN ? AND id IN ? AND state = ?", participants, ids, string(Completed)).Find(&rows).Error
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			// The statement asks for every pair of its lists; only those of keys are the answer.
			if key := (Key{r.ParticipantID, r.ID}); slices.Contains(chunk, key) {
				done[key] = uuid.UUID(r.Submission)
			}
		}
	}
	return done, nil
}

type doneRow struct {
	ParticipantID int64
	ID            int64
	Submission    []byte
	Late          bool
	CompletedAt   int64
}

// Done is how a task was completed.
type Done struct {
	Submission  uuid.UUID
	Late        bool
	CompletedAt time.Time
}

// Store reads tasks from the shards. It is safe for concurrent use.
type Store struct{ Shards *db.Shards }

// Done returns a participant's completed tasks among ids.
func (s *Store) Done(ctx context.Context, participant int64, ids []int64) (map[int64]Done, error) {
	done := make(map[int64]Done)
	for chunk := range slices.Chunk(ids, 500) {
		var rows []doneRow
		err := s.Shards.For(participant).Read(ctx).Table("task").Select("participant_id", "id", "submission", "late", "completed_at").
			Where("participant_id = ? AND id IN ? AND state = ?", participant, chunk, string(Completed)).Find(&rows).Error
		if err != nil {
			return nil, db.Error("tasks", err)
		}
		for _, r := range rows {
			done[r.ID] = Done{uuid.UUID(r.Submission), r.Late, db.Time(r.CompletedAt)}
		}
	}
	return done, nil
}
