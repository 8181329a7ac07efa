package questionnaire

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// Context is what a check needs to know beside the response.
type Context struct {
	Now     time.Time     // when the response was received
	MaxSkew time.Duration // how far in the future authored may lie
}

// Check holds a response against the definition and returns every finding, in document order; none means that it fits.
// Findings never repeat an answer. Safe for concurrent use.
func (d *Definition) Check(r *Response, c Context) []errs.Finding {
	k := &checker{definition: d}
	k.head(r, c)
	k.strict = r.Status == "completed" || r.Status == "amended"
	root := scope{items: r.Items}
	k.scope(&root, d.items)
	return k.findings
}

type checker struct {
	definition *Definition
	strict     bool // completed or amended: what is required must be there
	findings   []errs.Finding
}

// scope is one place where items stand: the response itself, one instance of a group, or one answer of a question.
type scope struct {
	parent *scope
	def    *item  // whose children these are; nil at the top
	items  []Item // what the response has here
	index  int    // of def's item in the parent scope
	answer int    // of the answer whose items these are; -1 under a group
}

func (k *checker) add(code, linkID, pointer, expression, detail string) {
	k.findings = append(k.findings, errs.Finding{Code: code, LinkID: linkID, Pointer: pointer, Expression: expression, Detail: detail})
}

func (k *checker) head(r *Response, c Context) {
	top := func(element, code, detail string) {
		k.add(code, "", "/"+element, "QuestionnaireResponse."+element, detail)
	}
	if r.ResourceType != "QuestionnaireResponse" {
		top("resourceType", "wrong_resource", "must be QuestionnaireResponse")
	}
	if r.Questionnaire != k.definition.Canonical() {
		top("questionnaire", "questionnaire_mismatch", "must be "+k.definition.Canonical())
	}
	switch r.Status {
	case "completed", "amended", "in-progress", "stopped", "entered-in-error":
	default:
		top("status", "invalid_status", "must be completed, amended, in-progress, stopped or entered-in-error")
	}
	switch {
	case r.Authored == "":
		top("authored", "missing", "must say when the answers were given, with the device's offset, such as 2026-11-23T20:00:00+01:00")
	case r.AuthoredAt.IsZero():
		top("authored", "invalid_value", "must be a dateTime with seconds and offset, such as 2026-11-23T20:00:00+01:00")
	case r.AuthoredAt.After(c.Now.Add(c.MaxSkew)):
		top("authored", "in_the_future", "lies too far in the future: the device's clock is wrong")
	}
}

// place returns pointer and FHIRPath of an item of a scope; a negative index names the scope itself.
func (s *scope) place(index int) (pointer, expression string) {
	if s.parent != nil {
		pointer, expression = s.parent.place(s.index)
		if s.answer >= 0 {
			pointer += "/answer/" + strconv.Itoa(s.answer)
			expression += ".answer[" + strconv.Itoa(s.answer) + "]"
		}
	} else {
		expression = "QuestionnaireResponse"
	}
	if index >= 0 {
		pointer += "/item/" + strconv.Itoa(index)
		expression += ".item[" + strconv.Itoa(index) + "]"
	}
	return pointer, expression
}

func (k *checker) at(s *scope, index int, code, linkID, detail string) {
	pointer, expression := s.place(index)
	k.add(code, linkID, pointer, expression, detail)
}

// scope checks the items of one scope against the children of its definition.
func (k *checker) scope(s *scope, defs []*item) {
	next := 0                        // no later item may belong to a definition before this one
	seen := make([]int, len(defs))   // how many items of each
	filled := make([]int, len(defs)) // how many answers or filled instances of each
	for i := range s.items {
		it := &s.items[i]
		def := k.definition.all[it.LinkID]
		if def == nil {
			k.at(s, i, "unknown_link_id", it.LinkID, "the questionnaire has no item with this linkId")
			continue
		}
		if def.parent != s.def {
			k.at(s, i, "wrong_place", it.LinkID, "this item stands at another place in the questionnaire")
			continue
		}
		if def.place < next {
			k.at(s, i, "wrong_order", it.LinkID, "items must stand in the questionnaire's order")
		}
		next = max(next, def.place)
		if seen[def.place]++; seen[def.place] == 2 && (def.kind != group || !def.repeats) {
			k.at(s, i, "repeated_item", it.LinkID, "this item may stand here once; a repeating question has several answers instead")
		}
		filled[def.place] += k.item(s, i, it, def)
	}
	for _, def := range defs {
		k.completeness(s, def, filled[def.place])
	}
}

