package audit

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/testenv"
)

func TestEntriesStandWithTheirTransaction(t *testing.T) {
	for dialect, d := range testenv.Databases(t, "meta") {
		t.Run(dialect, func(t *testing.T) {
			at := time.Date(2026, 11, 23, 20, 0, 0, 1000, time.UTC)
			var want []Entry
			for id := range int64(120) {
				e := Entry{ID: id + 1, At: at, Zone: "UTC", ActorKind: "staff", Actor: 5, Action: "study.update", Record: "study", RecordID: 9, Study: 9 + id%2, Old: []byte(`{"a":1}`), New: []byte(`{"a":2}`), Reason: "because", Source: "r"}
				if id == 0 {
					e.Old = nil
				}
				want = append(want, e)
			}
			if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return Append(tx, want...) }); err != nil {
				t.Fatal(err)
			}
			boom := errors.New("boom")
			err := d.Tx(t.Context(), func(tx *gorm.DB) error {
				if err := Append(tx, Entry{ID: 999}); err != nil {
					t.Error(err)
				}
				return boom
			})
			if !errors.Is(err, boom) {
				t.Fatal(err)
			}
			var got []Entry
			for before := int64(0); ; {
				page, err := List(t.Context(), d, Filter{Study: 9, Before: before, Limit: 25})
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, page...)
				if len(page) < 25 {
					break
				}
				before = page[len(page)-1].ID
			}
			if len(got) != 60 {
				t.Fatalf("%d entries, want 60", len(got))
			}
			if diff := cmp.Diff(want[0], got[59]); diff != "" {
				t.Error(diff)
			}
			if none, err := List(t.Context(), d, Filter{Record: "site"}); err != nil || len(none) != 0 {
				t.Errorf("%v %v", none, err)
			}
		})
	}
}
