package db_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/db"
)

// TestEveryTableIsListed: a table that a migration adds must be described, or its rows would stay behind when a study is locked or
// archived, or a participant moves.
func TestEveryTableIsListed(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		there := schema(t, d)
		for _, described := range db.ShardTables() {
			columns, ok := there[described.Name]
			if !ok {
				t.Errorf("%s is described in tables.go, but no table of the shards", described.Name)
				continue
			}
			delete(there, described.Name)
			var key []string
			names := make([]string, 0, len(columns))
			for _, c := range columns {
				names = append(names, c.Name)
			}
			for place := 1; place <= len(columns); place++ {
				for _, c := range columns {
					if c.Place == place {
						key = append(key, c.Name)
					}
				}
			}
			if diff := cmp.Diff(key, described.Key); diff != "" {
				t.Errorf("primary key of %s: %s", described.Name, diff)
			}
			study := slices.Contains(names, "study_id")
			if described.Study != "" != study {
				t.Errorf("%s: column of the study is %q; study_id is there: %v", described.Name, described.Study, study)
			}
			if described.Participant != "" && !slices.Contains(names, described.Participant) {
				t.Errorf("%s has no column %s", described.Name, described.Participant)
			}
			if slices.Contains(names, "participant_id") && described.Participant != "participant_id" {
				t.Errorf("%s: column of the participant is %q, must be participant_id", described.Name, described.Participant)
			}
		}
		for name := range there {
			t.Errorf("add %s to ShardTables in internal/db/tables.go: as StudyData if it is part of what a study's answers mean, else as Passing or Local", name)
		}
	})
}

type tableColumn struct {
	Name  string
	Place int // in the primary key, from 1; 0: not in it
}

func schema(t *testing.T, d *db.DB) map[string][]tableColumn {
	t.Helper()
	query := "SELECT c.TABLE_NAME, c.COLUMN_NAME, COALESCE(k.ORDINAL_POSITION, 0) FROM information_schema.COLUMNS c " +
		"LEFT JOIN information_schema.KEY_COLUMN_USAGE k ON k.TABLE_SCHEMA = c.TABLE_SCHEMA AND k.TABLE_NAME = c.TABLE_NAME AND k.COLUMN_NAME = c.COLUMN_NAME AND k.CONSTRAINT_NAME = 'PRIMARY' " +
		"WHERE c.TABLE_SCHEMA = DATABASE() ORDER BY c.TABLE_NAME, c.ORDINAL_POSITION"
	if d.Dialect == db.SQLite {
		query = "SELECT m.name, c.name, c.pk FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY m.name, c.cid"
	}
	rows, err := d.Pool().QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := make(map[string][]tableColumn)
	for rows.Next() {
		var table string
		var c tableColumn
		if err := rows.Scan(&table, &c.Name, &c.Place); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(table, "goose") { // the migrations' own
			out[table] = append(out[table], c)
		}
	}
	if err := rows.Err(); err != nil || len(out) == 0 {
		t.Fatal(fmt.Errorf("%d tables: %w", len(out), err))
	}
	return out
}
