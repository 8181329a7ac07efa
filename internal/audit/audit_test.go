package audit_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

// each runs a test on both sets of both dialects: studies are audited in one, participants in the other.
func each(t *testing.T, test func(t *testing.T, d *db.DB)) {
	for _, set := range []string{"meta", "shard"} {
		for name, d := range testenv.Databases(t, set) {
			t.Run(set+"/"+name, func(t *testing.T) { test(t, d) })
		}
	}
}

func entry(id int64) audit.Entry {
	return audit.Entry{
		ID: id, At: time.UnixMicro(1_790_000_000_123_456 + id).UTC(), Zone: "Europe/Paris", ActorKind: "staff", Actor: 5, Action: "participant.update",
		Record: "participant", RecordID: 40 + id%2, Study: 7 + id%3, Participant: 40 + id%2,
		Old: []byte(`{"zone":"UTC"}`), New: []byte(`{"zone":"Europe/Paris"}`), Reason: "moved – déménagé", Source: "req-1",
	}
}

func add(t *testing.T, d *db.DB, entries ...audit.Entry) {
	t.Helper()
	if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return audit.Append(tx, entries...) }); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, d *db.DB, f audit.Filter) []audit.Entry {
	t.Helper()
	found, err := audit.List(t.Context(), d, f)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func ids(entries []audit.Entry) []int64 {
	out := []int64{}
	for _, e := range entries {
		out = append(out, e.ID)
	}
	return out
}

func TestEntriesComeBackWhole(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		created, removed := entry(2), entry(3)
		created.Old, removed.New = nil, nil // nothing was there before, nothing is there after
		add(t, d, entry(1), created, removed)
		if diff := cmp.Diff([]audit.Entry{removed, created, entry(1)}, list(t, d, audit.Filter{})); diff != "" {
			t.Error(diff)
		}
	})
}

func TestEntriesStandWithTheirTransaction(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		boom := errors.New("boom")
		if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return errors.Join(audit.Append(tx, entry(1)), boom) }); !errors.Is(err, boom) {
			t.Fatal(err)
		}
		if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return audit.Append(tx, entry(1), entry(1)) }); !db.IsDuplicate(err) {
			t.Errorf("an id twice: %v", err)
		}
		if found := list(t, d, audit.Filter{}); len(found) != 0 {
			t.Errorf("evidence of changes that did not happen: %v", ids(found))
		}
		add(t, d)
	})
}

func TestFilters(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		for id := range int64(9) {
			add(t, d, entry(id+1))
		}
		other := entry(10)
		other.Record = "study"
		add(t, d, other)
		for name, c := range map[string]struct {
			filter audit.Filter
			want   []int64
		}{
			"All":         {audit.Filter{}, []int64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}},
			"Study":       {audit.Filter{Study: 7}, []int64{9, 6, 3}},
			"Participant": {audit.Filter{Participant: 41}, []int64{9, 7, 5, 3, 1}},
			"Record":      {audit.Filter{Record: "study"}, []int64{10}},
			"RecordID":    {audit.Filter{Record: "participant", RecordID: 40}, []int64{8, 6, 4, 2}},
			"Both":        {audit.Filter{Study: 8, Participant: 40}, []int64{10, 4}},
			"Page":        {audit.Filter{Before: 6, Limit: 2}, []int64{5, 4}},
			"PageOfStudy": {audit.Filter{Study: 7, Before: 9, Limit: 1}, []int64{6}},
			"End":         {audit.Filter{Before: 1}, []int64{}},
			"Hostile":     {audit.Filter{Record: "x' OR 1=1 --"}, []int64{}},
			"OtherCase":   {audit.Filter{Record: "STUDY"}, []int64{}},
		} {
			if diff := cmp.Diff(c.want, ids(list(t, d, c.filter))); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	})
}

// TestPages walks through all entries by the last id seen, while new ones come in.
func TestPages(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		var entries []audit.Entry
		for id := range int64(250) {
			entries = append(entries, entry(id+1))
		}
		add(t, d, entries...)
		if n := len(list(t, d, audit.Filter{})); n != 100 {
			t.Errorf("a page without a limit has %d entries, want 100", n)
		}
		seen, before := 0, int64(0)
		for next := int64(1000); ; next++ {
			page := list(t, d, audit.Filter{Before: before, Limit: 40})
			if len(page) == 0 {
				break
			}
			seen, before = seen+len(page), page[len(page)-1].ID
			add(t, d, entry(next))
		}
		if seen != 250 {
			t.Errorf("%d entries on the way, want 250", seen)
		}
	})
}

func TestFailuresHaveKinds(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := audit.List(ended, d, audit.Filter{}); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("got %v, want Unavailable", err)
		}
		if d.Dialect == db.MySQL {
			long := entry(1)
			long.Reason = strings.Repeat("x", 1001)
			if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return audit.Append(tx, long) }); !db.IsRefused(err) {
				t.Errorf("a reason that does not fit must not be cut off: %v", err)
			}
		}
	})
}
