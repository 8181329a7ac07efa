package safety

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/questionnaire"
)

const moodURL = "https://example.org/q/mood"

// mood asks for a weighed choice, a number, a boolean and a text, and declares a score over the first two.
func mood(t testing.TB, version string) *questionnaire.Definition {
	t.Helper()
	option := func(code string, weight int) string {
		return fmt.Sprintf(`{"valueCoding":{"system":"s","code":%q},"extension":[{"url":"http://hl7.org/fhir/StructureDefinition/ordinalValue","valueDecimal":%d}]}`, code, weight)
	}
	score := `{"url":"https://eprod.org/fhir/StructureDefinition/questionnaire-score","extension":[{"url":"name","valueString":"total"},{"url":"item","valueString":"harm"},{"url":"item","valueString":"pain"}]}`
	raw := fmt.Sprintf(`{"resourceType":"Questionnaire","url":%q,"version":%q,"status":"active","extension":[%s],"item":[{"linkId":"harm","type":"choice","answerOption":[%s,%s,%s]},
		{"linkId":"g","type":"group","item":[{"linkId":"pain","type":"integer"}]},{"linkId":"fell","type":"boolean"},{"linkId":"words","type":"string"}]}`,
		moodURL, version, score, option("never", 0), option("some", 1), option("daily", 3))
	d, findings := questionnaire.Compile([]byte(raw), questionnaire.DefaultLimits())
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	return d
}

