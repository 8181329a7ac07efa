package archive

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
)

// schemaColumn is one column of a table, with its place in the primary key and in the index that begins with the study.
type schemaColumn struct {
	Tab, Name, Class string
	Pk               int // from 1; 0: not in it
}

const mysqlColumns = `SELECT c.TABLE_NAME AS tab, c.COLUMN_NAME AS name, c.DATA_TYPE AS class, COALESCE(s.SEQ_IN_INDEX, 0) AS pk
FROM information_schema.COLUMNS c LEFT JOIN information_schema.STATISTICS s
ON s.TABLE_SCHEMA = c.TABLE_SCHEMA AND s.TABLE_NAME = c.TABLE_NAME AND s.COLUMN_NAME = c.COLUMN_NAME AND s.INDEX_NAME = 'PRIMARY'
WHERE c.TABLE_SCHEMA = DATABASE() AND ? = 1`

const sqliteColumns = `SELECT m.name AS tab, c.name AS name, c.type AS class, c.pk AS pk
FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND ? = 1`

const mysqlIndexes = `SELECT TABLE_NAME AS tab, INDEX_NAME AS name, COLUMN_NAME AS class, SEQ_IN_INDEX AS pk
FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND ? = 1`

const sqliteIndexes = `SELECT m.name AS tab, l.name AS name, i.name AS class, i.seqno + 1 AS pk
FROM sqlite_master m JOIN pragma_index_list(m.name) l JOIN pragma_index_info(l.name) i WHERE m.type = 'table' AND ? = 1`

// schemaOf reads all tables of a shard.
func schemaOf(ctx context.Context, d *db.DB) (columns, indexes []schemaColumn, err error) {
	c, i := sqliteColumns, sqliteIndexes
	if d.Dialect == db.MySQL {
		c, i = mysqlColumns, mysqlIndexes
	}
	if err = d.Read(ctx).Raw(c, 1).Scan(&columns).Error; err == nil { // with an argument, so that numbers come as numbers
		err = d.Read(ctx).Raw(i, 1).Scan(&indexes).Error
	}
	return columns, indexes, db.Error("schema", err)
}

// ColumnsOf returns the columns' names of every table of a database, by table.
func ColumnsOf(ctx context.Context, d *db.DB) (map[string][]string, error) {
	columns, _, err := schemaOf(ctx, d)
	out := make(map[string][]string)
	for _, c := range columns {
		out[c.Tab] = append(out[c.Tab], c.Name)
	}
	return out, err
}

// shapesOf returns the shapes of the tables that the archive carries, in the order of Tables. It fails where a table is unknown to
// the lists, so that nothing is left behind by a schema that is ahead of this program.
func shapesOf(ctx context.Context, d *db.DB) ([]*shape, error) {
	columns, indexes, err := schemaOf(ctx, d)
	if err != nil {
		return nil, err
	}
	tables := make(map[string][]string)
	for _, c := range columns {
		tables[c.Tab] = append(tables[c.Tab], c.Name)
	}
	if problems := CheckTables(tables); len(problems) > 0 {
		return nil, fmt.Errorf("shard %s: %s", d.Name, strings.Join(problems, "; "))
	}
	var out []*shape
	for _, t := range Tables() {
		s, err := shapeOf(t, columns)
		if err != nil {
			return nil, fmt.Errorf("shard %s: %w", d.Name, err)
		}
		s.indexed = walks(s, indexes)
		out = append(out, s)
	}
	return out, nil
}

func shapeOf(t Table, all []schemaColumn) (*shape, error) {
	var own []schemaColumn
	for _, c := range all {
		if c.Tab == t.Name {
			own = append(own, c)
		}
	}
	slices.SortFunc(own, func(a, b schemaColumn) int { return strings.Compare(a.Name, b.Name) })
	s := &shape{table: t}
	for _, c := range own {
		k, err := kindOf(c.Class)
		if err != nil {
			return nil, fmt.Errorf("column %s of table %s: %w", c.Name, t.Name, err)
		}
		s.columns = append(s.columns, column{c.Name, k})
	}
	for i, c := range own {
		if c.Pk > 0 {
			s.key = append(s.key, i)
		}
	}
	slices.SortFunc(s.key, func(a, b int) int { return cmp.Compare(own[a].Pk, own[b].Pk) })
	if len(s.key) == 0 {
		return nil, fmt.Errorf("table %s has no primary key: rows without one cannot be archived", t.Name)
	}
	return s, nil
}

