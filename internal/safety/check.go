package safety

import (
	"encoding/json"
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/questionnaire"
)

// Bounds of one version.
const (
	maxRules      = 200
	maxDepth      = 6  // of conditions within conditions
	maxParts      = 50 // conditions of one rule
	maxSteps      = 10
	maxLast       = 20
	maxEscalation = 30 * 24 * time.Hour
	maxDuties     = 100 // of one site
	maxRotaBytes  = 256 << 10
	maxRuleBytes  = 256 << 10
	maxNote       = 2000 // characters
)

var (
	ruleID   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)
	wallTime = regexp.MustCompile(`^([01][0-9]|2[0-3]):[0-5][0-9]$`)
	e164     = regexp.MustCompile(`^\+[1-9][0-9]{6,14}$`) // ITU-T E.164
	iso8601  = regexp.MustCompile(`^P(?:([0-9]{1,3})D)?(?:T(?:([0-9]{1,4})H)?(?:([0-9]{1,5})M)?(?:([0-9]{1,6})S)?)?$`)
)

// Known is what the study has: the active versions of a questionnaire, by its url, in any order.
type Known interface {
	Versions(url string) []*questionnaire.Definition
}

// Check holds rules against what the study has, and returns every finding.
func Check(rules []Rule, known Known) []errs.Finding {
	k := &ruleChecker{known: known}
	if raw, err := json.Marshal(rules); err != nil || len(raw) > maxRuleBytes || len(rules) > maxRules {
		return []errs.Finding{{Pointer: "/rules", Code: "too_many", Detail: fmt.Sprintf("must be at most %d rules with %d bytes together", maxRules, maxRuleBytes)}}
	}
	for i := range rules {
		k.rule(fmt.Sprintf("/rules/%d", i), &rules[i], rules[:i])
	}
	return k.findings
}

type ruleChecker struct {
	known    Known
	findings []errs.Finding
	versions []*questionnaire.Definition // that the rule at hand looks at
	urgent   bool
	parts    int
}

func (k *ruleChecker) add(pointer, code, format string, args ...any) {
	k.findings = append(k.findings, errs.Finding{Pointer: pointer, Code: code, Detail: fmt.Sprintf(format, args...)})
}

func (k *ruleChecker) rule(at string, r *Rule, before []Rule) {
	if !ruleID.MatchString(r.ID) {
		k.add(at+"/id", "invalid_id", "must be 1 to 64 letters, digits and hyphens")
	} else if slices.ContainsFunc(before, func(b Rule) bool { return b.ID == r.ID }) {
		k.add(at+"/id", "duplicate_id", "another rule has this id")
	}
	if len([]rune(r.Title)) > 200 {
		k.add(at+"/title", "invalid_length", "must have at most 200 characters")
	}
	if !slices.Contains([]string{Low, Medium, High, Critical}, r.Severity) {
		k.add(at+"/severity", "invalid_severity", "must be low, medium, high or critical")
	}
	url, version, one := strings.Cut(r.Questionnaire, "|")
	k.versions = slices.DeleteFunc(slices.Clone(k.known.Versions(url)), func(d *questionnaire.Definition) bool { return one && d.Version() != version })
	if len(k.versions) == 0 {
		k.add(at+"/questionnaire", "unknown_questionnaire", "must be the url, or url|version, of an active questionnaire of the study")
		return
	}
	k.urgent, k.parts = r.Urgent, 0
	k.condition(at+"/when", &r.When, 1)
	k.steps(at, r.Escalation)
}

func (k *ruleChecker) steps(at string, steps []Escalation) {
	if len(steps) > maxSteps {
		k.add(at+"/escalation", "too_many", "may have at most %d steps", maxSteps)
	}
	last := time.Duration(-1)
	for i, e := range steps {
		where := fmt.Sprintf("%s/escalation/%d", at, i)
		if e.To != ToSite && e.To != ToManager {
			k.add(where+"/to", "invalid_recipient", "must be site or manager")
		}
		after, ok := duration(e.After)
		switch {
		case !ok || after > maxEscalation:
			k.add(where+"/after", "invalid_duration", "must be an ISO 8601 duration of days, hours, minutes and seconds up to P30D, such as PT30M")
		case after < last:
			k.add(where+"/after", "wrong_order", "must not come before the step above")
		}
		last = after
	}
}

// duration reads days, hours, minutes and seconds of ISO 8601.
func duration(text string) (time.Duration, bool) {
	m := iso8601.FindStringSubmatch(text)
	if m == nil || strings.HasSuffix(text, "T") || text == "P" {
		return 0, false
	}
	var total time.Duration
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
		n := 0
		if m[i+1] != "" {
			if _, err := fmt.Sscan(m[i+1], &n); err != nil {
				return 0, false
			}
		}
		total += time.Duration(n) * unit
	}
	return total, true
}

