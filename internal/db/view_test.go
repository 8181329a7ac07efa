package db_test

import (
	"slices"
	"testing"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/testenv"
)

// TestSilenceIsNoAnswer: while the shard that buckets are believed to be on does not answer, nobody is sent to one that merely says
// here, as one does that was never added: whoever looks must hear an error, and not read an empty list.
func TestSilenceIsNoAnswer(t *testing.T) {
	owner, source, fresh := testenv.SQLite(t, "shard"), testenv.SQLite(t, "shard"), testenv.SQLite(t, "shard")
	owner.Name, source.Name, fresh.Name = "owner", "source", "never added"
	shards, err := db.NewShards([]*db.DB{owner, source, fresh}, []db.BucketRange{{First: 0, Last: 255}, db.NoBuckets(), db.NoBuckets()})
	if err != nil {
		t.Fatal(err)
	}
	m := db.Map{Version: 1}
	for b := range m.Owner {
		m.Owner[b] = owner.Name
	}
	if err := shards.Apply(m); err != nil { // it is never confirmed: every look asks the shards
		t.Fatal(err)
	}
	if _, err := source.Pool().ExecContext(t.Context(), "UPDATE bucket SET standing = CASE bucket WHEN 5 THEN 'held' WHEN 6 THEN 'watched' ELSE 'away' END"); err != nil {
		t.Fatal(err)
	}
	for _, silent := range []bool{false, true} {
		if silent {
			_ = owner.Close()
		}
		view, err := shards.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := view.Buckets(owner); len(got) != db.Buckets-2 {
			t.Errorf("silent %v: the owner has %d buckets; %d are on a shard that was never added", silent, len(got), len(view.Buckets(fresh)))
		}
		if got := view.Buckets(source); !slices.Equal(got, []int{5, 6}) {
			t.Errorf("silent %v: the source of a move that has not switched has %v", silent, got)
		}
	}
	if err := shards.HomeOf(7).Read(t.Context()).Table("participant").Count(new(int64)).Error; err == nil {
		t.Error("a read of a silent shard found nobody, and no error")
	}
}
