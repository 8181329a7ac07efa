// Package strictjson decides what JSON text the door takes (RFC 8259, with the strictness of RFC 7493): one value with nothing after it, each
// member once in its object, valid UTF-8 without lone surrogates, nested no deeper than 10,000.
//
// It reads and checks in one pass, because every submission of the worst minute pays for it: a general decoder first proves a value
// well-formed and then has it read once more.
package strictjson

import (
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/eprod/eprod/internal/errs"
)

// maxDepth is how deep values may be nested: as deep as jsontext takes them, so that no reader behind the door finds more than the door did.
const maxDepth = 10_000

// manyNames is up to how many members of one object a new name is compared with each; then a table is made.
const manyNames = 16

// Reader walks one JSON text. After the first failure every call is a no-op, More is false and Err tells the failure, so that a caller
// needs to look once, at the end. Not safe for concurrent use.
type Reader struct {
	text  string
	at    int
	err   error
	depth int // objects and arrays that are open
	named int // names of all members of open objects so far
	// Room for what a response needs; no pointer into it is kept, so a Reader can stand on its caller's stack and reading allocates nothing.
	frames [16]frame // outermost first
	names  [40]string
	deeper []frame  // beyond frames
	others []string // beyond names
}

// frame is one open object or array.
type frame struct {
	end   byte // '}' or ']'
	some  bool // a member or element was seen
	first int  // of its names among all
	table map[string]struct{}
}

// Reset begins anew with text. What the Reader returns shares the text's memory.
func (r *Reader) Reset(text string) {
	r.text, r.at, r.err, r.depth, r.named = text, 0, nil, 0, 0
	r.deeper, r.others = r.deeper[:0], r.others[:0]
}

// top is what was entered last.
func (r *Reader) top() *frame {
	if i := r.depth - 1; i < len(r.frames) {
		return &r.frames[i]
	}
	return &r.deeper[r.depth-1-len(r.frames)]
}

func (r *Reader) push(f frame) {
	if r.depth < len(r.frames) {
		r.frames[r.depth] = f
	} else {
		r.deeper = append(r.deeper[:r.depth-len(r.frames)], f)
	}
	r.depth++
}

func (r *Reader) name(i int) string {
	if i < len(r.names) {
		return r.names[i]
	}
	return r.others[i-len(r.names)]
}

func (r *Reader) keep(name string) {
	if r.named < len(r.names) {
		r.names[r.named] = name
	} else {
		r.others = append(r.others[:r.named-len(r.names)], name)
	}
	r.named++
}

// Err returns the first failure, an errs.Invalid with the code invalid_json that says where the text broke and never what stood there, or nil.
func (r *Reader) Err() error { return r.err }

// End returns Err, or a failure when anything but white space is left.
func (r *Reader) End() error {
	if r.err == nil {
		if r.space(); r.at < len(r.text) {
			r.err = errs.InvalidJSON("there is something after the JSON value (at byte " + strconv.Itoa(r.at) + ")")
		}
	}
	return r.err
}

// Fail makes a refusal of the caller's own the first failure, unless there is one.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Offset is how many bytes were read. Directly after a value it is the value's end.
func (r *Reader) Offset() int { return r.at }

// Peek goes to the value that comes next and returns its first byte: {, [, ", t, f, n, a digit or a minus. 0 means a failure.
func (r *Reader) Peek() byte {
	if r.err != nil {
		return 0
	}
	if r.space(); r.at < len(r.text) {
		return r.text[r.at]
	}
	r.broken(r.at)
	return 0
}

// Enter goes into the object ('{') or array ('[') that comes next; anything else it reads over and returns false. More must be called after
// it until that is false.
func (r *Reader) Enter(kind byte) bool {
	if r.Peek() != kind {
		r.Skip()
		return false
	}
	return r.enter(kind)
}

func (r *Reader) enter(kind byte) bool {
	if r.depth >= maxDepth {
		r.Fail(errs.InvalidJSON("values are nested deeper than " + strconv.Itoa(maxDepth)))
		return false
	}
	r.at++
	r.push(frame{end: kind + 2, first: r.named}) // '}' and ']' come two after '{' and '['
	return true
}

