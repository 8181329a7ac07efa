package questionnaire

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// scored is a questionnaire with two weighed choices, a number and the scores that extensions declare.
func scored(extensions string) string {
	option := func(code, weight string) string {
		return fmt.Sprintf(`{"valueCoding":{"system":"s","code":%q},"extension":[%s]}`, code, weight)
	}
	ordinal := `{"url":"http://hl7.org/fhir/StructureDefinition/ordinalValue","valueDecimal":%s}`
	weight := `{"url":"http://hl7.org/fhir/StructureDefinition/itemWeight","valueDecimal":%s}`
	choices := func(link, form string) string {
		return fmt.Sprintf(`{"linkId":%q,"type":"choice","repeats":true,"answerOption":[%s,%s,%s]}`, link,
			option("no", fmt.Sprintf(form, "0")), option("some", fmt.Sprintf(form, "0.1")), option("much", fmt.Sprintf(form, "0.2")))
	}
	return `{"resourceType":"Questionnaire","url":"https://example.org/q/s","version":"1","status":"active","extension":[` + extensions + `],"item":[` +
		choices("a", ordinal) + `,{"linkId":"g","type":"group","item":[` + choices("b", weight) + `,{"linkId":"n","type":"integer"}]},` +
		`{"linkId":"bare","type":"choice","answerOption":[{"valueCoding":{"system":"s","code":"x"}}]},{"linkId":"word","type":"string"}]}`
}

func scoreExtension(parts ...string) string {
	return `{"url":"https://eprod.org/fhir/StructureDefinition/questionnaire-score","extension":[` + strings.Join(parts, ",") + `]}`
}

func part(name, value string) string { return fmt.Sprintf(`{"url":%q,%s}`, name, value) }

func itemPart(link string) string { return part("item", fmt.Sprintf(`"valueString":%q`, link)) }

func namePart(name string) string { return part("name", fmt.Sprintf(`"valueString":%q`, name)) }

func TestScores(t *testing.T) {
	all := []string{itemPart("a"), itemPart("b"), itemPart("n")}
	declared := strings.Join([]string{
		scoreExtension(append([]string{namePart("sum")}, all...)...),
		scoreExtension(append([]string{namePart("two"), part("least", `"valueInteger":2`)}, all...)...),
		scoreExtension(append([]string{namePart("scaled"), part("least", `"valueInteger":1`), part("prorate", `"valueBoolean":true`)}, all...)...),
		scoreExtension(append([]string{namePart("mean"), part("method", `"valueCode":"mean"`), part("least", `"valueInteger":1`)}, all...)...),
	}, ",")
	d, findings := Compile([]byte(scored(declared)), DefaultLimits())
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	code := func(link string, codes ...string) string {
		var answers []string
		for _, c := range codes {
			answers = append(answers, fmt.Sprintf(`{"valueCoding":{"system":"s","code":%q}}`, c))
		}
		return fmt.Sprintf(`{"linkId":%q,"answer":[%s]}`, link, strings.Join(answers, ","))
	}
	number := func(n int) string { return fmt.Sprintf(`{"linkId":"n","answer":[{"valueInteger":%d}]}`, n) }
	none := math.NaN()
	for _, c := range []struct {
		name                   string
		a, b, n                string
		sum, two, scaled, mean float64
		missing                []string
	}{
		{"All", code("a", "some"), code("b", "much"), number(4), 4.3, 4.3, 4.3, 4.3 / 3, nil},
		{"ZeroIsAnAnswer", code("a", "no"), code("b", "no"), number(0), 0, 0, 0, 0, nil},
		{"Several", code("a", "some", "much"), code("b", "no"), number(-2), -1.7, -1.7, -1.7, -1.7 / 3, nil},
		{"OneMissing", code("a", "much"), "", number(1), none, 1.2, 1.8, 0.6, []string{"b"}},
		{"TwoMissing", "", "", number(3), none, none, 9, 3, []string{"a", "b"}},
		{"Nothing", "", "", "", none, none, none, none, []string{"a", "b", "n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			join := func(items ...string) string {
				return strings.Trim(strings.ReplaceAll(strings.Join(items, ","), ",,", ","), ",")
			}
			body := `{"resourceType":"QuestionnaireResponse","item":[` + join(c.a, `{"linkId":"g","item":[`+join(c.b, c.n)+`]}`) + `]}`
			r, err := ParseResponse([]byte(body))
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range []float64{c.sum, c.two, c.scaled, c.mean} {
				got := d.Scores(r)[i]
				if got.Valid == math.IsNaN(want) || got.Valid && got.Value != want {
					t.Errorf("%s is %v (%t), want %v", got.Rule.Name, got.Value, got.Valid, want)
				}
				if diff := cmp.Diff(c.missing, got.Missing); diff != "" {
					t.Errorf("missing: %s", diff)
				}
			}
		})
	}
}

