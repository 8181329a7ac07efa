package questionnaire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/eprod/eprod/internal/errs"
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
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	value, err := dec.ReadValue()
	if err != nil {
		return nil, malformed(err)
	}
	r, err := ReadResponse(string(value))
	if err != nil {
		return nil, err
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errs.InvalidJSON("there is something after the QuestionnaireResponse")
	}
	return r, nil
}

// ReadResponse is ParseResponse for a JSON value that a strict decoder has read already, so that a body is checked once.
func ReadResponse(value string) (*Response, error) {
	p := &reader{text: value}
	r := &Response{}
	if p.peek() != '{' {
		return nil, errs.InvalidJSON("a QuestionnaireResponse must be a JSON object")
	}
	p.object(func(name string) { p.head(r, name) })
	if p.err != nil {
		return nil, p.err
	}
	if t, err := time.Parse(time.RFC3339Nano, r.Authored); err == nil {
		r.AuthoredAt = t
	}
	return r, nil
}

func malformed(err error) error {
	detail := "the body is not well-formed JSON"
	if errors.Is(err, jsontext.ErrDuplicateName) {
		detail = "a JSON object has the same member twice"
	}
	return errs.InvalidJSON(detail)
}

// reader walks JSON that is known to be well-formed, which a byte at a time is several times faster than token by token. After
// the first failure, which only depth can cause, everything is a no-op.
type reader struct {
	text  string
	at    int
	err   error
	spare []Answer // room for the single answers that most questions have
}

// room returns an empty list with room for one answer, out of a block for many: one allocation instead of one a question.
func (p *reader) room() []Answer {
	if len(p.spare) == 0 {
		p.spare = make([]Answer, 24)
	}
	one := p.spare[:0:1]
	p.spare = p.spare[1:]
	return one
}

// peek goes to the next name, value or end and returns its first byte; 0 is the end of the text. Where everything is
// well-formed, white space, commas and colons say nothing.
func (p *reader) peek() byte {
	for ; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; c {
		case ' ', '\t', '\n', '\r', ',', ':':
		default:
			return c
		}
	}
	return 0
}

// enter goes into an object or array, or reads over whatever else stands there.
func (p *reader) enter(kind byte) bool {
	if p.err != nil {
		return false
	}
	if p.peek() != kind {
		p.skip()
		return false
	}
	p.at++
	return true
}

// more reports whether something stands before the end, and otherwise goes past it.
func (p *reader) more(end byte) bool {
	if p.err != nil {
		return false
	}
	if c := p.peek(); c != end && c != 0 {
		return true
	}
	p.at++
	return false
}

// object calls member for each name; member must read the value. Anything but an object is read over.
func (p *reader) object(member func(name string)) {
	if !p.enter('{') {
		return
	}
	for p.more('}') {
		name, _ := p.string()
		member(name)
	}
}

// array calls element until the end; element must read one value. Anything but an array is read over.
func (p *reader) array(element func()) {
	if !p.enter('[') {
		return
	}
	for p.more(']') {
		element()
	}
}

// skip reads over one value.
func (p *reader) skip() {
	if p.err != nil {
		return
	}
	for depth := 0; ; {
		switch p.peek() {
		case '{', '[':
			depth++
			p.at++
		case '}', ']':
			depth--
			p.at++
		case '"':
			p.quoted()
		case 0:
			return
		default:
			p.bare()
		}
		if depth <= 0 {
			return
		}
	}
}

// quoted reads a string and returns it between its quotes, as written.
func (p *reader) quoted() (inside string, escaped bool) {
	start := p.at + 1
	for i := start; i < len(p.text); i++ {
		switch p.text[i] {
		case '"':
			p.at = i + 1
			return p.text[start:i], escaped
		case '\\':
			escaped = true
			i++
		}
	}
	p.at = len(p.text)
	return "", false
}

// bare reads a number, true, false or null as written.
func (p *reader) bare() string {
	start := p.at
	for p.at < len(p.text) && strings.IndexByte(" \t\n\r,:]}", p.text[p.at]) < 0 {
		p.at++
	}
	return p.text[start:p.at]
}

// string reads a string as a part of the one copy of the input; only escapes cost another copy.
func (p *reader) string() (string, bool) {
	if p.err != nil || p.peek() != '"' {
		return "", false
	}
	start := p.at
	inside, escaped := p.quoted()
	if !escaped {
		return inside, true
	}
	plain, err := jsontext.AppendUnquote(nil, p.text[start:p.at])
	if err != nil {
		p.err = malformed(err)
		return "", false
	}
	return string(plain), true
}

// optional reads a string, or reads over whatever else stands there.
func (p *reader) optional() (string, bool) {
	s, ok := p.string()
	if !ok {
		p.skip()
	}
	return s, ok
}

