package safety

import (
	"strconv"

	"github.com/eprod/eprod/internal/questionnaire"
)

// Facts are what rules look at.
type Facts struct {
	Definition *questionnaire.Definition
	Response   *questionnaire.Response
	Scores     []questionnaire.Score
	Earlier    [][]questionnaire.Score // of the participant's earlier responses to the questionnaire, youngest first
}

// Evaluate reports whether a rule's condition holds, and what it found. It is pure: the same facts have the same answer always.
func (r *Rule) Evaluate(f *Facts) ([]Found, bool) { return f.holds(&r.When) }

func (f *Facts) holds(c *Condition) ([]Found, bool) {
	switch {
	case c.Answer != nil:
		return f.answer(c.Answer)
	case c.Score != nil:
		value, ok := valueOf(f.Scores, c.Score.Name)
		if !ok || !compare(value, c.Score.Operator, c.Score.Number) {
			return nil, false
		}
		return []Found{{Score: c.Score.Name, Value: &value}}, true
	case c.Rise != nil:
		return f.rise(c.Rise)
	case c.Not != nil:
		_, held := f.holds(c.Not)
		return nil, !held
	case len(c.All) > 0:
		var all []Found
		for _, one := range c.All {
			found, held := f.holds(one)
			if !held {
				return nil, false
			}
			all = append(all, found...)
		}
		return all, true
	default:
		var some []Found
		any := false
		for _, one := range c.Any {
			if found, held := f.holds(one); held {
				some, any = append(some, found...), true
			}
		}
		return some, any
	}
}

func (f *Facts) rise(r *Rise) ([]Found, bool) {
	value, ok := valueOf(f.Scores, r.Score)
	if !ok {
		return nil, false
	}
	var before []float64
	for _, scores := range f.Earlier[:min(len(f.Earlier), r.Last)] {
		if earlier, ok := valueOf(scores, r.Score); ok {
			before = append(before, earlier)
		}
	}
	if len(before) == 0 {
		return nil, false
	}
	lowest := before[0]
	for _, earlier := range before {
		lowest = min(lowest, earlier)
	}
	if value-lowest < r.By {
		return nil, false
	}
	return []Found{{Score: r.Score, Value: &value, Before: before}}, true
}

func valueOf(scores []questionnaire.Score, name string) (float64, bool) {
	for _, s := range scores {
		if s.Rule.Name == name {
			return s.Value, s.Valid
		}
	}
	return 0, false
}

// answer looks for one answer of the item that fits; exists for any at all.
func (f *Facts) answer(a *AnswerIs) ([]Found, bool) {
	for _, given := range f.Definition.Answers(f.Response, a.LinkID) {
		if a.Operator == "exists" || fits(a, &given) {
			return []Found{{LinkID: a.LinkID, Answer: shown(&given)}}, true
		}
	}
	return nil, false
}

func fits(a *AnswerIs, given *questionnaire.Given) bool {
	switch {
	case a.Number != nil:
		return given.Weighed && compare(given.Weight, a.Operator, *a.Number)
	case a.Boolean != nil:
		same := given.Value.Name == "valueBoolean" && given.Value.Text == strconv.FormatBool(*a.Boolean)
		return same == (a.Operator == "=")
	default:
		same := given.Value.Code == a.Code && (a.System == "" || given.Value.System == a.System)
		return same == (a.Operator == "=")
	}
}

// shown is an answer for the evidence: a code, a number, true or false. Free text stays where it is.
func shown(given *questionnaire.Given) string {
	switch given.Value.Name {
	case "valueCoding":
		return given.Value.Code
	case "valueInteger", "valueDecimal", "valueBoolean", "valueDate", "valueTime", "valueDateTime":
		return given.Value.Text
	default:
		return ""
	}
}

func compare(a float64, operator string, b float64) bool {
	switch operator {
	case "=":
		return a == b
	case "!=":
		return a != b
	case ">":
		return a > b
	case ">=":
		return a >= b
	case "<":
		return a < b
	default:
		return a <= b
	}
}
