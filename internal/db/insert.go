package db

import (
	"strings"
	"time"

	"gorm.io/gorm"
)

// insertSizes are the row counts that get a prepared statement of their own. Any number of rows up to a hundred is cut into at most three of
// these, mostly two, because what a statement costs beside its rows is paid by the batch; and a connection keeps twenty texts per table
// instead of a hundred.
var insertSizes = [...]int{100, 90, 80, 72, 64, 56, 48, 40, 32, 24, 16, 12, 8, 7, 6, 5, 4, 3, 2, 1}

// Insert writes rows into table with plain multi-row INSERT statements inside tx: every row or none, once the transaction
// commits. Each row has one value per column, in that order. A row that breaks a unique key makes the whole call fail with
// an error that IsDuplicate recognises: nothing is ignored silently. Table and columns are code, never input.
func Insert(tx *gorm.DB, table string, columns []string, rows [][]any) error {
	return insert(tx, table, columns, rows, "")
}

// InsertNew is Insert for rows that may be there already: those whose primary key exists are left as they are. Only the primary
// key may be in the way; what breaks another unique key is lost on SQLite, and so tables with one must not use it.
func InsertNew(tx *gorm.DB, table string, columns []string, rows [][]any) error {
	if Dialect(tx.Name()) == MySQL {
		return insert(tx, table, columns, rows, " ON DUPLICATE KEY UPDATE "+columns[0]+"="+columns[0])
	}
	return insert(tx, table, columns, rows, " ON CONFLICT DO NOTHING")
}

func insert(tx *gorm.DB, table string, columns []string, rows [][]any, onConflict string) error {
	args := make([]any, 0, min(len(rows), insertSizes[0])*len(columns))
	for len(rows) > 0 {
		n := insertSize(len(rows))
		args = args[:0]
		for _, row := range rows[:n] {
			args = append(args, row...)
		}
		if err := exec(tx, insertSQL(table, columns, n)+onConflict, args); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// exec does what gorm's Exec does with a finished statement, but gorm would read it byte by byte for named values and copy
// every argument.
func exec(tx *gorm.DB, statement string, args []any) error {
	began := time.Now()
	result, err := tx.Statement.ConnPool.ExecContext(tx.Statement.Context, statement, args...)
	tx.Logger.Trace(tx.Statement.Context, began, func() (string, int64) {
		if result == nil {
			return "", 0
		}
		n, _ := result.RowsAffected()
		return "", n
	}, err)
	if translator, ok := tx.Dialector.(gorm.ErrorTranslator); ok && err != nil {
		return translator.Translate(err)
	}
	return err
}

func insertSize(rows int) int {
	for _, n := range insertSizes {
		if n <= rows {
			return n
		}
	}
	return 1
}

func insertSQL(table string, columns []string, rows int) string {
	var b strings.Builder
	one := "(?" + strings.Repeat(",?", len(columns)-1) + ")"
	b.Grow(len(table) + len(columns)*16 + rows*(len(one)+1) + 32)
	b.WriteString("INSERT INTO ")
	b.WriteString(table)
	b.WriteString(" (")
	b.WriteString(strings.Join(columns, ","))
	b.WriteString(") VALUES ")
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(one)
	}
	return b.String()
}