// completeness checks what the definition asks of all items of one linkId in a scope together.
func (k *checker) completeness(s *scope, def *item, filled int) {
	if filled > 0 && def.conditional && !k.enabled(s, def) {
		return // told at the item
	}
	if def.maxOccurs > 0 && filled > def.maxOccurs {
		k.at(s, -1, "too_many_answers", def.linkID, fmt.Sprintf("may have at most %d answers", def.maxOccurs))
	}
	least := def.minOccurs
	if def.required {
		least = max(least, 1)
	}
	if !k.strict || filled >= least || def.conditional && !k.enabled(s, def) {
		return
	}
	if filled == 0 {
		k.at(s, -1, "required", def.linkID, "must be answered")
		return
	}
	k.at(s, -1, "too_few_answers", def.linkID, fmt.Sprintf("must have at least %d answers", least))
}

// item checks one item and returns how often it counts as answered.
func (k *checker) item(s *scope, i int, it *Item, def *item) int {
	if it.HasText && len(def.texts) > 0 && !oneOf(it.Text, def.texts) {
		k.at(s, i, "text_differs", it.LinkID, "the text must be the questionnaire's or a translation of it, or be left out")
	}
	if def.kind == display {
		if len(it.Answers) > 0 || len(it.Items) > 0 {
			k.at(s, i, "display_answered", it.LinkID, "a display item has neither answers nor items")
		}
		return 0
	}
	if def.conditional && (len(it.Answers) > 0 || holdsAnswers(it.Items)) && !k.enabled(s, def) {
		k.at(s, i, "not_enabled", it.LinkID, "must not be answered: its condition does not hold")
		return 1
	}
	if def.kind == group {
		return k.group(s, i, it, def)
	}
	if len(it.Items) > 0 {
		k.at(s, i, "items_without_answer", it.LinkID, "items below a question stand in its answer")
	}
	return k.answers(s, i, it, def)
}

func (k *checker) group(s *scope, i int, it *Item, def *item) int {
	if len(it.Answers) > 0 {
		k.at(s, i, "group_answered", it.LinkID, "a group has items, not answers")
	}
	inner := scope{parent: s, def: def, items: it.Items, index: i, answer: -1}
	k.scope(&inner, def.children)
	if !holdsAnswers(it.Items) {
		return 0
	}
	return 1
}

func holdsAnswers(items []Item) bool {
	for i := range items {
		for a := range items[i].Answers {
			if !items[i].Answers[a].Value.blank() {
				return true
			}
		}
		if holdsAnswers(items[i].Items) {
			return true
		}
	}
	return false
}

func (k *checker) answers(s *scope, i int, it *Item, def *item) int {
	if len(it.Answers) > 1 && !def.repeats {
		k.at(s, i, "several_answers", it.LinkID, "this question takes one answer")
	}
	filled := 0
	for n := range it.Answers {
		a := &it.Answers[n]
		if !a.Value.blank() {
			filled++
		}
		if code, detail := def.check(a); code != "" {
			pointer, expression := s.place(i)
			pointer += "/answer/" + strconv.Itoa(n)
			if a.Value.Name != "" {
				pointer += "/" + a.Value.Name
			}
			k.add(code, it.LinkID, pointer, expression+".answer["+strconv.Itoa(n)+"].value", detail)
		}
		if len(a.Items) > 0 || len(def.children) > 0 && !a.Value.blank() {
			inner := scope{parent: s, def: def, items: a.Items, index: i, answer: n}
			k.scope(&inner, def.children)
		}
	}
	if len(def.exclusive) > 0 && len(it.Answers) > 1 {
		for n := range it.Answers {
			if def.exclusive[it.Answers[n].Value.key()] {
				k.at(s, i, "exclusive_option", it.LinkID, "one of these options stands alone")
				break
			}
		}
	}
	if def.fixed && !def.onlyInitial(it.Answers) {
		k.at(s, i, "read_only", it.LinkID, "a read-only or hidden item carries its initial value or nothing")
	}
	return filled
}

func (it *item) onlyInitial(answers []Answer) bool {
	for n := range answers {
		found := false
		for m := range it.initial {
			found = found || answers[n].Value.equal(&it.initial[m])
		}
		if !found {
			return false
		}
	}
	return true
}

func oneOf(s string, list []string) bool {
	for _, t := range list {
		if s == t {
			return true
		}
	}
	return false
}

