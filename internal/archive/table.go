package archive

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/eprod/eprod/internal/db"
)

// link says which rows of a table belong to a study.
type link int

const (
	byStudy       link = iota // its column study_id names the study
	byParticipant             // its column participant_id names a participant of the study
)

// Table is a table of the shards that the archive carries.
type Table struct {
	Name        string
	participant string // column of the participant's id
	by          link
}

// Tables lists what the archive carries: every table of the shards that db.ShardTables calls data of a study. The participants come
// first, since others are found by way of them: so they are restored first and removed last. Columns and keys are read from the
// database, so neither a new column nor a new table needs a word here.
func Tables() []Table {
	var out []Table
	for _, t := range db.ShardTables() {
		if t.Kind == db.StudyData {
			out = append(out, tableOf(t))
		}
	}
	return out
}

func tableOf(t db.ShardTable) Table {
	if t.Study == "" {
		return Table{t.Name, t.Participant, byParticipant}
	}
	return Table{t.Name, t.Participant, byStudy}
}

// tableNamed returns the table of a name that an evidence file tells, which may be one that is not carried any more.
func tableNamed(name string) Table {
	for _, t := range db.ShardTables() {
		if t.Name == name {
			return tableOf(t)
		}
	}
	return Table{Name: name, participant: "participant_id"}
}

// stays are the tables of passing things whose rows outlive the participants': what came too late for the locked study can still be
// taken in when it is restored and unlocked.
const stays = "late_record"

// forgotten are the tables of passing things, such as sessions: their rows are removed without having been carried.
func forgotten() []db.ShardTable {
	return slices.DeleteFunc(db.ShardTables(), func(t db.ShardTable) bool { return t.Kind != db.Passing || t.Name == stays || t.Study == "" })
}

// CheckTables returns what is wrong when the list of tables is held against those of a shard, with the names of their columns. The
// words say what to do.
func CheckTables(schema map[string][]string) []string {
	var problems []string
	listed := make(map[string]bool)
	for _, t := range db.ShardTables() {
		listed[t.Name] = true
		columns, there := schema[t.Name]
		switch {
		case !there:
			problems = append(problems, fmt.Sprintf("table %s is listed in db.ShardTables and is not on the shards: migrate them", t.Name))
		case t.Kind == db.StudyData && t.Study != "" && !slices.Contains(columns, "study_id"):
			problems = append(problems, fmt.Sprintf("table %s has no column study_id: say so in db.ShardTables", t.Name))
		case t.Kind == db.StudyData && (t.Participant == "" || !slices.Contains(columns, t.Participant)):
			problems = append(problems, fmt.Sprintf("table %s does not say whose its rows are: data of a study need a column participant_id, since a row without does not tell on which shard it belongs", t.Name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(schema)) {
		if listed[name] || ofTools(name) {
			continue
		}
		problems = append(problems, fmt.Sprintf("table %s of the shards is in no list, so the archive would leave its rows behind: add it to ShardTables in internal/db/tables.go, as StudyData if it "+
			"holds rows of a study (the archive then carries it, and nothing else is to do), else as Passing (removed with the study) or Local (stays)", name))
	}
	return problems
}

// ofTools reports whether a table belongs to a tool: migrations, or the database itself.
func ofTools(name string) bool {
	return strings.HasPrefix(name, "goose_") || strings.HasPrefix(name, "sqlite_")
}
