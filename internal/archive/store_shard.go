package archive

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
)

// walker reads a study's rows of one table of one shard in the order of its key, a bounded number at a time.
type walker struct {
	shard *db.DB
	study int64
	shape *shape
	scan  int   // rows that one statement looks at where no index finds those of the study
	at    []any // where it stands: values of the order's columns; nil: before the first
}

// mark returns where a row stands in the walk.
func (s *shape) mark(r row) []any {
	order := s.order()
	at := make([]any, len(order))
	for i, k := range order {
		at[i] = r[k]
	}
	return at
}

// next returns up to limit rows that follow, and none at the end.
func (w *walker) next(ctx context.Context, limit int) ([]row, error) {
	for {
		upper, err := w.window(ctx)
		if err != nil {
			return nil, err
		}
		rows, err := w.read(ctx, upper, limit)
		if err != nil {
			return nil, err
		}
		switch {
		case len(rows) > 0:
			w.at = w.shape.mark(rows[len(rows)-1])
			return rows, nil
		case upper == nil:
			return nil, nil
		}
		w.at = upper // nothing of the study in this stretch of the table
	}
}

// window returns where the next stretch of the table ends: a statement must not look at millions of other studies' rows for one of
// this. Nil: no end is needed.
func (w *walker) window(ctx context.Context) ([]any, error) {
	if w.shape.indexed {
		return nil, nil
	}
	names := w.names("")
	c := beyond(names, w.at, false)
	statement := "SELECT " + strings.Join(w.shape.names(), ", ") + " FROM " + w.shape.table.Name
	if c.sql != "" {
		statement += " WHERE " + c.sql
	}
	rows, err := selectRows(w.shard.Read(ctx), w.shape, statement+" ORDER BY "+strings.Join(names, ", ")+" LIMIT 1 OFFSET ?", append(c.args, w.scan-1))
	if err != nil || len(rows) == 0 {
		return nil, db.Error(w.shape.table.Name, err)
	}
	return w.shape.mark(rows[0]), nil
}

func (w *walker) names(prefix string) []string {
	var names []string
	for _, k := range w.shape.order() {
		names = append(names, prefix+w.shape.columns[k].name)
	}
	return names
}

func (w *walker) read(ctx context.Context, upper []any, limit int) ([]row, error) {
	t := w.shape.table
	columns := "t." + strings.Join(w.shape.names(), ", t.")
	names := w.names("t.")
	from := t.Name + " t"
	own := where{"t.study_id = ?", []any{w.study}}
	if t.by == byParticipant {
		from = "participant p JOIN " + t.Name + " t ON t.participant_id = p.id"
		own = where{"p.study_id = ?", []any{w.study}}
		if w.at != nil { // the participants before are of no use either
			own = and(own, where{"p.id >= ?", w.at[:1]})
		}
	}
	c := and(own, beyond(names, w.at, false), beyond(names, upper, true))
	rows, err := selectRows(w.shard.Read(ctx), w.shape, "SELECT "+columns+" FROM "+from+" WHERE "+c.sql+" ORDER BY "+strings.Join(names, ", ")+" LIMIT ?", append(c.args, limit))
	return rows, db.Error(t.Name, err)
}

// rowsOf returns the whole rows of heads, in the order of the key.
func rowsOf(ctx context.Context, shard *db.DB, s, heads *shape, rows []row) ([]row, error) {
	c := among(string(shard.Dialect), heads, rows)
	var order []string
	for _, k := range s.key {
		order = append(order, s.columns[k].name)
	}
	out, err := selectRows(shard.Read(ctx), s, "SELECT "+strings.Join(s.names(), ", ")+" FROM "+s.table.Name+" WHERE "+c.sql+" ORDER BY "+strings.Join(order, ", "), c.args)
	return out, db.Error(s.table.Name, err)
}

