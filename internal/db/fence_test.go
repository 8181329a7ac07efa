package db_test

import (
	"testing"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// TestFence: a holder writes until another has raised the fence, and never again.
func TestFence(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		do := func(fn func(tx *gorm.DB) error) error { return d.Tx(t.Context(), fn) }
		err := do(func(tx *gorm.DB) error {
			if err := tx.Exec("CREATE TABLE thing (id BIGINT NOT NULL PRIMARY KEY, value BIGINT NOT NULL, fence BIGINT NOT NULL)").Error; err != nil {
				return err
			}
			return db.Insert(tx, "thing", []string{"id", "value", "fence"}, [][]any{{1, 0, 0}, {2, 0, 0}})
		})
		if err != nil {
			t.Fatal(err)
		}
		raise := func(id, token int64) error {
			return do(func(tx *gorm.DB) error { return db.RaiseFence(tx.Table("thing").Where("id = ?", id), token) })
		}
		write := func(id, token, value int64) error {
			return do(func(tx *gorm.DB) error {
				return db.Fenced(tx.Table("thing").Where("id = ?", id), token, map[string]any{"value": value})
			})
		}
		for _, c := range []struct {
			what string
			err  error
			want bool
		}{
			{"write before the fence is raised", write(1, 5, 10), false},
			{"raise", raise(1, 5), true},
			{"raise again", raise(1, 5), true},
			{"write", write(1, 5, 11), true},
			{"write the same again", write(1, 5, 11), true},
			{"write zero", write(1, 5, 0), true},
			{"the next holder", raise(1, 6), true},
			{"the old one writes", write(1, 5, 13), false},
			{"the old one raises", raise(1, 5), false},
			{"the next writes", write(1, 6, 14), true},
			{"no such row", raise(3, 9), false},
			{"no such row to write", write(3, 9, 9), false},
		} {
			if (c.err == nil) != c.want || c.err != nil && errs.KindOf(c.err) != errs.Stale {
				t.Errorf("%s: %v", c.what, c.err)
			}
		}
		var values []int64
		if err := d.Read(t.Context()).Table("thing").Order("id").Pluck("value", &values).Error; err != nil || len(values) != 2 || values[0] != 14 || values[1] != 0 {
			t.Errorf("values %v: %v", values, err)
		}
		gone := do(func(tx *gorm.DB) error { return db.RaiseFence(tx.Table("nothing"), 1) })
		if gone == nil || errs.KindOf(gone) == errs.Stale {
			t.Errorf("a table that is missing: %v", gone)
		}
	})
}
