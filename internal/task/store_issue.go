package task

import (
	"context"
	"slices"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
)

// Horizon is how far the rows of a study's participants in one bucket go.
type Horizon struct {
	Bucket int
	Study  int64
	Mark   int64 // of the plan that they were issued by
	Until  time.Time
}

// Wish is a participant whose tasks are to be issued anew.
type Wish struct {
	Participant int64
	Study       int64
	Bucket      int
	At          time.Time
}

// Lease takes or renews a bucket for a purpose until an instant, unless another owner has it longer than now.
func (s *Store) Lease(ctx context.Context, bucket int, purpose, owner string, now, until time.Time) (bool, error) {
	shard := s.Shards.ForBucket(bucket)
	taken := false
	err := shard.Tx(ctx, func(tx *gorm.DB) error {
		done := tx.Exec("UPDATE bucket_lease SET owner = ?, until_at = ? WHERE bucket = ? AND purpose = ? AND (owner = ? OR until_at < ?)",
			owner, db.Micros(until), bucket, purpose, owner, db.Micros(now))
		if taken = done.RowsAffected == 1; taken || done.Error != nil {
			return done.Error
		}
		err := db.Insert(tx, "bucket_lease", []string{"bucket", "purpose", "owner", "until_at"}, [][]any{{bucket, purpose, owner, db.Micros(until)}})
		taken = err == nil
		return err
	})
	if db.IsDuplicate(err) {
		return false, nil
	}
	return taken && err == nil, db.Error("bucket lease", err)
}

// Wishes returns up to limit wishes of some studies on a shard, by bucket.
func (s *Store) Wishes(ctx context.Context, shard *db.DB, studies []int64, limit int) ([]Wish, error) {
	var out []Wish
	for chunk := range slices.Chunk(studies, 500) {
		var rows []struct {
			ParticipantID, StudyID int64
			Bucket                 int
			AskedAt                int64
		}
		err := shard.Read(ctx).Table("task_refresh").Select("participant_id", "study_id", "bucket", "asked_at").Where("study_id IN ?", chunk).
			Order("study_id, bucket").Limit(limit - len(out)).Find(&rows).Error
		if err != nil {
			return nil, db.Error("tasks to issue", err)
		}
		for _, r := range rows {
			out = append(out, Wish{r.ParticipantID, r.StudyID, r.Bucket, db.Time(r.AskedAt)})
		}
		if len(out) >= limit {
			break
		}
	}
	return out, nil
}

// Behind returns the horizons of a study on a shard that have another mark or end before an instant.
func (s *Store) Behind(ctx context.Context, shard *db.DB, study, mark int64, before time.Time) ([]Horizon, error) {
	var rows []struct {
		Bucket   int
		PlanMark int64
		UntilAt  int64
	}
	err := shard.Read(ctx).Table("task_horizon").Select("bucket", "plan_mark", "until_at").
		Where("study_id = ? AND (plan_mark <> ? OR until_at < ?)", study, mark, db.Micros(before)).Order("bucket").Find(&rows).Error
	if err != nil {
		return nil, db.Error("horizons of tasks", err)
	}
	out := make([]Horizon, len(rows))
	for i, r := range rows {
		out[i] = Horizon{r.Bucket, study, r.PlanMark, db.Time(r.UntilAt)}
	}
	return out, nil
}

var issuedColumns = []string{"participant_id", "id", "study_id", "bucket", "rule", "date", "win", "questionnaire", "schedule_version", "opens_at", "due_at", "closes_at",
	"grace_until", "zone", "state", "zone_data", "issued_at", "changed_at", "remind_at"}

type issuedRow struct {
	ParticipantID, ID, StudyID           int64
	Rule, Date                           string
	Win                                  int
	Questionnaire                        string
	ScheduleVersion                      int64
	OpensAt, DueAt, ClosesAt, GraceUntil int64
	Zone, State, ZoneData                string
	RemindAt                             int64
}

func (r *issuedRow) issued() (Issued, error) {
	date, err := ParseDate(r.Date)
	return Issued{State: r.State, ZoneData: r.ZoneData, Task: Task{ID: r.ID, Participant: r.ParticipantID, Study: r.StudyID, Rule: r.Rule, Date: date, Window: r.Win,
		Questionnaire: r.Questionnaire, OpensAt: db.Time(r.OpensAt), DueAt: db.Time(r.DueAt), ClosesAt: db.Time(r.ClosesAt), GraceUntil: db.Time(r.GraceUntil),
		Zone: r.Zone, ScheduleVersion: r.ScheduleVersion}}, err
}