// More goes to the next member or element of what was entered last and reports whether there is one; if not, it leaves. In an object Name must
// follow, in an array the reading of one value.
func (r *Reader) More() bool {
	if r.err != nil {
		return false
	}
	f := r.top()
	r.space()
	if r.at >= len(r.text) {
		return r.broken(r.at)
	}
	c := r.text[r.at]
	if c == f.end {
		r.at++
		r.named = f.first
		r.depth--
		return false
	}
	if !f.some {
		f.some = true
		return true
	}
	if c != ',' {
		return r.broken(r.at)
	}
	r.at++
	return true
}

// Name reads the name of a member and goes to its value, which must be read next.
func (r *Reader) Name() string {
	if r.Peek() != '"' {
		r.broken(r.at)
		return ""
	}
	start := r.at
	name := r.quoted()
	if r.err != nil || !r.fresh(name, start) {
		return ""
	}
	if r.space(); r.at >= len(r.text) || r.text[r.at] != ':' {
		r.broken(r.at)
		return ""
	}
	r.at++
	return name
}

// fresh takes a name into its object, and fails if the object has it.
func (r *Reader) fresh(name string, start int) bool {
	f := r.top()
	twice := false
	if r.named-f.first < manyNames {
		for i := f.first; i < r.named; i++ {
			twice = twice || r.name(i) == name
		}
	} else {
		if f.table == nil {
			f.table = make(map[string]struct{}, 4*manyNames)
			for i := f.first; i < r.named; i++ {
				f.table[r.name(i)] = struct{}{}
			}
		}
		_, twice = f.table[name]
		f.table[name] = struct{}{}
	}
	if twice {
		r.Fail(errs.InvalidJSON("a JSON object has the same member twice (at byte " + strconv.Itoa(start) + ")"))
		return false
	}
	r.keep(name)
	return true
}

// Skip reads over the value that comes next.
func (r *Reader) Skip() {
	for depth := r.depth; ; {
		switch c := r.Peek(); c {
		case 0:
			return
		case '{', '[':
			r.enter(c)
		case '"':
			r.quoted()
		default:
			r.bare(c)
		}
		// The next value of what is open, or the end of the value that was to be read over.
		for r.depth > depth && !r.More() {
			if r.err != nil {
				return
			}
		}
		if r.err != nil || r.depth == depth {
			return
		}
		if r.top().end == '}' {
			r.Name()
		}
	}
}

// String reads the string that comes next; anything else it reads over and returns false.
func (r *Reader) String() (string, bool) {
	if r.Peek() != '"' {
		r.Skip()
		return "", false
	}
	s := r.quoted()
	return s, r.err == nil
}

// Literal reads a number, true, false or null as written if it begins with one of the bytes of kinds; anything else it reads over and
// returns false.
func (r *Reader) Literal(kinds string) (string, bool) {
	c := r.Peek()
	if c == 0 || strings.IndexByte(kinds, c) < 0 {
		r.Skip()
		return "", false
	}
	s := r.bare(c)
	return s, r.err == nil
}

// space goes over white space.
func (r *Reader) space() {
	if r.at < len(r.text) && r.text[r.at] > ' ' { // as a rule there is none
		return
	}
	r.spaces()
}

func (r *Reader) spaces() {
	for r.at < len(r.text) {
		switch r.text[r.at] {
		case ' ', '\t', '\n', '\r':
			r.at++
		default:
			return
		}
	}
}

func (r *Reader) broken(at int) bool {
	r.Fail(errs.InvalidJSON("the body is not well-formed JSON (at byte " + strconv.Itoa(at) + ")"))
	return false
}

// quoted reads the string whose opening quote comes next, as a part of the text; only escapes cost a copy.
func (r *Reader) quoted() string {
	text, start := r.text, r.at+1
	i := start + plain(text[start:])
	if i < len(text) && text[i] == '"' {
		r.at = i + 1
		return text[start:i]
	}
	return r.uncommon(i)
}

