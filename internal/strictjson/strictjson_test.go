package strictjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/eprod/eprod/internal/errs"
)

// copyOf writes what the reader finds in a text as JSON in the shortest form, which holds every name and value against its place.
func copyOf(text string) (string, error) {
	var r Reader
	r.Reset(text)
	var b strings.Builder
	write(&b, &r)
	return b.String(), r.End()
}

func write(b *strings.Builder, r *Reader) {
	quote := func(s string) {
		q, err := jsontext.AppendQuote(nil, s)
		if err != nil {
			r.Fail(err)
		}
		b.Write(q)
	}
	switch c := r.Peek(); c {
	case 0:
	case '"':
		s, _ := r.String()
		quote(s)
	case '{', '[':
		b.WriteByte(c)
		r.Enter(c)
		for comma := ""; r.More(); comma = "," {
			b.WriteString(comma)
			if c == '{' {
				quote(r.Name())
				b.WriteByte(':')
			}
			write(b, r)
		}
		b.WriteByte(c + 2)
	default:
		s, ok := r.Literal("-0123456789tfn")
		if !ok {
			r.Fail(errs.InvalidJSON("no value"))
		}
		b.WriteString(s)
	}
}

// oracle does the same with the library.
func oracle(text string) (string, error) {
	var out bytes.Buffer
	enc := jsontext.NewEncoder(&out)
	dec := jsontext.NewDecoder(strings.NewReader(text))
	for depth := 0; ; {
		token, err := dec.ReadToken()
		if err != nil {
			return "", err
		}
		if err := enc.WriteToken(token); err != nil {
			return "", err
		}
		switch token.Kind() {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if depth == 0 {
			break
		}
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return "", errors.New("something after it")
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

// agree holds reading and skipping against the library: the same texts are taken, and with the same content.
func agree(t *testing.T, text string) {
	t.Helper()
	want, refusal := oracle(text)
	got, err := copyOf(text)
	if (refusal == nil) != (err == nil) {
		t.Fatalf("%q: the library says %v, we say %v", text, refusal, err)
	}
	var skipping Reader
	skipping.Reset(text)
	skipping.Skip()
	if skipped := skipping.End(); (skipped == nil) != (err == nil) {
		t.Fatalf("%q: read: %v, skipped: %v", text, err, skipped)
	}
	if err != nil {
		if e, ok := errs.As(err); !ok || e.Code != "invalid_json" {
			t.Fatalf("%q: %v is not invalid_json", text, err)
		}
		return
	}
	// The library writes numbers in a form of its own; compare them as they are.
	if canonical, err := oracle(got); err != nil || canonical != want {
		t.Fatalf("%q: read as %s, the library reads %s", text, got, want)
	}
}

var texts = []string{
	``, ` `, `{}`, `[]`, ` { } `, `[ ]`, `{"a":1}`, `{"a":1,}`, `{,}`, `[,]`, `[1,]`, `[1 2]`, `{"a" 1}`, `{"a":}`, `{"a"}`, `{a:1}`, `{1:2}`, `{"a":1 "b":2}`,
	`[1]]`, `[[1]`, `{"a":[{"b":{}}]}`, `[}`, `{]`, `{"a":1}x`, `{} {}`, `"a`, `"\"`, `"\\"`, `"\u00e4\ud83d\ude00"`, `"\ud83d"`, `"\ude00"`, `"\ud83dx"`, `"\ud83d\u0041"`, `"\u00g0"`, `"\u12`, `"\x"`,
	`"\/\b\f\n\r\t"`, "\"\x00\"", "\"\x1f\"", "\"\x7f\"", "\"\xff\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"ä😀\"", "\ufeff{}", "\u00a0{}", `nul`, `null`, `nulll`, `true`, `tru`, `false`, `truefalse`, `[true,false,null]`,
	`0`, `-0`, `00`, `01`, `-`, `+1`, `1.`, `.5`, `1.5`, `1e5`, `1E+5`, `1e-5`, `1e`, `1e+`, `1.e5`, `-1.50e3`, `0x1`, `1a`, `[1a]`, `NaN`, `Infinity`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":{"a":1},"b":{"a":1}}`,
	`[{"a":1},{"a":1}]`, `{"":1,"":2}`, `{"":1}`, "\t\r\n{\t\"a\"\r:\n1\t}\n", "{\"a\"\f:1}", `'a'`, `/**/{}`, `{"a":1/**/}`, `[1,[2,[3,[]]],{}]`, `{"a":[],"b":{},"c":[{}]}`,
}

func TestReaderAgreesWithTheLibrary(t *testing.T) {
	for _, text := range texts {
		agree(t, text)
	}
	for _, n := range []int{1, manyNames - 1, manyNames, manyNames + 1, 200} { // on both sides of the table
		var members []string
		for i := range n {
			members = append(members, fmt.Sprintf(`"n%d":{"n%d":[]}`, i, i))
		}
		agree(t, "{"+strings.Join(members, ",")+"}")
		agree(t, "{"+strings.Join(append(members, members[0]), ",")+"}")
		agree(t, "{"+strings.Join(append(members, members[n-1]), ",")+"}")
	}
	for _, depth := range []int{100, maxDepth, maxDepth + 1} {
		agree(t, strings.Repeat("[", depth)+strings.Repeat("]", depth))
		agree(t, strings.Repeat(`{"a":`, depth)+"1"+strings.Repeat("}", depth))
	}
}

// TestFailureTells where, and never what.
func TestFailureTells(t *testing.T) {
	for text, want := range map[string]string{
		`{"secret":1,"secret":2}`: "a JSON object has the same member twice (at byte 12)",
		`{"secret":x}`:            "the body is not well-formed JSON (at byte 10)",
		`{"secret":1`:             "the body is not well-formed JSON (at byte 11)",
		`{"secret":1} 2`:          "there is something after the JSON value (at byte 13)",
	} {
		_, err := copyOf(text)
		if e, ok := errs.As(err); !ok || e.Detail != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestReadsOver: what a caller does not expect is read over as a whole, and the next member stands in its place.
func TestReadsOver(t *testing.T) {
	for _, value := range []string{`{"a":[1,{"b":"}"}]}`, `["]",[[]],{}]`, `"x\"y"`, `-1.5e3`, `true`, `null`} {
		var r Reader
		r.Reset(`{"odd":` + value + `,"text":"found"}`)
		r.Enter('{')
		for r.More() {
			switch r.Name() {
			case "odd":
				switch value[0] {
				case '{':
					r.Enter('[')
				case '"':
					r.Literal("0123456789")
				case '[':
					r.Enter('{')
				default:
					r.String()
				}
			case "text":
				if s, ok := r.String(); !ok || s != "found" {
					t.Errorf("after %s: %q", value, s)
				}
			}
		}
		if err := r.End(); err != nil {
			t.Errorf("after %s: %v", value, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(agree)
}

func BenchmarkReader(b *testing.B) {
	text := `{"items":[` + strings.Repeat(`{"linkId":"q01","text":"Symptom 1 today, 0 to 10","answer":[{"valueInteger":7}]},`, 25) + `{}]}`
	var r Reader
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		r.Reset(text)
		r.Skip()
		if err := r.End(); err != nil {
			b.Fatal(err)
		}
	}
}
