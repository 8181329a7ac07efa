package keyring_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/keyring"
)

func master(id uint32) keyring.MasterKey {
	return keyring.MasterKey{ID: id, Secret: bytes.Repeat([]byte{byte(id)}, 32)}
}

func ring(t testing.TB, ids ...uint32) *keyring.Keyring {
	t.Helper()
	keys := make([]keyring.MasterKey, len(ids))
	for i, id := range ids {
		keys[i] = master(id)
	}
	k, err := keyring.New(keys, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newKey(t testing.TB, k *keyring.Keyring, owner int64) (*keyring.DataKey, []byte) {
	t.Helper()
	wrapped, err := k.NewDataKey(owner)
	if err != nil {
		t.Fatal(err)
	}
	key, err := k.DataKey(owner, wrapped)
	if err != nil {
		t.Fatal(err)
	}
	return key, wrapped
}

func seal(t testing.TB, key *keyring.DataKey, plain, place string) []byte {
	t.Helper()
	sealed, err := key.Seal([]byte(plain), []byte(place))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestParseMasterKeys(t *testing.T) {
	one, two := base64.StdEncoding.EncodeToString(master(1).Secret), base64.StdEncoding.EncodeToString(master(2).Secret)
	got, err := keyring.ParseMasterKeys(" 2:" + two + ", 1:" + one + "\n")
	if diff := cmp.Diff([]keyring.MasterKey{master(2), master(1)}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"Empty":     {"", "key 1: must be a number above zero"},
		"NoNumber":  {one, "key 1: must be a number above zero"},
		"Zero":      {"0:" + one, "key 1: must be a number above zero"},
		"TooLarge":  {"4294967296:" + one, "key 1: must be a number above zero"},
		"Short":     {"1:" + one + ",2:" + two[:20], "key 2: must be base64 of exactly 32 random bytes"},
		"NotBase64": {"1:" + strings.Repeat("?", 44), "key 1: must be base64 of exactly 32 random bytes"},
		"Twice":     {"1:" + one + ",1:" + two, "key 2: its number stands for another key already"},
		"Comma":     {"1:" + one + ",", "key 2: must be a number above zero"},
	} {
		_, err := keyring.ParseMasterKeys(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), one) || strings.Contains(err.Error(), two[:20])) {
			t.Errorf("%s: the error holds a key", name)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, keys := range map[string][]keyring.MasterKey{
		"None":  nil,
		"Short": {{ID: 1, Secret: make([]byte, 31)}},
		"Twice": {master(1), {ID: 1, Secret: make([]byte, 32)}},
	} {
		if _, err := keyring.New(keys, rand.Reader); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	broken, err := keyring.New([]keyring.MasterKey{master(1)}, iotest.ErrReader(errors.New("no entropy")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken.NewDataKey(1); err == nil {
		t.Error("a key without randomness")
	}
}

func TestSealIsBoundToItsPlace(t *testing.T) {
	k := ring(t, 1)
	for name, key := range map[string]*keyring.DataKey{"DataKey": first(newKey(t, k, 7)), "Intake": k.Intake()} {
		sealed := seal(t, key, "PHQ-9: 12", "response/sealed/7/1")
		if bytes.Contains(sealed, []byte("PHQ")) || bytes.Equal(sealed, seal(t, key, "PHQ-9: 12", "response/sealed/7/1")) {
			t.Errorf("%s: not encrypted, or twice alike", name)
		}
		if plain, err := key.Open(sealed, []byte("response/sealed/7/1")); string(plain) != "PHQ-9: 12" || err != nil {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
		if plain, err := key.Open(seal(t, key, "", "x"), []byte("x")); len(plain) != 0 || err != nil {
			t.Errorf("%s: empty: %q, %v", name, plain, err)
		}
		for _, place := range []string{"response/sealed/7/2", "", "response/sealed/7/1 "} {
			if _, err := key.Open(sealed, []byte(place)); err == nil {
				t.Errorf("%s: opens as %q", name, place)
			}
		}
		for i := range sealed {
			changed := bytes.Clone(sealed)
			changed[i] ^= 1
			if _, err := key.Open(changed, []byte("response/sealed/7/1")); err == nil {
				t.Errorf("%s: opens with byte %d changed", name, i)
			}
			if _, err := key.Open(sealed[:i], []byte("response/sealed/7/1")); err == nil {
				t.Errorf("%s: opens with %d bytes only", name, i)
			}
		}
	}
}

func first(key *keyring.DataKey, _ []byte) *keyring.DataKey { return key }

func TestDataKeyIsBoundToItsOwner(t *testing.T) {
	k := ring(t, 1)
	key, wrapped := newKey(t, k, 7)
	if _, err := k.DataKey(8, wrapped); err == nil {
		t.Error("another owner's key opens")
	}
	other, _ := newKey(t, k, 7)
	if _, err := other.Open(seal(t, key, "x", ""), nil); err == nil {
		t.Error("two keys of one owner are the same")
	}
	for i := range wrapped {
		changed := bytes.Clone(wrapped)
		changed[i] ^= 1
		if _, err := k.DataKey(7, changed); err == nil {
			t.Errorf("opens with byte %d changed", i)
		}
		if _, err := k.DataKey(7, wrapped[:i]); err == nil {
			t.Errorf("opens with %d bytes only", i)
		}
	}
}

func TestRotation(t *testing.T) {
	old := ring(t, 1)
	key, wrapped := newKey(t, old, 7)
	answers, atDoor := seal(t, key, "answers", "a"), seal(t, old.Intake(), "body", "b")

	rotated := ring(t, 2, 1)
	again, err := rotated.DataKey(7, wrapped)
	if err != nil {
		t.Fatalf("wrapped by the old key: %v", err)
	}
	if plain, err := again.Open(answers, []byte("a")); string(plain) != "answers" || err != nil {
		t.Errorf("%q, %v", plain, err)
	}
	if plain, err := rotated.Intake().Open(atDoor, []byte("b")); string(plain) != "body" || err != nil {
		t.Errorf("%q, %v", plain, err)
	}
	if old.Index("number", []byte("1")) != rotated.Index("number", []byte("1")) {
		t.Error("rotation changed the blind index: nothing would be found any more")
	}

	_, newWrapped := newKey(t, rotated, 7)
	newDoor := seal(t, rotated.Intake(), "body", "b")
	if _, err := old.DataKey(7, newWrapped); err == nil || !strings.Contains(err.Error(), "master key 2") {
		t.Errorf("without the new key: %v", err)
	}
	if _, err := old.Intake().Open(newDoor, []byte("b")); err == nil {
		t.Error("the door's new key is the old one")
	}
	if _, err := ring(t, 3).DataKey(7, wrapped); err == nil || !strings.Contains(err.Error(), "master key 1") {
		t.Errorf("without the old key: %v", err)
	}
}

// TestKeysOfOnePurpose: a master key's uses must not open one another.
func TestKeysOfOnePurpose(t *testing.T) {
	k := ring(t, 1)
	_, wrapped := newKey(t, k, 7)
	if _, err := k.Intake().Open(append([]byte{0, 0, 0, 1}, wrapped[5:]...), append([]byte("eprod/data-key/1/"), 0, 0, 0, 0, 0, 0, 0, 7)); err == nil {
		t.Error("the door's key unwraps data keys")
	}
}

// TestFormatStays opens what the first release wrote.
func TestFormatStays(t *testing.T) {
	k := ring(t, 1)
	key, err := k.DataKey(7, unhex(t, pinnedKey))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := key.Open(unhex(t, pinnedSealed), []byte("response/sealed")); string(plain) != `{"item":[]}` || err != nil {
		t.Errorf("%q, %v", plain, err)
	}
	if plain, err := k.Intake().Open(unhex(t, pinnedIntake), []byte("spool/sealed")); string(plain) != `{"item":[]}` || err != nil {
		t.Errorf("%q, %v", plain, err)
	}
	if got := k.Index("participant/number", []byte("0042")); hex.EncodeToString(got[:]) != pinnedIndex {
		t.Errorf("index %x", got)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestIndex(t *testing.T) {
	k := ring(t, 1)
	seen := make(map[[32]byte]string)
	for _, c := range [][2]string{{"a", "bc"}, {"ab", "c"}, {"abc", ""}, {"", "abc"}, {"a", "bd"}} {
		index := k.Index(c[0], []byte(c[1]))
		if other, ok := seen[index]; ok {
			t.Errorf("%q and %s have one index", c, other)
		}
		seen[index] = c[0] + "/" + c[1]
		if index != k.Index(c[0], []byte(c[1])) {
			t.Errorf("%q has two indexes", c)
		}
	}
	if ring(t, 2).Index("a", []byte("bc")) == k.Index("a", []byte("bc")) {
		t.Error("the index does not depend on the key")
	}
}

func TestConcurrentUse(t *testing.T) {
	k := ring(t, 1)
	key, wrapped := newKey(t, k, 7)
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 50 {
				sealed, err := key.Seal([]byte("x"), []byte("y"))
				if err != nil {
					t.Error(err)
				}
				again, err := k.DataKey(7, wrapped)
				if err != nil {
					t.Error(err)
					return
				}
				if plain, err := again.Open(sealed, []byte("y")); string(plain) != "x" || err != nil {
					t.Errorf("%q, %v", plain, err)
				}
				k.Index("a", []byte("b"))
			}
		})
	}
	running.Wait()
}

func BenchmarkKeyring(b *testing.B) {
	k := ring(b, 1)
	key, wrapped := newKey(b, k, 7)
	plain, place := make([]byte, 2200), []byte("response/sealed/7")
	sealed := seal(b, key, string(plain), string(place))
	for name, run := range map[string]func(){
		"Seal":    func() { _, _ = key.Seal(plain, place) },
		"Open":    func() { _, _ = key.Open(sealed, place) },
		"DataKey": func() { _, _ = k.DataKey(7, wrapped) },
		"Index":   func() { k.Index("number", []byte("0042")) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
		})
	}
}

// What the first release wrote with the master key of 32 bytes 01.
const (
	pinnedKey    = "010000000168e7b53f0b4dd464dd6586cc81faccc2a5277beae469a79a7a0eb52849be989fb2c278e4b86bc22ad7b9faa34332c20c04305bbf3ddaf49884a0bf12"
	pinnedSealed = "5934cc602a722ca672c258b5736833643690f9f822ded5e5cb5f69f1b279d25d428a2fe78e6c85"
	pinnedIntake = "00000001436fe714879ecdd79c23076bf7016fd13e2fff9479ac0a1277d30541b2687e449993c66358052e"
	pinnedIndex  = "70970b2c9bd01b8d6831a24a3ebffac1d764035dd890add08bbc54d52f6a1228"
)
