// Package safety decides which answers are a matter of safety: rules, versioned for each study, that look at a response, its scores and
// the participant's earlier ones; the alerts that they raise, one for each rule and submission; and who is told, and who next if nobody
// takes care of it.
//
// The consumer evaluates every rule on every stored response. A rule that is marked urgent is evaluated at the door as well, and what
// it finds travels on a topic of its own, past any backlog. Both ways end in the same row.
package safety

import (
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// UrgentTopic carries what urgent rules have found at the door. Its records hold ids in clear and everything else sealed.
const UrgentTopic = "alerts.urgent"

// Severities, from the least to the greatest.
const (
	Low      = "low"
	Medium   = "medium"
	High     = "high"
	Critical = "critical"
)

// Whom an escalation tells.
const (
	ToSite    = "site"    // who is on duty at the participant's site, else the site's own address
	ToManager = "manager" // who runs the study
)

// Rules is a version of a study's rules. It never changes.
type Rules struct {
	Version int64
	Rules   []Rule
	By      int64
	At      time.Time
}

// Rule raises an alert when its condition holds for a response.
type Rule struct {
	ID            string       `json:"id" doc:"stable name: letters, digits, hyphens"`
	Title         string       `json:"title,omitempty" doc:"for staff"`
	Questionnaire string       `json:"questionnaire" doc:"canonical url, or url|version for one version only"`
	When          Condition    `json:"when"`
	Severity      string       `json:"severity" enum:"low,medium,high,critical"`
	Urgent        bool         `json:"urgent,omitempty" doc:"evaluated when the submission is accepted; may look at this submission only"`
	Escalation    []Escalation `json:"escalation,omitempty" doc:"who is told when, until somebody acknowledges; the site at once and the study manager after half an hour unless said otherwise"`
}

// Condition is exactly one of its members.
type Condition struct {
	Answer *AnswerIs    `json:"answer,omitempty"`
	Score  *ScoreIs     `json:"score,omitempty"`
	Rise   *Rise        `json:"rise,omitempty"`
	All    []*Condition `json:"all,omitempty"`
	Any    []*Condition `json:"any,omitempty"`
	Not    *Condition   `json:"not,omitempty"`
}

// AnswerIs compares the answers of one item; one that fits is enough.
type AnswerIs struct {
	LinkID   string   `json:"linkId"`
	Operator string   `json:"operator" enum:"=,!=,>,>=,<,<=,exists" doc:"numbers and weights are ordered, codes and texts are equal or not"`
	Number   *float64 `json:"number,omitempty" doc:"compares with a number, or with the weight of a choice"`
	Code     string   `json:"code,omitempty" doc:"compares with the code of a choice"`
	System   string   `json:"system,omitempty" doc:"of the code; any unless it is said"`
	Boolean  *bool    `json:"boolean,omitempty"`
}

// ScoreIs compares a score of the response. One without a value fits nothing.
type ScoreIs struct {
	Name     string  `json:"name"`
	Operator string  `json:"operator" enum:"=,!=,>,>=,<,<="`
	Number   float64 `json:"number"`
}

// Rise holds when a score is at least so much above the lowest of the participant's last ones.
type Rise struct {
	Score string  `json:"score"`
	Last  int     `json:"last" minimum:"1" maximum:"20" doc:"how many earlier scores of the same questionnaire are looked at"`
	By    float64 `json:"by" doc:"above zero"`
}

// Escalation tells somebody, so long after the alert was raised.
type Escalation struct {
	To    string `json:"to" enum:"site,manager"`
	After string `json:"after" doc:"ISO 8601 duration such as PT0S, PT30M, PT4H"`
}

// steps returns who is told when.
func (r *Rule) steps() []Escalation {
	if len(r.Escalation) == 0 {
		return []Escalation{{ToSite, "PT0S"}, {ToManager, "PT30M"}}
	}
	return r.Escalation
}

// asks reports whether the rule looks at a questionnaire version.
func (r *Rule) asks(url, version string) bool {
	of, only, one := strings.Cut(r.Questionnaire, "|")
	return of == url && (!one || only == version)
}

// For returns the rules for a questionnaire version, or the urgent ones only.
func (r *Rules) For(url, version string, urgent bool) []*Rule {
	var out []*Rule
	for i := range r.Rules {
		if rule := &r.Rules[i]; rule.asks(url, version) && (rule.Urgent || !urgent) {
			out = append(out, rule)
		}
	}
	return out
}

// history returns how many earlier responses the rules look at.
func history(rules []*Rule) int {
	most := 0
	var walk func(c *Condition)
	walk = func(c *Condition) {
		if c == nil {
			return
		}
		if c.Rise != nil {
			most = max(most, c.Rise.Last)
		}
		for _, below := range append(append([]*Condition{c.Not}, c.All...), c.Any...) {
			walk(below)
		}
	}
	for _, r := range rules {
		walk(&r.When)
	}
	return most
}

// Rota says who is on duty, and who runs the study.
type Rota struct {
	Version int64     `json:"-"`
	Sites   []Site    `json:"sites"`
	Manager []Contact `json:"manager"`
}

// Site is the duty of one site.
type Site struct {
	Site string `json:"site" doc:"code"`
	Duty []Duty `json:"duty"`
}

// Duty is one person's, on some days between two wall-clock times of the study's zone; until may lie before from: over midnight.
type Duty struct {
	Contact
	Days  []string `json:"days,omitempty" doc:"MO to SU; every day unless it is said"`
	From  string   `json:"from,omitempty" doc:"HH:MM; with until; all day unless it is said"`
	Until string   `json:"until,omitempty"`
}

// Contact is where a person of the staff is told. It holds at least one address.
type Contact struct {
	Email string `json:"email,omitempty"`
	Phone string `json:"phone,omitempty" doc:"E.164"`
}

var weekdays = [...]string{"SU", "MO", "TU", "WE", "TH", "FR", "SA"}

// onDuty reports whether the duty covers a wall-clock time.
func (d *Duty) onDuty(local time.Time) bool {
	day := local
	if d.From != "" {
		clock := local.Format("15:04")
		over := d.From > d.Until
		switch {
		case !over && (clock < d.From || clock >= d.Until):
			return false
		case over && clock < d.From && clock >= d.Until:
			return false
		case over && clock < d.Until: // since yesterday evening
			day = local.AddDate(0, 0, -1)
		}
	}
	if len(d.Days) == 0 {
		return true
	}
	for _, name := range d.Days {
		if name == weekdays[day.Weekday()] {
			return true
		}
	}
	return false
}

// OnDuty returns who is told at a site at a wall-clock time.
func (r *Rota) OnDuty(site string, local time.Time) []Contact {
	var out []Contact
	for i := range r.Sites {
		if r.Sites[i].Site != site {
			continue
		}
		for j := range r.Sites[i].Duty {
			if d := &r.Sites[i].Duty[j]; d.onDuty(local) {
				out = append(out, d.Contact)
			}
		}
	}
	return out
}

// States of an alert.
const (
	StateOpen         = "open"
	StateAcknowledged = "acknowledged"
	StateResolved     = "resolved"
)

// Alert is what a rule has found in a submission. Its evidence is sealed with the participant's key until somebody may read it.
type Alert struct {
	ID                       int64
	Participant, Study, Site int64
	Rule                     string
	RulesVersion             int64
	Submission               [16]byte
	Response                 int64 // id of the record
	Severity, State          string
	Urgent                   bool   // found at the door
	SubmissionState          string // received, stored, quarantined or conflict: as far as it is known
	Sealed                   []byte // Evidence
	RaisedAt                 time.Time
	AcknowledgedBy           int64
	AcknowledgedAt           time.Time
	ResolvedBy               int64
	ResolvedAt               time.Time
	Notes                    []byte // sealed: Note, oldest first
	Step                     int    // of the escalation, the next one
	NextAt                   time.Time
	UpdatedAt                time.Time
	Trace                    string // W3C traceparent of what raised it; may be empty
}

// Evidence is what an alert has seen. It is health data.
type Evidence struct {
	Title         string  `json:"title,omitempty"`
	Questionnaire string  `json:"questionnaire"`
	Authored      string  `json:"authored"`
	Found         []Found `json:"found"`
}

// Found is one part of a condition that held.
type Found struct {
	LinkID string    `json:"linkId,omitempty"`
	Answer string    `json:"answer,omitempty"`
	Score  string    `json:"score,omitempty"`
	Value  *float64  `json:"value,omitempty"`
	Before []float64 `json:"before,omitempty" doc:"earlier scores, youngest first"`
}

// Note is what somebody has written to an alert.
type Note struct {
	By   int64     `json:"by,string"`
	At   time.Time `json:"at"`
	What string    `json:"what"` // acknowledged, resolved
	Text string    `json:"text"`
}

func errRules(findings []errs.Finding) *errs.Error {
	return errs.New(errs.Unprocessable, "invalid_rules", "the rules cannot be published; see errors").WithFindings(findings)
}

func errState(is string) *errs.Error {
	return errs.New(errs.Conflict, "alert_"+is, "the alert is "+is+" already")
}
