package db_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

// TestBucketNeverChanges: a participant whose bucket changes is lost on its shard.
func TestBucketNeverChanges(t *testing.T) {
	want := map[int64]int{}
	for _, c := range pinned {
		want[c.id] = c.bucket
	}
	for id, bucket := range want {
		if got := db.Bucket(id); got != bucket {
			t.Errorf("bucket of %d is %d, was %d", id, got, bucket)
		}
	}
	var count [db.Buckets]int
	for i := range 256 * 200 {
		count[db.Bucket(int64(i)<<22|7)]++
	}
	for b, n := range count {
		if n < 100 || n > 320 {
			t.Errorf("bucket %d holds %d of 51,200 ids, want about 200", b, n)
		}
	}
}

func TestRanges(t *testing.T) {
	for text, want := range map[string]db.BucketRange{"0-127": {First: 0, Last: 127}, " 5 ": {First: 5, Last: 5}, "255-255": {First: 255, Last: 255}} {
		if got, err := db.ParseRange(text); err != nil || got != want {
			t.Errorf("%q: %v %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "a-b", "9-3", "0-256", "-1-5"} {
		if _, err := db.ParseRange(text); err == nil {
			t.Errorf("%q is taken for a range", text)
		}
	}
	for _, c := range []struct {
		name   string
		ranges []db.BucketRange
		ok     bool
	}{
		{"Whole", []db.BucketRange{{First: 0, Last: 255}}, true},
		{"Halves", []db.BucketRange{{First: 128, Last: 255}, {First: 0, Last: 127}}, true},
		{"Hole", []db.BucketRange{{First: 0, Last: 100}, {First: 102, Last: 255}}, false},
		{"Twice", []db.BucketRange{{First: 0, Last: 128}, {First: 128, Last: 255}}, false},
		{"TooHigh", []db.BucketRange{{First: 0, Last: 256}}, false},
		{"Reversed", []db.BucketRange{{First: 0, Last: 255}, {First: 9, Last: 8}}, false},
	} {
		if err := db.CheckRanges(c.ranges); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func eachShard(t *testing.T, test func(t *testing.T, d *db.DB)) {
	for name, d := range testenv.Databases(t, "shard") {
		t.Run(name, func(t *testing.T) { test(t, d) })
	}
}

var spool = []string{"id", "participant_id", "study_id", "task_id", "submission", "sha256", "received_at", "source", "sealed_key", "sealed"}

func spoolRow(id int64, source string) []any {
	return []any{id, id, 1, 1, make([]byte, 16), make([]byte, 32), 1, source, 1, []byte{1}}
}

func count(t *testing.T, d *db.DB) int64 {
	t.Helper()
	var n int64
	if err := d.Read(t.Context()).Table("spool").Count(&n).Error; err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTxIsAllOrNothing(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		boom := errors.New("boom")
		err := d.Tx(t.Context(), func(tx *gorm.DB) error {
			if err := db.Insert(tx, "spool", spool, [][]any{spoolRow(1, "a")}); err != nil {
				t.Error(err)
			}
			return boom
		})
		if !errors.Is(err, boom) || count(t, d) != 0 {
			t.Fatalf("error %v, %d rows", err, count(t, d))
		}
		func() {
			defer func() { _ = recover() }()
			_ = d.Tx(t.Context(), func(tx *gorm.DB) error {
				_ = db.Insert(tx, "spool", spool, [][]any{spoolRow(1, "a")})
				panic("boom")
			})
		}()
		if n := count(t, d); n != 0 {
			t.Fatalf("%d rows after a panic", n)
		}
	})
}

func TestInsertOfAnySize(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		total := int64(0)
		for _, n := range []int{0, 1, 3, 16, 99, 100, 285} {
			rows := make([][]any, n)
			for i := range rows {
				total++
				rows[i] = spoolRow(total, "x")
			}
			if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return db.Insert(tx, "spool", spool, rows) }); err != nil {
				t.Fatalf("%d rows: %v", n, err)
			}
		}
		if n := count(t, d); n != total {
			t.Fatalf("%d rows, want %d", n, total)
		}
	})
}

