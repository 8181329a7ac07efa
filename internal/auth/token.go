package auth

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/eprod/eprod/internal/errs"
)

const (
	// MaxTTL is the longest life of an access token.
	MaxTTL = 10 * time.Minute
	// SeedSize is the number of bytes of a signing seed.
	SeedSize = ed25519.SeedSize

	issuer       = "eprod"
	audience     = "eprod-api"
	maxTokenSize = 1024 // ours stay below 400 bytes; longer ones are not worth a hash
)

// claims are kept short, since every request carries them (RFC 7519).
type claims struct {
	jwt.RegisteredClaims
	Kind    Kind   `json:"knd"`
	Study   string `json:"sty,omitempty"`
	Role    Role   `json:"rol,omitempty"`
	Session string `json:"sid,omitempty"`
}

// Signer makes and verifies access tokens: JWTs signed with EdDSA over Ed25519 (RFC 8037). It is safe for concurrent use.
type Signer struct {
	private  ed25519.PrivateKey
	public   ed25519.PublicKey
	parser   *jwt.Parser
	now      func() time.Time
	verified *verified
}

// NewSigner returns a signer for a seed of SeedSize random bytes; every process of an installation shares it.
func NewSigner(seed []byte, now func() time.Time) (*Signer, error) {
	if len(seed) != SeedSize {
		return nil, fmt.Errorf("signing seed has %d bytes; it must have %d random ones", len(seed), SeedSize)
	}
	if [SeedSize]byte(seed) == [SeedSize]byte{} {
		return nil, errors.New("signing seed is all zero; it must be random")
	}
	private := ed25519.NewKeyFromSeed(seed)
	return &Signer{
		private: private,
		public:  private.Public().(ed25519.PublicKey),
		now:     now,
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
			jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithTimeFunc(now),
		),
		verified: newVerified(),
	}, nil
}

// Issue returns a token for p that ends after ttl, at most MaxTTL. Expires of p is ignored.
func (s *Signer) Issue(p Principal, ttl time.Duration) (string, error) {
	if ttl <= 0 || ttl > MaxTTL {
		return "", fmt.Errorf("an access token may live up to %s, not %s", MaxTTL, ttl)
	}
	now := s.now()
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: text(p.ID),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		},
		Kind: p.Kind, Role: p.Role, Study: text(p.Study), Session: text(p.Session),
	}
	return jwt.NewWithClaims(jwt.SigningMethodEdDSA, c).SignedString(s.private)
}

// Verify returns the principal of a valid token. Its refusals are errs.Unauthenticated with the code token_expired for a
// token of ours that has ended, and unauthenticated for everything else. A token that was verified is remembered by its
// SHA-256 for at most a minute and never past its end.
func (s *Signer) Verify(token string) (Principal, error) {
	if len(token) > maxTokenSize {
		return Principal{}, errBadToken()
	}
	now := s.now()
	var text [maxTokenSize]byte // on the stack, where []byte(token) would not fit
	sum := sha256.Sum256(text[:copy(text[:], token)])
	if p, ok := s.verified.get(&sum, now); ok {
		return p, nil
	}
	p, err := s.parse(token)
	if err != nil {
		return Principal{}, err
	}
	s.verified.put(&sum, p, now)
	return p, nil
}

func (s *Signer) parse(token string) (Principal, error) {
	var c claims
	_, err := s.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return s.public, nil })
	if errors.Is(err, jwt.ErrTokenExpired) {
		return Principal{}, errs.New(errs.Unauthenticated, "token_expired", "the access token has ended; refresh it").WithCause(err)
	}
	if err != nil {
		return Principal{}, errBadToken().WithCause(err)
	}
	p := Principal{Kind: c.Kind, Role: c.Role, Expires: c.ExpiresAt.UTC()}
	for _, f := range []struct {
		text string
		out  *int64
	}{{c.Subject, &p.ID}, {c.Study, &p.Study}, {c.Session, &p.Session}} {
		if f.text == "" {
			continue
		}
		if *f.out, err = strconv.ParseInt(f.text, 10, 64); err != nil {
			return Principal{}, errBadToken().WithCause(err)
		}
	}
	if p.ID == 0 {
		return Principal{}, errBadToken()
	}
	return p, nil
}

func errBadToken() *errs.Error {
	return errs.NoCredentials("the access token is not valid; sign in again")
}

func text(id int64) string {
	if id == 0 {
		return ""
	}
	return strconv.FormatInt(id, 10)
}
