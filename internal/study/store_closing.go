package study

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
)

// ClosingStore is a study's data on the shards, for its locking. It is safe for concurrent use.
type ClosingStore struct {
	Shards *db.Shards
	Page   int // rows that are read at once
}

// Stand lets a standing come into force on every shard, for a locking; errs.Stale where another one has overtaken it. It may be
// repeated.
func (s *ClosingStore) Stand(ctx context.Context, study int64, standing db.Standing, lock int64) error {
	return s.Shards.Each(ctx, func(ctx context.Context, shard *db.DB) error { return shard.SetStanding(ctx, study, standing, lock) })
}

// Quiet ends what would still be sent: no task is reminded of, no message that waits goes out, nobody asks a gateway any more, and who is
// asking one right now writes nothing. It returns how many messages are in a gateway's hands; impatient, it leaves their outcome unknown.
// On a shard where the study is not being closed any more it is refused: errs.Stale.
func (s *ClosingStore) Quiet(ctx context.Context, study int64, patient bool, at time.Time) (int64, error) {
	var mu sync.Mutex
	var total int64
	const never = int64(math.MaxInt64)
	err := s.Shards.Each(ctx, func(ctx context.Context, shard *db.DB) error {
		return db.Error("messages", shard.Tx(ctx, func(tx *gorm.DB) error {
			if err := db.WhileClosing(tx, study); err != nil {
				return err
			}
			var sending int64
			if err := tx.Exec("UPDATE task SET remind_at = 0 WHERE study_id = ? AND remind_at > 0", study).Error; err != nil {
				return err
			}
			err := tx.Exec("UPDATE message SET state = 'gone', code = 'study_locked', updated_at = ?, next_at = ? WHERE study_id = ? AND state = 'waiting'", db.Micros(at), never, study).Error
			if err != nil {
				return err
			}
			if !patient {
				err := tx.Exec("UPDATE message SET state = 'unknown', code = 'study_locked', updated_at = ? WHERE study_id = ? AND state = 'sending'", db.Micros(at), study).Error
				if err != nil {
					return err
				}
			}
			if err := tx.Table("message").Where("study_id = ? AND state = 'sending'", study).Count(&sending).Error; err != nil {
				return err
			}
			mu.Lock()
			total += sending
			mu.Unlock()
			return tx.Exec("UPDATE message SET updated_at = ?, next_at = ? WHERE study_id = ? AND state IN ('unknown', 'accepted') AND next_at < ?", db.Micros(at), never, study, never).Error
		}))
	})
	return total, err
}

// Fill counts and hashes the study's data into a report.
func (s *ClosingStore) Fill(ctx context.Context, study int64, r *Report) error {
	reports := make([]ShardReport, len(s.Shards.All()))
	var all sync.WaitGroup
	problems := make([]error, len(reports))
	for i, shard := range s.Shards.All() {
		all.Go(func() { reports[i], problems[i] = s.Digest(ctx, shard, study) })
	}
	all.Wait()
	if err := cmp.Or(problems...); err != nil {
		return err
	}
	r.Shards, r.Tasks, r.Quarantine = reports, make(map[string]int64), make(map[string]int64)
	for _, report := range reports {
		r.Responses += report.Tables["response"]
		r.Quarantined += report.Tables["quarantine"]
		r.Conflicts += report.Tables["conflict"]
	}
	questionnaires := make(map[[2]string]map[string]int64)
	for _, shard := range s.Shards.All() {
		if err := s.count(ctx, shard, study, r, questionnaires); err != nil {
			return fmt.Errorf("shard %s: %w", shard.Name, err)
		}
	}
	for version, status := range questionnaires {
		r.Questionnaires = append(r.Questionnaires, QuestionnaireCount{version[0], version[1], status})
	}
	slices.SortFunc(r.Questionnaires, func(a, b QuestionnaireCount) int {
		return cmp.Or(cmp.Compare(a.Questionnaire, b.Questionnaire), cmp.Compare(a.Version, b.Version))
	})
	return nil
}

const (
	countDone = "SELECT CASE WHEN late = 0 THEN 'completed' ELSE 'completedLate' END AS word, COUNT(*) AS n FROM task_completion WHERE study_id = ? GROUP BY word"
	countOpen = "SELECT CASE WHEN t.state <> 'issued' THEN t.state WHEN t.grace_until < ? THEN 'missed' ELSE 'open' END AS word, COUNT(*) AS n FROM task t " +
		"WHERE t.study_id = ? AND NOT EXISTS (SELECT 1 FROM task_completion c WHERE c.participant_id = t.participant_id AND c.task_id = t.id) GROUP BY word"
	countWaiting = "SELECT reason AS word, COUNT(*) AS n FROM quarantine WHERE study_id = ? GROUP BY reason"
)