func TestFailuresHaveKinds(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		insert := func(rows ...[]any) error {
			return d.Tx(t.Context(), func(tx *gorm.DB) error { return db.Insert(tx, "spool", spool, rows) })
		}
		if err := insert(spoolRow(1, "a")); err != nil {
			t.Fatal(err)
		}
		err := insert(spoolRow(1, "b"))
		if !db.IsDuplicate(err) || db.DuplicateKey(err) == "" || errs.KindOf(db.Error("x", err)) != errs.Conflict || !db.IsDuplicate(db.Error("x", err)) {
			t.Errorf("duplicate: %v, key %q", err, db.DuplicateKey(err))
		}
		refused := spoolRow(2, "a")
		refused[9] = nil // NOT NULL
		if err := insert(refused); !db.IsRefused(err) || db.IsDuplicate(err) {
			t.Errorf("null: %v", err)
		}
		var row struct{ ID int64 }
		err = d.Read(t.Context()).Table("spool").Select("id").Where("id = ?", 77).Take(&row).Error
		if errs.KindOf(db.Error("record", err)) != errs.NotFound {
			t.Errorf("absent: %v", err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Tx(ended, func(*gorm.DB) error { return nil }); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("cancelled: %v", err)
		}
		if db.Error("x", nil) != nil {
			t.Error("no error must stay none")
		}
	})
}

// TestDeadlockIsRepeated lets two transactions lock two rows in opposite order; both must succeed in the end.
func TestDeadlockIsRepeated(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		if err := d.Tx(t.Context(), func(tx *gorm.DB) error {
			return db.Insert(tx, "spool", spool, [][]any{spoolRow(1, ""), spoolRow(2, "")})
		}); err != nil {
			t.Fatal(err)
		}
		touch := func(tx *gorm.DB, id int) error {
			return tx.Exec("UPDATE spool SET task_id = task_id + 1 WHERE id = ?", id).Error
		}
		var running, met sync.WaitGroup
		met.Add(2)
		for _, order := range [][]int{{1, 2}, {2, 1}} {
			running.Go(func() {
				tries := 0
				err := d.Tx(t.Context(), func(tx *gorm.DB) error {
					tries++
					if err := touch(tx, order[0]); err != nil {
						return err
					}
					if tries == 1 {
						met.Done()
						if d.Dialect == db.MySQL { // SQLite's second writer waits outside
							met.Wait()
						}
					}
					return touch(tx, order[1])
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		running.Wait()
		var tasks []int64
		if err := d.Read(t.Context()).Table("spool").Order("id").Pluck("task_id", &tasks).Error; err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]int64{3, 3}, tasks); diff != "" {
			t.Error(diff)
		}
	})
}

func TestEachJoinsErrors(t *testing.T) {
	shards, err := db.NewShards([]*db.DB{testenv.SQLite(t, "shard"), testenv.SQLite(t, "shard")}, []db.BucketRange{{First: 0, Last: 9}, {First: 10, Last: 255}})
	if err != nil {
		t.Fatal(err)
	}
	one, two := errors.New("one"), errors.New("two")
	err = shards.Each(t.Context(), func(_ context.Context, d *db.DB) error {
		if d == shards.All()[0] {
			return one
		}
		return two
	})
	if !errors.Is(err, one) || !errors.Is(err, two) {
		t.Errorf("got %v, want both", err)
	}
	if shards.ForBucket(9) != shards.All()[0] || shards.ForBucket(10) != shards.All()[1] || shards.For(5) != shards.All()[shards.Index(5)] {
		t.Error("buckets are mapped wrongly")
	}
}

func TestShardsNeedARangeEach(t *testing.T) {
	one := testenv.SQLite(t, "shard")
	whole := db.BucketRange{First: 0, Last: 255}
	for name, err := range map[string]error{
		"None":    second(db.NewShards(nil, nil)),
		"NoRange": second(db.NewShards([]*db.DB{one}, nil)),
		"Twice":   second(db.NewShards([]*db.DB{one, one}, []db.BucketRange{whole, whole})),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func second(_ *db.Shards, err error) error { return err }

func TestConfigNamesEveryProblem(t *testing.T) {
	if err := db.DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	err := db.Config{MaxIdle: -1, DeadlockRetries: -1}.Validate()
	if err == nil {
		t.Fatal("no problem found")
	}
	for _, key := range []string{"maxOpen", "maxIdle", "connLifetime", "dialTimeout", "readTimeout", "writeTimeout", "txTimeout", "deadlockRetries"} {
		if !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
}

func TestInstants(t *testing.T) {
	at := time.Date(2026, 11, 23, 6, 30, 0, 123456789, time.FixedZone("x", 7200))
	if got := db.Time(db.Micros(at)); !got.Equal(at.Truncate(time.Microsecond)) || got.Location() != time.UTC {
		t.Errorf("got %v", got)
	}
	if db.Micros(time.Time{}) != 0 || !db.Time(0).IsZero() {
		t.Error("no instant must be 0")
	}
}

// pinned are buckets as they were in the first release.
var pinned = []struct {
	id     int64
	bucket int
}{{1, 178}, {2, 240}, {3, 2}, {255, 254}, {256, 57}, {7301444403200000001, 208}, {7301444403204194304, 63}, {-1, 2}}
