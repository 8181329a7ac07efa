package archive

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/lock"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/testenv"
)

const (
	ours   = int64(1001) // the study that is archived
	theirs = int64(2002) // one that must not notice
)

// plan is where a rig's stores are, so that a process of its own can open them, too.
type place struct {
	Dialect string
	Meta    string
	Shards  []string
	Dir     string
	Kill    string // where the process kills itself
	After   int    // at which time that it gets there
	Way     Direction
	Click   string
	Config  Config
}

// rig is an installation: a metadata database, two shards, a folder.
type rig struct {
	place   place
	meta    *db.DB
	shards  *db.Shards
	keys    *keyring.Keyring
	folder  *Folder
	service *Service
}

// testStudies keeps where studies stand in the metadata database, as the real ones do.
type testStudies struct{ meta *db.DB }

func (s testStudies) status(ctx context.Context, study int64) (string, int64, error) {
	var r struct {
		Status  string
		Version int64
	}
	err := s.meta.Read(ctx).Table("study").Select("status", "version").Where("id = ?", study).Take(&r).Error
	return r.Status, r.Version, db.Error("study", err)
}

// Locked implements Studies: the version stands for the locking.
func (s testStudies) Locked(ctx context.Context, study int64) (int64, error) {
	status, version, err := s.status(ctx, study)
	if err == nil && status != "locked" {
		err = errNotLocked()
	}
	return version, err
}

// Archived implements Studies.
func (s testStudies) Archived(ctx context.Context, study int64) (bool, error) {
	status, _, err := s.status(ctx, study)
	return status == "archived", err
}

func (s testStudies) set(ctx context.Context, study int64, from, to string, entry audit.Entry) error {
	return s.meta.Tx(ctx, func(tx *gorm.DB) error {
		done := tx.Exec("UPDATE study SET status = ? WHERE id = ? AND status = ?", to, study, from)
		if done.Error != nil || done.RowsAffected == 0 {
			return done.Error
		}
		return audit.Append(tx, entry)
	})
}

// Archive implements Studies.
func (s testStudies) Archive(ctx context.Context, study, _ int64, entry audit.Entry) error {
	return s.set(ctx, study, "locked", "archived", entry)
}

// Relock implements Studies.
func (s testStudies) Relock(ctx context.Context, study int64, entry audit.Entry) error {
	return s.set(ctx, study, "archived", "locked", entry)
}

// Design implements Studies.
func (s testStudies) Design(context.Context, int64) (Design, error) {
	return Design{Protocol: "P-1", Schedules: []int64{1}, Versions: []VersionSum{{URL: diary, Version: "1.0.0", SHA256: strings.Repeat("0", 64)}}}, nil
}

const (
	diary   = "https://example.org/q/diary"
	monthly = "https://example.org/q/Monthly Check"
)

const diaryResource = `{"resourceType":"Questionnaire","url":"https://example.org/q/diary","version":"1.0.0","status":"active","item":[
{"linkId":"pain","type":"integer","text":"Pain"},{"linkId":"sleep","type":"decimal","text":"Sleep"},{"linkId":"took","type":"boolean","text":"Took"},
{"linkId":"nausea","type":"choice","text":"Nausea","answerOption":[{"valueCoding":{"system":"https://example.org/c","code":"none","display":"None"}},{"valueCoding":{"system":"https://example.org/c","code":"mild"}}]},
{"linkId":"other","type":"open-choice","text":"Other","answerOption":[{"valueCoding":{"system":"https://example.org/c","code":"rash"}}]},
{"linkId":"when","type":"dateTime","text":"When"},{"linkId":"note","type":"text","text":"Note"}]}`

// testDefinitions knows the diary, and no other questionnaire.
type testDefinitions struct{ diary *questionnaire.Definition }

// Definition implements Definitions.
func (d testDefinitions) Definition(_ context.Context, _ int64, canonical string) (*questionnaire.Definition, error) {
	if canonical != diary+"|1.0.0" {
		return nil, errs.New(errs.Unprocessable, "invalid_response", "unknown")
	}
	return d.diary, nil
}