func TestScoreRefusals(t *testing.T) {
	for _, c := range []struct{ name, extension, code string }{
		{"NoName", scoreExtension(itemPart("a")), "invalid_score"},
		{"NoItems", scoreExtension(namePart("x")), "invalid_score"},
		{"UnknownItem", scoreExtension(namePart("x"), itemPart("nowhere")), "unknown_source"},
		{"ItemTwice", scoreExtension(namePart("x"), itemPart("a"), itemPart("a")), "invalid_score"},
		{"NoWeights", scoreExtension(namePart("x"), itemPart("bare")), "no_weights"},
		{"Words", scoreExtension(namePart("x"), itemPart("word")), "no_weights"},
		{"UnknownMethod", scoreExtension(namePart("x"), itemPart("a"), part("method", `"valueCode":"median"`)), "invalid_score"},
		{"LeastTooMany", scoreExtension(namePart("x"), itemPart("a"), part("least", `"valueInteger":2`)), "invalid_score"},
		{"LeastNone", scoreExtension(namePart("x"), itemPart("a"), part("least", `"valueInteger":0`)), "invalid_score"},
		{"UnknownPart", scoreExtension(namePart("x"), itemPart("a"), part("colour", `"valueCode":"red"`)), "invalid_score"},
		{"Twice", scoreExtension(namePart("x"), itemPart("a")) + "," + scoreExtension(namePart("x"), itemPart("b")), "duplicate_score"},
		{"ProratedMean", scoreExtension(namePart("x"), itemPart("a"), part("method", `"valueCode":"mean"`), part("prorate", `"valueBoolean":true`)), "invalid_score"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, findings := Compile([]byte(scored(c.extension)), DefaultLimits())
			if len(findings) == 0 || findings[0].Code != c.code {
				t.Errorf("findings %+v, want %s", findings, c.code)
			}
		})
	}
}

// TestScoreProperties: a sum does not depend on the order of the items, is what the weights add up to, and the same answers have the same
// score; the hash names the algorithm.
func TestScoreProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "items")
		var items, parts, answers []string
		want := 0
		for i := range n {
			link := fmt.Sprintf("q%d", i)
			items = append(items, fmt.Sprintf(`{"linkId":%q,"type":"integer"}`, link))
			parts = append(parts, itemPart(link))
			v := rapid.IntRange(-1000, 1000).Draw(t, link)
			want += v
			answers = append(answers, fmt.Sprintf(`{"linkId":%q,"answer":[{"valueInteger":%d}]}`, link, v))
		}
		compile := func(parts []string) *Definition {
			d, findings := Compile(fmt.Appendf(nil, `{"resourceType":"Questionnaire","url":"https://example.org/p","version":"1","status":"active","extension":[%s],"item":[%s]}`,
				scoreExtension(append([]string{namePart("s")}, parts...)...), strings.Join(items, ",")), DefaultLimits())
			if len(findings) > 0 {
				t.Fatal(findings)
			}
			return d
		}
		r, err := ParseResponse([]byte(`{"item":[` + strings.Join(answers, ",") + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		one, other := compile(parts), compile(rapid.Permutation(parts).Draw(t, "order"))
		if a, b := one.Scores(r)[0], other.Scores(r)[0]; !a.Valid || a.Value != float64(want) || b.Value != a.Value {
			t.Fatalf("%v and %v, want %d", a.Value, b.Value, want)
		}
		if one.ScoreRules()[0].Hash != compile(parts).ScoreRules()[0].Hash || len(one.ScoreRules()[0].Hash) != 64 {
			t.Fatal("the hash of an algorithm is not always the same")
		}
	})
}
