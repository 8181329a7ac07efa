package questionnaire

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/strictjson"
)

// Response is a QuestionnaireResponse in the form that Check looks at. Its strings share one copy of the input.
type Response struct {
	ResourceType  string
	Identifier    string // identifier.value
	Questionnaire string // canonical
	Status        string
	Authored      string    // as written
	AuthoredAt    time.Time // zero where authored is absent or not a full dateTime
	Language      string
	Subject       string // references
	Author        string
	BasedOn       []string
	Items         []Item
}

// Item is one item of a response.
type Item struct {
	LinkID  string
	Text    string
	HasText bool
	Answers []Answer
	Items   []Item
}

// Answer is one answer with the items below it.
type Answer struct {
	Value Value
	Many  bool // more than one value[x]
	Items []Item
}

const maxDepth = 64 // of items in a response; publishing allows fewer

const numeric = "-0123456789"

// ParseResponse reads a QuestionnaireResponse strictly: one JSON object, each member once, valid UTF-8, nothing after it,
// items nested no deeper than 64. Elements that it does not know are read over. Numbers stay as written. Errors are
// errs.Invalid with the code invalid_json and never repeat the input. Safe for concurrent use.
func ParseResponse(raw []byte) (*Response, error) {
	var in strictjson.Reader
	in.Reset(string(raw))
	r := ReadResponse(&in)
	if err := in.End(); err != nil {
		return nil, err
	}
	return r, nil
}

// ReadResponse is ParseResponse for the value that comes next in a text which the caller reads. Failures are those of in, and the response is
// of use only if there is none in the end.
func ReadResponse(in *strictjson.Reader) *Response {
	p := parser{Reader: in}
	r := &Response{}
	if in.Peek() != '{' {
		in.Fail(errs.InvalidJSON("a QuestionnaireResponse must be a JSON object"))
		return r
	}
	p.head(r)
	if t, err := time.Parse(time.RFC3339Nano, r.Authored); err == nil {
		r.AuthoredAt = t
	}
	return r
}

// parser makes a response of what a Reader finds. What does not have the expected JSON type is read over.
type parser struct {
	*strictjson.Reader
	spare []Answer // room for the single answers that most questions have
}

// room returns an empty list with room for one answer, out of a block for many: one allocation instead of one a question.
func (p *parser) room() []Answer {
	if len(p.spare) == 0 {
		p.spare = make([]Answer, 24)
	}
	one := p.spare[:0:1]
	p.spare = p.spare[1:]
	return one
}

func (p *parser) head(r *Response) {
	if !p.Enter('{') {
		return
	}
	for p.More() {
		switch p.Name() {
		case "resourceType":
			r.ResourceType, _ = p.String()
		case "questionnaire":
			r.Questionnaire, _ = p.String()
		case "status":
			r.Status, _ = p.String()
		case "authored":
			r.Authored, _ = p.String()
		case "language":
			r.Language, _ = p.String()
		case "identifier":
			r.Identifier = p.only("value")
		case "subject":
			r.Subject = p.only("reference")
		case "author":
			r.Author = p.only("reference")
		case "basedOn":
			r.BasedOn = p.references()
		case "item":
			r.Items = p.items(1)
		default:
			p.Skip()
		}
	}
}

// only returns one string member of an object.
func (p *parser) only(wanted string) (found string) {
	if !p.Enter('{') {
		return ""
	}
	for p.More() {
		if p.Name() == wanted {
			found, _ = p.String()
		} else {
			p.Skip()
		}
	}
	return found
}

func (p *parser) references() (all []string) {
	if !p.Enter('[') {
		return nil
	}
	for p.More() {
		all = append(all, p.only("reference"))
	}
	return all
}

func (p *parser) items(depth int) []Item {
	if depth > maxDepth {
		p.Fail(errs.InvalidJSON("items are nested deeper than " + strconv.Itoa(maxDepth)))
		return nil
	}
	if !p.Enter('[') {
		return nil
	}
	var items []Item
	for p.More() {
		if items == nil {
			items = make([]Item, 0, 24/depth) // most items stand at the top
		}
		items = append(items, Item{})
		p.item(&items[len(items)-1], depth)
	}
	return items
}

func (p *parser) item(it *Item, depth int) {
	if !p.Enter('{') {
		return
	}
	for p.More() {
		switch p.Name() {
		case "linkId":
			it.LinkID, _ = p.String()
		case "text":
			it.Text, it.HasText = p.String()
		case "answer":
			it.Answers = p.answers(depth)
		case "item":
			it.Items = p.items(depth + 1)
		default:
			p.Skip()
		}
	}
}

func (p *parser) answers(depth int) (answers []Answer) {
	if !p.Enter('[') {
		return nil
	}
	for p.More() {
		if answers == nil {
			answers = p.room()
		}
		answers = append(answers, Answer{})
		p.answer(&answers[len(answers)-1], depth)
	}
	return answers
}

func (p *parser) answer(a *Answer, depth int) {
	if !p.Enter('{') {
		return
	}
	for p.More() {
		switch name := p.Name(); {
		case name == "item":
			a.Items = p.items(depth + 1)
		case strings.HasPrefix(name, "value"):
			a.Many = a.Value.Name != ""
			a.Value = p.value(name)
		default:
			p.Skip()
		}
	}
}

// value reads a value[x]; what does not have the form of its type is marked, not refused, so that the finding can name the
// item.
func (p *parser) value(name string) Value {
	v := Value{Name: name}
	ok := true
	switch name {
	case "valueBoolean":
		v.Text, ok = p.Literal("tf")
	case "valueInteger", "valueDecimal":
		v.Text, ok = p.Literal(numeric)
	case "valueDate", "valueDateTime", "valueTime", "valueString", "valueUri":
		v.Text, ok = p.String()
	case "valueCoding":
		ok = p.coding(&v)
	case "valueQuantity":
		ok = p.quantity(&v)
	case "valueReference":
		ok = p.Peek() == '{'
		v.Text = p.only("reference")
	case "valueAttachment":
		ok = p.attachment(&v)
	default:
		p.Skip()
		ok = false
	}
	v.Bad = !ok
	return v
}

func (p *parser) coding(v *Value) bool {
	if !p.Enter('{') {
		return false
	}
	for p.More() {
		switch p.Name() {
		case "system":
			v.System, _ = p.String()
		case "code":
			v.Code, _ = p.String()
		case "display":
			v.Text, _ = p.String()
		default:
			p.Skip()
		}
	}
	return true
}

func (p *parser) quantity(v *Value) bool {
	if !p.Enter('{') {
		return false
	}
	for p.More() {
		switch p.Name() {
		case "value":
			v.Text, _ = p.Literal(numeric)
		case "system":
			v.System, _ = p.String()
		case "code":
			v.Code, _ = p.String()
		case "unit":
			v.Unit, _ = p.String()
		default:
			p.Skip()
		}
	}
	return true
}

func (p *parser) attachment(v *Value) bool {
	if !p.Enter('{') {
		return false
	}
	for p.More() {
		switch p.Name() {
		case "contentType":
			v.Media, _ = p.String()
		case "size":
			if n, ok := p.Literal(numeric); ok {
				v.Size, _ = strconv.ParseInt(n, 10, 64)
			}
		case "data":
			if data, ok := p.String(); ok {
				v.Size = max(v.Size, int64(base64.StdEncoding.DecodedLen(len(data))-strings.Count(data, "=")))
			}
		default:
			p.Skip()
		}
	}
	return true
}
