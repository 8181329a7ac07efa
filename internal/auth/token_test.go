package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/testenv"
)

func seed() []byte { return bytes.Repeat([]byte{7}, SeedSize) }

func signer(t testing.TB) (*Signer, *testenv.FakeClock) {
	t.Helper()
	clock := testenv.Clock(time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC))
	s, err := NewSigner(seed(), clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s, clock
}

func TestTokenCarriesThePrincipal(t *testing.T) {
	s, clock := signer(t)
	for _, p := range []Principal{
		{Kind: KindParticipant, ID: 7301444403200000001, Study: 3, Session: 9},
		{Kind: KindStaff, ID: 1, Role: Administrator, Session: 2},
		{Kind: KindService, ID: 1, Role: Service},
	} {
		token, err := s.Issue(p, MaxTTL)
		if err != nil {
			t.Fatal(err)
		}
		if len(token) > 400 {
			t.Errorf("token has %d bytes; every request carries it", len(token))
		}
		p.Expires = clock.Now().Add(MaxTTL)
		for range 2 { // from the signature, then from memory
			got, err := s.Verify(token)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(p, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
	}
}

func TestTokenEnds(t *testing.T) {
	s, clock := signer(t)
	token, err := s.Issue(Principal{Kind: KindStaff, ID: 1}, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(token); err != nil {
		t.Fatal(err)
	}
	clock.Advance(30 * time.Second) // remembered for less than a minute, so the end must show at once
	if _, err := s.Verify(token); kind(err) != "token_expired" {
		t.Errorf("after its end: %v, want token_expired", err)
	}
	if _, err := s.Issue(Principal{ID: 1}, MaxTTL+time.Second); err == nil {
		t.Error("a token of more than ten minutes was issued")
	}
}

func TestTokenRefusals(t *testing.T) {
	s, clock := signer(t)
	now := clock.Now()
	good := jwt.MapClaims{"iss": issuer, "aud": audience, "sub": "1", "exp": now.Add(time.Minute).Unix(), "knd": "staff"}
	with := func(name string, value any) jwt.MapClaims {
		c := jwt.MapClaims{}
		for k, v := range good {
			c[k] = v
		}
		if c[name] = value; value == nil {
			delete(c, name)
		}
		return c
	}
	private := ed25519.NewKeyFromSeed(seed())
	sign := func(m jwt.SigningMethod, c jwt.Claims, key any) string {
		t.Helper()
		token, err := jwt.NewWithClaims(m, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	ours := sign(jwt.SigningMethodEdDSA, good, private)
	if _, err := s.Verify(ours); err != nil {
		t.Fatalf("the token that the others are made from: %v", err)
	}
	parts := strings.Split(ours, ".")
	changed := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"eprod","aud":"eprod-api","sub":"2","exp":99999999999,"knd":"staff"}`))
	for name, token := range map[string]string{
		"empty":                "",
		"garbage":              "abc",
		"too long":             strings.Repeat("a", maxTokenSize+1),
		"another key":          sign(jwt.SigningMethodEdDSA, good, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, SeedSize))),
		"no algorithm":         sign(jwt.SigningMethodNone, good, jwt.UnsafeAllowNoneSignatureType),
		"public key as HMAC":   sign(jwt.SigningMethodHS256, good, []byte(private.Public().(ed25519.PublicKey))),
		"another issuer":       sign(jwt.SigningMethodEdDSA, with("iss", "other"), private),
		"no issuer":            sign(jwt.SigningMethodEdDSA, with("iss", nil), private),
		"another audience":     sign(jwt.SigningMethodEdDSA, with("aud", "other"), private),
		"no audience":          sign(jwt.SigningMethodEdDSA, with("aud", nil), private),
		"no end":               sign(jwt.SigningMethodEdDSA, with("exp", nil), private),
		"no subject":           sign(jwt.SigningMethodEdDSA, with("sub", nil), private),
		"subject not a number": sign(jwt.SigningMethodEdDSA, with("sub", "x"), private),
		"changed claims":       parts[0] + "." + changed + "." + parts[2],
		"no signature":         parts[0] + "." + parts[1] + ".",
	} {
		if p, err := s.Verify(token); kind(err) != "unauthenticated" {
			t.Errorf("%s: %+v, %v; want unauthenticated", name, p, err)
		}
	}
	if _, err := s.Verify(sign(jwt.SigningMethodEdDSA, with("exp", now.Unix()), private)); kind(err) != "token_expired" {
		t.Errorf("ended: %v", err)
	}
}

func TestSeedMustBeSound(t *testing.T) {
	for name, bad := range map[string][]byte{"nil": nil, "short": seed()[:31], "long": append(seed(), 1), "zero": make([]byte, SeedSize)} {
		if _, err := NewSigner(bad, time.Now); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestVerifiedIsBounded(t *testing.T) {
	v := newVerified()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := Principal{ID: 1, Expires: now.Add(time.Hour)}
	var sum [sha256.Size]byte
	for i := range 5 * partSize {
		sum[1], sum[2] = byte(i), byte(i>>8)
		v.put(&sum, p, now) // all into the first part
	}
	part := &v.parts[0]
	if n := len(part.young) + len(part.old); n > 2*partSize {
		t.Errorf("%d entries, bound %d", n, 2*partSize)
	}
	if _, ok := v.get(&sum, now.Add(rememberFor-1)); !ok {
		t.Error("the last token was forgotten")
	}
	if _, ok := v.get(&sum, now.Add(rememberFor)); ok {
		t.Error("a token was remembered for more than a minute")
	}
}

func TestMiddleware(t *testing.T) {
	gin.SetMode(gin.TestMode)
	s, clock := signer(t)
	token, err := s.Issue(Principal{Kind: KindParticipant, ID: 5, Study: 7}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	old, err := s.Issue(Principal{Kind: KindParticipant, ID: 5, Study: 7}, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	clock.Advance(2 * time.Second)
	engine := gin.New()
	engine.Use(Middleware(s))
	who := func(c *gin.Context) {
		p, _ := From(c.Request.Context())
		c.String(http.StatusOK, "%s %d", p.Kind, p.ID)
	}
	engine.GET("/thing", who)
	engine.GET("/api/v1/auth/refresh", who)
	for _, c := range []struct {
		name, path, header string
		status             int
		body               string
	}{
		{"anonymous", "/thing", "", 200, " 0"},
		{"bearer", "/thing", "Bearer " + token, 200, "participant 5"},
		{"scheme in any case", "/thing", "bearer " + token, 200, "participant 5"},
		{"ended", "/thing", "Bearer " + old, 401, `"code":"token_expired"`},
		{"another scheme", "/thing", "Basic abc", 401, `"code":"unauthenticated"`},
		{"bad token", "/thing", "Bearer abc", 401, `"code":"unauthenticated"`},
		{"ended token at sign-in", "/api/v1/auth/refresh", "Bearer " + old, 200, " 0"},
	} {
		r := httptest.NewRequest(http.MethodGet, c.path, nil)
		if c.header != "" {
			r.Header.Set("Authorization", c.header)
		}
		w := httptest.NewRecorder()
		engine.ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s: %d %s; want %d with %s", c.name, w.Code, w.Body, c.status, c.body)
		}
		if c.status == 401 && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: no WWW-Authenticate", c.name)
		}
	}
}

func BenchmarkVerifyHit(b *testing.B) {
	s, err := NewSigner(seed(), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	token, err := s.Issue(Principal{Kind: KindParticipant, ID: 7301444403200000001, Study: 7301444403200000002, Session: 7301444403200000003}, MaxTTL)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Verify(token); err != nil {
			b.Fatal(err)
		}
	}
}
