package questionnaire

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/eprod/eprod/internal/errs"
)

// Compile holds a Questionnaire against the rules of publishing and returns its compiled form. With findings the definition
// is nil; all findings are returned, each with the linkId and the FHIRPath of the element. Numbers of items, depth and bytes
// are bounded by limits.
func Compile(raw []byte, limits Limits) (*Definition, []errs.Finding) {
	if len(raw) > limits.Bytes {
		return nil, []errs.Finding{finding("too_large", "", "Questionnaire", fmt.Sprintf("must have at most %d bytes", limits.Bytes))}
	}
	q, err := parse(raw)
	if err != nil {
		return nil, []errs.Finding{finding("invalid_json", "", "Questionnaire", err.Error())}
	}
	c := &compiler{limits: limits, source: q, definition: &Definition{url: q.URL, version: q.Version, title: q.Title, all: make(map[string]*item)}}
	c.resource()
	c.definition.items = c.items(q.Item, nil, "Questionnaire", 1)
	c.conditions(q.Item)
	c.cycles()
	c.scores(q.Extension)
	if len(c.findings) > 0 {
		return nil, c.findings
	}
	return c.definition, nil
}

type compiler struct {
	limits     Limits
	source     *fhirQuestionnaire
	definition *Definition
	findings   []errs.Finding
	count      int
}

func (c *compiler) add(code, linkID, expression, detail string) {
	c.findings = append(c.findings, finding(code, linkID, expression, detail))
}

func (c *compiler) resource() {
	q := c.source
	if q.ResourceType != "Questionnaire" {
		c.add("wrong_resource", "", "Questionnaire.resourceType", "must be Questionnaire")
	}
	if q.URL == "" || len(q.URL) > 255 || strings.ContainsAny(q.URL, "| \n\t") {
		c.add("invalid_url", "", "Questionnaire.url", "must be a canonical url of at most 255 characters without spaces and |")
	}
	if q.Version == "" || len(q.Version) > 64 || strings.ContainsAny(q.Version, "| \n\t") {
		c.add("invalid_version", "", "Questionnaire.version", "must be a version of at most 64 characters without spaces and |")
	}
	if characters(q.Title) > 500 {
		c.add("invalid_title", "", "Questionnaire.title", "must have at most 500 characters")
	}
	if q.Status != "draft" && q.Status != "active" {
		c.add("invalid_status", "", "Questionnaire.status", "must be draft or active to be published")
	}
	if len(q.Item) == 0 {
		c.add("no_items", "", "Questionnaire.item", "must have at least one item")
	}
	c.extensions("", "Questionnaire", q.Extension, q.ModifierExtension)
}

func (c *compiler) items(list []fhirItem, parent *item, path string, depth int) []*item {
	if depth > c.limits.Depth {
		c.add("too_deep", parent.linkID, path, fmt.Sprintf("items may be nested at most %d deep", c.limits.Depth))
		return nil
	}
	out := make([]*item, 0, len(list))
	for i := range list {
		if c.count++; c.count > c.limits.Items {
			if c.count == c.limits.Items+1 {
				c.add("too_many_items", "", path, fmt.Sprintf("may have at most %d items", c.limits.Items))
			}
			return out
		}
		f := &list[i]
		at := fmt.Sprintf("%s.item[%d]", path, i)
		it := &item{linkID: f.LinkID, kind: kind(f.Type), parent: parent, place: i, depth: depth, maxDecimals: -1}
		if f.LinkID == "" || characters(f.LinkID) > 255 || strings.TrimSpace(f.LinkID) != f.LinkID {
			c.add("invalid_link_id", f.LinkID, at+".linkId", "must have 1 to 255 characters without spaces around them")
		} else if _, taken := c.definition.all[f.LinkID]; taken {
			c.add("duplicate_link_id", f.LinkID, at+".linkId", "another item has this linkId")
		} else {
			c.definition.all[f.LinkID] = it
		}
		c.item(f, it, at)
		it.children = c.items(f.Item, it, at, depth+1)
		out = append(out, it)
	}
	return out
}

