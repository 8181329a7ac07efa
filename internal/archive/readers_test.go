package archive

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/testenv"
)

// expected is what any reader must find in the archive of a study that fill made.
type expected struct {
	Responses, Opened, Answers, Withheld, Pain, Slept, Took, Coded int64
	Months                                                         map[string]int64
	Partitions                                                     int64
}

func expect(participants, responses int) expected {
	e := expected{Months: make(map[string]int64)}
	partitions := make(map[string]bool)
	at := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	for p := range participants {
		for i := range responses {
			month := at.Add(time.Duration(i)*30*time.Hour + time.Duration(p)*time.Millisecond).Format("2006-01")
			e.Responses++
			e.Months[month]++
			partitions[month+fmt.Sprint(i%7 == 3)] = true
			if p%50 == 49 && i == 0 {
				continue // nobody can open it
			}
			e.Opened++
			e.Answers += answersEach
			e.Pain += int64((p + i) % 11)
			e.Slept++
			if p%2 == 0 {
				e.Took++
			}
			e.Withheld += 2
			if i%7 == 3 {
				e.Withheld += 2 // of the other questionnaire no version is known, so its codes are withheld as well
			} else {
				e.Coded += 2
			}
		}
	}
	e.Partitions = int64(len(partitions))
	return e
}

// script runs one of the scripts and reads the JSON of its last line.
func script(t *testing.T, tool, name string, into any, args ...string) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, tool), append([]string{path}, args...)...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	cmd.Dir = t.TempDir() // some tools leave logs where they are started
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, tail(problems.String()))
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), into); err != nil {
		t.Fatalf("%s: %v in %s", name, err, out.String())
	}
}

func tail(s string) string { return s[max(0, len(s)-3000):] }

// TestDuckDBReads: a tool that knows nothing of eprod reads the partitions, the types and every value, and no text of a person.
func TestDuckDBReads(t *testing.T) {
	const participants, responses = 60, 20
	r := newRig(t, "sqlite")
	r.place.Config = DefaultConfig()
	r.build(t)
	r.fill(t, ours, participants, responses)
	r.close(t, ours)
	r.move(t, Out)
	checkDuckDB(t, r, expect(participants, responses))
}

func checkDuckDB(t *testing.T, r *rig, want expected) {
	t.Helper()
	var got struct {
		expected
		Promised, Keys, Texts, Questionnaires, WrongMonth, Joined int64
		Types                                                     map[string]string
	}
	script(t, "duckdb", "duckdb_read.py", &got, r.place.Dir, fmt.Sprint(ours))
	got.Partitions = want.Partitions // DuckDB is not asked
	if diff := cmp.Diff(want, got.expected); diff != "" {
		t.Error(diff)
	}
	if got.Promised != want.Answers || got.Keys != want.Answers || got.Joined != want.Answers || got.Texts != 0 || got.WrongMonth != 0 || got.Questionnaires != 2 {
		t.Errorf("%+v", got)
	}
	types := map[string]string{"response_id": "BIGINT", "position": "INTEGER", "value_boolean": "BOOLEAN", "value_number": "DOUBLE", "value_text": "VARCHAR",
		"received_at": "TIMESTAMP WITH TIME ZONE", "authored_at": "TIMESTAMP WITH TIME ZONE", "study": "BIGINT", "questionnaire": "VARCHAR", "month": "VARCHAR"}
	for column, kind := range types {
		if got.Types[column] != kind {
			t.Errorf("%s is %s, want %s", column, got.Types[column], kind)
		}
	}
}

func long(t *testing.T) {
	t.Helper()
	if !testenv.Long() {
		t.Skip("left out: PySpark and ClickHouse's engine as readers. To have it: make test-long")
	}
}

// TestSparkReads: the answers as an external table of Hive.
func TestSparkReads(t *testing.T) {
	long(t)
	const participants, responses = 500, 40
	r := newRig(t, "sqlite")
	r.place.Config = DefaultConfig()
	r.build(t)
	r.fill(t, ours, participants, responses)
	r.close(t, ours)
	r.move(t, Out)
	checkSpark(t, r, expect(participants, responses))
}

