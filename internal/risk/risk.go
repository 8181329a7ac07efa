// Package risk decides what an assessment of a response is: which model has looked at which scores, what it said, and that it is kept as
// evidence once. It is a consumer beside intake and storage: however slow a model is, they do not notice.
package risk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// Levels of a result, from the least to the greatest.
const (
	LevelNone     = "none"
	LevelLow      = "low"
	LevelModerate = "moderate"
	LevelHigh     = "high"
)

// Models that a study may choose.
const (
	ModelRules = "rules" // built in
	ModelHTTP  = "http"  // the sponsor's own, see Config
)

// HTTPTopic carries the events of stored responses that wait for the sponsor's model: ids only. It has the partitions of the events.
const HTTPTopic = "risk.http"

// Setting switches assessment on for a study.
type Setting struct {
	Version     int64        `json:"-"`
	Enabled     bool         `json:"enabled"`
	Model       string       `json:"model" enum:"rules,http"`
	Instruments []Instrument `json:"instruments,omitempty" doc:"for the model rules: which score is which published instrument"`
}

// Instrument says how the built-in model reads a score.
type Instrument struct {
	Questionnaire string  `json:"questionnaire" doc:"canonical url without version"`
	Score         string  `json:"score" doc:"name of the declared score"`
	Name          string  `json:"name" enum:"phq-9,gad-7"`
	SD            float64 `json:"sd,omitempty" minimum:"0" doc:"standard deviation in the study's population; with reliability, in place of the published criterion"`
	Reliability   float64 `json:"reliability,omitempty" minimum:"0" maximum:"0.9999" doc:"of the instrument in that population"`
}

// Model names what has assessed.
type Model struct{ Name, Version string }

// Value is one score.
type Value struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// Scored is the scores of one response, so many days before the one that is assessed.
type Scored struct {
	Day    int     `json:"day" doc:"0 is the response that is assessed; earlier ones are negative"`
	Scores []Value `json:"scores"`
}

// Input is all that a model sees: no number, name, id or date.
type Input struct {
	Subject       string   `json:"subject"` // the same for all of a participant's responses in a study, and for nobody else; it cannot be turned back
	Questionnaire string   `json:"questionnaire"`
	Version       string   `json:"version"`
	Current       Scored   `json:"current"`
	History       []Scored `json:"history"` // youngest first
}

// Result is what a model says. It is health data.
type Result struct {
	Level       string    `json:"level"`
	Probability *float64  `json:"probability,omitempty"`
	Reasons     []string  `json:"reasons"`
	Details     []Measure `json:"details,omitempty"`
}

// Measure is a number that a reason rests on.
type Measure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// Assessor is a model. An error that Permanent recognises is about this input; any other one may pass. Safe for concurrent use.
type Assessor interface {
	Model() Model
	Assess(ctx context.Context, in Input, setting *Setting) (Result, error)
}

var errPermanent = errors.New("the model cannot assess this input")

// permanent marks a refusal that repeating cannot change; the reason is a word for operators and staff, never from the model's own text.
func permanent(reason string) error { return fmt.Errorf("%w: %s", errPermanent, reason) }

// Permanent reports whether a model can never assess this input.
func Permanent(err error) bool { return errors.Is(err, errPermanent) }

// published is what has been published about an instrument.
type published struct {
	cutoffs []float64 // lowest scores of mild, moderate, … severe
	change  float64   // smallest reliable change
}

// instruments are the published criteria. PHQ-9: Kroenke, Spitzer, Williams, J Gen Intern Med 2001;16:606. GAD-7: Spitzer, Kroenke, Williams,
// Löwe, Arch Intern Med 2006;166:1092. Smallest reliable changes: Gyani, Shafran, Layard, Clark, Behav Res Ther 2013;51:597.
func instruments() map[string]published {
	return map[string]published{"phq-9": {[]float64{5, 10, 15, 20}, 6}, "gad-7": {[]float64{5, 10, 15}, 4}}
}

// RuleModel is the built-in model: published thresholds, and the reliable change index (Jacobson, Truax, J Consult Clin Psychol 1991;59:12) of
// the score against the participant's last one. It is pure.
type RuleModel struct{}