const issuedSelect = "participant_id, id, study_id, rule, date, win, questionnaire, schedule_version, opens_at, due_at, closes_at, grace_until, zone, state, zone_data, remind_at"

// issuedTo returns the rows of participants that open at or after an instant, by participant and id.
func issuedTo(tx *gorm.DB, participants []int64, from time.Time) (map[int64]map[int64]Issued, error) {
	out := make(map[int64]map[int64]Issued, len(participants))
	for chunk := range slices.Chunk(participants, 200) {
		var rows []issuedRow
		q := tx.Table("task").Select(issuedSelect).Where("participant_id IN ?", chunk)
		if !from.IsZero() {
			q = q.Where("opens_at >= ?", db.Micros(from))
		}
		if err := q.Find(&rows).Error; err != nil {
			return nil, err
		}
		for i := range rows {
			row, err := rows[i].issued()
			if err != nil {
				return nil, err
			}
			if out[row.Participant] == nil {
				out[row.Participant] = make(map[int64]Issued)
			}
			out[row.Participant][row.ID] = row
		}
	}
	return out, nil
}

// issue is what one transaction of the generator writes.
type issue struct {
	create, move []Task
	remind       map[int64]time.Time // by task id, of those to create and to move
	cancel       []Key
	wishes       []Wish   // that are met
	first        *Horizon // recorded where there is none yet
	horizon      *Horizon // recorded
	at           time.Time
}

// issue reads the rows of a study's participants of one bucket that open at or after an instant and writes what decide makes of them,
// in one transaction.
func (s *Store) issue(ctx context.Context, shard *db.DB, study int64, bucket int, participants []int64, from time.Time, decide func(rows map[int64]map[int64]Issued) *issue) error {
	return db.Error("tasks", shard.Tx(ctx, func(tx *gorm.DB) error {
		doors, err := shard.AskWho(tx, bucket, func() ([]int64, error) { return participants, nil })
		if err != nil {
			return err
		}
		if err := doors.Admit(study, db.Ordinary); err != nil {
			return err
		}
		rows, err := issuedTo(tx, participants, from)
		if err != nil {
			return err
		}
		return s.write(tx, decide(rows))
	}))
}

func at(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return db.Micros(t)
}

func (s *Store) write(tx *gorm.DB, i *issue) error {
	rows := make([][]any, len(i.create))
	for n := range i.create {
		t := &i.create[n]
		rows[n] = []any{t.Participant, t.ID, t.Study, db.Bucket(t.Participant), t.Rule, t.Date.String(), t.Window, t.Questionnaire, t.ScheduleVersion,
			db.Micros(t.OpensAt), db.Micros(t.DueAt), db.Micros(t.ClosesAt), db.Micros(t.GraceUntil), t.Zone, rowIssued, ZoneData(), db.Micros(i.at), db.Micros(i.at), at(i.remind[t.ID])}
	}
	if err := db.InsertNew(tx, "task", issuedColumns, rows); err != nil {
		return err
	}
	for n := range i.move {
		t := &i.move[n]
		err := tx.Exec("UPDATE task SET state = CASE WHEN state = ? THEN state ELSE ? END, questionnaire = ?, schedule_version = ?, opens_at = ?, due_at = ?, closes_at = ?, grace_until = ?, zone = ?, "+
			"zone_data = ?, changed_at = ?, remind_at = ? WHERE participant_id = ? AND id = ?", rowExcused, rowIssued, t.Questionnaire, t.ScheduleVersion, db.Micros(t.OpensAt), db.Micros(t.DueAt),
			db.Micros(t.ClosesAt), db.Micros(t.GraceUntil), t.Zone, ZoneData(), db.Micros(i.at), at(i.remind[t.ID]), t.Participant, t.ID).Error
		if err != nil {
			return err
		}
	}
	for _, key := range i.cancel {
		// A completed task is evidence; it stays what it was when it was answered.
		err := tx.Exec("UPDATE task SET state = ?, changed_at = ?, remind_at = 0 WHERE participant_id = ? AND id = ? AND state = ? "+
			"AND NOT EXISTS (SELECT 1 FROM task_completion c WHERE c.participant_id = ? AND c.task_id = ?)",
			rowCancelled, db.Micros(i.at), key.Participant, key.Task, rowIssued, key.Participant, key.Task).Error
		if err != nil {
			return err
		}
	}
	for _, w := range i.wishes { // a wish that came meanwhile stays
		if err := tx.Exec("DELETE FROM task_refresh WHERE participant_id = ? AND asked_at = ?", w.Participant, db.Micros(w.At)).Error; err != nil {
			return err
		}
	}
	if i.first != nil {
		if err := begin(tx, i.first); err != nil {
			return err
		}
	}
	if i.horizon == nil {
		return nil
	}
	return reach(tx, i.horizon)
}

