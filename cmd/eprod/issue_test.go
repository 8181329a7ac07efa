package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/task"
)

// testGenerators amends the schedule again and again while both processors are killed at any moment. In the end every task that
// the engine names has its row, once and as it says, and nothing else is issued.
func testGenerators(t *testing.T, d *deployment, tr *trial, v *verifier, processors []*process) {
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	path := "/api/v1/studies/" + tr.study + "/schedule"
	var design struct {
		Rules []map[string]any `json:"rules"`
	}
	if err := json.Unmarshal(tr.staff.must(t, 200, "GET", path, nil).Raw, &design); err != nil {
		t.Fatal(err)
	}
	for round := range 5 {
		design.Rules = append(design.Rules, map[string]any{"id": fmt.Sprint("amended-", round), "questionnaire": tr.canonical, "anchor": "enrolment", "offset": "P28D",
			"repeat": map[string]any{"every": "P1D", "count": 10}, "windows": []any{map[string]string{"opens": "06:00", "due": "12:00", "closes": fmt.Sprintf("2%d:30", round%4)}}})
		if round%2 == 1 {
			design.Rules = append(design.Rules[:len(design.Rules)-3], design.Rules[len(design.Rules)-2:]...) // an earlier amendment is taken back
		}
		tr.staff.must(t, 200, "PUT", path, design)
		if err := pause(t.Context(), time.Duration(random.IntN(2500))*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		for i := range processors {
			_ = processors[i].cmd.Process.Kill()
			<-processors[i].exited
			processors[i] = d.start("processor")
		}
	}
	began := time.Now()
	eventually(t, 2*time.Minute, func() string { return v.issued(t) })
	t.Logf("%d participants: rows as the engine says %v after the last kill", len(tr.people), time.Since(began).Round(time.Millisecond))
}

// issued holds the rows of tasks against the engine, and returns the first difference.
func (v *verifier) issued(t *testing.T) string {
	t.Helper()
	plan := v.plan(t)
	until := time.Now().Add(task.DefaultGeneratorConfig().Horizon - task.DefaultGeneratorConfig().Step)
	engine := task.NewEngine()
	for _, shard := range v.shards {
		rows, err := shard.QueryContext(t.Context(), "SELECT t.participant_id, t.id, t.state, t.opens_at, t.closes_at, t.schedule_version FROM task t WHERE t.study_id = ?", v.trial.study)
		if err != nil {
			t.Fatal(err)
		}
		type row struct {
			state                  string
			opens, closes, version int64
		}
		kept := map[task.Key]row{}
		for rows.Next() {
			var key task.Key
			var r row
			if err := rows.Scan(&key.Participant, &key.Task, &r.state, &r.opens, &r.closes, &r.version); err != nil {
				t.Fatal(err)
			}
			kept[key] = r
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		for _, p := range v.persons(t, shard) {
			for _, one := range engine.Generate(plan, p, time.Now().AddDate(-1, 0, 0), until) {
				key := task.Key{Participant: p.ID, Task: one.ID}
				want := row{"issued", one.OpensAt.UnixMicro(), one.ClosesAt.UnixMicro(), one.ScheduleVersion}
				if got := kept[key]; got != want {
					return fmt.Sprintf("%s of %s on %d is %+v, want %+v", one.Rule, one.Date, p.ID, got, want)
				}
				delete(kept, key)
			}
		}
		for key, r := range kept {
			if r.state == "issued" && r.opens < until.UnixMicro() {
				return fmt.Sprintf("%v is %+v and not due", key, r)
			}
		}
	}
	return ""
}

// persons reads the participants of a shard, who have neither moved nor changed since they were enrolled.
func (v *verifier) persons(t *testing.T, shard *sql.DB) []task.Person {
	t.Helper()
	rows, err := shard.QueryContext(t.Context(), "SELECT id, zone, anchors FROM participant WHERE study_id = ?", v.trial.study)
	if err != nil {
		t.Fatal(err)
	}
	study, err := strconv.ParseInt(v.trial.study, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var out []task.Person
	for rows.Next() {
		var zone, anchors string
		p := task.Person{Study: study, Arm: "A"}
		if err := rows.Scan(&p.ID, &zone, &anchors); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(anchors), &p.Anchors); err != nil {
			t.Fatal(err)
		}
		p.Zones = []task.ZoneChange{{Zone: zone}}
		out = append(out, p)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// plan compiles the versions that the product shows.
func (v *verifier) plan(t *testing.T) task.Plan {
	t.Helper()
	var list struct {
		Items []struct {
			Version     int64
			Rules       []task.Rule
			EffectiveAt time.Time
		}
	}
	if err := json.Unmarshal(v.trial.staff.must(t, 200, "GET", "/api/v1/studies/"+v.trial.study+"/schedule/versions", nil).Raw, &list); err != nil {
		t.Fatal(err)
	}
	var plan task.Plan
	for _, item := range list.Items {
		s, findings := task.NewSchedule(item.Version, task.Design{Rules: item.Rules}, task.Known{})
		if len(findings) > 0 {
			t.Fatal(findings)
		}
		s.From = item.EffectiveAt
		plan = append(plan, s)
	}
	return plan
}
