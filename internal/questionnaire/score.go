package questionnaire

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// scoreURL is the extension by which a questionnaire declares a score. Its parts: name (string), version (string), method (code: sum or
// mean), item (string, a linkId, once for each), least (integer: how many items must be answered, all unless it is there), prorate
// (boolean: a sum over fewer items is scaled up to all of them).
const scoreURL = "https://eprod.org/fhir/StructureDefinition/questionnaire-score"

// Methods of a score.
const (
	sumScore  = "sum"
	meanScore = "mean"
)

const maxScores = 50 // of one questionnaire

// ScoreRule is how a score is computed. It belongs to a version of a questionnaire and never changes.
type ScoreRule struct {
	Name    string
	Version string
	Method  string   // sum or mean
	Items   []string // linkIds
	Least   int      // items that must be answered
	Prorate bool     // a sum over fewer items than there are is scaled up to all
	Hash    string   // SHA-256 over all of this and the weights of the items, in hex
}

// Score is the value of one score for one response.
type Score struct {
	Rule    *ScoreRule
	Valid   bool    // false: fewer than Least items are answered, and there is no value
	Value   float64 // of the exact sum, rounded once
	Used    []string
	Missing []string // linkIds that are not answered; they never count as zero
}

// ScoreRules returns the scores that the questionnaire declares, in its order. They are shared: do not change them.
func (d *Definition) ScoreRules() []*ScoreRule { return d.scores }

// Scores computes every declared score of a response that Check has no finding for. Answers weigh what the option says (ordinalValue of
// FHIR R4, itemWeight of the SDC guide), numbers what they are; several answers of one item add up; an item that is not answered, or
// was not asked, is missing. The same response has the same scores always. Safe for concurrent use.
func (d *Definition) Scores(r *Response) []Score {
	if len(d.scores) == 0 {
		return nil
	}
	answers := make(map[string][]Answer)
	gather(r.Items, answers)
	out := make([]Score, len(d.scores))
	for i, rule := range d.scores {
		out[i] = d.score(rule, answers)
	}
	return out
}

func gather(items []Item, into map[string][]Answer) {
	for i := range items {
		it := &items[i]
		into[it.LinkID] = append(into[it.LinkID], it.Answers...)
		gather(it.Items, into)
		for j := range it.Answers {
			gather(it.Answers[j].Items, into)
		}
	}
}

func (d *Definition) score(rule *ScoreRule, answers map[string][]Answer) Score {
	s := Score{Rule: rule}
	total := new(big.Rat)
	for _, link := range rule.Items {
		weight, answered := d.all[link].weigh(answers[link])
		if !answered {
			s.Missing = append(s.Missing, link)
			continue
		}
		s.Used = append(s.Used, link)
		total.Add(total, weight)
	}
	if len(s.Used) < rule.Least || len(s.Used) == 0 {
		return s
	}
	used, all := big.NewRat(int64(len(s.Used)), 1), big.NewRat(int64(len(rule.Items)), 1)
	switch {
	case rule.Method == meanScore:
		total.Quo(total, used)
	case rule.Prorate:
		total.Mul(total.Quo(total, used), all)
	}
	s.Valid = true
	s.Value, _ = total.Float64()
	return s
}

// weigh adds up what the answers of an item weigh; false: there is none that weighs anything.
func (it *item) weigh(answers []Answer) (*big.Rat, bool) {
	total, answered := new(big.Rat), false
	for i := range answers {
		v := &answers[i].Value
		weight := it.weights[v.key()]
		if weight == nil && len(it.weights) == 0 && (v.Name == "valueInteger" || v.Name == "valueDecimal") {
			weight, _ = new(big.Rat).SetString(v.Text)
		}
		if weight != nil {
			total.Add(total, weight)
			answered = true
		}
	}
	return total, answered
}

// weigh takes the weight that an option declares.
func (c *compiler) weigh(it *item, v *Value, where string, e fhirExtension) {
	name := e.URL[strings.LastIndexByte(e.URL, '/')+1:]
	known := strings.HasPrefix(e.URL, coreURL) && (name == "ordinalValue" || name == "itemWeight" || name == "questionnaire-ordinalValue") ||
		strings.HasPrefix(e.URL, sdcURL) && name == "itemWeight"
	if !known {
		return
	}
	weight, ok := new(big.Rat).SetString(e.Rest.raw("value"))
	if !ok || !decimalForm.MatchString(e.Rest.raw("value")) {
		c.add("invalid_weight", it.linkID, where+".extension('"+e.URL+"')", "must be a decimal")
		return
	}
	if it.weights == nil {
		it.weights = make(map[string]*big.Rat)
	}
	if was := it.weights[v.key()]; was != nil && was.Cmp(weight) != 0 {
		c.add("invalid_weight", it.linkID, where, "must not have two different weights")
	}
	it.weights[v.key()] = weight
}

// scores reads the declared scores once all items are known.
func (c *compiler) scores(extensions []fhirExtension) {
	for i, e := range extensions {
		if e.URL != scoreURL {
			continue
		}
		at := fmt.Sprintf("Questionnaire.extension[%d]", i)
		rule, ok := c.scoreRule(e, at)
		if !ok {
			continue
		}
		if slices.ContainsFunc(c.definition.scores, func(r *ScoreRule) bool { return r.Name == rule.Name }) {
			c.add("duplicate_score", "", at, "another score has this name")
			continue
		}
		if len(c.definition.scores) == maxScores {
			c.add("too_many_scores", "", at, fmt.Sprintf("may declare at most %d scores", maxScores))
			return
		}
		c.definition.scores = append(c.definition.scores, rule)
	}
}

