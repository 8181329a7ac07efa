package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestAssessor: a sponsor's model hangs and is then slow while patients submit. The front does not notice: no submission is refused, and
// what one costs stays what it was in the same run. Everything is stored meanwhile. Afterwards everything is assessed, once, and over any
// stretch of time no more has arrived at the model than two processors together may ask.
func TestAssessor(t *testing.T) {
	people, pace, rate, burst := 150, 50.0, 60.0, 10
	if os.Getenv("EPROD_TEST_LONG") != "" {
		people, pace, rate = 3600, 60, 100 // hung for a minute
	}
	model := newSponsorsModel(t)
	d := newDeployment(t)
	d.env = append(d.env, "EPROD_RISK__HTTP__URL="+model.url, "EPROD_RISK__HTTP__MODEL=sponsor", "EPROD_RISK__HTTP__VERSION=2.1", "EPROD_RISK__HTTP__TIMEOUT=1s",
		fmt.Sprintf("EPROD_RISK__RATE=%g", rate), fmt.Sprintf("EPROD_RISK__BURST=%d", burst), "EPROD_LIMITS__PROCESSES=2",
		"EPROD_LIMITS__BREAKER__CALL_TIMEOUT=2s") // a busy machine must not make the processes decide alone, each with its part of the rate
	api := d.start("api")
	d.start("processor")
	d.start("processor")
	tr := newTrialOf(t, d, scoredQuestionnaire(t), people, []string{"warm", "before", "hung", "slow"}, api.api)
	v := newVerifier(t, d, tr)
	path := "/api/v1/studies/" + tr.study + "/risk"
	set, err := tr.staff.doWith(t.Context(), 0, "PUT", path, tr.staff.token, []byte(`{"enabled":true,"model":"http"}`), map[string]string{"If-Match": `"0"`})
	if err != nil || set.Status != 200 {
		t.Fatalf("PUT %s: %d %s %v", path, set.Status, set.Raw, err)
	}

	rows := assessed{v}
	phase := func(rule string) (perSubmission time.Duration) {
		r := newRound(tr, rule)
		used := cpu(t, api.cmd.Process.Pid)
		took := r.paced(t, tr, pace)
		perSubmission = (cpu(t, api.cmd.Process.Pid) - used) / time.Duration(people)
		if n := r.retries.Load(); n > 0 {
			t.Errorf("%s: %d submissions were refused, at last with %v", rule, n, tr.refused.Load())
		}
		v.storedExactly(t, r)
		t.Logf("%s: %d submissions at %g/s cost the api %v each, p50 %.1f ms, p99 %.1f ms", rule, people, pace, perSubmission, took[people/2], took[people*99/100])
		return perSubmission
	}

	phase("warm")
	before := phase("before")
	rows.are(t, 2*people, time.Minute)
	model.mode(hangs)
	began := time.Now()
	hung := phase("hung")
	t.Logf("the model hung for %v; all is stored and %d assessments wait", time.Since(began).Round(time.Second), people)
	rows.are(t, 2*people, 0)
	model.mode(slow)
	slowly := phase("slow")
	model.mode(well)
	began = time.Now()
	rows.are(t, 4*people, time.Duration(float64(4*people)/rate+60)*time.Second)
	t.Logf("all were assessed %v after the model had come back", time.Since(began).Round(time.Millisecond))

	// What a submission costs is CPU, which a busy machine does not change much; of few submissions it is known to some 10 %.
	const noise = 500 * time.Microsecond
	if most := 2*before + noise; hung > most || slowly > most {
		t.Errorf("a submission cost the api %v while the model was well, %v while it hung and %v while it was slow", before, hung, slowly)
	}
	model.hold(t, rate, burst, 4*people)
}

// behaviour of a sponsor's model.
type behaviour int

const (
	well behaviour = iota
	hangs
	slow
)

// sponsorsModel is a model behind HTTP.
type sponsorsModel struct {
	url string

	mu       sync.Mutex
	is       behaviour
	arrivals []time.Time
}

func newSponsorsModel(t *testing.T) *sponsorsModel {
	m := &sponsorsModel{}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

func (m *sponsorsModel) mode(is behaviour) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.is = is
}

func (m *sponsorsModel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.arrivals = append(m.arrivals, time.Now())
	is := m.is
	m.mu.Unlock()
	_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the caller has left
	switch is {
	case hangs:
		<-r.Context().Done()
		return
	case slow:
		if pause(r.Context(), 500*time.Millisecond) != nil {
			return
		}
	}
	_, _ = io.WriteString(w, `{"model":"sponsor","version":"2.1","level":"low","probability":0.1,"reasons":["trend_up"]}`)
}

// hold holds the arrivals against burst + rate·t over any stretch of time.
func (m *sponsorsModel) hold(t *testing.T, rate float64, burst, least int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.arrivals) < least {
		t.Errorf("%d arrivals at the model for %d assessments", len(m.arrivals), least)
	}
	slices.SortFunc(m.arrivals, time.Time.Compare)
	// A busy machine delays calls after their tokens were given, and then they arrive together.
	const late = time.Second
	most, lowest := 0.0, 0.0
	for i, at := range m.arrivals {
		above := float64(i) - rate*at.Sub(m.arrivals[0]).Seconds()
		lowest = min(lowest, above)
		most = max(most, above-lowest+1)
	}
	t.Logf("%d arrivals at the model; over any time t at most %.0f + %g·t", len(m.arrivals), most, rate)
	if most > float64(burst)+rate*late.Seconds() {
		t.Errorf("up to %.0f + %g·t arrivals at the model, allowed are %d + %g·t", most, rate, burst, rate)
	}
}

// assessed looks at what is kept of a study's assessments.
type assessed struct{ *verifier }

// are waits until there is one good assessment of each of n submissions.
func (a assessed) are(t *testing.T, n int, limit time.Duration) {
	t.Helper()
	eventually(t, limit, func() string {
		rows, good, different := 0, 0, 0
		for _, shard := range a.shards {
			var x, y, z int
			err := shard.QueryRowContext(t.Context(), "SELECT COUNT(*), COALESCE(SUM(outcome = 'assessed'), 0), COUNT(DISTINCT participant_id, submission) FROM assessment WHERE study_id = ?", a.trial.study).Scan(&x, &y, &z)
			if err != nil {
				t.Fatal(err)
			}
			rows, good, different = rows+x, good+y, different+z
		}
		if rows > n || different != rows || good != rows {
			t.Fatalf("%d assessments of %d submissions, %d of them good, want %d", rows, different, good, n)
		}
		if rows < n {
			return fmt.Sprintf("%d assessments, want %d", rows, n)
		}
		return ""
	})
}
