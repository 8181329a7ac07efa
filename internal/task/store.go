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
	Task       Task
	Submission uuid.UUID
	Response   int64
	Late       bool
	CapturedAt time.Time // by the device's clock
	ReceivedAt time.Time // by ours
}

var completionColumns = []string{"participant_id", "task_id", "study_id", "submission", "response_id", "late", "captured_at", "received_at"}

// Complete writes completions in tx. A task that is completed already makes the call fail with a duplicate: the primary key
// (participant, task) lets one submission complete a task, whatever happens at once.
func Complete(tx *gorm.DB, completions []Completion) error {
	rows := make([][]any, len(completions))
	for i := range completions {
		c := &completions[i]
		late := 0
		if c.Late {
			late = 1
		}
		rows[i] = []any{c.Task.Participant, c.Task.ID, c.Task.Study, c.Submission[:], c.Response, late, db.Micros(c.CapturedAt), db.Micros(c.ReceivedAt)}
	}
	return db.Insert(tx, "task_completion", completionColumns, rows)
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
		err := tx.Table("task_completion").Select("participant_id", "task_id", "submission").
			Where("participant_id IN ? AND task_id IN ?", participants, ids).Find(&rows).Error
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			// The statement asks for every pair of its lists; only those of keys are the answer.
			if key := (Key{r.ParticipantID, r.TaskID}); slices.Contains(chunk, key) {
				done[key] = uuid.UUID(r.Submission)
			}
		}
	}
	return done, nil
}

type doneRow struct {
	ParticipantID int64
	TaskID        int64
	Submission    []byte
	Late          bool
	CapturedAt    int64
	ReceivedAt    int64
	Excused       bool
}

// Done is how a task was completed, or that it is excused.
type Done struct {
	Excused    bool // and then nothing else
	Submission uuid.UUID
	Late       bool
	CapturedAt time.Time // by the device's clock
	ReceivedAt time.Time // by ours
}

// Store reads tasks from the shards. It is safe for concurrent use.
type Store struct{ Shards *db.Shards }

// Done returns a participant's completed and excused tasks among ids.
func (s *Store) Done(ctx context.Context, participant int64, ids []int64) (map[int64]Done, error) {
	done := make(map[int64]Done)
	for chunk := range slices.Chunk(ids, 500) {
		var rows []doneRow
		err := s.Shards.Home(participant).Read(ctx).Raw("SELECT task_id, submission, late, captured_at, received_at, 0 AS excused FROM task_completion WHERE participant_id = ? AND task_id IN ? "+
			"UNION ALL SELECT id, NULL, 0, 0, 0, 1 FROM task WHERE participant_id = ? AND id IN ? AND state = ?", participant, chunk, participant, chunk, rowExcused).Scan(&rows).Error
		if err != nil {
			return nil, db.Error("tasks", err)
		}
		for _, r := range rows {
			switch {
			case !r.Excused:
				done[r.TaskID] = Done{Submission: uuid.UUID(r.Submission), Late: r.Late, CapturedAt: db.Time(r.CapturedAt), ReceivedAt: db.Time(r.ReceivedAt)}
			case done[r.TaskID] == (Done{}): // an answer that came after all is what counts
				done[r.TaskID] = Done{Excused: true}
			}
		}
	}
	return done, nil
}

// Refresh asks, in tx, for the tasks of a study's participants to be issued anew soon: something that they follow from has changed. The
// generator of their bucket takes the wish back once it has done so.
func Refresh(tx *gorm.DB, study int64, participants []int64, at time.Time) error {
	for chunk := range slices.Chunk(participants, 500) {
		if err := tx.Exec("DELETE FROM task_refresh WHERE participant_id IN ?", chunk).Error; err != nil {
			return err
		}
		rows := make([][]any, len(chunk))
		for i, id := range chunk {
			rows[i] = []any{id, study, db.Bucket(id), db.Micros(at)}
		}
		if err := db.Insert(tx, "task_refresh", []string{"participant_id", "study_id", "bucket", "asked_at"}, rows); err != nil {
			return err
		}
	}
	return nil
}