var horizonColumns = []string{"bucket", "study_id", "plan_mark", "until_at"}

// reach records how far the rows go.
func reach(tx *gorm.DB, h *Horizon) error {
	done := tx.Exec("UPDATE task_horizon SET plan_mark = ?, until_at = ? WHERE bucket = ? AND study_id = ?", h.Mark, db.Micros(h.Until), h.Bucket, h.Study)
	if done.Error != nil || done.RowsAffected == 1 {
		return done.Error
	}
	return db.InsertNew(tx, "task_horizon", horizonColumns, [][]any{{h.Bucket, h.Study, h.Mark, db.Micros(h.Until)}})
}

// begin records a bucket's horizon where there is none yet.
func begin(tx *gorm.DB, h *Horizon) error {
	return db.InsertNew(tx, "task_horizon", horizonColumns, [][]any{{h.Bucket, h.Study, h.Mark, db.Micros(h.Until)}})
}

// Reminding is a task somebody has to look at now.
type Reminding struct {
	Issued
	Done bool
}

// Remindable claims up to limit tasks of a shard whose next reminder is due: until the lease ends no other caller gets them. What
// Remind does not set anew comes again then. Tasks of studies that are closed, or are being closed, are left alone.
func (s *Store) Remindable(ctx context.Context, shard *db.DB, now, lease time.Time, limit int) ([]Reminding, error) {
	var out []Reminding
	err := shard.Tx(ctx, func(tx *gorm.DB) error {
		out = nil
		var rows []issuedRow
		visit, err := shard.AskAll(tx)
		if err != nil {
			return err
		}
		due := db.SkipLocked(tx.Table("task")).Select(issuedSelect).Where("remind_at > 0 AND remind_at <= ?", db.Micros(now))
		if err := visit.Open(visit.Except(due), "study_id").Order("remind_at").Limit(limit).Find(&rows).Error; err != nil {
			return err
		}
		keys, whose := make([]Key, len(rows)), make([]int64, len(rows))
		for i := range rows {
			keys[i], whose[i] = Key{rows[i].ParticipantID, rows[i].ID}, rows[i].ParticipantID
		}
		if err := visit.Note(tx, whose...); err != nil {
			return err
		}
		done, err := DoneFor(tx, keys)
		if err != nil {
			return err
		}
		for i := range rows {
			one, err := rows[i].issued()
			if err != nil {
				return err
			}
			_, completed := done[keys[i]]
			out = append(out, Reminding{one, completed})
		}
		return remind(tx, keys, lease)
	})
	return out, db.Error("reminders", err)
}

// remind sets when somebody looks at tasks again.
func remind(tx *gorm.DB, keys []Key, at time.Time) error {
	for chunk := range slices.Chunk(keys, 100) {
		participants, ids := make([]int64, len(chunk)), make([]int64, len(chunk))
		for i, k := range chunk {
			participants[i], ids[i] = k.Participant, k.Task
		}
		// Ids are hashes over the participant, so that no other pair of the lists exists.
		if err := tx.Exec("UPDATE task SET remind_at = ? WHERE participant_id IN ? AND id IN ?", db.Micros(at), participants, ids).Error; err != nil {
			return err
		}
	}
	return nil
}

// Remind sets, in tx, when the next reminder of a task is due; zero: never. A task that the generator has set anew since it was claimed
// with that lease stays as the generator says.
func Remind(tx *gorm.DB, key Key, lease, next time.Time) error {
	return tx.Exec("UPDATE task SET remind_at = ? WHERE participant_id = ? AND id = ? AND remind_at = ?", at(next), key.Participant, key.Task, db.Micros(lease)).Error
}

// Unanswered reports whether a task is still waited for at an instant: issued, not completed, not over.
func (s *Store) Unanswered(ctx context.Context, key Key, now time.Time) (bool, error) {
	var rows []struct{ Waiting int }
	err := s.Shards.Home(key.Participant).Read(ctx).Raw("SELECT 1 AS waiting FROM task t WHERE t.participant_id = ? AND t.id = ? AND t.state = ? AND t.grace_until >= ? "+
		"AND NOT EXISTS (SELECT 1 FROM task_completion c WHERE c.participant_id = t.participant_id AND c.task_id = t.id)", key.Participant, key.Task, rowIssued, db.Micros(now)).Scan(&rows).Error
	return len(rows) > 0, db.Error("task", err)
}

// Taken reports whether the task was taken back or excused.
func (i *Issued) Taken() bool { return i.State != rowIssued }
