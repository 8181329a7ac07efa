package questionnaire

import (
	"slices"
	"strconv"
	"strings"
)

const (
	coreURL        = "http://hl7.org/fhir/StructureDefinition/"
	sdcURL         = "http://hl7.org/fhir/uv/sdc/StructureDefinition/"
	translationURL = coreURL + "translation"
	exclusiveURL   = coreURL + "questionnaire-optionExclusive"
)

// unsupported reports whether an extension changes which answers are right in a way that is not enforced. Everything else
// that is not handled only changes what people see.
func unsupported(url string) bool {
	name := url[strings.LastIndexByte(url, '/')+1:]
	if !strings.HasPrefix(url, coreURL) && !strings.HasPrefix(url, sdcURL) {
		return false
	}
	return slices.Contains([]string{
		"sdc-questionnaire-calculatedExpression", "sdc-questionnaire-initialExpression", "sdc-questionnaire-enableWhenExpression",
		"sdc-questionnaire-answerExpression", "sdc-questionnaire-candidateExpression", "sdc-questionnaire-answerOptionsToggleExpression",
		"sdc-questionnaire-itemExtractionContext", "sdc-questionnaire-subQuestionnaire", "sdc-questionnaire-isSubject",
		"sdc-questionnaire-lookupQuestionnaire", "variable", "questionnaire-constraint", "targetConstraint", "cqf-calculatedValue",
		"questionnaire-unitValueSet", "questionnaire-referenceResource", "questionnaire-referenceProfile", "questionnaire-referenceFilter",
		"cqf-expression",
	}, name)
}

// extensions refuses, by name, what would have to be enforced on a resource or as a modifier.
func (c *compiler) extensions(linkID, at string, plain, modifiers []fhirExtension) {
	for _, e := range modifiers {
		c.add("unsupported_extension", linkID, at+".modifierExtension", "the modifier extension "+e.URL+" is not supported")
	}
	for _, e := range plain {
		if unsupported(e.URL) {
			c.add("unsupported_extension", linkID, at+".extension", "the extension "+e.URL+" is not supported")
		}
	}
}

// extension takes what an extension says about answers into the item.
func (c *compiler) extension(f *fhirItem, it *item, at string, e fhirExtension) {
	where := at + ".extension('" + e.URL + "')"
	name, core := strings.CutPrefix(e.URL, coreURL)
	if !core {
		name, core = strings.CutPrefix(e.URL, sdcURL)
	}
	if !core || unsupported(e.URL) {
		c.extensions(f.LinkID, at, []fhirExtension{e}, nil)
		return
	}
	raw := e.Rest.raw("value")
	whole := func(into *int, least int) {
		n, err := strconv.Atoi(raw)
		if err != nil || n < least {
			c.add("invalid_extension", f.LinkID, where, "must be a whole number of at least "+strconv.Itoa(least))
		}
		*into = n
	}
	switch name {
	case "minLength":
		whole(&it.minLength, 0)
	case "questionnaire-minOccurs":
		whole(&it.minOccurs, 0)
	case "questionnaire-maxOccurs":
		whole(&it.maxOccurs, 1)
	case "maxDecimalPlaces":
		whole(&it.maxDecimals, 0)
	case "minValue", "maxValue", "sdc-questionnaire-minQuantity", "sdc-questionnaire-maxQuantity", "questionnaire-minQuantity", "questionnaire-maxQuantity":
		c.bound(f, it, where, strings.Contains(name, "min"), e)
	case "regex":
		p, err := pattern(raw)
		if err != nil {
			c.add("invalid_regex", f.LinkID, where, "must be a regular expression that runs in linear time (RE2)")
		}
		it.pattern = p
	case "questionnaire-hidden":
		it.fixed = it.fixed || raw == "true"
	case "questionnaire-unitOption":
		if it.units == nil {
			it.units = make(map[string]bool)
		}
		v, _ := e.Rest.value("value")
		it.units[v.System+"\x00"+v.Code] = true
	case "mimeType":
		if it.mimeTypes == nil {
			it.mimeTypes = make(map[string]bool)
		}
		it.mimeTypes[raw] = true
	case "maxSize":
		megabytes, err := strconv.ParseFloat(raw, 64)
		if err != nil || megabytes <= 0 {
			c.add("invalid_extension", f.LinkID, where, "must be a number of megabytes above zero")
		}
		it.maxSize = megabytes * 1e6
	case "questionnaire-sliderStepValue":
		step, _ := e.Rest.value("value")
		if !step.wellFormed() || step.Text == "" || strings.HasPrefix(step.Text, "-") || step.Text == "0" {
			c.add("invalid_extension", f.LinkID, where, "must be a number above zero")
			return
		}
		it.step = &step
	}
}

func (c *compiler) bound(f *fhirItem, it *item, where string, low bool, e fhirExtension) {
	v, many := e.Rest.value("value")
	fits := v.Name == it.kind.valueName()
	switch it.kind {
	case decimal, integer:
		fits = v.Name == "valueDecimal" || v.Name == "valueInteger"
	case date, dateTime:
		fits = v.dated()
	case timeOfDay, quantity:
	default:
		fits = false
	}
	if v.Name == "" || many || !v.wellFormed() || !fits {
		c.add("invalid_range", f.LinkID, where, "must be of the item's type, which must be a number, a quantity, a date or a time")
		return
	}
	if low {
		it.low = &v
	} else {
		it.high = &v
	}
}
