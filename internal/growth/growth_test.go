package growth

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/db"
)

func TestBucketLists(t *testing.T) {
	for list, want := range map[string][]int{"5": {5}, "0-2,7": {0, 1, 2, 7}, "7, 6": {6, 7}, "1,1,1-2": {1, 2}} {
		got, err := ParseBuckets(list)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v %s", list, err, diff)
		}
	}
	for _, wrong := range []string{"", "none", "x", "-1", "256", "3-1", "1;2"} {
		if got, err := ParseBuckets(wrong); err == nil {
			t.Errorf("%q is taken as %v", wrong, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var some [db.Buckets]bool
		for _, b := range rapid.SliceOfN(rapid.IntRange(0, db.Buckets-1), 1, 60).Draw(t, "buckets") {
			some[b] = true
		}
		var buckets []int
		for b, is := range some {
			if is {
				buckets = append(buckets, b)
			}
		}
		again, err := ParseBuckets(BucketList(buckets))
		if diff := cmp.Diff(buckets, again); diff != "" || err != nil {
			t.Fatalf("%s: %v %s", BucketList(buckets), err, diff)
		}
	})
}

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Config){
		"poll":    func(c *Config) { c.Poll = 0 },
		"lease":   func(c *Config) { c.Lease = 2 * c.Poll },
		"grace":   func(c *Config) { c.Grace = -time.Second },
		"hold":    func(c *Config) { c.Hold = time.Minute },
		"group":   func(c *Config) { c.Group = 0 },
		"workers": func(c *Config) { c.Workers = 0 },
	} {
		c := DefaultConfig()
		if spoil(&c); c.Validate() == nil {
			t.Errorf("a wrong %s is taken", name)
		}
	}
}

// TestSumTellsRowsApart: a sum does not depend on the order of rows, and on nothing else does it not.
func TestSumTellsRowsApart(t *testing.T) {
	sum := func(table string, all ...[]any) Sum {
		var total Sum
		for _, row := range all {
			s, _, err := rowSum(table, row, []int{0, 1})
			if err != nil {
				t.Fatal(err)
			}
			total.add(s)
		}
		return total
	}
	a, b := []any{int64(1), []byte("x")}, []any{int64(2), nil}
	if sum("t", a, b) != sum("t", b, a) {
		t.Error("the order of rows counts")
	}
	for _, other := range []Sum{sum("t", a), sum("t", a, a), sum("u", a, b), sum("t", a, []any{int64(2), []byte{}}), sum("t", a, []any{int64(3), nil}), sum("t", []any{int64(1), []byte("y")}, b)} {
		if other == sum("t", a, b) {
			t.Errorf("%v has the same sum", other)
		}
	}
	if _, _, err := rowSum("t", []any{1.5, nil}, []int{0, 1}); err == nil {
		t.Error("a number with a fraction is compared")
	}
}

// TestEveryTableIsFoundByItsParticipant: rows are copied, compared and deleted by their participants, so every table that moves must
// have an index that begins with them.
func TestEveryTableIsFoundByItsParticipant(t *testing.T) {
	d := shardsFor(t, 1)
	if d == nil {
		return
	}
	for _, table := range movedTables() {
		var n int
		err := d[0].Pool().QueryRowContext(t.Context(), "SELECT COUNT(*) FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND COLUMN_NAME = ? AND SEQ_IN_INDEX = 1",
			table.Name, table.Participant).Scan(&n)
		if err != nil || n == 0 {
			t.Errorf("%s has no index that begins with %s (%v): add one, as audit_participant is", table.Name, table.Participant, err)
		}
	}
	for _, table := range db.ShardTables() {
		if table.Kind == db.Local && !table.PerBucket && (table.Participant != "" && table.Name != "spool" && table.Name != "participant_change") {
			t.Errorf("%s has participants, but does not move", table.Name)
		}
	}
}