func checkSpark(t *testing.T, r *rig, want expected) {
	t.Helper()
	var got struct{ Answers, Withheld, Opened, Pain, Coded, WrongMonth, Partitions int64 }
	script(t, "pyspark", "spark_read.py", &got, r.place.Dir, t.TempDir())
	if got.Answers != want.Answers || got.Withheld != want.Withheld || got.Opened != want.Opened || got.Pain != want.Pain || got.Coded != want.Coded || got.WrongMonth != 0 || got.Partitions != want.Partitions {
		t.Errorf("%+v, want %+v", got, want)
	}
	t.Logf("PySpark found %d answers of %d responses in %d partitions of an external table", got.Answers, got.Opened, got.Partitions)
}

// front starts ClickHouse's engine behind its HTTP interface and returns the address.
func front(t *testing.T, lose int) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "chdb"), filepath.Join("testdata", "clickhouse_front.py"), t.TempDir(), "loader", "secret", fmt.Sprint(lose))
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("ClickHouse: %s", tail(problems.String()))
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("ClickHouse's engine did not start: %v\n%s", err, tail(problems.String()))
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the process
	return "http://127.0.0.1:" + strings.TrimSpace(line)
}

// TestClickHouseLoads: the same files, loaded into the real engine by its HTTP interface, with a reply lost and a process killed after
// a load; counted there.
func TestClickHouseLoads(t *testing.T) {
	long(t)
	const participants, responses = 500, 40
	r := newRig(t, "sqlite")
	r.place.Config = DefaultConfig()
	r.place.Config.PartRows = 5000
	r.place.Click = front(t, 3)
	r.build(t)
	r.fill(t, ours, participants, responses)
	r.close(t, ours)
	before := r.sums(t, ours)

	began := time.Now()
	r.kill(t, Out, stop{"sent", 0})
	r.finished(t)
	checkClickHouse(t, r, expect(participants, responses))
	t.Logf("ClickHouse counted %d answers; archived in %v", expect(participants, responses).Answers, time.Since(began).Round(time.Millisecond))

	// Restored and archived once more: what was loaded makes room for what is.
	r.move(t, Back)
	if diff := cmp.Diff(before, r.sums(t, ours)); diff != "" {
		t.Error(diff)
	}
	r.move(t, Out)
	checkClickHouse(t, r, expect(participants, responses))
}

// finished drives what is left of a run.
func (r *rig) finished(t *testing.T) {
	t.Helper()
	for range 3 { // the lost reply ends one try
		if err := r.service.Drive(t.Context(), ours); err != nil {
			t.Logf("a try: %v", err)
			continue
		}
		return
	}
	t.Fatal("not archived after three tries")
}

func checkClickHouse(t *testing.T, r *rig, want expected) {
	t.Helper()
	c := r.service.ClickHouse
	months := make([]string, 0, len(want.Months))
	for month := range want.Months {
		months = append(months, "'"+month+"'")
	}
	for statement, count := range map[string]int64{
		"SELECT count() FROM eprod.eprod_answers":                                                                                    want.Answers,
		"SELECT count() FROM eprod.eprod_responses":                                                                                  want.Responses,
		"SELECT countIf(withheld) FROM eprod.eprod_answers":                                                                          want.Withheld,
		"SELECT toInt64(sumIf(value_number, link_id = 'pain')) FROM eprod.eprod_answers":                                             want.Pain,
		"SELECT uniqExact(response_id, position) FROM eprod.eprod_answers WHERE study_id = 1001":                                     want.Answers,
		"SELECT countIf(value_type = 'string' AND value_text IS NOT NULL) FROM eprod.eprod_answers":                                  0,
		"SELECT countIf(formatDateTime(received_at, '%Y-%m') NOT IN (" + strings.Join(months, ",") + ")) FROM eprod.eprod_responses": 0,
	} {
		got, err := c.exec(t.Context(), statement, nil, 0)
		if err != nil || got != fmt.Sprint(count) {
			t.Errorf("%s: %s, %v; want %d", statement, got, err, count)
		}
	}
}
