package submission

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// plainCipher keeps the plain text in sight and insists on the associated data.
type plainCipher struct{}

func (plainCipher) Seal(plain, associated []byte) ([]byte, error) {
	return slices.Concat(associated, plain), nil
}

func (plainCipher) Open(sealed, associated []byte) ([]byte, error) {
	plain, ok := bytes.CutPrefix(sealed, associated)
	if !ok {
		return nil, errors.New("of another record")
	}
	return plain, nil
}

// TestSealedBodyComesBack: whatever the bytes, since the hash of exactly these bytes is on the receipt.
func TestSealedBodyComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Custom(func(t *rapid.T) []byte {
			return []byte(strings.Repeat(rapid.String().Draw(t, "piece"), rapid.IntRange(0, 200).Draw(t, "times")))
		})).Draw(t, "body")
		r := record(1, 2, 3)
		if err := r.Seal(plainCipher{}, body); err != nil {
			t.Fatal(err)
		}
		got, err := r.Open(plainCipher{})
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%x, %v; want %x", got, err, body)
		}
		if over := len(r.Sealed) - len(r.Associated()) - len(body); over > 16 {
			t.Fatalf("packing adds %d bytes", over)
		}
		r.Participant++
		if _, err := r.Open(plainCipher{}); err == nil {
			t.Fatal("a body opens in another participant's record")
		}
	})
}

func TestSealPacks(t *testing.T) {
	r, body := record(1, 2, 3), []byte(`{"item":[`+strings.Repeat(`{"linkId":"q1","answer":[{"valueInteger":3}]},`, 40)+`{}]}`)
	if err := r.Seal(plainCipher{}, body); err != nil || len(r.Sealed) > len(body)/3 {
		t.Errorf("%d bytes of %d, %v", len(r.Sealed), len(body), err)
	}
}

// TestOpenReadsPlainJSON: a body that packing does not make smaller is kept as it is.
func TestOpenReadsPlainJSON(t *testing.T) {
	r := record(1, 2, 3)
	r.Sealed = append(r.Associated(), `{"a":1}`...)
	if body, err := r.Open(plainCipher{}); string(body) != `{"a":1}` || err != nil {
		t.Errorf("%s, %v", body, err)
	}
}

func TestOpenRefusesDamage(t *testing.T) {
	for name, plain := range map[string][]byte{
		"no length":   {packed},
		"truncated":   {packed, 200, 1, 0},
		"huge length": {packed, 0xff, 0xff, 0xff, 0xff, 0x0f, 0},
	} {
		r := record(1, 2, 3)
		r.Sealed = append(r.Associated(), plain...)
		if body, err := r.Open(plainCipher{}); err == nil || !strings.Contains(err.Error(), "unpacked") {
			t.Errorf("%s: %x, %v", name, body, err)
		}
	}
}