// Model implements Assessor. The version changes whenever a result could.
func (RuleModel) Model() Model { return Model{"eprod-rules", "1"} }

// Assess implements Assessor.
func (RuleModel) Assess(_ context.Context, in Input, setting *Setting) (Result, error) {
	at := slices.IndexFunc(setting.Instruments, func(i Instrument) bool { return i.Questionnaire == in.Questionnaire })
	if at < 0 {
		return Result{}, permanent("no_instrument")
	}
	instrument := setting.Instruments[at]
	now, ok := valueOf(in.Current, instrument.Score)
	if !ok {
		return Result{}, permanent("no_score")
	}
	known := instruments()[instrument.Name]
	passed := 0
	for _, cutoff := range known.cutoffs {
		if now >= cutoff {
			passed++
		}
	}
	r := Result{Level: LevelNone, Reasons: []string{}, Details: []Measure{{"score", now}}}
	if passed > 0 {
		r.Level, r.Reasons = []string{LevelLow, LevelModerate, LevelHigh}[min(passed, 3)-1], []string{fmt.Sprintf("threshold_%g", known.cutoffs[passed-1])}
	}
	for _, earlier := range in.History {
		before, ok := valueOf(earlier, instrument.Score)
		if !ok {
			continue
		}
		// The index is the difference over its standard error; 1.96 of those are the smallest change that chance hardly makes.
		standardError := known.change / 1.96
		if instrument.SD > 0 {
			standardError = instrument.SD * math.Sqrt(2*(1-instrument.Reliability))
		}
		index := (now - before) / standardError
		r.Details = append(r.Details, Measure{"before", before}, Measure{"reliable_change_index", math.Round(index*1000) / 1000})
		switch {
		case index >= 1.96-1e-9:
			r.Reasons = append(r.Reasons, "reliably_worse")
			if r.Level == LevelNone || r.Level == LevelLow {
				r.Level = LevelModerate
			}
		case index <= -1.96+1e-9:
			r.Reasons = append(r.Reasons, "reliably_better")
		}
		break
	}
	return r, nil
}

func valueOf(s Scored, name string) (float64, bool) {
	for _, v := range s.Scores {
		if v.Name == name {
			return v.Value, true
		}
	}
	return 0, false
}

// Assessment is a result as it is kept. Outcome is assessed, or refused with the reason in Result.Reasons.
type Assessment struct {
	ID, Participant, Study, Site int64
	Submission                   [16]byte
	Response                     int64
	Model                        Model
	Outcome                      string
	Inputs                       []int64 // ids of the responses that were looked at, the assessed one first
	Sealed                       []byte  // Result
	At                           time.Time
}

// Outcomes.
const (
	Assessed = "assessed"
	Refused  = "refused"
)

// findings holds a setting against its rules.
func (s *Setting) findings(httpReady bool, hasScore func(url, score string) bool) []errs.Finding {
	var out []errs.Finding
	add := func(pointer, code, detail string) {
		out = append(out, errs.Finding{Pointer: pointer, Code: code, Detail: detail})
	}
	if s.Model != ModelRules && s.Model != ModelHTTP {
		add("/model", "invalid_model", "must be rules or http")
	}
	if s.Model == ModelHTTP && !httpReady {
		add("/model", "not_configured", "no model is set up: see risk.http in the settings of the server")
	}
	if s.Model == ModelRules && s.Enabled && len(s.Instruments) == 0 || len(s.Instruments) > 50 {
		add("/instruments", "missing", "must say, for at least one questionnaire and at most 50, which published instrument its score is")
	}
	for i, instrument := range s.Instruments {
		at := fmt.Sprintf("/instruments/%d", i)
		if _, known := instruments()[instrument.Name]; !known {
			add(at+"/name", "unknown_instrument", "must be phq-9 or gad-7")
		}
		if strings.Contains(instrument.Questionnaire, "|") || !hasScore(instrument.Questionnaire, instrument.Score) {
			add(at+"/score", "unknown_score", "must be a score that an active version of the questionnaire declares")
		}
		if (instrument.SD > 0) != (instrument.Reliability > 0) || instrument.Reliability >= 1 {
			add(at+"/sd", "incomplete", "sd and reliability belong together: a number above zero, and one between 0 and 1")
		}
	}
	return out
}