// placed returns the shard that a row belongs on: that of its participant. Rows of nobody stay on the shard with the name origin, or
// go to the first where that is gone.
func placed(view db.View, shards *db.Shards, s *shape, r row, origin string) *db.DB {
	if participant := participantOf(s, r); participant != 0 {
		return view.For(participant)
	}
	for _, d := range shards.All() {
		if d.Name == origin {
			return d
		}
	}
	return shards.All()[0]
}

// participantOf returns whose a row is; 0: nobody's.
func participantOf(s *shape, r row) int64 {
	at := s.place(s.table.participant)
	if at < 0 {
		return 0
	}
	participant, _ := r[at].(int64)
	return participant
}

// move is what one transaction of a shard does with rows of one block.
type move struct {
	study int64
	token int64 // the fence of the process that works
	at    time.Time
	shape *shape
	rows  []row
}

// participants returns whose the rows are.
func (m *move) participants() []int64 {
	var out []int64
	for _, r := range m.rows {
		if p := participantOf(m.shape, r); p != 0 && (len(out) == 0 || out[len(out)-1] != p) {
			out = append(out, p)
		}
	}
	return out
}

// enter asks the shard for admission to what these participants have and holds the fence: a process that was overtaken gets no
// further. It must come first.
func (m *move) enter(shard *db.DB, tx *gorm.DB, participants []int64) error {
	if len(participants) > 0 {
		doors, err := shard.AskOf(tx, participants...)
		if err != nil {
			return err
		}
		if err := doors.Admit(m.study, db.Keeper); err != nil {
			return err
		}
	}
	var fence []int64
	if err := db.ForUpdate(tx).Table("archive_fence").Where("study_id = ?", m.study).Pluck("fence", &fence).Error; err != nil {
		return err
	}
	if len(fence) != 1 || fence[0] != m.token {
		return errOvertaken()
	}
	return nil
}

// there returns the rows of the block's keys as the shard has them.
func (m *move) there(tx *gorm.DB) ([]row, error) {
	c := among(tx.Name(), m.shape, m.rows)
	statement := "SELECT " + strings.Join(m.shape.names(), ", ") + " FROM " + m.shape.table.Name + " WHERE " + c.sql
	if tx.Name() == string(db.MySQL) {
		statement += " FOR UPDATE"
	}
	return selectRows(tx, m.shape, statement, c.args)
}

// remove deletes the rows after comparing them with what the shard has. Rows that are gone already were removed by an earlier try;
// anything between all and none, and any difference, stops the run.
func (m *move) remove(ctx context.Context, shard *db.DB) error {
	want, err := rowsDigest(m.shape, m.rows)
	if err != nil {
		return err
	}
	return shard.Tx(ctx, func(tx *gorm.DB) error {
		if err := m.enter(shard, tx, m.participants()); err != nil {
			return err
		}
		have, err := m.there(tx)
		if err != nil || len(have) == 0 {
			return err
		}
		got, err := rowsDigest(m.shape, have)
		if err != nil {
			return err
		}
		if got != want {
			return differs("%d of %d rows of table %s on shard %s are not as they were archived; nothing of them was removed", len(have), len(m.rows), m.shape.table.Name, shard.Name)
		}
		c := among(tx.Name(), m.shape, m.rows)
		done := tx.Exec("DELETE FROM "+m.shape.table.Name+" WHERE "+c.sql, c.args...)
		if done.Error == nil && done.RowsAffected != int64(len(m.rows)) {
			return differs("%d rows of table %s were to be removed, and %d were", len(m.rows), m.shape.table.Name, done.RowsAffected)
		}
		return done.Error
	})
}

