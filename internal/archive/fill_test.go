package archive

import (
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/testenv"
)

// fill writes a study with rows in every table of the shards that holds data of studies, whatever tables there are.
func (r *rig) fill(t *testing.T, study int64, participants, responses int) {
	t.Helper()
	dice := mathrand.New(mathrand.NewPCG(uint64(study), 1))
	next := testenv.IDs()
	at := db.Micros(time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC))
	err := r.meta.Tx(t.Context(), func(tx *gorm.DB) error {
		return tx.Exec("INSERT INTO study (id, protocol, title, zone, status, languages, participant_pin, version, schedule_version, revision, created_at) VALUES (?, ?, 't', 'UTC', 'locked', 'en', 'optional', 3, 1, 1, 0)",
			study, fmt.Sprint("P-", study)).Error
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[*db.DB]map[string][][]any)
	shapes := make(map[*db.DB][]*shape)
	for _, d := range r.shards.All() {
		rows[d] = make(map[string][][]any)
		if shapes[d], err = shapesOf(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	for p := range participants {
		id := next()
		shard := r.shards.For(id)
		wrapped, err := r.keys.NewDataKey(id)
		if err != nil {
			t.Fatal(err)
		}
		key, err := r.keys.DataKey(id, wrapped)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range shapes[shard] {
			n := 2
			switch {
			case s.table.Name == "response":
				n = responses
			case len(s.key) == 1 && s.columns[s.key[0]].name == s.table.participant:
				n = 1
			}
			for i := range n {
				values := synthetic(s, dice, study, id, next(), int64(i))
				if s.table.Name == "participant" {
					values[s.place("data_key")] = wrapped
				}
				if s.table.Name == "response" {
					answered(t, s, values, key, r.keys, p, i, at)
				}
				rows[shard][s.table.Name] = append(rows[shard][s.table.Name], values)
			}
		}
	}
	for d, tables := range rows {
		for _, s := range shapes[d] {
			for chunk := range slices.Chunk(tables[s.table.Name], 2000) {
				if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return db.Insert(tx, s.table.Name, s.names(), chunk) }); err != nil {
					t.Fatalf("%s: %v", s.table.Name, err)
				}
			}
		}
	}
}

// synthetic makes values for any table.
func synthetic(s *shape, dice *mathrand.Rand, study, participant, id, n int64) []any {
	values := make([]any, len(s.columns))
	for i, c := range s.columns {
		switch {
		case c.name == s.table.participant:
			values[i] = participant
		case c.name == "study_id":
			values[i] = study
		case c.name == "bucket":
			values[i] = int64(db.Bucket(participant))
		case c.name == "id":
			values[i] = id
		case c.kind == ofInt && slices.Contains(s.key, i):
			values[i] = n
		case c.kind == ofInt && strings.HasSuffix(c.name, "_id"):
			values[i] = dice.Int64N(1 << 50)
		case c.kind == ofInt:
			values[i] = dice.Int64N(2)
		case c.kind == ofFloat:
			values[i] = dice.Float64()
		case c.kind == ofText:
			values[i] = strconv.FormatInt(id%100_000_000+n, 36)
		case c.name == "old_value":
			values[i] = nil
		case c.name == "submission":
			u := uuid.New()
			values[i] = u[:]
		default:
			b := make([]byte, 32)
			for j := range b {
				b[j] = byte(dice.IntN(256))
			}
			values[i] = b
		}
	}
	return values
}

// answered puts a real response into a row; each tenth was sealed by the door, and one in fifty opens with no key.
func answered(t *testing.T, s *shape, values []any, key *keyring.DataKey, ring *keyring.Keyring, p, i int, at int64) {
	t.Helper()
	url := diary
	if i%7 == 3 {
		url = monthly
	}
	received := at + int64(i)*int64(30*time.Hour/time.Microsecond) + int64(p)*1000
	values[s.place("questionnaire")], values[s.place("version")], values[s.place("status")] = url, "1.0.0", "completed"
	values[s.place("authored")], values[s.place("zone")] = "2026-01-05T21:00:00+08:00", "Asia/Shanghai"
	values[s.place("received_at")], values[s.place("stored_at")] = received, received+5
	values[s.place("sealed_key")] = int64(submission.KeyParticipant)
	record := responseRow(s, values)
	var sealer submission.Cipher = key
	if i%10 == 9 {
		sealer, values[s.place("sealed_key")] = ring.Intake(), int64(submission.KeyIntake)
	}
	if err := record.Seal(sealer, []byte(answerBody(p, i))); err != nil {
		t.Fatal(err)
	}
	values[s.place("sealed")] = record.Sealed
	if p%50 == 49 && i == 0 {
		values[s.place("sealed")] = []byte("nobody can open this, whatever it was")
	}
}

const secretNote = "I live at 5 Canary Lane, call me"

func answerBody(p, i int) string {
	return fmt.Sprintf(`{"resourceType":"QuestionnaireResponse","status":"completed","authored":"2026-01-05T21:00:00+08:00","item":[
{"linkId":"pain","answer":[{"valueInteger":%d}]},{"linkId":"sleep","answer":[{"valueDecimal":7.50}]},{"linkId":"took","answer":[{"valueBoolean":%v}]},
{"linkId":"nausea","answer":[{"valueCoding":{"system":"https://example.org/c","code":"none","display":"Canary display"}}]},
{"linkId":"other","answer":[{"valueCoding":{"system":"https://example.org/c","code":"rash"}},{"valueString":"%s"}]},
{"linkId":"when","answer":[{"valueDateTime":"2026-01-05T20:00:00Z"}]},{"linkId":"note","answer":[{"valueString":"%s %d"}]}]}`,
		(p+i)%11, p%2 == 0, secretNote, secretNote, p)
}

const answersEach = 8 // of answerBody
