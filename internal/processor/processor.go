// Package processor decides what happens to one record of the log: checked fully, stored exactly once with its task, audit
// and outbox rows in one transaction of its shard, or quarantined with a reason. Nothing is dropped.
//
// Permanent failures (the body does not fit, the task is unknown, the key does not open) quarantine the one record.
// Transient failures (a store is away) fail the whole batch: the log pauses and hands the same batch in again, and the
// unique keys of receipt and task make the repetition harmless.
package processor

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/task"
)

// Reasons of quarantine: stable words that staff filter by.
const (
	ReasonUnreadable         = "unreadable_record"     // the record's head is damaged; only operators can tell more
	ReasonUnknownParticipant = "unknown_participant"   // no such participant, or of another study
	ReasonWithdrawn          = "participant_withdrawn" // left the study before the record was processed
	ReasonSealed             = "cannot_open"           // neither key nor hash fits the body
	ReasonQuestionnaire      = "unknown_questionnaire" // the version is not active in the study
	ReasonInvalid            = "invalid_response"      // the body breaks the questionnaire; findings say where
	ReasonUnknownTask        = "unknown_task"          // the participant has no such task
	ReasonTaskWindow         = "task_window"           // received outside the task's window and grace
	ReasonTaskCompleted      = "task_completed"        // another submission completed the task
	ReasonStudy              = submission.ReasonLocked // the study takes no data
	ReasonRefused            = "refused_by_store"      // the database refuses this one row
)

// Config bounds the processor.
type Config struct {
	MaxRows  int           `koanf:"maxRows"`  // records of one batch
	MaxBytes int           `koanf:"maxBytes"` // payload bytes of one batch; the MySQL driver keeps its packet buffer to 256 KiB
	MaxSkew  time.Duration `koanf:"maxSkew"`  // how far in the future "authored" may lie, as at the door
	Writers  int           `koanf:"writers"`  // transactions of one process on one shard at once
	// Records are fetched when the log has FetchBytes of them, or after FetchWait.
	FetchBytes int           `koanf:"fetchBytes"`
	FetchWait  time.Duration `koanf:"fetchWait"`
}

// DefaultConfig returns the batch size that measured best.
func DefaultConfig() Config {
	return Config{MaxRows: 100, MaxBytes: 240 << 10, MaxSkew: 10 * time.Minute, Writers: 2, FetchBytes: 32 << 10, FetchWait: 100 * time.Millisecond}
}

// Validate names every setting that cannot work.
func (c Config) Validate() error {
	var problems []error
	if c.MaxRows < 1 || c.MaxRows > 1000 {
		problems = append(problems, fmt.Errorf("maxRows: %d: must be from 1 to 1000", c.MaxRows))
	}
	if c.MaxBytes < 1024 {
		problems = append(problems, fmt.Errorf("maxBytes: %d: must be at least 1024", c.MaxBytes))
	}
	if c.FetchBytes < 1 || c.FetchBytes > 1<<20 {
		problems = append(problems, fmt.Errorf("fetchBytes: %d: must be from 1 to 1048576", c.FetchBytes))
	}
	if c.FetchWait < time.Millisecond || c.FetchWait > 5*time.Second {
		problems = append(problems, fmt.Errorf("fetchWait: %v: must be from 1ms to 5s", c.FetchWait))
	}
	if c.Writers < 1 || c.Writers > 64 {
		problems = append(problems, fmt.Errorf("writers: %d: must be from 1 to 64", c.Writers))
	}
	return errors.Join(problems...)
}

// verdict is what the rules say of one record, before the shard is asked.
type verdict struct {
	record   submission.Record
	site     int64
	response submission.Response // when reason is empty
	done     task.Completion
	reason   string
	findings []errs.Finding
}

// unreadable makes a record of a message that is not one, so that even that is kept: identity from its place in the log.
func unreadable(m kafka.Message, id int64, at time.Time) submission.Record {
	place := fmt.Sprintf("%s/%d/%d", m.Topic, m.Partition, m.Offset)
	r := submission.Record{ID: id, Submission: uuid.NewSHA1(uuid.NameSpaceOID, []byte(place)), ReceivedAt: m.Time,
		SHA256: sha256.Sum256(m.Value), Key: submission.KeyIntake, Sealed: m.Value}
	if r.ReceivedAt.IsZero() {
		r.ReceivedAt = at
	}
	return r
}

// fate is what one batch does to one shard.
type fate struct {
	receipts   []submission.Receipt
	responses  []submission.Response
	done       []task.Completion
	quarantine []submission.Quarantine
	conflicts  []submission.Record
	late       []submission.Quarantine // of closed studies; kept outside of their data
	duplicates int
}

// known is what a shard already has for the identities and tasks of a batch. Nil maps mean "nothing", which is how the
// optimistic first try is settled.
type known struct {
	receipts map[submission.Identity]submission.Receipt
	tasks    map[task.Key]uuid.UUID
}

// conflictKey names one body that came under an identity which another body owns.
type conflictKey struct {
	identity submission.Identity
	sum      [32]byte
}

// settle applies the rules of identity to a batch in log order: the first body of an identity owns it, the same body again
// changes nothing, another body is a conflict; the first submission of a task completes it, another one is quarantined.
//
// A record of a closed study that the shard has not seen before changes nothing of it: it is late, and kept aside as it is.
func settle(verdicts []verdict, have known, closed func(study int64) bool, at time.Time) fate {
	var f fate
	owners := make(map[submission.Identity][32]byte, len(verdicts))
	tasks := make(map[task.Key]uuid.UUID, len(verdicts))
	kept := make(map[conflictKey]bool)
	for i := range verdicts {
		v := &verdicts[i]
		r := &v.record
		id := r.Identity()
		owner, taken := owners[id]
		if !taken {
			var receipt submission.Receipt
			receipt, taken = have.receipts[id]
			owner = receipt.SHA256
		}
		switch {
		case taken && owner == r.SHA256:
			f.duplicates++
			continue
		case closed(r.Study):
			f.late = append(f.late, submission.Quarantine{Record: *r, Site: v.site, Reason: ReasonStudy, At: at})
			continue
		case taken:
			if kept[conflictKey{id, r.SHA256}] {
				f.duplicates++
				continue
			}
			kept[conflictKey{id, r.SHA256}] = true
			f.conflicts = append(f.conflicts, *r)
			continue
		}
		owners[id] = r.SHA256
		reason, key := v.reason, task.Key{Participant: r.Participant, Task: r.Task}
		if reason == "" && (isTaken(tasks, key) || isTaken(have.tasks, key)) {
			reason = ReasonTaskCompleted
		}
		receipt := r.Receipt()
		receipt.ProcessedAt = at
		if reason == "" {
			receipt.State = submission.Stored
			tasks[key] = r.Submission
			v.response.StoredAt = at
			f.responses = append(f.responses, v.response)
			f.done = append(f.done, v.done)
		} else {
			receipt.State = submission.Quarantined
			f.quarantine = append(f.quarantine, submission.Quarantine{Record: *r, Site: v.site, Reason: reason, Findings: v.findings, At: at})
		}
		f.receipts = append(f.receipts, receipt)
	}
	return f
}

func isTaken(tasks map[task.Key]uuid.UUID, key task.Key) bool {
	_, ok := tasks[key]
	return ok
}