type testIDs struct{ next func() int64 }

// NextN implements IDs.
func (i testIDs) NextN(n int) ([]int64, error) {
	out := make([]int64, n)
	for j := range out {
		out[j] = i.next()
	}
	return out, nil
}

func testKeys() (*keyring.Keyring, error) {
	return keyring.New([]keyring.MasterKey{{ID: 1, Secret: bytes.Repeat([]byte{7}, 32)}}, rand.Reader)
}

// testConfig has parts and blocks so small that a small study has many.
func testConfig() Config {
	c := DefaultConfig()
	c.PartRows, c.BlockRows, c.ScanRows, c.GroupRows = 400, 60, 500, 1000
	return c
}

func newRig(t *testing.T, dialect string) *rig {
	t.Helper()
	open := func(set string) *db.DB { return testenv.SQLite(t, set) }
	if dsn := os.Getenv("EPROD_TEST_MYSQL_DSN"); dialect == "mysql" {
		if dsn == "" && os.Getenv("CI") == "true" {
			t.Fatal("EPROD_TEST_MYSQL_DSN is not set: in CI the real MySQL must run (dev/services up)")
		}
		if dsn == "" {
			t.Skip("left out: the real MySQL. To have it: make services-up && eval \"$(dev/services env --test)\"")
		}
		open = func(set string) *db.DB { return testenv.MySQL(t, dsn, set) }
	}
	r := &rig{meta: open("meta"), place: place{Dialect: dialect, Dir: t.TempDir(), Config: testConfig()}}
	first, second := open("shard"), open("shard")
	first.Name, second.Name = "shard0", "shard1"
	var err error
	if r.shards, err = db.NewShards([]*db.DB{first, second}, []db.BucketRange{{First: 0, Last: 127}, {First: 128, Last: 255}}); err != nil {
		t.Fatal(err)
	}
	r.place.Meta = source(t, r.meta)
	for _, s := range r.shards.All() {
		r.place.Shards = append(r.place.Shards, source(t, s))
	}
	r.build(t)
	return r
}

func (r *rig) build(t *testing.T) {
	t.Helper()
	var err error
	if r.keys, err = testKeys(); err != nil {
		t.Fatal(err)
	}
	if r.folder, err = NewFolder(r.place.Dir); err != nil {
		t.Fatal(err)
	}
	r.service, err = newTestService(r.place, r.meta, r.shards, r.keys, r.folder)
	if err != nil {
		t.Fatal(err)
	}
}

func newTestService(p place, meta *db.DB, shards *db.Shards, keys *keyring.Keyring, folder *Folder) (*Service, error) {
	definition, findings := questionnaire.Compile([]byte(diaryResource), questionnaire.DefaultLimits())
	if len(findings) > 0 {
		return nil, fmt.Errorf("the diary: %v", findings)
	}
	log := slog.New(slog.DiscardHandler)
	parts := Parts{Store: &Store{meta}, Shards: shards, Destination: folder, Studies: testStudies{meta}, Definitions: testDefinitions{definition}, Keys: keys,
		Locks: lock.NewTable(meta, lock.Parts{Config: lock.DefaultConfig(), Holder: "test", Clock: time.Now, Random: rand.Reader, Log: log}),
		IDs:   testIDs{testenv.IDs()}, Guard: auth.Guard{}, Now: time.Now, Log: log}
	if p.Click != "" {
		c := DefaultClickHouse()
		c.URL, c.User = p.Click, "loader"
		var err error
		if parts.ClickHouse, err = NewClickHouse(c, "secret"); err != nil {
			return nil, err
		}
	}
	return New(p.Config, parts), nil
}