func (c *compiler) scoreRule(e fhirExtension, at string) (*ScoreRule, bool) {
	rule := &ScoreRule{Method: sumScore, Version: "1", Least: -1}
	before := len(c.findings)
	for _, part := range e.Extension {
		raw := part.Rest.raw("value")
		switch part.URL {
		case "name":
			rule.Name = raw
		case "version":
			rule.Version = raw
		case "method":
			rule.Method = raw
		case "item":
			c.scoreItem(rule, raw, at)
		case "least":
			n, err := strconv.Atoi(raw)
			if err != nil || n < 1 {
				c.add("invalid_score", "", at+".extension('least')", "must be a whole number above zero")
			}
			rule.Least = n
		case "prorate":
			rule.Prorate = raw == "true"
		default:
			c.add("invalid_score", "", at, "has the part "+strconv.Quote(part.URL)+"; the parts are name, version, method, item, least and prorate")
		}
	}
	if n := len(rule.Items); rule.Least == -1 || rule.Least > n {
		if rule.Least > n {
			c.add("invalid_score", "", at+".extension('least')", "must not be above the number of items")
		}
		rule.Least = n
	}
	if rule.Name == "" || characters(rule.Name) > 64 || rule.Version == "" || characters(rule.Version) > 64 {
		c.add("invalid_score", "", at, "must have a name, and a version, of at most 64 characters")
	}
	if rule.Method != sumScore && rule.Method != meanScore {
		c.add("invalid_score", "", at+".extension('method')", "must be sum or mean")
	}
	if rule.Prorate && rule.Method == meanScore {
		c.add("invalid_score", "", at+".extension('prorate')", "only a sum can be prorated; a mean is one already")
	}
	if len(rule.Items) == 0 {
		c.add("invalid_score", "", at+".extension('item')", "must name at least one item")
	}
	if len(c.findings) > before {
		return nil, false
	}
	rule.Hash = c.scoreHash(rule)
	return rule, true
}

func (c *compiler) scoreItem(rule *ScoreRule, link, at string) {
	it := c.definition.all[link]
	switch {
	case it == nil:
		c.add("unknown_source", link, at+".extension('item')", "must be the linkId of an item of this questionnaire")
	case slices.Contains(rule.Items, link):
		c.add("invalid_score", link, at+".extension('item')", "is named twice")
	case it.kind != integer && it.kind != decimal && len(it.weights) == 0:
		c.add("no_weights", link, at+".extension('item')", "must be a number, or a choice whose options have an ordinalValue or itemWeight")
	case len(it.weights) > 0 && len(it.weights) < len(it.options):
		c.add("no_weights", link, at+".extension('item')", "every option must have an ordinalValue or itemWeight")
	default:
		rule.Items = append(rule.Items, link)
	}
}

// scoreHash names an algorithm: what it does with which items and weights.
func (c *compiler) scoreHash(rule *ScoreRule) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %d %t\n", rule.Name, rule.Version, rule.Method, rule.Least, rule.Prorate)
	for _, link := range rule.Items {
		weights := c.definition.all[link].weights
		fmt.Fprintf(h, "%q", link)
		keys := make([]string, 0, len(weights))
		for key := range weights {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			fmt.Fprintf(h, " %q=%s", key, weights[key].RatString())
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Given is one answer of an item with what it weighs.
type Given struct {
	Value   Value
	Weight  float64
	Weighed bool // it is a number, or a choice with a weight
}

// Answers returns the answers of an item wherever they stand in a response that Check has no finding for.
func (d *Definition) Answers(r *Response, linkID string) []Given {
	it := d.all[linkID]
	if it == nil {
		return nil
	}
	var out []Given
	var walk func(items []Item)
	walk = func(items []Item) {
		for i := range items {
			for j := range items[i].Answers {
				if items[i].LinkID == linkID {
					out = append(out, it.given(items[i].Answers[j]))
				}
				walk(items[i].Answers[j].Items)
			}
			walk(items[i].Items)
		}
	}
	walk(r.Items)
	return out
}

func (it *item) given(a Answer) Given {
	weight, ok := it.weigh([]Answer{a})
	g := Given{Value: a.Value, Weighed: ok}
	g.Weight, _ = weight.Float64()
	return g
}

// Question is what a rule may compare of an item.
type Question struct {
	Ordered bool     // its answers are numbers, or choices that weigh something
	Boolean bool     // its answers are true or false
	Codes   []string // of its options, where they are codes
}

// Question returns what may be compared of an item; false where it is no question of the version.
func (d *Definition) Question(linkID string) (Question, bool) {
	it := d.all[linkID]
	if it == nil || it.kind == group || it.kind == display {
		return Question{}, false
	}
	q := Question{Ordered: it.kind == integer || it.kind == decimal || len(it.weights) > 0, Boolean: it.kind == boolean}
	for key := range it.options {
		if rest, coding := strings.CutPrefix(key, "c\x00"); coding {
			_, code, _ := strings.Cut(rest, "\x00")
			q.Codes = append(q.Codes, code)
		}
	}
	slices.Sort(q.Codes)
	return q, true
}