// insert brings the rows back and compares, in the same transaction, what the shard then has. Rows that are there already stay: if
// they are not the same, the run stops.
func (m *move) insert(ctx context.Context, shard *db.DB) error {
	want, err := rowsDigest(m.shape, m.rows)
	if err != nil {
		return err
	}
	values := make([][]any, len(m.rows))
	for i, r := range m.rows {
		values[i] = r
	}
	return shard.Tx(ctx, func(tx *gorm.DB) error {
		if err := m.enter(shard, tx, m.participants()); err != nil {
			return err
		}
		if err := db.InsertNew(tx, m.shape.table.Name, m.shape.names(), values); err != nil {
			return err
		}
		have, err := m.there(tx)
		if err != nil {
			return err
		}
		got, err := rowsDigest(m.shape, have)
		if err == nil && m.shape.table.Name == "participant" {
			err = refresh(tx, m)
		}
		if err == nil && got != want {
			err = differs("the shard %s has other rows of table %s under the keys of those that were archived", shard.Name, m.shape.table.Name)
		}
		return err
	})
}

// refresh asks for the participants' tasks to be looked at: such wishes are passing and were not carried.
func refresh(tx *gorm.DB, m *move) error {
	ids := make([]int64, len(m.rows))
	for i, r := range m.rows {
		ids[i], _ = r[m.shape.place("id")].(int64)
	}
	return task.Refresh(tx, m.study, ids, m.at)
}

// raise makes token the fence of the study on a shard, unless a younger one stands there.
func raise(ctx context.Context, shard *db.DB, study, token int64) error {
	err := shard.Tx(ctx, func(tx *gorm.DB) error {
		if err := db.InsertNew(tx, "archive_fence", []string{"study_id", "fence"}, [][]any{{study, int64(0)}}); err != nil {
			return err
		}
		return db.RaiseFence(tx.Table("archive_fence").Where("study_id = ?", study), token)
	})
	if errs.KindOf(err) == errs.Stale {
		return errOvertaken()
	}
	return db.Error("fence", err)
}

// forget removes a study's rows of a table that is not carried, of at most limit participants in a transaction. What another shard
// owns are copies; whoever moves buckets deletes them.
func forget(ctx context.Context, shards *db.Shards, study, token int64, t db.ShardTable, limit int) error {
	for try := 0; ; try++ {
		moved, err := forgetOnce(ctx, shards, study, token, t, limit)
		if !db.IsMoved(err) || try >= followMoves {
			return db.Error(t.Name, err)
		}
		if err := shards.Await(ctx, moved); err != nil {
			return err
		}
	}
}

// forgetOnce returns one of the participants whose bucket was elsewhere, with the error that says so.
func forgetOnce(ctx context.Context, shards *db.Shards, study, token int64, t db.ShardTable, limit int) (int64, error) {
	view, err := shards.View(ctx)
	if err != nil {
		return 0, err
	}
	m := move{study: study, token: token}
	for _, shard := range shards.All() {
		for after := int64(math.MinInt64); ; {
			var found []int64
			err := shard.Read(ctx).Table(t.Name).Distinct().Where("study_id = ? AND "+t.Participant+" > ?", study, after).Order(t.Participant).Limit(limit).Pluck(t.Participant, &found).Error
			if err != nil {
				return 0, err
			}
			if len(found) == 0 {
				break
			}
			after = found[len(found)-1]
			whose := slices.DeleteFunc(found, func(p int64) bool { return !view.Owns(shard, p) })
			if len(whose) == 0 {
				continue
			}
			err = shard.Tx(ctx, func(tx *gorm.DB) error {
				if err := m.enter(shard, tx, whose); err != nil {
					return err
				}
				return tx.Exec("DELETE FROM "+t.Name+" WHERE study_id = ? AND "+t.Participant+" IN ?", study, whose).Error
			})
			if err != nil {
				return whose[0], err
			}
		}
	}
	return 0, nil
}

// keysOf returns the wrapped data keys of participants on a shard.
func keysOf(ctx context.Context, shard *db.DB, ids []int64) (map[int64][]byte, error) {
	var rows []struct {
		ID      int64
		DataKey []byte
	}
	err := shard.Read(ctx).Table("participant").Select("id", "data_key").Where("id IN ?", ids).Find(&rows).Error
	out := make(map[int64][]byte, len(rows))
	for _, r := range rows {
		out[r.ID] = r.DataKey
	}
	return out, db.Error("participants", err)
}
