package questionnaire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
)

var now = time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)

const minValue, maxValue = `{"url":"http://hl7.org/fhir/StructureDefinition/minValue",`, `{"url":"http://hl7.org/fhir/StructureDefinition/maxValue",`

func ext(name, value string) string {
	return `{"url":"http://hl7.org/fhir/StructureDefinition/` + name + `",` + value + `}`
}

// with is a questionnaire of the given items.
func with(items string) []byte {
	return []byte(`{"resourceType":"Questionnaire","url":"https://example.org/q","version":"1","status":"draft","item":[` + items + `]}`)
}

func compile(t testing.TB, items string) *Definition {
	t.Helper()
	d, findings := Compile(with(items), DefaultLimits())
	if len(findings) > 0 {
		t.Fatalf("does not compile: %+v", findings)
	}
	return d
}

// answered is a completed response with the given items.
func answered(items string) string {
	return `{"resourceType":"QuestionnaireResponse","questionnaire":"https://example.org/q|1","status":"completed","authored":"2026-11-23T20:00:00+01:00","item":[` + items + `]}`
}

func codes(findings []errs.Finding) string {
	var list []string
	for _, f := range findings {
		list = append(list, f.LinkID+":"+f.Code)
	}
	return strings.Join(list, " ")
}

func check(t testing.TB, d *Definition, response string) []errs.Finding {
	t.Helper()
	r, err := ParseResponse([]byte(response))
	if err != nil {
		t.Fatalf("%v in %s", err, response)
	}
	return d.Check(r, Context{Now: now, MaxSkew: time.Minute})
}

func one(linkID, value string) string {
	return fmt.Sprintf(`{"linkId":%q,"answer":[{%s}]}`, linkID, value)
}