// plain returns how many bytes of s at its beginning stand for themselves in a string: printable ASCII but quote and backslash. It looks at
// eight bytes at once: most of a response is text.
func plain(s string) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; len(s)-i >= 8; i += 8 {
		b := s[i : i+8]
		x := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		quote, backslash := x^ones*'"', x^ones*'\\'
		// The lowest of the marked bytes is exact (Warren, Hacker's Delight, section 6-1); what is above it may be marked by a borrow.
		if odd := (x | (x - ones*' ') | (quote - ones) | (backslash - ones)) & high; odd != 0 {
			return i + bits.TrailingZeros64(odd)/8
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			break
		}
	}
	return i
}

// uncommon is quoted from byte i of the text on, where something stands that is neither plain nor the end.
func (r *Reader) uncommon(i int) string {
	text, start := r.text, r.at
	escaped := false
	for i < len(text) {
		switch c := text[i]; {
		case c == '"':
			r.at = i + 1
			if escaped {
				return r.unescaped(text[start:r.at])
			}
			return text[start+1 : i]
		case c == '\\':
			n := escape(text[i:])
			if n == 0 {
				r.broken(i)
				return ""
			}
			escaped = true
			i += n
		case c < ' ':
			r.broken(i)
			return ""
		case c < utf8.RuneSelf:
			i += plain(text[i:])
		default:
			c, n := utf8.DecodeRuneInString(text[i:])
			if c == utf8.RuneError && n == 1 {
				r.broken(i)
				return ""
			}
			i += n
		}
	}
	r.broken(len(text))
	return ""
}

func (r *Reader) unescaped(quoted string) string {
	plain, err := jsontext.AppendUnquote(nil, quoted)
	if err != nil {
		r.broken(r.at)
	}
	return string(plain)
}

// escape returns the length of the escape sequence that s begins with, both halves of a surrogate pair together; 0 if it is none.
func escape(s string) int {
	if len(s) < 2 {
		return 0
	}
	if s[1] != 'u' {
		if strings.IndexByte(`"\/bfnrt`, s[1]) < 0 {
			return 0
		}
		return 2
	}
	switch c := hex4(s[2:]); {
	case c < 0, c >= 0xDC00 && c < 0xE000:
		return 0
	case c < 0xD800 || c >= 0xE000:
		return 6
	}
	if len(s) < 12 || s[6] != '\\' || s[7] != 'u' {
		return 0
	}
	if low := hex4(s[8:]); low < 0xDC00 || low >= 0xE000 {
		return 0
	}
	return 12
}

// hex4 returns the number that four hexadecimal digits are, or -1.
func hex4(s string) int {
	if len(s) < 4 {
		return -1
	}
	n := 0
	for i := range 4 {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			n = n<<4 | int(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | int(c-'a'+10)
		case 'A' <= c && c <= 'F':
			n = n<<4 | int(c-'A'+10)
		default:
			return -1
		}
	}
	return n
}

// bare reads the number or word that begins with c, as written.
func (r *Reader) bare(c byte) string {
	rest := r.text[r.at:]
	n := 0
	switch c {
	case 't':
		n = word(rest, "true")
	case 'f':
		n = word(rest, "false")
	case 'n':
		n = word(rest, "null")
	default:
		n = number(rest)
	}
	if n == 0 {
		r.broken(r.at)
		return ""
	}
	r.at += n
	return rest[:n]
}

func word(s, wanted string) int {
	if !strings.HasPrefix(s, wanted) {
		return 0
	}
	return len(wanted)
}

// number returns the length of the number that s begins with (RFC 8259, section 6), or 0. What may not follow a number is found by who reads on.
func number(s string) int {
	i := 0
	if i < len(s) && s[i] == '-' {
		i++
	}
	switch {
	case i < len(s) && s[i] == '0':
		i++
	default:
		n := digits(s[i:])
		if n == 0 {
			return 0
		}
		i += n
	}
	if i < len(s) && s[i] == '.' {
		n := digits(s[i+1:])
		if n == 0 {
			return 0
		}
		i += 1 + n
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		n := digits(s[i:])
		if n == 0 {
			return 0
		}
		i += n
	}
	return i
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
