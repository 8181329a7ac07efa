package db_test

import (
	"testing"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/testenv"
)

// BenchmarkTxInsert writes a batch as the processor does: a few reads, then 100 rows of 2.2 KB, in one transaction.
func BenchmarkTxInsert(b *testing.B) {
	for name, d := range testenv.Databases(b, "shard") {
		b.Run(name, func(b *testing.B) {
			id, sealed := int64(0), make([]byte, 2200)
			for b.Loop() {
				rows := make([][]any, 100)
				for i := range rows {
					id++
					rows[i] = spoolRow(id, "bench")
					rows[i][9] = sealed
				}
				err := d.Tx(b.Context(), func(tx *gorm.DB) error {
					var found []int64
					if err := tx.Table("spool").Where("id = ?", id).Pluck("id", &found).Error; err != nil {
						return err
					}
					return db.Insert(tx, "spool", spool, rows)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(id)/b.Elapsed().Seconds(), "rows/s")
			if err := d.Tx(b.Context(), func(tx *gorm.DB) error { return tx.Exec("DELETE FROM spool").Error }); err != nil {
				b.Fatal(err)
			}
		})
	}
}
