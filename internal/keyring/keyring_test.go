package keyring

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"
)

func master(id uint32, fill byte) MasterKey {
	return MasterKey{ID: id, Secret: bytes.Repeat([]byte{fill}, 32)}
}

func ring(t testing.TB, keys ...MasterKey) *Keyring {
	t.Helper()
	k, err := New(keys, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestDataKeyBelongsToItsOwner(t *testing.T) {
	k := ring(t, master(1, 'a'))
	wrapped, err := k.NewDataKey(7)
	if err != nil {
		t.Fatal(err)
	}
	key, err := k.DataKey(7, wrapped)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := key.Seal([]byte("answer"), []byte("row 1"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := key.Open(sealed, []byte("row 1")); err != nil || string(plain) != "answer" {
		t.Fatalf("%q %v", plain, err)
	}
	if _, err := key.Open(sealed, []byte("row 2")); err == nil {
		t.Error("opens in another row")
	}
	if _, err := k.DataKey(8, wrapped); err == nil {
		t.Error("unwraps for another owner")
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := key.Open(changed, []byte("row 1")); err == nil {
			t.Fatalf("opens with bit %d changed", i)
		}
	}
	other, err := k.NewDataKey(7)
	if err != nil || bytes.Equal(other, wrapped) {
		t.Errorf("two data keys are the same (%v)", err)
	}
}

// TestRotation: a new primary wraps, the old key still unwraps, and without it nothing opens.
func TestRotation(t *testing.T) {
	before := ring(t, master(1, 'a'))
	wrapped, err := before.NewDataKey(7)
	if err != nil {
		t.Fatal(err)
	}
	sealedAtDoor, err := before.Intake().Seal([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	after := ring(t, master(2, 'b'), master(1, 'a'))
	if _, err := after.DataKey(7, wrapped); err != nil {
		t.Errorf("wrapped before the rotation: %v", err)
	}
	if _, err := after.Intake().Open(sealedAtDoor, nil); err != nil {
		t.Errorf("sealed at the door before the rotation: %v", err)
	}
	if before.Index("number", []byte("0001")) != after.Index("number", []byte("0001")) {
		t.Error("the blind index changed with the rotation")
	}
	fresh, err := after.NewDataKey(7)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := before.DataKey(7, fresh); err == nil || !strings.Contains(err.Error(), "master key 2") {
		t.Errorf("got %v, want the missing key named", err)
	}
	lost := ring(t, master(2, 'b'))
	if _, err := lost.Intake().Open(sealedAtDoor, nil); err == nil {
		t.Error("opens without the key")
	}
}

func TestIndexKeepsPurposesApart(t *testing.T) {
	k := ring(t, master(1, 'a'))
	if k.Index("a", []byte("bc")) == k.Index("ab", []byte("c")) || k.Index("a", []byte("b")) != k.Index("a", []byte("b")) {
		t.Error("purpose and value run into each other, or an index is not stable")
	}
}

func TestParseMasterKeys(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(make([]byte, 32))
	keys, err := ParseMasterKeys("2:" + good + ", 1:" + good)
	if err != nil || len(keys) != 2 || keys[0].ID != 2 || keys[1].ID != 1 {
		t.Fatalf("%v %v", keys, err)
	}
	for _, bad := range []string{"", good, "0:" + good, "x:" + good, "1:short", "1:" + good + ",1:" + good, "1:" + good + "A"} {
		_, err := ParseMasterKeys(bad)
		if err == nil {
			t.Errorf("%q is taken", bad)
		} else if strings.Contains(err.Error(), good) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	k := ring(b, master(1, 'a'))
	wrapped, _ := k.NewDataKey(7)
	key, err := k.DataKey(7, wrapped)
	if err != nil {
		b.Fatal(err)
	}
	plain := make([]byte, 2200)
	b.SetBytes(2200)
	for b.Loop() {
		if _, err := key.Seal(plain, []byte("associated")); err != nil {
			b.Fatal(err)
		}
	}
}