func (c *compiler) item(f *fhirItem, it *item, at string) {
	it.required, it.repeats = isTrue(f.Required), isTrue(f.Repeats)
	it.fixed = isTrue(f.ReadOnly)
	if f.Text != "" {
		it.texts = append(it.texts, f.Text)
	}
	for _, e := range f.TextElement.Extension {
		if e.URL == translationURL {
			for _, part := range e.Extension {
				if part.URL == "content" {
					it.texts = append(it.texts, part.Rest.raw("value"))
				}
			}
		}
	}
	c.shape(f, it, at)
	c.extensions(f.LinkID, at, nil, f.ModifierExtension)
	for _, e := range f.Extension {
		c.extension(f, it, at, e)
	}
	if f.MaxLength != nil {
		if *f.MaxLength < 1 {
			c.add("invalid_max_length", f.LinkID, at+".maxLength", "must be above zero")
		}
		it.maxLength = *f.MaxLength
	}
	c.options(f, it, at)
	c.initial(f, it, at)
	c.ranges(it, at)
}

func isTrue(b *bool) bool { return b != nil && *b }

// shape checks what the type of an item allows (the invariants que-1 to que-13 of FHIR R4).
func (c *compiler) shape(f *fhirItem, it *item, at string) {
	known := []kind{group, display, boolean, decimal, integer, date, dateTime, timeOfDay, text, str, uri, choice, openChoice, attachment, reference, quantity}
	if !slices.Contains(known, it.kind) {
		c.add("unknown_type", f.LinkID, at+".type", "must be an item type of FHIR R4")
		return
	}
	refuse := func(bad bool, code, element, detail string) {
		if bad {
			c.add(code, f.LinkID, at+"."+element, detail)
		}
	}
	refuse(it.kind == group && len(f.Item) == 0, "empty_group", "item", "a group must have items")
	refuse(it.kind == display && len(f.Item) > 0, "display_with_items", "item", "a display item has no items")
	refuse(it.kind == display && (len(f.Code) > 0 || f.Required != nil || f.Repeats != nil), "display_with_rules", "type", "a display item has neither code, required nor repeats")
	refuse(it.kind == display && f.ReadOnly != nil, "display_read_only", "readOnly", "a display item cannot be read-only")
	refuse((it.kind == group || it.kind == display) && len(f.Initial) > 0, "initial_without_question", "initial", "only questions have initial values")
	refuse(len(f.AnswerOption) > 0 && f.AnswerValueSet != "", "options_twice", "answerOption", "must have answerOption or answerValueSet, not both")
	withOptions := []kind{choice, openChoice, decimal, integer, date, dateTime, timeOfDay, str, quantity}
	refuse((len(f.AnswerOption) > 0 || f.AnswerValueSet != "") && !slices.Contains(withOptions, it.kind), "options_not_allowed", "answerOption", "this type has no options")
	withLength := []kind{boolean, decimal, integer, str, text, uri, openChoice}
	refuse(f.MaxLength != nil && !slices.Contains(withLength, it.kind), "max_length_not_allowed", "maxLength", "this type has no maxLength")
	refuse(len(f.AnswerOption) > 0 && len(f.Initial) > 0, "option_and_initial", "initial", "mark initial options with initialSelected")
	selected := 0
	for _, o := range f.AnswerOption {
		if o.InitialSelected {
			selected++
		}
	}
	refuse((len(f.Initial) > 1 || selected > 1) && !it.repeats, "several_initials", "initial", "only a repeating item has several initial values")
	refuse(it.kind == choice && len(f.AnswerOption) == 0 && f.AnswerValueSet == "", "no_options", "answerOption", "a choice must have options")
	refuse(len(f.EnableWhen) > 1 && f.EnableBehavior == "", "enable_behavior_missing", "enableBehavior", "must be all or any where there are several conditions")
	refuse(f.EnableBehavior != "" && f.EnableBehavior != "all" && f.EnableBehavior != "any", "invalid_enable_behavior", "enableBehavior", "must be all or any")
	it.anyCondition = f.EnableBehavior == "any"
}