func (s *ClosingStore) count(ctx context.Context, shard *db.DB, study int64, r *Report, questionnaires map[[2]string]map[string]int64) error {
	type group struct {
		Questionnaire, Version, Status, Word string
		N                                    int64
	}
	var rows []group
	err := shard.Read(ctx).Raw("SELECT questionnaire, version, status, COUNT(*) AS n FROM response WHERE study_id = ? GROUP BY questionnaire, version, status", study).Scan(&rows).Error
	if err != nil {
		return db.Error("responses", err)
	}
	for _, g := range rows {
		version := [2]string{g.Questionnaire, g.Version}
		if questionnaires[version] == nil {
			questionnaires[version] = make(map[string]int64)
		}
		questionnaires[version][g.Status] += g.N
	}
	for _, q := range []struct {
		statement string
		args      []any
		into      map[string]int64
	}{{countDone, []any{study}, r.Tasks}, {countOpen, []any{db.Micros(r.LockedAt), study}, r.Tasks}, {countWaiting, []any{study}, r.Quarantine}} {
		rows = nil
		if err := shard.Read(ctx).Raw(q.statement, q.args...).Scan(&rows).Error; err != nil {
			return db.Error("tasks", err)
		}
		for _, g := range rows {
			q.into[g.Word] += g.N
		}
	}
	return nil
}

// Digest counts and hashes a study's data on one shard. The hash is SHA-256 over, for each table of the study's data in the order of
// db.ShardTables: its name and its rows, each row its columns in the order of their names, each value as its length (8 bytes,
// big-endian; all ones for NULL) and its bytes, integers in decimal. Rows come by study and id or by participant and key, as the
// table says.
func (s *ClosingStore) Digest(ctx context.Context, shard *db.DB, study int64) (ShardReport, error) {
	r := ShardReport{Name: shard.Name, Tables: make(map[string]int64)}
	h := sha256.New()
	for _, table := range db.ShardTables() {
		if table.Kind != db.StudyData {
			continue
		}
		write(h, []byte(table.Name))
		var n int64
		var err error
		if table.ByStudy {
			n, err = s.byStudy(ctx, shard, table, study, h)
		} else {
			n, err = s.byParticipant(ctx, shard, table, study, h)
		}
		if err != nil {
			return r, fmt.Errorf("shard %s: %w", shard.Name, db.Error(table.Name, err))
		}
		r.Tables[table.Name] = n
		r.Rows += n
	}
	r.SHA256 = hex.EncodeToString(h.Sum(nil))
	return r, nil
}

func (s *ClosingStore) byStudy(ctx context.Context, shard *db.DB, t db.ShardTable, study int64, h hash.Hash) (total int64, err error) {
	query := "SELECT * FROM " + t.Name + " WHERE study_id = ? AND id > ? ORDER BY id LIMIT " + strconv.Itoa(s.Page)
	for after := int64(0); ; {
		n, last, err := s.page(ctx, shard, h, query, study, after)
		total, after = total+n, last
		if err != nil || n < int64(s.Page) {
			return total, err
		}
	}
}

// people is how many participants' rows are read at once.
const people = 64

func (s *ClosingStore) byParticipant(ctx context.Context, shard *db.DB, t db.ShardTable, study int64, h hash.Hash) (total int64, err error) {
	order := []string{t.Participant}
	for _, column := range t.Key {
		if column != t.Participant {
			order = append(order, column)
		}
	}
	query := "SELECT * FROM " + t.Name + " WHERE " + t.Participant + " IN (?" + strings.Repeat(",?", people-1) + ") ORDER BY " + strings.Join(order, ", ")
	for after := int64(0); ; {
		var ids []int64
		err := shard.Read(ctx).Table("participant").Where("study_id = ? AND id > ?", study, after).Order("id").Limit(people).Pluck("id", &ids).Error
		if err != nil || len(ids) == 0 {
			return total, err
		}
		after = ids[len(ids)-1]
		args := make([]any, people)
		for i := range args {
			args[i] = ids[min(i, len(ids)-1)]
		}
		n, _, err := s.page(ctx, shard, h, query, args...)
		if total += n; err != nil || len(ids) < people {
			return total, err
		}
	}
}

// page hashes the rows of one query and returns how many there are, and the last one's id.
func (s *ClosingStore) page(ctx context.Context, shard *db.DB, h hash.Hash, query string, args ...any) (n, last int64, err error) {
	rows, err := shard.Pool().QueryContext(ctx, query, args...)
	if err != nil {
		return 0, 0, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return 0, 0, err
	}
	order := make([]int, len(names))
	values, into := make([]any, len(names)), make([]any, len(names))
	id := slices.Index(names, "id")
	for i := range names {
		order[i], into[i] = i, &values[i]
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(names[a], names[b]) })
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return n, last, err
		}
		for _, i := range order {
			raw, err := rawOf(values[i])
			if err != nil {
				return n, last, fmt.Errorf("%s: %w", names[i], err)
			}
			write(h, raw)
		}
		if id >= 0 {
			last, _ = values[id].(int64)
		}
		n++
	}
	return n, last, rows.Err()
}

// rawOf returns a value as it is hashed, the same for every database; nil is NULL.
func rawOf(value any) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case []byte:
		return append([]byte{}, v...), nil
	case string:
		return append([]byte{}, v...), nil
	case int64:
		return strconv.AppendInt(nil, v, 10), nil
	default:
		return nil, fmt.Errorf("a value of type %T has no form that is hashed", value)
	}
}

// write hashes one value; nil is NULL.
func write(h hash.Hash, value []byte) {
	var size [8]byte
	length := uint64(len(value))
	if value == nil {
		length = math.MaxUint64
	}
	binary.BigEndian.PutUint64(size[:], length)
	h.Write(size[:])
	h.Write(value)
}
