package growth

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/testenv"
)

// shardsFor returns empty shards on the real MySQL, or nil where it does not run: SQLite's do not move.
func shardsFor(t *testing.T, n int) []*db.DB {
	t.Helper()
	out := make([]*db.DB, n)
	patient := db.DefaultConfig() // a busy machine is not what is tested here
	patient.ReadTimeout, patient.WriteTimeout, patient.TxTimeout = time.Minute, time.Minute, time.Minute
	for i := range out {
		d := testenv.Databases(t, "shard")["mysql"]
		if d == nil {
			return nil
		}
		out[i] = testenv.Reopen(t, d, "", patient, slog.New(slog.DiscardHandler))
		out[i].Name = fmt.Sprint("shard", i)
	}
	return out
}

// plant is two shards with participants, a third to be added, and processes that use them.
type plant struct {
	t      *testing.T
	shards []*db.DB
	store  *Store
	config Config
	fence  int64
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{t: t, shards: shardsFor(t, 3), config: Config{Poll: 20 * time.Millisecond, Lease: 600 * time.Millisecond, Grace: 300 * time.Millisecond,
		Hold: time.Second, Group: 4, Workers: 2}}
	if p.shards == nil {
		return nil
	}
	p.store = &Store{Meta: testenv.Databases(t, "meta")["mysql"]}
	return p
}

var plantRanges = []db.BucketRange{{First: 0, Last: 127}, {First: 128, Last: 255}, db.NoBuckets()}

// process returns what one process of the product would hold.
func (p *plant) process() *Service {
	p.t.Helper()
	shards, err := db.NewShards(p.shards, plantRanges)
	if err != nil {
		p.t.Fatal(err)
	}
	s := &Service{Store: p.store, Shards: shards, Config: p.config, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
	if err := s.Prepare(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	return s
}

// following is process with a follower that runs until the test ends.
func (p *plant) following(id string) *Service {
	p.t.Helper()
	s := p.process()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx, id); err != nil {
			p.t.Error(err)
		}
	}()
	p.t.Cleanup(func() { stop(); <-ended })
	return s
}

// seed writes n participants with rows in every table, as many as the table's key allows, and returns their ids.
func (p *plant) seed(s *Service, n int) []int64 {
	p.t.Helper()
	ids := make([]int64, n)
	byShard := make(map[*db.DB][]int64)
	for i := range ids {
		ids[i] = int64(i + 1)
		d := s.Shards.For(ids[i])
		byShard[d] = append(byShard[d], ids[i])
	}
	for d, whose := range byShard {
		for _, table := range movedTables() {
			p.fill(d, table, whose)
		}
	}
	for b := range db.Buckets {
		p.exec(s.Shards.ForBucket(b), "INSERT INTO task_horizon (bucket, study_id, plan_mark, until_at) VALUES (?, 3, 1, 1)", b)
	}
	return ids
}

func (p *plant) exec(d *db.DB, statement string, args ...any) {
	p.t.Helper()
	if _, err := d.Pool().ExecContext(p.t.Context(), statement, args...); err != nil {
		p.t.Fatalf("%s: %v", statement, err)
	}
}

type tableColumn struct {
	name, kind string
	length     int
}

func (p *plant) columns(d *db.DB, table string) []tableColumn {
	p.t.Helper()
	rows, err := d.Pool().QueryContext(p.t.Context(), "SELECT COLUMN_NAME, DATA_TYPE, COALESCE(CHARACTER_MAXIMUM_LENGTH, 0) FROM information_schema.COLUMNS "+
		"WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION", table)
	if err != nil {
		p.t.Fatal(err)
	}
	defer rows.Close()
	var out []tableColumn
	for rows.Next() {
		var c tableColumn
		if err := rows.Scan(&c.name, &c.kind, &c.length); err != nil {
			p.t.Fatal(err)
		}
		out = append(out, c)
	}
	if err := rows.Err(); err != nil || len(out) == 0 {
		p.t.Fatalf("%s: %d columns, %v", table, len(out), err)
	}
	return out
}

// fill writes two rows for each participant, or one where the participant is the key, with values that follow from the schema: a
// table that is added tomorrow is filled, too.
func (p *plant) fill(d *db.DB, table db.ShardTable, whose []int64) {
	p.t.Helper()
	columns := p.columns(d, table.Name)
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = "`" + c.name + "`"
	}
	each := 2
	if len(table.Key) == 1 && table.Key[0] == table.Participant {
		each = 1
	}
	var marks []string
	var args []any
	for _, id := range whose {
		for n := range each {
			marks = append(marks, "(?"+strings.Repeat(",?", len(columns)-1)+")")
			serial := id*10 + int64(n)
			for _, c := range columns {
				args = append(args, valueOf(c, table.Participant, id, serial))
			}
		}
	}
	p.exec(d, "INSERT INTO "+table.Name+" ("+strings.Join(names, ",")+") VALUES "+strings.Join(marks, ","), args...)
}

func valueOf(c tableColumn, participant string, id, serial int64) any {
	text := fmt.Sprintf("%d-%s", serial, strings.Repeat("ä", 300))
	switch {
	case c.name == participant:
		return id
	case c.name == "bucket":
		return db.Bucket(id)
	case c.name == "study_id":
		return 3
	case c.kind == "binary":
		return fmt.Appendf(nil, "%0*d", c.length, serial)
	case strings.HasSuffix(c.kind, "blob"):
		return append([]byte{0, 0xff, '\''}, text...)
	case c.kind == "tinyint":
		return serial % 2
	case strings.HasSuffix(c.kind, "int"):
		return serial
	default:
		return string([]rune(text)[:min(c.length, 60)])
	}
}

// totals returns how many rows all shards have together, by table.
func (p *plant) totals() map[string]int64 {
	p.t.Helper()
	out := make(map[string]int64)
	for _, d := range p.shards {
		counts, err := rowCounts(p.t.Context(), d)
		if err != nil {
			p.t.Fatal(err)
		}
		for name, n := range counts {
			out[name] += n
		}
	}
	return out
}