// check holds one answer against its question. It returns the first rule that the value breaks, or "".
func (it *item) check(a *Answer) (code, detail string) {
	v := &a.Value
	switch {
	case v.Name == "":
		if len(a.Items) > 0 {
			return "missing_value", "an answer must have a value above its items"
		}
		return "missing_value", "an answer must have a value; leave an unanswered item out"
	case a.Many:
		return "several_values", "an answer has one value"
	case !it.takes(v.Name):
		return "wrong_type", "must be " + it.wanted()
	case !v.wellFormed():
		return "invalid_value", "does not have the form of " + v.Name + " in FHIR R4"
	}
	if code, detail = it.checkOption(v); code != "" {
		return code, detail
	}
	if v.isNumber() || v.dated() || v.Name == "valueTime" {
		return it.checkOrdered(v)
	}
	if v.Name == "valueAttachment" {
		return it.checkAttachment(v)
	}
	return it.checkText(v)
}

func (it *item) takes(name string) bool {
	switch it.kind {
	case choice:
		return it.optionNames[name]
	case openChoice:
		return it.optionNames[name] || name == "valueString" || len(it.optionNames) == 0 && name == "valueCoding"
	default:
		return name == it.kind.valueName()
	}
}

func (it *item) wanted() string {
	if it.kind != choice && it.kind != openChoice {
		return it.kind.valueName()
	}
	var names []string
	for _, name := range []string{"valueCoding", "valueInteger", "valueDate", "valueTime", "valueString", "valueReference"} {
		if it.takes(name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}

func (it *item) checkOption(v *Value) (code, detail string) {
	if len(it.options) == 0 || it.options[v.key()] || it.kind == openChoice && v.Name == "valueString" {
		return "", ""
	}
	return "not_an_option", "must be one of the questionnaire's options"
}

func (it *item) checkOrdered(v *Value) (code, detail string) {
	if v.Name == "valueQuantity" {
		if v.Text == "" {
			return "missing_value", "a quantity must have a value"
		}
		if len(it.units) > 0 && !it.units[v.System+"\x00"+v.Code] {
			return "wrong_unit", "must have one of the questionnaire's units"
		}
	}
	if it.maxDecimals >= 0 && v.isNumber() && v.decimals() > it.maxDecimals {
		return "too_many_decimals", fmt.Sprintf("may have at most %d digits after the point", it.maxDecimals)
	}
	if it.maxLength > 0 && v.isNumber() && len(v.Text) > it.maxLength {
		return "too_long", fmt.Sprintf("may have at most %d characters", it.maxLength)
	}
	if it.low != nil {
		if order, ok := v.compare(it.low); !ok {
			return "wrong_unit", "must be comparable with the least value: the same unit"
		} else if order < 0 {
			return "below_minimum", "must not be less than " + it.low.Text
		}
	}
	if it.high != nil {
		if order, ok := v.compare(it.high); !ok {
			return "wrong_unit", "must be comparable with the greatest value: the same unit"
		} else if order > 0 {
			return "above_maximum", "must not be more than " + it.high.Text
		}
	}
	if it.step != nil && !it.onStep(v) {
		return "not_on_step", "must lie on the slider's steps of " + it.step.Text
	}
	return "", ""
}

// onStep reports whether a number lies a whole number of steps above the least value, or above zero where there is none.
func (it *item) onStep(v *Value) bool {
	value, ok := new(big.Rat).SetString(v.Text)
	step, okStep := new(big.Rat).SetString(it.step.Text)
	if !ok || !okStep {
		return true
	}
	if it.low != nil {
		if low, ok := new(big.Rat).SetString(it.low.Text); ok {
			value.Sub(value, low)
		}
	}
	return value.Quo(value, step).IsInt()
}

func (it *item) checkText(v *Value) (code, detail string) {
	if v.Name != "valueString" && v.Name != "valueUri" {
		return "", ""
	}
	if it.kind == str && strings.ContainsAny(v.Text, "\n\r") {
		return "newline", "a string has no line breaks"
	}
	if it.maxLength > 0 || it.minLength > 0 {
		n := characters(v.Text)
		if it.maxLength > 0 && n > it.maxLength {
			return "too_long", fmt.Sprintf("may have at most %d characters", it.maxLength)
		}
		if n < it.minLength {
			return "too_short", fmt.Sprintf("must have at least %d characters", it.minLength)
		}
	}
	if it.pattern != nil && !it.pattern.MatchString(v.Text) {
		return "pattern", "must match the questionnaire's pattern as a whole"
	}
	return "", ""
}

func (it *item) checkAttachment(v *Value) (code, detail string) {
	if len(it.mimeTypes) > 0 && !it.mimeTypes[v.Media] {
		return "wrong_media_type", "must be of one of the questionnaire's media types"
	}
	if it.maxSize > 0 && float64(v.Size) > it.maxSize {
		return "too_large", fmt.Sprintf("may have at most %.0f bytes", it.maxSize)
	}
	return "", ""
}