func (c *compiler) options(f *fhirItem, it *item, at string) {
	if len(f.AnswerOption) > c.limits.Options {
		c.add("too_many_options", f.LinkID, at+".answerOption", fmt.Sprintf("may have at most %d options", c.limits.Options))
		return
	}
	if f.AnswerValueSet != "" {
		c.valueSet(f, it, at)
		return
	}
	if len(f.AnswerOption) == 0 {
		return
	}
	it.options, it.optionNames, it.exclusive = make(map[string]bool), make(map[string]bool), make(map[string]bool)
	for i, o := range f.AnswerOption {
		where := fmt.Sprintf("%s.answerOption[%d]", at, i)
		v, many := o.Rest.value("value")
		if v.Name == "" || many || !v.wellFormed() || !it.optionType(v.Name) {
			c.add("invalid_option", f.LinkID, where, "must have one value of a type that fits the item")
			continue
		}
		if it.options[v.key()] {
			c.add("duplicate_option", f.LinkID, where, "another option has this value")
		}
		it.options[v.key()], it.optionNames[v.Name] = true, true
		if o.InitialSelected {
			it.initial = append(it.initial, v)
		}
		for _, e := range o.Extension {
			if e.URL == exclusiveURL && e.Rest.raw("value") == "true" {
				it.exclusive[v.key()] = true
			}
			c.weigh(it, &v, where, e)
		}
	}
}

// optionType says which value[x] an option of the item may have; choices may have any that FHIR R4 gives options.
func (it *item) optionType(name string) bool {
	if it.kind != choice && it.kind != openChoice {
		return name == it.kind.valueName()
	}
	return slices.Contains([]string{"valueCoding", "valueInteger", "valueDate", "valueTime", "valueString", "valueReference"}, name)
}

// valueSet takes the codes of a contained value set that lists them.
func (c *compiler) valueSet(f *fhirItem, it *item, at string) {
	id, contained := strings.CutPrefix(f.AnswerValueSet, "#")
	for _, v := range c.source.Contained {
		if !contained || v.ResourceType != "ValueSet" || v.ID != id {
			continue
		}
		it.options, it.optionNames = make(map[string]bool), map[string]bool{"valueCoding": true}
		for _, include := range v.Compose.Include {
			if len(include.Concept) == 0 || len(include.Filter) > 0 || len(include.ValueSet) > 0 || len(v.Compose.Exclude) > 0 {
				c.add("value_set_not_listed", f.LinkID, at+".answerValueSet", "the contained value set must list its codes in compose.include.concept")
				return
			}
			for _, concept := range include.Concept {
				coding := Value{Name: "valueCoding", System: include.System, Code: concept.Code}
				it.options[coding.key()] = true
			}
		}
		return
	}
	c.add("value_set_unknown", f.LinkID, at+".answerValueSet", "must name a value set that is contained in the questionnaire, as #id")
}

func (c *compiler) initial(f *fhirItem, it *item, at string) {
	for i, in := range f.Initial {
		v, many := in.value("value")
		fits := v.Name == it.kind.valueName() || (it.kind == choice || it.kind == openChoice) && (it.optionType(v.Name) || v.Name == "valueString")
		if v.Name == "" || many || !v.wellFormed() || !fits {
			c.add("invalid_initial", f.LinkID, fmt.Sprintf("%s.initial[%d]", at, i), "must have one value of the item's type")
			continue
		}
		it.initial = append(it.initial, v)
	}
}

func (c *compiler) ranges(it *item, at string) {
	if it.low != nil && it.high != nil {
		if order, ok := it.low.compare(it.high); !ok || order > 0 {
			c.add("inverted_range", it.linkID, at, "the least value must not be above the greatest")
		}
	}
	if it.minLength > 0 && it.maxLength > 0 && it.minLength > it.maxLength {
		c.add("inverted_range", it.linkID, at, "minLength must not be above maxLength")
	}
	if it.maxOccurs > 0 && it.minOccurs > it.maxOccurs {
		c.add("inverted_range", it.linkID, at, "minOccurs must not be above maxOccurs")
	}
	if (it.minOccurs > 1 || it.maxOccurs > 1) && !it.repeats {
		c.add("occurs_without_repeats", it.linkID, at, "only a repeating item occurs more than once")
	}
}