// kindOf maps a column's type to what its values are.
func kindOf(class string) (kind, error) {
	class, _, _ = strings.Cut(strings.ToLower(class), "(")
	switch class {
	case "integer", "bigint", "int", "smallint", "tinyint", "mediumint":
		return ofInt, nil
	case "text", "varchar", "char", "mediumtext", "longtext":
		return ofText, nil
	case "blob", "binary", "varbinary", "mediumblob", "longblob", "tinyblob":
		return ofBytes, nil
	case "real", "double":
		return ofFloat, nil
	default:
		return 0, fmt.Errorf("the type %s cannot be archived; see kindOf in internal/archive/store_schema.go", class)
	}
}

// walks reports whether an index begins with the study and goes on with the key: on InnoDB and SQLite it then gives a study's rows
// in the order of the key.
func walks(s *shape, indexes []schemaColumn) bool {
	if s.table.by != byStudy {
		return true
	}
	want := []string{"study_id"}
	for _, k := range s.key {
		if name := s.columns[k].name; name != "study_id" {
			want = append(want, name)
		}
	}
	found := make(map[string]int)
	for _, i := range indexes {
		if i.Tab == s.table.Name && i.Pk >= 1 && i.Pk <= len(want) && want[i.Pk-1] == i.Class {
			found[i.Name]++
		}
	}
	for _, n := range found {
		if n == len(want) {
			return true
		}
	}
	// The primary key itself: SQLite lists no index for an integer key, but then study_id is not its first column.
	return s.columns[s.key[0]].name == "study_id"
}

// where is a condition with its values.
type where struct {
	sql  string
	args []any
}

// and joins conditions.
func and(conditions ...where) where {
	var all where
	for _, c := range conditions {
		if c.sql == "" {
			continue
		}
		if all.sql != "" {
			all.sql += " AND "
		}
		all.sql += c.sql
		all.args = append(all.args, c.args...)
	}
	return all
}

// beyond is what lies after (or, with upTo, at or before) a place in the order of some columns. The first column stands there
// once more by itself, because MySQL finds no range in the rest.
func beyond(names []string, at []any, upTo bool) where {
	if at == nil {
		return where{}
	}
	strict, last, first := ">", ">", ">="
	if upTo {
		strict, last, first = "<", "<=", "<="
	}
	w := where{sql: names[0] + " " + first + " ? AND (", args: []any{at[0]}}
	for i, name := range names {
		if i == len(names)-1 {
			w.sql += name + " " + last + " ?"
			w.args = append(w.args, at[i])
			break
		}
		w.sql += name + " " + strict + " ? OR (" + name + " = ? AND ("
		w.args = append(w.args, at[i], at[i])
	}
	w.sql += strings.Repeat("))", len(names)-1) + ")"
	return w
}

// among is the rows of exactly these keys. The list is filled up to one of few lengths, so that few statements are prepared.
func among(dialect string, s *shape, rows []row) where {
	size := 1
	for size < len(rows) {
		size *= 4
	}
	size = min(size, max(len(rows), maxKeys))
	names := make([]string, len(s.key))
	for i, k := range s.key {
		names[i] = s.columns[k].name
	}
	one, list := "(?"+strings.Repeat(",?", len(names)-1)+")", "("
	switch {
	case len(names) == 1:
		one = "?"
	case dialect == string(db.SQLite):
		list = "(VALUES "
	}
	w := where{sql: "(" + strings.Join(names, ", ") + ") IN " + list + one + strings.Repeat(","+one, size-1) + ")"}
	for i := range size {
		r := rows[min(i, len(rows)-1)]
		for _, k := range s.key {
			w.args = append(w.args, r[k])
		}
	}
	return w
}

const maxKeys = 1000 // of one statement: as many as a block may have rows

// selectRows runs a statement that returns the columns of a shape and reads at most limit rows.
func selectRows(tx *gorm.DB, s *shape, statement string, args []any) ([]row, error) {
	rows, err := tx.Raw(statement, args...).Rows()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []row
	values, into := make([]any, len(s.columns)), make([]any, len(s.columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		r := make(row, len(values))
		for i, v := range values {
			if r[i], err = ofKind(s.columns[i].kind, v); err != nil {
				return nil, fmt.Errorf("column %s of table %s: %w", s.columns[i].name, s.table.Name, err)
			}
		}
		out = append(out, r)
	}
	return out, rows.Err()
}
