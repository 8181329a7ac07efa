package notify

import (
	"context"
	"slices"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/task"
)

// Reminded is what became of one reminder on one channel. The primary key (participant, task, rung, channel) keeps it one.
type Reminded struct {
	Participant, Task, Study int64
	Rung, Channel            string
	Outcome                  string // queued, or why it was skipped
	Message                  int64  // 0: none
	At                       time.Time
}

// ReminderStore keeps what became of reminders. It is safe for concurrent use.
type ReminderStore struct{ Shards *db.Shards }

var reminderColumns = []string{"participant_id", "task_id", "rung", "channel", "study_id", "decided_at", "outcome", "message_id"}

// Decided returns the names of the rungs that are decided, by task.
func (s *ReminderStore) Decided(ctx context.Context, shard *db.DB, keys []task.Key) (map[task.Key]map[string]bool, error) {
	out := make(map[task.Key]map[string]bool)
	for chunk := range slices.Chunk(keys, 200) {
		participants, ids := make([]int64, len(chunk)), make([]int64, len(chunk))
		for i, k := range chunk {
			participants[i], ids[i] = k.Participant, k.Task
		}
		var rows []struct {
			ParticipantID, TaskID int64
			Rung                  string
		}
		err := shard.Read(ctx).Table("reminder").Select("participant_id", "task_id", "rung").Where("participant_id IN ? AND task_id IN ?", participants, ids).Find(&rows).Error
		if err != nil {
			return nil, db.Error("reminders", err)
		}
		for _, r := range rows {
			key := task.Key{Participant: r.ParticipantID, Task: r.TaskID}
			if out[key] == nil {
				out[key] = make(map[string]bool)
			}
			out[key][r.Rung] = true
		}
	}
	return out, nil
}

// Settled is when a task is looked at again.
type Settled struct {
	Key   task.Key
	Study int64
	Next  time.Time // zero: never
}

// Settle records what became of reminders and when their tasks, claimed with that lease, are looked at again, in one transaction. What
// belongs to a study that takes nothing new any more is left out: nobody is reminded of it again. What has left the shard is settled
// where it is now.
func (s *ReminderStore) Settle(ctx context.Context, shard *db.DB, reminded []Reminded, settled []Settled, lease time.Time) error {
	err := s.settle(ctx, shard, reminded, settled, lease)
	if !db.IsMoved(err) {
		return err
	}
	told := make(map[int64][]Reminded)
	for _, r := range reminded {
		told[r.Participant] = append(told[r.Participant], r)
	}
	return db.Apart(ctx, s.Shards, settled, func(s Settled) int64 { return s.Key.Participant }, func(ctx context.Context, shard *db.DB, part []Settled) error {
		var theirs []Reminded
		seen := make(map[int64]bool)
		for _, p := range part {
			if !seen[p.Key.Participant] {
				seen[p.Key.Participant] = true
				theirs = append(theirs, told[p.Key.Participant]...)
			}
		}
		return s.settle(ctx, shard, theirs, part, lease)
	})
}

func (s *ReminderStore) settle(ctx context.Context, shard *db.DB, reminded []Reminded, settled []Settled, lease time.Time) error {
	people := make([]int64, len(settled))
	for i, s := range settled {
		people[i] = s.Key.Participant
	}
	return db.Error("reminders", shard.Tx(ctx, func(tx *gorm.DB) error {
		doors, err := shard.AskOf(tx, people...)
		if err != nil {
			return err
		}
		var rows [][]any
		for _, r := range reminded {
			if doors.Of(r.Study) == db.Open {
				rows = append(rows, []any{r.Participant, r.Task, r.Rung, r.Channel, r.Study, db.Micros(r.At), r.Outcome, r.Message})
			}
		}
		if err := db.InsertNew(tx, "reminder", reminderColumns, rows); err != nil {
			return err
		}
		for _, s := range settled {
			if doors.Of(s.Study) != db.Open {
				continue
			}
			if err := task.Remind(tx, s.Key, lease, s.Next); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Of returns what became of a task's reminders, by rung and channel.
func (s *ReminderStore) Of(ctx context.Context, key task.Key) ([]Reminded, error) {
	var rows []struct {
		StudyID, DecidedAt, MessageID int64
		Rung, Channel, Outcome        string
	}
	err := s.Shards.Home(key.Participant).Read(ctx).Table("reminder").Select("study_id", "decided_at", "message_id", "rung", "channel", "outcome").
		Where("participant_id = ? AND task_id = ?", key.Participant, key.Task).Order("rung, channel").Find(&rows).Error
	out := make([]Reminded, len(rows))
	for i, r := range rows {
		out[i] = Reminded{key.Participant, key.Task, r.StudyID, r.Rung, r.Channel, r.Outcome, r.MessageID, db.Time(r.DecidedAt)}
	}
	return out, db.Error("reminders", err)
}
