package archive

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/questionnaire"
)

func anyValue(k kind) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		if rapid.IntRange(0, 9).Draw(t, "null") == 0 {
			return nil
		}
		switch k {
		case ofInt:
			return rapid.Int64().Draw(t, "int")
		case ofText:
			return rapid.String().Draw(t, "text")
		case ofFloat:
			return rapid.Float64().Draw(t, "float")
		default:
			return rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		}
	})
}

var testShape = &shape{table: Table{Name: "t", participant: "b"}, columns: []column{{"a", ofInt}, {"b", ofInt}, {"c", ofText}, {"d", ofBytes}, {"e", ofFloat}}, key: []int{1, 0}}

func anyRow() *rapid.Generator[row] {
	return rapid.Custom(func(t *rapid.T) row {
		r := make(row, len(testShape.columns))
		for i, c := range testShape.columns {
			r[i] = anyValue(c.kind).Draw(t, c.name)
		}
		return r
	})
}

// TestBlocksComeBack: whatever the rows, sealed and opened they are the same, and only in their own place.
func TestBlocksComeBack(t *testing.T) {
	keys, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := keys.NewDataKey(ours)
	if err != nil {
		t.Fatal(err)
	}
	key, err := keys.DataKey(ours, wrapped)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPacker(key)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	named := func(string) Table { return testShape.table }
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(anyRow(), 1, 20).Draw(t, "rows")
		var encoded []byte
		for _, r := range rows {
			if encoded, err = appendRow(encoded, r); err != nil {
				t.Fatal(err)
			}
		}
		sealed, err := p.seal(testShape, len(rows), encoded, blockPlace(1, 2, "p", 3))
		if err != nil {
			t.Fatal(err)
		}
		s, got, err := p.open(sealed, blockPlace(1, 2, "p", 3), named)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(rows, got, cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(testShape.names(), s.names()); diff != "" || fmt.Sprint(s.key) != fmt.Sprint(testShape.key) {
			t.Fatalf("%s %v", diff, s.key)
		}
		for _, place := range [][]byte{blockPlace(1, 2, "p", 4), blockPlace(1, 2, "q", 3), blockPlace(1, 9, "p", 3), blockPlace(9, 2, "p", 3)} {
			if _, _, err := p.open(sealed, place, named); err == nil {
				t.Fatal("a block opens where it was not written")
			}
		}
	})
}

// TestDigestOfSets: the digest does not depend on the order, and tells sets apart that differ in one row, or in how often.
func TestDigestOfSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(anyRow(), 1, 8).Draw(t, "rows")
		of := func(rows []row) Digest {
			d, err := rowsDigest(testShape, rows)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		all := of(rows)
		if shuffled := rapid.Permutation(rows).Draw(t, "shuffled"); of(shuffled) != all {
			t.Fatal("the order counts")
		}
		cut := rapid.IntRange(0, len(rows)).Draw(t, "cut")
		parts := of(rows[:cut])
		parts.Add(of(rows[cut:]))
		if parts != all {
			t.Fatal("the digests of two parts do not make that of the whole")
		}
		if of(append(rows, rows[0])) == all || of(rows[1:]) == all {
			t.Fatal("a row too many or too few is not noticed")
		}
	})
}

// TestTornBlocks: bytes that are no block are an error, never a panic.
func TestTornBlocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		if r, rest, err := readRow(b, 3); err == nil {
			if again, err := appendRow(nil, r); err != nil || len(again)+len(rest) > len(b)+30 {
				t.Fatalf("%v, %v", r, err)
			}
		}
	})
}

// TestWhatStaysSealed: each type of value, and what of it researchers see.
func TestWhatStaysSealed(t *testing.T) {
	d, findings := questionnaire.Compile([]byte(`{"resourceType":"Questionnaire","url":"u","version":"1","status":"active","item":[
{"linkId":"c","type":"open-choice","text":"x","answerOption":[{"valueCoding":{"system":"s","code":"a","display":"A"}},{"valueString":"often"}]},
{"linkId":"q","type":"quantity","text":"x","extension":[{"url":"http://hl7.org/fhir/StructureDefinition/questionnaire-unitOption","valueCoding":{"system":"http://unitsofmeasure.org","code":"kg"}}]}]}`), questionnaire.DefaultLimits())
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	type seen struct {
		Text, System, Code, Unit string
		Withheld                 bool
	}
	const ucum = "http://unitsofmeasure.org"
	for name, c := range map[string]struct {
		linkID       string
		value        questionnaire.Value
		clear, freed seen
	}{
		"integer":        {"n", questionnaire.Value{Name: "valueInteger", Text: "4"}, seen{Text: "4"}, seen{Text: "4"}},
		"date":           {"n", questionnaire.Value{Name: "valueDate", Text: "2026-01"}, seen{Text: "2026-01"}, seen{Text: "2026-01"}},
		"offered code":   {"c", questionnaire.Value{Name: "valueCoding", System: "s", Code: "a", Text: "mine"}, seen{System: "s", Code: "a"}, seen{System: "s", Code: "a", Text: "mine"}},
		"other code":     {"c", questionnaire.Value{Name: "valueCoding", System: "s", Code: "Jane"}, seen{Withheld: true}, seen{System: "s", Code: "Jane"}},
		"code of others": {"n", questionnaire.Value{Name: "valueCoding", System: "s", Code: "a"}, seen{Withheld: true}, seen{System: "s", Code: "a"}},
		"offered text":   {"c", questionnaire.Value{Name: "valueString", Text: "often"}, seen{Text: "often"}, seen{Text: "often"}},
		"free text":      {"c", questionnaire.Value{Name: "valueString", Text: "Jane"}, seen{Withheld: true}, seen{Text: "Jane"}},
		"attachment":     {"n", questionnaire.Value{Name: "valueAttachment", Text: "photo"}, seen{Withheld: true}, seen{Withheld: true}},
		"reference":      {"n", questionnaire.Value{Name: "valueReference", Text: "Patient/1"}, seen{Withheld: true}, seen{Text: "Patient/1"}},
		"offered unit":   {"q", questionnaire.Value{Name: "valueQuantity", Text: "70", System: ucum, Code: "kg", Unit: "Jane's kilos"}, seen{Text: "70", System: ucum, Code: "kg"}, seen{Text: "70", System: ucum, Code: "kg", Unit: "Jane's kilos"}},
		"other unit":     {"q", questionnaire.Value{Name: "valueQuantity", Text: "70", Unit: "Jane"}, seen{Text: "70", Withheld: true}, seen{Text: "70", Unit: "Jane"}},
	} {
		for free, want := range map[bool]seen{false: c.clear, true: c.freed} {
			f := &flattener{known: d, freeText: free}
			f.answer(c.linkID, c.value)
			a := f.out[0]
			got := seen{deref(a.Text), deref(a.System), deref(a.Code), deref(a.Unit), a.Withheld}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, free text %v: %s", name, free, diff)
			}
		}
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func TestFolders(t *testing.T) {
	for url, want := range map[string]string{diary: "diary-", monthly: "monthly-check-", "urn:x": "urn-x-", "https://e.org/问卷": ""} {
		got := folderOf(url)
		if len(got) < 8 || got[:len(got)-8] != want && want != "" {
			t.Errorf("%s is %s", url, got)
		}
		for _, r := range got {
			if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-') {
				t.Errorf("%s is %s", url, got)
			}
		}
	}
	if folderOf("https://a.org/q") == folderOf("https://b.org/q") {
		t.Error("two questionnaires share a folder")
	}
}
