package user

import (
	"bytes"
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

func TestAttemptsLockLongerEachTime(t *testing.T) {
	now := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	var a Attempts
	for i, want := range []time.Duration{0, 0, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute} {
		a = a.Fail(now, 2, 5*time.Second, time.Minute)
		if a.Failed != i+1 {
			t.Errorf("failure %d: counted %d", i+1, a.Failed)
		}
		if want == 0 {
			if a.Locked(now) {
				t.Errorf("failure %d: locked", i+1)
			}
			continue
		}
		if !a.Locked(now.Add(want-1)) || a.Locked(now.Add(want)) {
			t.Errorf("failure %d: locked until %s, want %s", i+1, a.LockedUntil.Sub(now), want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		failed := rapid.IntRange(0, 1<<40).Draw(t, "failed")
		limit := time.Duration(rapid.Int64Range(int64(time.Second), int64(24*time.Hour)).Draw(t, "limit"))
		base := time.Duration(rapid.Int64Range(int64(time.Second), int64(limit)).Draw(t, "base"))
		b := Attempts{Failed: failed}.Fail(now, 4, base, limit)
		lock := b.LockedUntil.Sub(now)
		if failed >= 4 && (lock < base || lock > limit) {
			t.Fatalf("%d failures lock for %s, want %s to %s", failed+1, lock, base, limit)
		}
	})
}

func TestForms(t *testing.T) {
	for name, c := range map[string]struct {
		find func(string) []errs.Finding
		good []string
		bad  []string
	}{
		"username": {usernameFindings, []string{"ab", "anna.b@site-1.example", "0x"},
			[]string{"", "a", ".ab", "Anna", "an na", "anna\n", strings.Repeat("a", 65), "ännä"}},
		"password": {passwordFindings, []string{"12345678", "пароль пароль", strings.Repeat("x", 256)},
			[]string{"", "1234567", strings.Repeat("x", 257)}},
		"pin": {pinFindings, []string{"1234", "123456789012"}, []string{"", "123", "1234567890123", "12a4", "１２３４", "-123", " 1234"}},
	} {
		for _, text := range c.good {
			if f := c.find(text); f != nil {
				t.Errorf("%s %q: %v", name, text, f)
			}
		}
		for _, text := range c.bad {
			if f := c.find(text); len(f) != 1 || f[0].Pointer == "" || f[0].Detail == "" {
				t.Errorf("%s %q: %v, want one finding", name, text, f)
			}
		}
	}
}

func TestActivationCode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		participant := rapid.Int64Min(1).Draw(t, "participant")
		code, hash, err := NewActivation(participant, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if len(code) != codeSymbols+4 || strings.Count(code, "-") != 4 || strings.ContainsAny(code, "ILOU") {
			t.Fatalf("code %q has another form", code)
		}
		typed := strings.NewReplacer("0", "o", "1", "l").Replace(strings.ToLower(strings.ReplaceAll(code, "-", " ")))
		for _, text := range []string{code, typed, strings.ReplaceAll(code, "-", "")} {
			bucket, got, ok := readActivation(text)
			if !ok || got != hash || bucket != db.Bucket(participant) {
				t.Fatalf("%q reads as bucket %d, ok %t", text, bucket, ok)
			}
		}
	})
	code, _, err := NewActivation(1, bytes.NewReader(bytes.Repeat([]byte{0xff}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{"empty": "", "short": code[1:], "long": code + "0", "another alphabet": "U" + code[1:], "huge": strings.Repeat("-", 1000) + code,
		"spare bits set": code[:len(code)-1] + "Z"} {
		if _, _, ok := readActivation(bad); ok {
			t.Errorf("%s: %q was read", name, bad)
		}
	}
	if _, _, err := NewActivation(1, bytes.NewReader(nil)); err == nil {
		t.Error("a code without randomness")
	}
}

func FuzzReadActivation(f *testing.F) {
	f.Add("3F9C8-00000-ABCDE-ZZZZZ-00G")
	f.Fuzz(func(t *testing.T, text string) {
		if bucket, _, ok := readActivation(text); ok && (bucket < 0 || bucket >= db.Buckets) {
			t.Errorf("bucket %d", bucket)
		}
	})
}

func TestRefreshToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		account, session := rapid.Int64Min(1).Draw(t, "account"), rapid.Int64Min(1).Draw(t, "session")
		kind := rapid.SampledFrom([]auth.Kind{auth.KindStaff, auth.KindParticipant}).Draw(t, "kind")
		r, err := newRefresh(kind, account, session, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := readRefresh(r.String())
		if !ok || got != r {
			t.Fatalf("%v reads as %v, %t", r, got, ok)
		}
		if place := got.place(); place.Kind != kind || kind == auth.KindParticipant && place.Bucket != db.Bucket(account) {
			t.Fatalf("place %v", place)
		}
		next, err := r.next(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s := Session{Family: r.familyHash()}
		if !next.of(&s) || next.currentHash() == r.currentHash() {
			t.Fatal("the next token must be of the same session with another secret")
		}
	})
	good, err := newRefresh(auth.KindStaff, 1, 2, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := good.String()
	for _, bad := range []string{"", "abc", text[:len(text)-1], text + "A", "!" + text[1:], "A" + text[1:]} {
		if _, ok := readRefresh(bad); ok {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzReadRefresh(f *testing.F) {
	f.Add("c")
	f.Fuzz(func(t *testing.T, text string) {
		if r, ok := readRefresh(text); ok && r.String() != text {
			t.Errorf("%q reads as %q", text, r.String())
		}
	})
}

func quick() Config {
	c := DefaultConfig()
	c.HashMemory, c.HashPasses = 64, 1
	return c
}

func TestHasher(t *testing.T) {
	h := NewHasher(quick(), rand.Reader)
	hash, err := h.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.Hash(t.Context(), "correct horse")
	if err != nil || again == hash {
		t.Errorf("two hashes of one secret are equal or failed: %v", err)
	}
	for secret, want := range map[string]bool{"correct horse": true, "correct horse ": false, "": false} {
		if got, err := h.Matches(t.Context(), secret, hash); got != want || err != nil {
			t.Errorf("Matches(%q) = %t, %v", secret, got, err)
		}
	}
	if got, err := h.Matches(t.Context(), "", ""); got || err != nil {
		t.Errorf("an empty hash matches: %t, %v", got, err)
	}
	for _, bad := range []string{"x", "$argon2i$v=19$m=64,t=1,p=1$AA$AA", strings.Replace(hash, "v=19", "v=16", 1), strings.Replace(hash, "t=1", "t=0", 1),
		strings.Replace(hash, "m=64", "m=x", 1), hash[:len(hash)-4]} {
		if _, err := h.Matches(t.Context(), "correct horse", bad); err == nil {
			t.Errorf("hash %q was taken", bad)
		}
	}
}

// TestHasherIsBounded holds the only running place and the only waiting place, and looks what happens to the next callers.
func TestHasherIsBounded(t *testing.T) {
	c := quick()
	c.HashParallel, c.HashWaiting, c.HashWait = 1, 1, time.Hour
	h := NewHasher(c, rand.Reader)
	h.running <- struct{}{}
	h.admitted <- struct{}{}
	waiting := make(chan error, 1)
	go func() {
		_, err := h.Hash(t.Context(), "second")
		waiting <- err
	}()
	for len(h.admitted) < 2 {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := h.Hash(t.Context(), "third")
	if e, ok := errs.As(err); !ok || e.Code != "overloaded" || e.RetryAfter <= 0 || errs.KindOf(err) != errs.Overloaded {
		t.Errorf("with all places taken: %v, want overloaded with a delay", err)
	}
	<-h.running
	if err := <-waiting; err != nil {
		t.Errorf("the one that waited: %v", err)
	}

	h.running <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	<-h.admitted
	if _, err := h.Hash(ctx, "gone"); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("a caller that has gone: %v", err)
	}
	h.wait = 0
	if _, err := h.Hash(t.Context(), "late"); errs.KindOf(err) != errs.Overloaded {
		t.Errorf("a caller that waited in vain: %v", err)
	}
	if len(h.admitted) != 0 {
		t.Errorf("%d places were not given back", len(h.admitted))
	}
}

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	err := Config{StaffSession: -1, ParticipantSession: -1, HashWaiting: -1, HashWait: -1, LockLimit: -1}.Validate()
	for _, key := range []string{"accessTtl", "staffSession", "participantSession", "hashMemory", "hashPasses", "hashParallel",
		"hashWaiting", "hashWait", "freeAttempts", "lockBase", "lockLimit"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
}
