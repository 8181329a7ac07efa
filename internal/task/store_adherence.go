package task

import (
	"context"
	"slices"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
)

// Query says which tasks a report counts.
type Query struct {
	Study       int64
	Sites       []int64 // nil: every site
	Participant int64   // 0: everybody
	From, To    Date    // local dates, both counted
	By          Grouping
	Now         time.Time
}

type adherenceRow struct {
	SiteID, ParticipantID                  int64
	Date, Rule                             string
	Win                                    int
	InTime, Late, Missed, Excused, Waiting int
}

// groupings are the columns of each grouping; they are code, never input.
var groupings = map[Grouping]string{ByStudy: "t.study_id", BySite: "p.site_id", ByParticipant: "t.participant_id", ByDay: "t.date", ByWindow: "t.rule, t.win"}

// Adherence counts tasks on every shard; a group that several shards have comes once for each.
func (s *Store) Adherence(ctx context.Context, q Query) ([]Adherence, error) {
	columns := groupings[q.By]
	counts := ", SUM(CASE WHEN c.task_id IS NOT NULL AND c.late = 0 THEN 1 ELSE 0 END) AS in_time" +
		", SUM(CASE WHEN c.task_id IS NOT NULL AND c.late <> 0 THEN 1 ELSE 0 END) AS late" +
		", SUM(CASE WHEN c.task_id IS NULL AND t.state = ? THEN 1 ELSE 0 END) AS excused" +
		", SUM(CASE WHEN c.task_id IS NULL AND t.state <> ? AND t.grace_until < ? THEN 1 ELSE 0 END) AS missed" +
		", SUM(CASE WHEN c.task_id IS NULL AND t.state <> ? AND t.grace_until >= ? THEN 1 ELSE 0 END) AS waiting"
	// A local date lies within a day and a half of that date in UTC.
	low, high := q.From.AddDays(-2), q.To.AddDays(3)
	args := []any{rowExcused, rowExcused, db.Micros(q.Now), rowExcused, db.Micros(q.Now), q.Study, midnight(low), midnight(high), q.From.String(), q.To.String(), rowCancelled}
	where := " WHERE t.study_id = ? AND t.opens_at >= ? AND t.opens_at < ? AND t.date >= ? AND t.date <= ? AND t.state <> ?"
	if q.Participant != 0 {
		where += " AND t.participant_id = ?"
		args = append(args, q.Participant)
	}
	from := " FROM task t LEFT JOIN task_completion c ON c.participant_id = t.participant_id AND c.task_id = t.id"
	if q.By == BySite || q.Sites != nil {
		from += " JOIN participant p ON p.id = t.participant_id"
	}
	if q.Sites != nil {
		where += " AND p.site_id IN ?"
		args = append(args, q.Sites)
	}
	statement := "SELECT " + columns + counts + from + where + " AND t.bucket IN ? GROUP BY " + columns + " ORDER BY " + columns
	view, err := s.Shards.View(ctx)
	if err != nil {
		return nil, err
	}
	var out []Adherence
	for _, shard := range s.Shards.All() {
		own := view.Buckets(shard)
		if len(own) == 0 {
			continue
		}
		var rows []adherenceRow
		if err := shard.Read(ctx).Raw(statement, append(slices.Clone(args), own)...).Scan(&rows).Error; err != nil {
			return nil, db.Error("tasks", err)
		}
		for _, r := range rows {
			out = append(out, Adherence{Site: r.SiteID, Participant: r.ParticipantID, Date: r.Date, Rule: r.Rule, Window: r.Win,
				InTime: r.InTime, Late: r.Late, Missed: r.Missed, Excused: r.Excused, Waiting: r.Waiting})
		}
	}
	return out, nil
}

func midnight(d Date) int64 { return int64(d.days()) * 86400 * 1_000_000 }

// Excuse sets whether a task is excused, and records it; errs.Conflict where the task has no row, was taken back or is completed.
// Nothing is written where it is so already.
func (s *Store) Excuse(ctx context.Context, key Key, excused bool, now time.Time, entry audit.Entry) error {
	from, to := rowIssued, rowExcused
	if !excused {
		from, to = to, from
	}
	err := s.Shards.Write(ctx, db.Claim{Participant: key.Participant}, func(tx *gorm.DB) error {
		var row struct{ State string }
		found := db.ForUpdate(tx.Table("task")).Select("state").Where("participant_id = ? AND id = ?", key.Participant, key.Task).Limit(1).Scan(&row)
		switch {
		case found.Error != nil:
			return found.Error
		case row.State == to:
			return nil
		case row.State != from:
			return errNotIssued()
		}
		done, err := DoneFor(tx, []Key{key})
		if err != nil {
			return err
		}
		if len(done) > 0 {
			return errDone()
		}
		if err := tx.Exec("UPDATE task SET state = ?, changed_at = ? WHERE participant_id = ? AND id = ?", to, db.Micros(now), key.Participant, key.Task).Error; err != nil {
			return err
		}
		return audit.Append(tx, entry)
	})
	return db.Error("task", err)
}