// conditions links enableWhen to its source items once all are known.
func (c *compiler) conditions(list []fhirItem) {
	for i := range list {
		f := &list[i]
		if it := c.definition.all[f.LinkID]; it != nil {
			for _, w := range f.EnableWhen {
				c.condition(it, w)
			}
			it.conditional = len(it.conditions) > 0 || it.parent != nil && it.parent.conditional
		}
		c.conditions(f.Item)
	}
}

func (c *compiler) condition(it *item, w fhirCondition) {
	at := "Questionnaire.descendants().where(linkId='" + it.linkID + "').enableWhen"
	source := c.definition.all[w.Question]
	if source == nil {
		c.add("unknown_source", it.linkID, at+".question", "must be the linkId of an item of this questionnaire")
		return
	}
	for above := source; above != nil; above = above.parent {
		if above == it {
			c.add("source_below", it.linkID, at+".question", "an item cannot depend on itself or on an item below it")
			return
		}
	}
	if source.kind == group || source.kind == display {
		c.add("source_not_question", it.linkID, at+".question", "must be a question")
		return
	}
	v, many := w.Rest.value("answer")
	if v.Name == "" || many || !v.wellFormed() {
		c.add("invalid_answer", it.linkID, at+".answer", "must have one answer value")
		return
	}
	switch w.Operator {
	case "exists":
		if v.Name != "valueBoolean" {
			c.add("invalid_answer", it.linkID, at+".answer", "exists compares with a boolean")
		}
	case "=", "!=":
		c.comparable(it, source, &v, at)
	case ">", "<", ">=", "<=":
		c.comparable(it, source, &v, at)
		if !slices.Contains([]kind{decimal, integer, date, dateTime, timeOfDay, quantity}, source.kind) {
			c.add("operator_not_ordered", it.linkID, at+".operator", "only numbers, quantities, dates and times have an order")
		}
	default:
		c.add("unknown_operator", it.linkID, at+".operator", "must be exists, =, !=, >, <, >= or <=")
	}
	it.conditions = append(it.conditions, condition{source: source, operator: w.Operator, answer: v})
}

func (c *compiler) comparable(it, source *item, v *Value, at string) {
	fits := v.Name == source.kind.valueName()
	switch source.kind {
	case choice, openChoice:
		fits = source.optionNames[v.Name] || source.kind == openChoice && v.Name == "valueString"
	case decimal, integer:
		fits = v.Name == "valueDecimal" || v.Name == "valueInteger"
	case date, dateTime:
		fits = v.dated()
	}
	if !fits {
		c.add("answer_type_differs", it.linkID, at+".answer", "must be of the type of "+strconv.Quote(source.linkID))
	}
}

// cycles refuses items that depend on each other, directly or through what is above them.
func (c *compiler) cycles() {
	const visiting, visited = 1, 2
	state := make(map[*item]int)
	var visit func(it *item) bool
	visit = func(it *item) bool {
		switch state[it] {
		case visiting:
			return false
		case visited:
			return true
		}
		state[it] = visiting
		defer func() { state[it] = visited }()
		if it.parent != nil && !visit(it.parent) {
			return false
		}
		for _, w := range it.conditions {
			if !visit(w.source) {
				return false
			}
		}
		return true
	}
	var walk func(items []*item)
	walk = func(items []*item) {
		for _, it := range items {
			if !visit(it) {
				c.add("enable_cycle", it.linkID, "Questionnaire.descendants().where(linkId='"+it.linkID+"').enableWhen", "items must not depend on each other in a circle")
			}
			walk(it.children)
		}
	}
	walk(c.definition.items)
}

// pattern compiles a regex so that it matches whole values, in linear time.
func pattern(expression string) (*regexp.Regexp, error) {
	return regexp.Compile(`\A(?:` + expression + `)\z`)
}