func (k *ruleChecker) condition(at string, c *Condition, depth int) {
	if k.parts++; k.parts > maxParts || depth > maxDepth {
		if k.parts == maxParts+1 || depth == maxDepth+1 {
			k.add(at, "too_complex", "a rule may have at most %d conditions, %d within one another", maxParts, maxDepth)
		}
		return
	}
	kinds := 0
	for _, there := range []bool{c.Answer != nil, c.Score != nil, c.Rise != nil, c.Not != nil, len(c.All) > 0, len(c.Any) > 0} {
		if there {
			kinds++
		}
	}
	if kinds != 1 {
		k.add(at, "invalid_condition", "must have exactly one of answer, score, rise, all, any and not")
		return
	}
	switch {
	case c.Answer != nil:
		k.answer(at+"/answer", c.Answer)
	case c.Score != nil:
		k.score(at+"/score/name", c.Score.Name)
		k.operator(at+"/score/operator", c.Score.Operator, true)
	case c.Rise != nil:
		k.rise(at+"/rise", c.Rise)
	case c.Not != nil:
		k.condition(at+"/not", c.Not, depth+1)
	}
	for i, one := range c.All {
		k.condition(fmt.Sprintf("%s/all/%d", at, i), one, depth+1)
	}
	for i, one := range c.Any {
		k.condition(fmt.Sprintf("%s/any/%d", at, i), one, depth+1)
	}
}

func (k *ruleChecker) rise(at string, r *Rise) {
	k.score(at+"/score", r.Score)
	if r.Last < 1 || r.Last > maxLast {
		k.add(at+"/last", "invalid_number", "must be from 1 to %d", maxLast)
	}
	if r.By <= 0 {
		k.add(at+"/by", "invalid_number", "must be above zero")
	}
	if k.urgent {
		k.add(at, "urgent_history", "an urgent rule is evaluated when the submission is accepted, where earlier scores are not at hand")
	}
}

func (k *ruleChecker) score(at, name string) {
	for _, d := range k.versions {
		if !slices.ContainsFunc(d.ScoreRules(), func(r *questionnaire.ScoreRule) bool { return r.Name == name }) {
			k.add(at, "unknown_score", "version %s of the questionnaire declares no such score", d.Version())
			return
		}
	}
}

func (k *ruleChecker) operator(at, operator string, ordered bool) {
	switch {
	case slices.Contains([]string{"=", "!="}, operator):
	case !slices.Contains([]string{">", ">=", "<", "<="}, operator):
		k.add(at, "unknown_operator", "must be =, !=, >, >=, < or <=")
	case !ordered:
		k.add(at, "operator_not_ordered", "only numbers and weights are ordered")
	}
}

func (k *ruleChecker) answer(at string, a *AnswerIs) {
	compared := 0
	for _, there := range []bool{a.Number != nil, a.Code != "", a.Boolean != nil} {
		if there {
			compared++
		}
	}
	if a.Operator == "exists" && compared > 0 || a.Operator != "exists" && compared != 1 {
		k.add(at, "invalid_answer", "must compare with exactly one of number, code and boolean, and exists with none")
		return
	}
	if a.Operator != "exists" {
		k.operator(at+"/operator", a.Operator, a.Number != nil)
	}
	for _, d := range k.versions {
		q, ok := d.Question(a.LinkID)
		switch {
		case !ok:
			k.add(at+"/linkId", "unknown_link_id", "version %s of the questionnaire has no such question", d.Version())
		case a.Number != nil && !q.Ordered:
			k.add(at+"/number", "answer_type_differs", "the question has no numbers, and not every option a weight")
		case a.Boolean != nil && !q.Boolean:
			k.add(at+"/boolean", "answer_type_differs", "the question is not answered with yes or no")
		case a.Code != "" && !slices.Contains(q.Codes, a.Code):
			k.add(at+"/code", "unknown_option", "the question has no option with this code")
		default:
			continue
		}
		return
	}
}

// checkRota holds a rota against its form and the study's sites.
func checkRota(r *Rota, hasSite func(code string) bool) []errs.Finding {
	k := &ruleChecker{}
	if raw, err := json.Marshal(r); err != nil || len(raw) > maxRotaBytes {
		k.add("", "too_large", "must have at most %d bytes", maxRotaBytes)
		return k.findings
	}
	for i := range r.Sites {
		at := fmt.Sprintf("/sites/%d", i)
		if !hasSite(r.Sites[i].Site) {
			k.add(at+"/site", "unknown_site", "must be the code of a site of the study")
		}
		if len(r.Sites[i].Duty) > maxDuties {
			k.add(at+"/duty", "too_many", "may have at most %d entries", maxDuties)
		}
		for j := range r.Sites[i].Duty {
			k.duty(fmt.Sprintf("%s/duty/%d", at, j), &r.Sites[i].Duty[j])
		}
	}
	for i := range r.Manager {
		k.contact(fmt.Sprintf("/manager/%d", i), &r.Manager[i])
	}
	return k.findings
}

func (k *ruleChecker) duty(at string, d *Duty) {
	k.contact(at, &d.Contact)
	for i, day := range d.Days {
		if !slices.Contains(weekdays[:], day) {
			k.add(fmt.Sprintf("%s/days/%d", at, i), "invalid_day", "must be MO, TU, WE, TH, FR, SA or SU")
		}
	}
	if (d.From != "" || d.Until != "") && (!wallTime.MatchString(d.From) || !wallTime.MatchString(d.Until) || d.From == d.Until) {
		k.add(at+"/from", "invalid_time", "from and until must both be wall-clock times such as 08:00, and differ")
	}
}

func (k *ruleChecker) contact(at string, c *Contact) {
	if c.Email == "" && c.Phone == "" {
		k.add(at, "missing", "must have an email or a phone")
	}
	if a, err := mail.ParseAddress(c.Email); c.Email != "" && (err != nil || a.Address != c.Email || len(c.Email) > 254) {
		k.add(at+"/email", "invalid_email", "must be a mail address such as someone@example.org")
	}
	if c.Phone != "" && !e164.MatchString(c.Phone) {
		k.add(at+"/phone", "invalid_phone", "must be an E.164 number such as +8613800138000")
	}
}