// source returns what opens a database again.
func source(t *testing.T, d *db.DB) string {
	t.Helper()
	if d.Dialect == db.SQLite {
		var path string
		if err := d.Pool().QueryRowContext(t.Context(), "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config, err := mysql.ParseDSN(os.Getenv("EPROD_TEST_MYSQL_DSN"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Pool().QueryRowContext(t.Context(), "SELECT DATABASE()").Scan(&config.DBName); err != nil {
		t.Fatal(err)
	}
	return config.FormatDSN()
}

// close makes every shard refuse writes of a study, as locking does.
func (r *rig) close(t *testing.T, study int64) {
	t.Helper()
	for _, d := range r.shards.All() {
		if err := d.SetStanding(t.Context(), study, db.Closed, 7); err != nil {
			t.Fatal(err)
		}
	}
}

// sums digests a study's rows on all shards, table by table, as text.
func (r *rig) sums(t *testing.T, study int64) map[string]string {
	t.Helper()
	out := make(map[string]string)
	view, err := r.shards.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range Tables() {
		var sum Digest
		var rows int64
		for _, d := range r.shards.All() {
			one, n, err := digestTable(t.Context(), d, view, r.shards, study, table.Name, nil, DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			sum.Add(one)
			rows += n
		}
		out[table.Name] = fmt.Sprintf("%d rows, %x", rows, sum[:8])
	}
	return out
}

// raw counts and hashes every row of every table of the shards that belongs to participants, of whatever study, by statements that know
// nothing of the product's way through the tables: what that way never visits is seen here.
func (r *rig) raw(t *testing.T) map[string]string {
	t.Helper()
	apart := make(map[string]bool)
	for _, table := range db.ShardTables() {
		apart[table.Name] = table.Kind != db.StudyData
	}
	out := make(map[string]string)
	for _, d := range r.shards.All() {
		list := "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE'"
		if d.Dialect == db.SQLite {
			list = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
		}
		for _, row := range r.rows(t, d, list) {
			table := row[:len(row)-1] // without what ends a value
			if apart[table] {
				continue
			}
			count := r.rows(t, d, "SELECT COUNT(*) FROM "+table)[0]
			var sum, mix uint64 // of the rows in any order
			for _, row := range r.rows(t, d, "SELECT * FROM "+table) {
				h := sha256.Sum256([]byte(row))
				sum += binary.BigEndian.Uint64(h[:])
				mix ^= binary.BigEndian.Uint64(h[8:])
			}
			out[d.Name+"/"+table] = fmt.Sprintf("%s rows, %016x%016x", count[:len(count)-1], sum, mix)
		}
	}
	return out
}

// rows returns the rows of a query, each as its values with an end mark after every one.
func (r *rig) rows(t *testing.T, d *db.DB, query string) (out []string) {
	t.Helper()
	rows, err := d.Pool().QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	values, into := make([]sql.RawBytes, len(names)), make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		var row strings.Builder
		for _, v := range values {
			if len(values) > 1 { // where a value ends must be told from what is in it
				fmt.Fprintf(&row, "%d %v ", len(v), v == nil)
			}
			row.Write(v)
			row.WriteByte('\n')
		}
		out = append(out, row.String())
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// empty fails where a study has rows left on a shard.
func (r *rig) empty(t *testing.T, study int64) {
	t.Helper()
	for table, sum := range r.sums(t, study) {
		if !strings.HasPrefix(sum, "0 rows") {
			t.Errorf("%s of study %d: %s", table, study, sum)
		}
	}
}

// move asks for a move and carries it out in this process.
func (r *rig) move(t *testing.T, way Direction) {
	t.Helper()
	if _, err := r.service.Start(t.Context(), ours, way, Actor{Kind: "staff", ID: 5}, "the trial is over"); err != nil {
		t.Fatal(err)
	}
	if err := r.service.Drive(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) manifest(t *testing.T) *Manifest {
	t.Helper()
	state, err := r.service.State(t.Context(), ours)
	if err != nil || state.Manifest == nil {
		t.Fatalf("%d bytes of manifest, %v", len(state.Manifest), err)
	}
	var m Manifest
	if err := json.Unmarshal(state.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	return &m
}

func dialects(t *testing.T, test func(t *testing.T, r *rig)) {
	for _, dialect := range []string{"sqlite", "mysql"} {
		t.Run(dialect, func(t *testing.T) { test(t, newRig(t, dialect)) })
	}
}