// literal reads a number, true or false as written; kinds lists the first bytes that will do.
func (p *reader) literal(kinds string) (string, bool) {
	if p.err != nil {
		return "", false
	}
	if c := p.peek(); c == 0 || strings.IndexByte(kinds, c) < 0 {
		p.skip()
		return "", false
	}
	return p.bare(), true
}

func (p *reader) head(r *Response, name string) {
	into := func(s *string) { *s, _ = p.optional() }
	switch name {
	case "resourceType":
		into(&r.ResourceType)
	case "questionnaire":
		into(&r.Questionnaire)
	case "status":
		into(&r.Status)
	case "authored":
		into(&r.Authored)
	case "language":
		into(&r.Language)
	case "identifier":
		p.object(p.only("value", &r.Identifier))
	case "subject":
		p.object(p.only("reference", &r.Subject))
	case "author":
		p.object(p.only("reference", &r.Author))
	case "basedOn":
		p.array(func() {
			var ref string
			p.object(p.only("reference", &ref))
			r.BasedOn = append(r.BasedOn, ref)
		})
	case "item":
		r.Items = p.items(1)
	default:
		p.skip()
	}
}

// only returns a member function that keeps one string member.
func (p *reader) only(wanted string, into *string) func(string) {
	return func(name string) {
		if name == wanted {
			*into, _ = p.optional()
			return
		}
		p.skip()
	}
}

func (p *reader) items(depth int) []Item {
	if depth > maxDepth {
		if p.err == nil {
			p.err = errs.InvalidJSON("items are nested deeper than " + strconv.Itoa(maxDepth))
		}
		return nil
	}
	var items []Item
	p.array(func() {
		if p.peek() != '{' {
			p.skip()
			items = append(items, Item{})
			return
		}
		if items == nil {
			items = make([]Item, 0, 24)
		}
		items = append(items, Item{})
		it := &items[len(items)-1]
		p.object(func(name string) {
			switch name {
			case "linkId":
				it.LinkID, _ = p.optional()
			case "text":
				it.Text, it.HasText = p.optional()
			case "answer":
				p.array(func() {
					if it.Answers == nil {
						it.Answers = p.room()
					}
					it.Answers = append(it.Answers, Answer{})
					p.answer(&it.Answers[len(it.Answers)-1], depth)
				})
			case "item":
				it.Items = p.items(depth + 1)
			default:
				p.skip()
			}
		})
	})
	return items
}

func (p *reader) answer(a *Answer, depth int) {
	p.object(func(name string) {
		switch {
		case name == "item":
			a.Items = p.items(depth + 1)
		case strings.HasPrefix(name, "value"):
			a.Many = a.Value.Name != ""
			a.Value = p.value(name)
		default:
			p.skip()
		}
	})
}

// value reads a value[x]; what does not have the form of its type is marked, not refused, so that the finding can name the
// item.
func (p *reader) value(name string) Value {
	v := Value{Name: name}
	ok := true
	switch name {
	case "valueBoolean":
		v.Text, ok = p.literal("tf")
	case "valueInteger", "valueDecimal":
		v.Text, ok = p.literal(numeric)
	case "valueDate", "valueDateTime", "valueTime", "valueString", "valueUri":
		v.Text, ok = p.optional()
	case "valueCoding":
		ok = p.peek() == '{'
		p.object(func(member string) { p.coding(&v, member) })
	case "valueQuantity":
		ok = p.peek() == '{'
		p.object(func(member string) { p.quantity(&v, member) })
	case "valueReference":
		ok = p.peek() == '{'
		p.object(p.only("reference", &v.Text))
	case "valueAttachment":
		ok = p.peek() == '{'
		p.object(func(member string) { p.attachment(&v, member) })
	default:
		p.skip()
		ok = false
	}
	v.Bad = !ok
	return v
}

func (p *reader) coding(v *Value, member string) {
	switch member {
	case "system":
		v.System, _ = p.optional()
	case "code":
		v.Code, _ = p.optional()
	case "display":
		v.Text, _ = p.optional()
	default:
		p.skip()
	}
}

func (p *reader) quantity(v *Value, member string) {
	switch member {
	case "value":
		v.Text, _ = p.literal(numeric)
	case "system":
		v.System, _ = p.optional()
	case "code":
		v.Code, _ = p.optional()
	case "unit":
		v.Unit, _ = p.optional()
	default:
		p.skip()
	}
}

func (p *reader) attachment(v *Value, member string) {
	switch member {
	case "contentType":
		v.Media, _ = p.optional()
	case "size":
		if n, ok := p.literal(numeric); ok {
			v.Size, _ = strconv.ParseInt(n, 10, 64)
		}
	case "data":
		if data, ok := p.optional(); ok {
			v.Size = max(v.Size, int64(base64.StdEncoding.DecodedLen(len(data))-strings.Count(data, "=")))
		}
	default:
		p.skip()
	}
}