func answered(t testing.TB, harm string, pain int, fell string) *questionnaire.Response {
	t.Helper()
	items := []string{fmt.Sprintf(`{"linkId":"g","item":[{"linkId":"pain","answer":[{"valueInteger":%d}]}]}`, pain), `{"linkId":"words","answer":[{"valueString":"Annegret Kanarienvogel"}]}`}
	if harm != "" {
		items = append(items, fmt.Sprintf(`{"linkId":"harm","answer":[{"valueCoding":{"system":"s","code":%q}}]}`, harm))
	}
	if fell != "" {
		items = append(items, fmt.Sprintf(`{"linkId":"fell","answer":[{"valueBoolean":%s}]}`, fell))
	}
	r, err := questionnaire.ParseResponse([]byte(`{"resourceType":"QuestionnaireResponse","authored":"2026-11-23T12:00:00Z","item":[` + strings.Join(items, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func number(n float64) *float64 { return &n }

func TestEvaluate(t *testing.T) {
	d := mood(t, "1")
	truth := true
	harm := func(operator string, n float64) Condition {
		return Condition{Answer: &AnswerIs{LinkID: "harm", Operator: operator, Number: &n}}
	}
	total := func(operator string, n float64) Condition {
		return Condition{Score: &ScoreIs{"total", operator, n}}
	}
	at := func(c Condition) *Condition { return &c }
	earlier := func(totals ...int) [][]questionnaire.Score {
		var out [][]questionnaire.Score
		for _, n := range totals {
			out = append(out, d.Scores(answered(t, "never", n, "")))
		}
		return out
	}
	for _, c := range []struct {
		name    string
		when    Condition
		harm    string
		pain    int
		fell    string
		earlier [][]questionnaire.Score
		want    bool
		found   []Found
	}{
		{"WeightAbove", harm(">", 0), "some", 0, "", nil, true, []Found{{LinkID: "harm", Answer: "some"}}},
		{"WeightNotAbove", harm(">", 0), "never", 0, "", nil, false, nil},
		{"NotAnswered", harm(">=", 0), "", 0, "", nil, false, nil},
		{"NotAnsweredIsNotUnequal", harm("!=", 0), "", 0, "", nil, false, nil},
		{"Code", Condition{Answer: &AnswerIs{LinkID: "harm", Operator: "=", Code: "daily"}}, "daily", 0, "", nil, true, []Found{{LinkID: "harm", Answer: "daily"}}},
		{"CodeOfAnotherSystem", Condition{Answer: &AnswerIs{LinkID: "harm", Operator: "=", Code: "daily", System: "x"}}, "daily", 0, "", nil, false, nil},
		{"Boolean", Condition{Answer: &AnswerIs{LinkID: "fell", Operator: "=", Boolean: &truth}}, "", 0, "true", nil, true, []Found{{LinkID: "fell", Answer: "true"}}},
		{"BooleanNot", Condition{Answer: &AnswerIs{LinkID: "fell", Operator: "!=", Boolean: &truth}}, "", 0, "false", nil, true, []Found{{LinkID: "fell", Answer: "false"}}},
		{"Exists", Condition{Answer: &AnswerIs{LinkID: "fell", Operator: "exists"}}, "", 0, "false", nil, true, []Found{{LinkID: "fell", Answer: "false"}}},
		{"FreeTextStaysWhereItIs", Condition{Answer: &AnswerIs{LinkID: "words", Operator: "exists"}}, "", 0, "", nil, true, []Found{{LinkID: "words"}}},
		{"Score", total(">=", 8), "daily", 5, "", nil, true, []Found{{Score: "total", Value: number(8)}}},
		{"ScoreWithoutValue", total(">=", 0), "", 9, "", nil, false, nil},
		{"All", Condition{All: []*Condition{at(harm(">", 0)), at(total(">", 3))}}, "daily", 1, "", nil, true, []Found{{LinkID: "harm", Answer: "daily"}, {Score: "total", Value: number(4)}}},
		{"AllButOne", Condition{All: []*Condition{at(harm(">", 0)), at(total(">", 9))}}, "daily", 1, "", nil, false, nil},
		{"Any", Condition{Any: []*Condition{at(harm(">", 2)), at(total(">", 3))}}, "some", 9, "", nil, true, []Found{{Score: "total", Value: number(10)}}},
		{"None", Condition{Any: []*Condition{at(harm(">", 2)), at(total(">", 30))}}, "some", 9, "", nil, false, nil},
		{"Not", Condition{Not: at(harm("=", 0))}, "some", 0, "", nil, true, nil},
		{"Rise", Condition{Rise: &Rise{"total", 3, 5}}, "never", 7, "", earlier(6, 2, 9), true, []Found{{Score: "total", Value: number(7), Before: []float64{6, 2, 9}}}},
		{"RiseOverTheLastOnly", Condition{Rise: &Rise{"total", 1, 5}}, "never", 7, "", earlier(6, 2, 9), false, nil},
		{"RiseWithoutHistory", Condition{Rise: &Rise{"total", 3, 1}}, "never", 7, "", nil, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := answered(t, c.harm, c.pain, c.fell)
			rule := Rule{When: c.when}
			found, held := rule.Evaluate(&Facts{Definition: d, Response: r, Scores: d.Scores(r), Earlier: c.earlier})
			if held != c.want {
				t.Fatalf("held %t, want %t", held, c.want)
			}
			if diff := cmp.Diff(c.found, found); diff != "" {
				t.Error(diff)
			}
		})
	}
}

type versions []*questionnaire.Definition

func (v versions) Versions(url string) []*questionnaire.Definition {
	if url != moodURL {
		return nil
	}
	return v
}

func TestCheck(t *testing.T) {
	known := versions{mood(t, "1"), mood(t, "2")}
	truth := true
	good := func() Rule {
		return Rule{ID: "harm", Questionnaire: moodURL, Severity: High, When: Condition{Answer: &AnswerIs{LinkID: "harm", Operator: ">", Number: number(0)}}}
	}
	with := func(change func(*Rule)) []Rule { r := good(); change(&r); return []Rule{r} }
	for _, c := range []struct {
		name  string
		rules []Rule
		want  string // pointer and code of the first finding
	}{
		{"Good", []Rule{good()}, ""},
		{"OneVersion", with(func(r *Rule) { r.Questionnaire += "|2" }), ""},
		{"UnknownVersion", with(func(r *Rule) { r.Questionnaire += "|3" }), "/rules/0/questionnaire unknown_questionnaire"},
		{"Twice", []Rule{good(), good()}, "/rules/1/id duplicate_id"},
		{"NoID", with(func(r *Rule) { r.ID = "a b" }), "/rules/0/id invalid_id"},
		{"Severity", with(func(r *Rule) { r.Severity = "grave" }), "/rules/0/severity invalid_severity"},
		{"NoCondition", with(func(r *Rule) { r.When = Condition{} }), "/rules/0/when invalid_condition"},
		{"TwoConditions", with(func(r *Rule) { r.When.Score = &ScoreIs{"total", ">", 1} }), "/rules/0/when invalid_condition"},
		{"UnknownLink", with(func(r *Rule) { r.When.Answer.LinkID = "x" }), "/rules/0/when/answer/linkId unknown_link_id"},
		{"NumberOfText", with(func(r *Rule) { r.When.Answer.LinkID = "words" }), "/rules/0/when/answer/number answer_type_differs"},
		{"UnknownCode", with(func(r *Rule) { r.When.Answer = &AnswerIs{LinkID: "harm", Operator: "=", Code: "x"} }), "/rules/0/when/answer/code unknown_option"},
		{"OrderOfCodes", with(func(r *Rule) { r.When.Answer = &AnswerIs{LinkID: "harm", Operator: ">", Code: "some"} }), "/rules/0/when/answer/operator operator_not_ordered"},
		{"BooleanOfChoice", with(func(r *Rule) { r.When.Answer = &AnswerIs{LinkID: "harm", Operator: "=", Boolean: &truth} }), "/rules/0/when/answer/boolean answer_type_differs"},
		{"NothingCompared", with(func(r *Rule) { r.When.Answer.Number = nil }), "/rules/0/when/answer invalid_answer"},
		{"ExistsCompares", with(func(r *Rule) { r.When.Answer.Operator = "exists" }), "/rules/0/when/answer invalid_answer"},
		{"UnknownScore", with(func(r *Rule) { r.When = Condition{Score: &ScoreIs{"x", ">", 1}} }), "/rules/0/when/score/name unknown_score"},
		{"UnknownOperator", with(func(r *Rule) { r.When = Condition{Score: &ScoreIs{"total", "~", 1}} }), "/rules/0/when/score/operator unknown_operator"},
		{"RiseOfNothing", with(func(r *Rule) { r.When = Condition{Rise: &Rise{"total", 3, 0}} }), "/rules/0/when/rise/by invalid_number"},
		{"RiseTooFar", with(func(r *Rule) { r.When = Condition{Rise: &Rise{"total", 21, 1}} }), "/rules/0/when/rise/last invalid_number"},
		{"UrgentRise", with(func(r *Rule) { r.Urgent, r.When = true, Condition{Rise: &Rise{"total", 3, 1}} }), "/rules/0/when/rise urgent_history"},
		{"Below", with(func(r *Rule) { r.When = Condition{Not: &Condition{Any: []*Condition{{}}}} }), "/rules/0/when/not/any/0 invalid_condition"},
		{"EscalationTo", with(func(r *Rule) { r.Escalation = []Escalation{{"nurse", "PT0S"}} }), "/rules/0/escalation/0/to invalid_recipient"},
		{"EscalationAfter", with(func(r *Rule) { r.Escalation = []Escalation{{ToSite, "soon"}} }), "/rules/0/escalation/0/after invalid_duration"},
		{"EscalationOrder", with(func(r *Rule) { r.Escalation = []Escalation{{ToSite, "PT1H"}, {ToManager, "PT30M"}} }), "/rules/0/escalation/1/after wrong_order"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if findings := Check(c.rules, known); len(findings) > 0 {
				got = findings[0].Pointer + " " + findings[0].Code
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	deep := &Condition{Answer: good().When.Answer}
	for range maxDepth {
		deep = &Condition{Not: deep}
	}
	if f := Check(with(func(r *Rule) { r.When = *deep }), known); len(f) != 1 || f[0].Code != "too_complex" {
		t.Errorf("too deep: %+v", f)
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"PT0S": 0, "PT30M": 30 * time.Minute, "P1DT2H": 26 * time.Hour, "PT1H30M5S": 90*time.Minute + 5*time.Second} {
		if got, ok := duration(text); !ok || got != want {
			t.Errorf("%s is %v, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "P", "PT", "30M", "P1M", "P1Y", "PT-1M", "PT1.5H"} {
		if _, ok := duration(text); ok {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestOnDuty(t *testing.T) {
	at := func(day, hour int) time.Time { return time.Date(2026, 11, day, hour, 30, 0, 0, time.UTC) } // the 23rd is a Monday
	day, night, weekend := Contact{Email: "day@example.org"}, Contact{Email: "night@example.org"}, Contact{Email: "weekend@example.org"}
	rota := Rota{Sites: []Site{{Site: "S01", Duty: []Duty{{Contact: day, Days: []string{"MO", "TU"}, From: "08:00", Until: "20:00"},
		{Contact: night, Days: []string{"MO"}, From: "20:00", Until: "08:00"}, {Contact: weekend, Days: []string{"SA", "SU"}}}}}}
	for _, c := range []struct {
		site string
		at   time.Time
		want []Contact
	}{
		{"S01", at(23, 8), []Contact{day}}, {"S01", at(23, 19), []Contact{day}}, {"S01", at(23, 20), []Contact{night}}, {"S01", at(24, 3), []Contact{night}},
		{"S01", at(23, 3), nil}, {"S01", at(25, 12), nil}, {"S01", at(28, 0), []Contact{weekend}}, {"S02", at(23, 12), nil},
	} {
		if diff := cmp.Diff(c.want, rota.OnDuty(c.site, c.at)); diff != "" {
			t.Errorf("%s at %v: %s", c.site, c.at, diff)
		}
	}
}
