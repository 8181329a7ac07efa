// Package questionnaire decides which answers fit a version of a FHIR R4 Questionnaire. It is pure: no I/O, no clock.
//
// Compile holds a Questionnaire against the rules of publishing and returns its compiled form; what eprod cannot enforce is
// refused there, by name, and never ignored. Definition.Check holds a QuestionnaireResponse against a definition; the door and
// the processor use the same one. Not enforced yet, and therefore refused by Compile: expressions of the SDC guide
// (calculated, initial and enabling), constraints, and value sets that are not contained in the questionnaire.
//
// FHIR R4: http://hl7.org/fhir/R4/questionnaire.html and questionnaireresponse.html.
package questionnaire

import (
	"math/big"
	"regexp"

	"github.com/eprod/eprod/internal/errs"
)

// Limits bound a questionnaire.
type Limits struct {
	Bytes   int `koanf:"bytes"`   // of the resource
	Items   int `koanf:"items"`   // in all
	Depth   int `koanf:"depth"`   // of nested items
	Options int `koanf:"options"` // of one item
}

// DefaultLimits returns bounds that no published instrument reaches.
func DefaultLimits() Limits { return Limits{Bytes: 1 << 20, Items: 2000, Depth: 16, Options: 1000} }

// Definition is a compiled questionnaire version. It is immutable and safe for concurrent use.
type Definition struct {
	url, version, title string
	items               []*item          // top level
	all                 map[string]*item // by linkId
	scores              []*ScoreRule
}

// URL returns the canonical url without the version.
func (d *Definition) URL() string { return d.url }

// Version returns the business version.
func (d *Definition) Version() string { return d.version }

// Canonical returns url|version.
func (d *Definition) Canonical() string { return d.url + "|" + d.version }

// Title returns the title, or the url where there is none.
func (d *Definition) Title() string {
	if d.title == "" {
		return d.url
	}
	return d.title
}

// kind is the type of an item.
type kind string

// The item types of FHIR R4 (http://hl7.org/fhir/R4/valueset-item-type.html).
const (
	group      kind = "group"
	display    kind = "display"
	boolean    kind = "boolean"
	decimal    kind = "decimal"
	integer    kind = "integer"
	date       kind = "date"
	dateTime   kind = "dateTime"
	timeOfDay  kind = "time"
	text       kind = "text"
	str        kind = "string"
	uri        kind = "url"
	choice     kind = "choice"
	openChoice kind = "open-choice"
	attachment kind = "attachment"
	reference  kind = "reference"
	quantity   kind = "quantity"
)

// valueName is the value[x] of an answer of a type; choices are looked at by option.
func (k kind) valueName() string {
	switch k {
	case boolean:
		return "valueBoolean"
	case decimal:
		return "valueDecimal"
	case integer:
		return "valueInteger"
	case date:
		return "valueDate"
	case dateTime:
		return "valueDateTime"
	case timeOfDay:
		return "valueTime"
	case text, str:
		return "valueString"
	case uri:
		return "valueUri"
	case attachment:
		return "valueAttachment"
	case reference:
		return "valueReference"
	case quantity:
		return "valueQuantity"
	default:
		return "valueCoding"
	}
}

// item is a compiled item.
type item struct {
	linkID   string
	kind     kind
	texts    []string // the text and its translations; empty: any text
	parent   *item
	children []*item
	place    int // among its siblings
	depth    int

	required, repeats, fixed bool // fixed: readOnly or hidden, so that only initial values may stand there
	conditions               []condition
	anyCondition             bool // one condition is enough
	conditional              bool // it or an ancestor has conditions

	minOccurs, maxOccurs int // maxOccurs 0: no bound
	minLength, maxLength int // in characters; 0: no bound
	maxDecimals          int // -1: no bound
	pattern              *regexp.Regexp
	low, high            *Value // inclusive
	options              map[string]bool
	exclusive            map[string]bool
	optionNames          map[string]bool     // value[x] names that the options have
	weights              map[string]*big.Rat // of options that declare one, by value
	units                map[string]bool
	mimeTypes            map[string]bool
	maxSize              float64 // bytes; 0: no bound
	step                 *Value
	initial              []Value
}

// condition is one enableWhen.
type condition struct {
	source   *item
	operator string
	answer   Value
}

func finding(code, linkID, expression, detail string) errs.Finding {
	return errs.Finding{Code: code, LinkID: linkID, Expression: expression, Detail: detail}
}