func TestAnswerRules(t *testing.T) {
	q := func(kind, more string) string { return `{"linkId":"a","type":"` + kind + `"` + more + `}` }
	options := `,"answerOption":[{"valueCoding":{"system":"s","code":"x"}},{"valueCoding":{"system":"s","code":"y"},"extension":[` + ext("questionnaire-optionExclusive", `"valueBoolean":true`) + `]}]`
	cases := []struct{ name, item, value, want string }{
		{"Boolean", q("boolean", ""), `"valueBoolean":true`, ""},
		{"BooleanAsString", q("boolean", ""), `"valueBoolean":"true"`, "a:invalid_value"},
		{"BooleanOther", q("boolean", ""), `"valueInteger":1`, "a:wrong_type"},
		{"Integer", q("integer", ""), `"valueInteger":-7`, ""},
		{"IntegerFraction", q("integer", ""), `"valueInteger":1.5`, "a:invalid_value"},
		{"IntegerTooLarge", q("integer", ""), `"valueInteger":2147483648`, "a:invalid_value"},
		{"Decimal", q("decimal", ""), `"valueDecimal":0.10`, ""},
		{"DecimalPlaces", q("decimal", `,"extension":[`+ext("maxDecimalPlaces", `"valueInteger":1`)+`]`), `"valueDecimal":0.10`, "a:too_many_decimals"},
		{"Minimum", q("integer", `,"extension":[`+ext("minValue", `"valueInteger":0`)+`]`), `"valueInteger":0`, ""},
		{"BelowMinimum", q("integer", `,"extension":[`+ext("minValue", `"valueInteger":0`)+`]`), `"valueInteger":-1`, "a:below_minimum"},
		{"AboveMaximum", q("decimal", `,"extension":[`+ext("maxValue", `"valueDecimal":9.99`)+`]`), `"valueDecimal":9.991`, "a:above_maximum"},
		{"MaximumOtherForm", q("decimal", `,"extension":[`+ext("maxValue", `"valueDecimal":10`)+`]`), `"valueDecimal":1.0e1`, ""},
		{"Date", q("date", ""), `"valueDate":"2026-11"`, ""},
		{"DateNotInCalendar", q("date", ""), `"valueDate":"2026-02-30"`, "a:invalid_value"},
		{"DatePartialAtMinimum", q("date", `,"extension":[`+ext("minValue", `"valueDate":"2026-11-23"`)+`]`), `"valueDate":"2026-11"`, ""},
		{"DateBelowMinimum", q("date", `,"extension":[`+ext("minValue", `"valueDate":"2026-11-23"`)+`]`), `"valueDate":"2026-10"`, "a:below_minimum"},
		{"DateTime", q("dateTime", ""), `"valueDateTime":"2026-11-23T20:00:00Z"`, ""},
		{"DateTimeNoOffset", q("dateTime", ""), `"valueDateTime":"2026-11-23T20:00:00"`, "a:invalid_value"},
		{"Time", q("time", ""), `"valueTime":"08:00:00"`, ""},
		{"TimeNoSeconds", q("time", ""), `"valueTime":"08:00"`, "a:invalid_value"},
		{"String", q("string", ""), `"valueString":"x"`, ""},
		{"StringNewline", q("string", ""), `"valueString":"x\ny"`, "a:newline"},
		{"TextNewline", q("text", ""), `"valueString":"x\ny"`, ""},
		{"MaxLengthInCharacters", q("string", `,"maxLength":2`), `"valueString":"äö"`, ""},
		{"TooLong", q("string", `,"maxLength":2`), `"valueString":"äöü"`, "a:too_long"},
		{"TooShort", q("string", `,"extension":[`+ext("minLength", `"valueInteger":3`)+`]`), `"valueString":"äö"`, "a:too_short"},
		{"PatternWhole", q("string", `,"extension":[`+ext("regex", `"valueString":"[0-9]+"`)+`]`), `"valueString":"12"`, ""},
		{"PatternPart", q("string", `,"extension":[`+ext("regex", `"valueString":"[0-9]+"`)+`]`), `"valueString":"12x"`, "a:pattern"},
		{"PatternAlternatives", q("string", `,"extension":[`+ext("regex", `"valueString":"a|b"`)+`]`), `"valueString":"ax"`, "a:pattern"},
		{"Option", q("choice", options), `"valueCoding":{"system":"s","code":"x"}`, ""},
		{"OptionOtherSystem", q("choice", options), `"valueCoding":{"system":"z","code":"x"}`, "a:not_an_option"},
		{"OptionUnknown", q("choice", options), `"valueCoding":{"system":"s","code":"z"}`, "a:not_an_option"},
		{"ChoiceAsText", q("choice", options), `"valueString":"x"`, "a:wrong_type"},
		{"OpenChoiceText", q("open-choice", options), `"valueString":"other"`, ""},
		{"OpenChoiceOtherCode", q("open-choice", options), `"valueCoding":{"system":"s","code":"z"}`, "a:not_an_option"},
		{"IntegerOption", q("integer", `,"answerOption":[{"valueInteger":1},{"valueInteger":2}]`), `"valueInteger":3`, "a:not_an_option"},
		{"ContainedValueSet", q("choice", `,"answerValueSet":"#v"`), `"valueCoding":{"system":"s","code":"v1"}`, ""},
		{"ContainedValueSetOther", q("choice", `,"answerValueSet":"#v"`), `"valueCoding":{"system":"s","code":"v9"}`, "a:not_an_option"},
		{"TwoValues", q("string", ""), `"valueString":"x","valueInteger":1`, "a:several_values"},
		{"NoValue", q("string", ""), ``, "a:missing_value"},
		{"BlankRequired", q("string", `,"required":true`), `"valueString":"  "`, "a:required"},
		{"ReadOnly", q("integer", `,"readOnly":true,"initial":[{"valueInteger":4}]`), `"valueInteger":4`, ""},
		{"ReadOnlyChanged", q("integer", `,"readOnly":true,"initial":[{"valueInteger":4}]`), `"valueInteger":5`, "a:read_only"},
		{"Hidden", q("integer", `,"extension":[`+ext("questionnaire-hidden", `"valueBoolean":true`)+`]`), `"valueInteger":5`, "a:read_only"},
		{"Slider", q("integer", `,"extension":[`+ext("minValue", `"valueInteger":1`)+`,`+ext("questionnaire-sliderStepValue", `"valueInteger":5`)+`]`), `"valueInteger":11`, ""},
		{"SliderBetween", q("integer", `,"extension":[`+ext("questionnaire-sliderStepValue", `"valueInteger":5`)+`]`), `"valueInteger":11`, "a:not_on_step"},
		{"Quantity", q("quantity", `,"extension":[`+ext("questionnaire-unitOption", `"valueCoding":{"system":"u","code":"kg"}`)+`]`), `"valueQuantity":{"value":70.5,"system":"u","code":"kg"}`, ""},
		{"QuantityUnit", q("quantity", `,"extension":[`+ext("questionnaire-unitOption", `"valueCoding":{"system":"u","code":"kg"}`)+`]`), `"valueQuantity":{"value":70.5,"system":"u","code":"g"}`, "a:wrong_unit"},
		{"Attachment", q("attachment", `,"extension":[`+ext("mimeType", `"valueCode":"image/png"`)+`]`), `"valueAttachment":{"contentType":"image/png"}`, ""},
		{"AttachmentType", q("attachment", `,"extension":[`+ext("mimeType", `"valueCode":"image/png"`)+`]`), `"valueAttachment":{"contentType":"image/gif"}`, "a:wrong_media_type"},
		{"AttachmentSize", q("attachment", `,"extension":[`+ext("maxSize", `"valueDecimal":0.000003`)+`]`), `"valueAttachment":{"data":"QUJDRA=="}`, "a:too_large"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			raw := []byte(strings.Replace(string(with(c.item)), `"item"`,
				`"contained":[{"resourceType":"ValueSet","id":"v","compose":{"include":[{"system":"s","concept":[{"code":"v1"}]}]}}],"item"`, 1))
			d, findings := Compile(raw, DefaultLimits())
			if len(findings) > 0 {
				t.Fatalf("does not compile: %+v", findings)
			}
			if got := codes(check(t, d, answered(one("a", c.value)))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestStructureRules(t *testing.T) {
	d := compile(t, `{"linkId":"intro","type":"display","text":"Hello"},
		{"linkId":"g","type":"group","text":"Group","repeats":true,"item":[{"linkId":"g1","type":"integer","required":true},{"linkId":"g2","type":"string","repeats":true}]},
		{"linkId":"q","type":"boolean","text":"Question","_text":{"extension":[{"url":"http://hl7.org/fhir/StructureDefinition/translation","extension":[{"url":"lang","valueCode":"de"},{"url":"content","valueString":"Frage"}]}]},
			"item":[{"linkId":"q1","type":"integer","required":true}]},
		{"linkId":"r","type":"group","required":true,"item":[{"linkId":"r1","type":"integer"}]}`)
	r := `,{"linkId":"r","item":[` + one("r1", `"valueInteger":1`) + `]}`
	g := func(items string) string { return `{"linkId":"g","item":[` + items + `]}` }
	full := one("g1", `"valueInteger":1`)
	cases := []struct{ name, items, want string }{
		{"Full", g(full) + `,{"linkId":"q","answer":[{"valueBoolean":true,"item":[` + one("q1", `"valueInteger":1`) + `]}]}` + r, ""},
		{"GroupTwice", g(full) + `,` + g(full) + r, ""},
		{"Translation", `{"linkId":"q","text":"Frage"}` + r, ""},
		{"OtherText", `{"linkId":"q","text":"Anders"}` + r, "q:text_differs"},
		{"Unknown", `{"linkId":"x"}` + r, "x:unknown_link_id"},
		{"WrongPlace", `{"linkId":"g1","answer":[{"valueInteger":1}]}` + r, "g1:wrong_place"},
		{"WrongOrder", `{"linkId":"r","item":[` + one("r1", `"valueInteger":1`) + `]},{"linkId":"q"}`, "q:wrong_order"},
		{"QuestionTwice", `{"linkId":"q"},{"linkId":"q"}` + r, "q:repeated_item"},
		{"SeveralAnswers", `{"linkId":"q","answer":[{"valueBoolean":true,"item":[` + one("q1", `"valueInteger":1`) + `]},{"valueBoolean":false,"item":[` + one("q1", `"valueInteger":1`) + `]}]}` + r, "q:several_answers"},
		{"RepeatingAnswers", g(full+`,{"linkId":"g2","answer":[{"valueString":"a"},{"valueString":"b"}]}`) + r, ""},
		{"DisplayAnswered", one("intro", `"valueString":"x"`) + r, "intro:display_answered"},
		{"GroupAnswered", `{"linkId":"g","answer":[{"valueString":"x"}],"item":[` + full + `]}` + r, "g:group_answered"},
		{"ItemsUnderQuestion", `{"linkId":"q","item":[` + one("q1", `"valueInteger":1`) + `]}` + r, "q:items_without_answer"},
		{"RequiredBelowAnswer", one("q", `"valueBoolean":true`) + r, "q1:required"},
		{"RequiredInGroup", g(`{"linkId":"g2","answer":[{"valueString":"a"}]}`) + r, "g1:required"},
		{"RequiredGroup", g(full), "r:required"},
		{"SeveralFindings", g(`{"linkId":"g1","answer":[{"valueString":"a"}]},{"linkId":"zz"}`), "g1:wrong_type zz:unknown_link_id r:required"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := codes(check(t, d, answered(c.items))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("LenientInProgress", func(t *testing.T) {
		draft := strings.Replace(answered(g("")), "completed", "in-progress", 1)
		if got := codes(check(t, d, draft)); got != "" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("Places", func(t *testing.T) {
		f := check(t, d, answered(g(full)+`,`+g(one("g1", `"valueString":"a"`))+r))
		if len(f) != 1 || f[0].Pointer != "/item/1/item/0/answer/0/valueString" || f[0].Expression != "QuestionnaireResponse.item[1].item[0].answer[0].value" {
			t.Errorf("got %+v", f)
		}
	})
}

func TestHeadRules(t *testing.T) {
	d := compile(t, `{"linkId":"a","type":"string"}`)
	good := answered("")
	for _, c := range []struct{ name, old, new, want string }{
		{"Good", "", "", ""},
		{"Resource", `"QuestionnaireResponse"`, `"Patient"`, ":wrong_resource"},
		{"OtherVersion", "q|1", "q|2", ":questionnaire_mismatch"},
		{"Status", "completed", "done", ":invalid_status"},
		{"NoAuthored", `,"authored":"2026-11-23T20:00:00+01:00"`, "", ":missing"},
		{"AuthoredWithoutOffset", "20:00:00+01:00", "20:00:00", ":invalid_value"},
		{"Future", "2026-11-23T20:00:00+01:00", "2026-11-23T21:02:00+01:00", ":in_the_future"},
		{"WithinSkew", "2026-11-23T20:00:00+01:00", "2026-11-23T21:00:30+01:00", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := codes(check(t, d, strings.Replace(good, c.old, c.new, 1))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestEnableWhen(t *testing.T) {
	const source = `{"linkId":"n","type":"integer","repeats":true},{"linkId":"c","type":"choice","answerOption":[{"valueCoding":{"system":"s","code":"x"}},{"valueCoding":{"system":"s","code":"y"}}]},`
	target := func(when string) string {
		return source + `{"linkId":"t","type":"string","required":true,` + when + `}`
	}
	n := func(values ...int) string {
		var a []string
		for _, v := range values {
			a = append(a, fmt.Sprintf(`{"valueInteger":%d}`, v))
		}
		return `{"linkId":"n","answer":[` + strings.Join(a, ",") + `]}`
	}
	both := func(behavior string) string {
		return `"enableBehavior":"` + behavior + `","enableWhen":[{"question":"n","operator":">","answerInteger":3},{"question":"c","operator":"=","answerCoding":{"system":"s","code":"x"}}]`
	}
	x := one("c", `"valueCoding":{"system":"s","code":"x"}`)
	cases := []struct {
		name, when, items string
		enabled           bool
	}{
		{"Equal", `"enableWhen":[{"question":"n","operator":"=","answerInteger":3}]`, n(3), true},
		{"EqualOther", `"enableWhen":[{"question":"n","operator":"=","answerInteger":3}]`, n(4), false},
		{"AnyAnswerMatches", `"enableWhen":[{"question":"n","operator":"=","answerInteger":3}]`, n(4, 3), true},
		{"NotEqual", `"enableWhen":[{"question":"n","operator":"!=","answerInteger":3}]`, n(4), true},
		{"NotEqualWithoutAnswer", `"enableWhen":[{"question":"n","operator":"!=","answerInteger":3}]`, "", false},
		{"Exists", `"enableWhen":[{"question":"n","operator":"exists","answerBoolean":true}]`, n(1), true},
		{"ExistsNot", `"enableWhen":[{"question":"n","operator":"exists","answerBoolean":true}]`, "", false},
		{"MustNotExist", `"enableWhen":[{"question":"n","operator":"exists","answerBoolean":false}]`, "", true},
		{"Greater", `"enableWhen":[{"question":"n","operator":">","answerInteger":3}]`, n(4), true},
		{"GreaterEqual", `"enableWhen":[{"question":"n","operator":">=","answerInteger":3}]`, n(3), true},
		{"Less", `"enableWhen":[{"question":"n","operator":"<","answerInteger":3}]`, n(3), false},
		{"LessEqual", `"enableWhen":[{"question":"n","operator":"<=","answerInteger":3}]`, n(3), true},
		{"AllBoth", both("all"), n(4) + "," + x, true},
		{"AllOne", both("all"), n(4), false},
		{"AnyOne", both("any"), n(4), true},
		{"AnyNone", both("any"), n(1), false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := compile(t, target(c.when))
			without, present := "", "t:not_enabled"
			if c.enabled {
				without, present = "t:required", ""
			}
			if got := codes(check(t, d, answered(c.items))); got != without {
				t.Errorf("left out: got %q, want %q", got, without)
			}
			items := strings.TrimPrefix(c.items+","+one("t", `"valueString":"v"`), ",")
			if got := codes(check(t, d, answered(items))); got != present {
				t.Errorf("answered: got %q, want %q", got, present)
			}
		})
	}
}

// TestEnableInsideGroups: a condition looks inside the nearest common instance, and what is disabled enables nothing.
func TestEnableInsideGroups(t *testing.T) {
	d := compile(t, `{"linkId":"g","type":"group","repeats":true,"item":[{"linkId":"yes","type":"boolean"},
			{"linkId":"why","type":"string","required":true,"enableWhen":[{"question":"yes","operator":"=","answerBoolean":true}]}]},
		{"linkId":"a","type":"boolean"},
		{"linkId":"b","type":"boolean","enableWhen":[{"question":"a","operator":"=","answerBoolean":true}]},
		{"linkId":"h","type":"group","enableWhen":[{"question":"b","operator":"=","answerBoolean":true}],"item":[{"linkId":"h1","type":"integer","required":true}]}`)
	instance := func(yes, why string) string {
		items := one("yes", `"valueBoolean":`+yes)
		if why != "" {
			items += "," + one("why", `"valueString":"`+why+`"`)
		}
		return `{"linkId":"g","item":[` + items + `]}`
	}
	for _, c := range []struct{ name, items, want string }{
		{"EachInstanceForItself", instance("true", "x") + "," + instance("false", ""), ""},
		{"OtherInstanceDoesNotEnable", instance("true", "x") + "," + instance("false", "y"), "why:not_enabled"},
		{"RequiredInItsInstance", instance("true", "") + "," + instance("false", ""), "why:required"},
		{"ChainOn", one("a", `"valueBoolean":true`) + "," + one("b", `"valueBoolean":true`), "h1:required"},
		{"DisabledEnablesNothing", one("a", `"valueBoolean":false`) + "," + one("b", `"valueBoolean":true`) + `,{"linkId":"h","item":[` + one("h1", `"valueInteger":1`) + `]}`, "b:not_enabled h:not_enabled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := check(t, d, answered(c.items))
			if c.name == "ChainOn" { // the group itself is optional: leaving it out is fine
				if codes(got) != "" {
					t.Errorf("got %q", codes(got))
				}
				return
			}
			if codes(got) != c.want {
				t.Errorf("got %q, want %q", codes(got), c.want)
			}
		})
	}
}

func TestExclusiveOption(t *testing.T) {
	d := compile(t, `{"linkId":"a","type":"choice","repeats":true,"answerOption":[{"valueCoding":{"code":"x"}},{"valueCoding":{"code":"none"},"extension":[`+ext("questionnaire-optionExclusive", `"valueBoolean":true`)+`]}]}`)
	two := `{"linkId":"a","answer":[{"valueCoding":{"code":"x"}},{"valueCoding":{"code":"none"}}]}`
	if got := codes(check(t, d, answered(two))); got != "a:exclusive_option" {
		t.Errorf("got %q", got)
	}
	if got := codes(check(t, d, answered(one("a", `"valueCoding":{"code":"none"}`)))); got != "" {
		t.Errorf("got %q", got)
	}
}

// TestFindingsKeepSecrets: no finding repeats what a participant wrote.
func TestFindingsKeepSecrets(t *testing.T) {
	d := compile(t, `{"linkId":"a","type":"integer"},{"linkId":"b","type":"string","maxLength":2}`)
	for _, f := range check(t, d, answered(one("a", `"valueString":"canary"`)+","+one("b", `"valueString":"canary"`))) {
		if strings.Contains(fmt.Sprint(f), "canary") {
			t.Errorf("%+v repeats an answer", f)
		}
	}
}

func TestParseResponseRefuses(t *testing.T) {
	good := answered(one("a", `"valueString":"x"`))
	for name, body := range map[string]string{
		"Empty": "", "Array": "[]", "Cut": good[:50], "Garbage": good + "x", "Duplicate": strings.Replace(good, `"status"`, `"status":"x","status"`, 1),
		"DeepDuplicate": strings.Replace(good, `"valueString":"x"`, `"valueString":"x","valueString":"y"`, 1), "BadUTF8": strings.Replace(good, `"x"`, "\"\xff\"", 1),
		"DeepItems":   `{"item":` + strings.Repeat(`[{"linkId":"a","item":`, 100) + "[]" + strings.Repeat(`}]`, 100) + `}`,
		"DeepUnknown": `{"x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseResponse([]byte(body))
			if refusal, ok := errs.As(err); !ok || refusal.Code != "invalid_json" {
				t.Errorf("got %v, want invalid_json", err)
			}
		})
	}
}

// TestParseResponseReadsAnySpelling: white space, escapes and unknown elements change nothing.
func TestParseResponseReadsAnySpelling(t *testing.T) {
	plain := answered(`{"linkId":"a","text":"T \"x\", [y]: {z}","answer":[{"valueString":"a, b: c"}]},{"linkId":"g","item":[{"linkId":"n","answer":[{"valueDecimal":-1.50e3},{"valueBoolean":true,"item":[{"linkId":"c",` +
		`"answer":[{"valueCoding":{"system":"s","code":"k","display":"d"}},{"valueQuantity":{"value":2,"unit":"kg"}},{"valueAttachment":{"contentType":"image/png","size":7}},{}]}]}]}]},7,{}`)
	want, err := ParseResponse([]byte(plain))
	if err != nil || len(want.Items) != 4 || want.Items[1].Items[0].Answers[1].Items[0].Answers[1].Value.Unit != "kg" {
		t.Fatalf("%+v, %v", want, err)
	}
	var spaced, escaped bytes.Buffer
	if err := json.Indent(&spaced, []byte(plain), " \r\n", "\t"); err != nil {
		t.Fatal(err)
	}
	inString, skip := false, false
	for _, c := range []byte(plain) {
		switch {
		case skip:
			skip = false
			escaped.WriteByte(c)
		case inString && c == '\\':
			skip = true
			escaped.WriteByte(c)
		case c == '"':
			inString = !inString
			escaped.WriteByte(c)
		case inString:
			fmt.Fprintf(&escaped, "\\u%04x", c)
		default:
			escaped.WriteByte(c)
		}
	}
	more := strings.ReplaceAll(plain, `"linkId"`, `"x":[{"]":"}\\","y":[null,-1,true]},"\""],"linkId"`)
	for name, body := range map[string]string{"spaced": spaced.String(), "escaped": escaped.String(), "with unknown elements": more, "all": spaced.String() + "\n"} {
		got, err := ParseResponse([]byte(body))
		if err != nil {
			t.Errorf("%s: %v in %s", name, err, body)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func FuzzParseAndCheck(f *testing.F) {
	d, _ := Compile(with(`{"linkId":"a","type":"choice","answerOption":[{"valueCoding":{"code":"x"}}]},{"linkId":"g","type":"group","repeats":true,"item":[{"linkId":"b","type":"decimal","enableWhen":[{"question":"a","operator":"exists","answerBoolean":true}]}]}`), DefaultLimits())
	f.Add([]byte(answered(one("a", `"valueCoding":{"code":"x"}`))))
	f.Add([]byte(answered(`{"linkId":"g","item":[` + one("b", `"valueDecimal":1.5e3`) + `]}`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := ParseResponse(body)
		if err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Fatalf("%v is not the sender's fault", err)
			}
			return
		}
		first, second := d.Check(r, Context{Now: now}), d.Check(r, Context{Now: now})
		if !slices.Equal(first, second) {
			t.Fatal("two checks differ")
		}
	})
}

func BenchmarkParseAndCheck(b *testing.B) {
	var items, answers []string
	for i := range 20 {
		items = append(items, fmt.Sprintf(`{"linkId":"q%02d","type":"integer","text":"Symptom %d today, 0 to 10","extension":[%s"valueInteger":0},%s"valueInteger":10}]}`, i, i, minValue, maxValue))
		answers = append(answers, fmt.Sprintf(`{"linkId":"q%02d","text":"Symptom %d today, 0 to 10","answer":[{"valueInteger":%d}]}`, i, i, i%11))
	}
	d := compile(b, strings.Join(items, ","))
	raw := []byte(answered(strings.Join(answers, ",")))
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := ParseResponse(raw)
		if err != nil || len(d.Check(r, Context{Now: now})) > 0 {
			b.Fatal(err)
		}
	}
}
