package risk

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/limit"
)

const phq = "https://example.org/q/phq-9"

func of(day int, total float64) Scored { return Scored{day, []Value{{"total", total}}} }

func TestRuleModel(t *testing.T) {
	setting := &Setting{Model: ModelRules, Instruments: []Instrument{{Questionnaire: phq, Score: "total", Name: "phq-9"}}}
	population := &Setting{Instruments: []Instrument{{Questionnaire: phq, Score: "total", Name: "phq-9", SD: 5, Reliability: 0.84}}} // standard error of a difference 2.83
	for _, c := range []struct {
		name    string
		setting *Setting
		current Scored
		history []Scored
		level   string
		reasons []string
	}{
		{"Nothing", setting, of(0, 4), nil, LevelNone, []string{}},
		{"AtTheThreshold", setting, of(0, 5), nil, LevelLow, []string{"threshold_5"}},
		{"Moderate", setting, of(0, 14), nil, LevelModerate, []string{"threshold_10"}},
		{"High", setting, of(0, 15), nil, LevelHigh, []string{"threshold_15"}},
		{"Highest", setting, of(0, 27), nil, LevelHigh, []string{"threshold_20"}},
		{"ReliablyWorse", setting, of(0, 7), []Scored{of(-7, 1)}, LevelModerate, []string{"threshold_5", "reliably_worse"}},
		{"NotReliably", setting, of(0, 6), []Scored{of(-7, 1)}, LevelLow, []string{"threshold_5"}},
		{"ReliablyBetter", setting, of(0, 10), []Scored{of(-7, 16)}, LevelModerate, []string{"threshold_10", "reliably_better"}},
		{"AgainstTheLastOnly", setting, of(0, 7), []Scored{of(-7, 5), of(-14, 0)}, LevelLow, []string{"threshold_5"}},
		{"LastWithoutTheScore", setting, of(0, 7), []Scored{{-7, nil}, of(-14, 0)}, LevelModerate, []string{"threshold_5", "reliably_worse"}},
		{"OwnPopulation", population, of(0, 7), []Scored{of(-7, 1)}, LevelModerate, []string{"threshold_5", "reliably_worse"}},
		{"OwnPopulationNotReliably", population, of(0, 6), []Scored{of(-7, 1)}, LevelLow, []string{"threshold_5"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := RuleModel{}.Assess(t.Context(), Input{Questionnaire: phq, Current: c.current, History: c.history}, c.setting)
			if err != nil || r.Level != c.level {
				t.Fatalf("%+v, %v; want %s", r, err, c.level)
			}
			if diff := cmp.Diff(c.reasons, r.Reasons); diff != "" {
				t.Error(diff)
			}
		})
	}
	for name, in := range map[string]Input{"no_instrument": {Questionnaire: "x", Current: of(0, 1)}, "no_score": {Questionnaire: phq, Current: Scored{}}} {
		if _, err := (RuleModel{}).Assess(t.Context(), in, setting); !Permanent(err) || !strings.HasSuffix(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// unguarded is a breaker that never opens.
type unguarded struct{}

func (unguarded) Do(ctx context.Context, call func(ctx context.Context) error) error {
	return call(ctx)
}

// TestRemote: what is sent is what the contract says, and what is answered is held against it. An answer that breaks it may pass: the
// model was changed, and the settings will follow.
func TestRemote(t *testing.T) {
	type answer struct {
		status int
		body   string
	}
	var answers answer
	var got map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token" {
			t.Error("no token")
		}
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		w.WriteHeader(answers.status)
		_, _ = w.Write([]byte(answers.body))
	}))
	defer server.Close()
	remote := &Remote{URL: server.URL, Token: "token", Name: Model{"sponsor", "2.1"}, Client: server.Client(), Timeout: 5 * time.Second, Breaker: unguarded{}}
	in := Input{Subject: "abc", Questionnaire: phq, Version: "1", Current: of(0, 7), History: []Scored{of(-7, 3)}}
	const good = `{"model":"sponsor","version":"2.1","level":"high","probability":0.7,"reasons":["trend_up"]}`
	for _, c := range []struct {
		name   string
		answer answer
		want   string // "": good; a reason: refused for good; away: may pass
	}{
		{"Good", answer{200, good}, ""},
		{"Refused", answer{422, ""}, "refused_by_model"},
		{"BadRequest", answer{400, ""}, "refused_by_model"},
		{"Failing", answer{500, ""}, "away"},
		{"Busy", answer{429, ""}, "away"},
		{"NoJSON", answer{200, "no"}, "away"},
		{"UnknownMember", answer{200, strings.Replace(good, `"level"`, `"note":"x","level"`, 1)}, "away"},
		{"Twice", answer{200, strings.Replace(good, `"level"`, `"level":"low","level"`, 1)}, "away"},
		{"OtherVersion", answer{200, strings.Replace(good, "2.1", "2.2", 1)}, "away"},
		{"NoLevel", answer{200, strings.Replace(good, "high", "grave", 1)}, "away"},
		{"Probability", answer{200, strings.Replace(good, "0.7", "7", 1)}, "away"},
		{"Reasons", answer{200, strings.Replace(good, "trend_up", "Annegret Kanarienvogel", 1)}, "away"},
		{"TooLarge", answer{200, good + strings.Repeat(" ", maxAnswer)}, "away"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answers = c.answer
			r, err := remote.Assess(t.Context(), in, nil)
			switch {
			case c.want == "" && (err != nil || r.Level != LevelHigh || *r.Probability != 0.7 || !slices.Equal(r.Reasons, []string{"trend_up"})):
				t.Errorf("%+v, %v", r, err)
			case c.want == "away" && (Permanent(err) || errs.KindOf(err) != errs.Unavailable):
				t.Errorf("%v, want one that may pass", err)
			case c.want != "" && c.want != "away" && (!Permanent(err) || !strings.HasSuffix(err.Error(), c.want)):
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
	want := map[string]any{"contract": Contract, "input": map[string]any{"subject": "abc", "questionnaire": phq, "version": "1",
		"current": map[string]any{"day": 0.0, "scores": []any{map[string]any{"name": "total", "value": 7.0}}},
		"history": []any{map[string]any{"day": -7.0, "scores": []any{map[string]any{"name": "total", "value": 3.0}}}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := remote.Assess(ctx, in, nil); errs.KindOf(err) != errs.Unavailable || strings.Contains(err.Error(), "127.0.0.1:") && strings.Contains(err.Error(), "http://") {
		t.Errorf("a model that is away: %v", err)
	}
}

func TestSettingFindings(t *testing.T) {
	has := func(url, score string) bool { return url == phq && score == "total" }
	good := Setting{Enabled: true, Model: ModelRules, Instruments: []Instrument{{Questionnaire: phq, Score: "total", Name: "phq-9"}}}
	for _, c := range []struct {
		name   string
		change func(*Setting)
		want   string
	}{
		{"Good", func(*Setting) {}, ""},
		{"Model", func(s *Setting) { s.Model = "x" }, "/model invalid_model"},
		{"NoRemote", func(s *Setting) { s.Model = ModelHTTP }, "/model not_configured"},
		{"NoInstruments", func(s *Setting) { s.Instruments = nil }, "/instruments missing"},
		{"Unknown", func(s *Setting) { s.Instruments[0].Name = "mmpi" }, "/instruments/0/name unknown_instrument"},
		{"NoScore", func(s *Setting) { s.Instruments[0].Score = "x" }, "/instruments/0/score unknown_score"},
		{"HalfPopulation", func(s *Setting) { s.Instruments[0].SD = 5 }, "/instruments/0/sd incomplete"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good
			s.Instruments = slices.Clone(good.Instruments)
			c.change(&s)
			got := ""
			if f := s.findings(false, has); len(f) > 0 {
				got = f[0].Pointer + " " + f[0].Code
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestBreakerKnowsTheModel: refusals of an input say that the model works; answers that break the contract, that it does not.
func TestBreakerKnowsTheModel(t *testing.T) {
	var status int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"model":"sponsor","version":"2.2","level":"low"}`))
	}))
	defer server.Close()
	for _, c := range []struct {
		status int
		want   limit.State
	}{{422, limit.Closed}, {200, limit.Open}, {503, limit.Open}} {
		breaker := limit.NewBreaker("the model", limit.DefaultBreakerConfig(), nil)
		remote := &Remote{URL: server.URL, Name: Model{"sponsor", "2.1"}, Client: server.Client(), Timeout: 5 * time.Second, Breaker: breaker}
		status = c.status
		for range 10 {
			if _, err := remote.Assess(t.Context(), Input{}, nil); err == nil {
				t.Errorf("%d: taken for good", c.status)
			}
		}
		if breaker.State() != c.want {
			t.Errorf("after ten answers %d the breaker is %s, want %s", c.status, breaker.State(), c.want)
		}
	}
}

// TestAddressOfTheModel: scores go in the clear to this machine only, unless somebody says that the network encrypts.
func TestAddressOfTheModel(t *testing.T) {
	for _, c := range []struct {
		url   string
		plain bool
		want  string
	}{
		{"", false, ""},
		{"https://model.example.org/assess", false, ""},
		{"http://127.0.0.1:8000/assess", false, ""},
		{"http://[::1]:8000/assess", false, ""},
		{"http://localhost:8000/assess", false, ""},
		{"http://model.example.org/assess", false, "in the clear"},
		{"http://10.0.0.7/assess", false, "in the clear"},
		{"http://model:8000/assess", true, ""},
		{"https://user:secret@model.example.org/assess", false, "without an account"},
		{"model.example.org", true, "must be an address"},
	} {
		config := DefaultConfig()
		config.HTTP.URL, config.HTTP.Model, config.HTTP.Version, config.HTTP.PlainHTTP = c.url, "m", "1", c.plain
		err := config.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s, plainHttp %v: %v, want %q", c.url, c.plain, err, c.want)
		}
	}
}
