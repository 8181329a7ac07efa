package user

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/eprod/eprod/internal/errs"
)

const (
	saltSize = 16
	hashSize = 32
)

// Hasher hashes passwords and PINs with argon2id (RFC 9106). One hash takes some 50 ms of a core and megabytes of memory,
// so only so many run at once and only so many callers wait; the rest are refused with errs.Overloaded. It is safe for
// concurrent use.
type Hasher struct {
	memory, passes uint32
	wait           time.Duration
	admitted       chan struct{} // running and waiting callers
	running        chan struct{}
	random         io.Reader
}

// NewHasher returns a hasher with the parameters and bounds of the settings.
func NewHasher(c Config, random io.Reader) *Hasher {
	return &Hasher{
		memory: uint32(c.HashMemory), passes: uint32(c.HashPasses), wait: c.HashWait, random: random,
		admitted: make(chan struct{}, c.HashParallel+c.HashWaiting),
		running:  make(chan struct{}, c.HashParallel),
	}
}

// Hash returns the hash of a secret as a PHC string, which names its parameters and salt.
func (h *Hasher) Hash(ctx context.Context, secret string) (string, error) {
	salt := make([]byte, saltSize)
	if _, err := io.ReadFull(h.random, salt); err != nil {
		return "", fmt.Errorf("salt: %w", err)
	}
	sum, err := h.compute(ctx, secret, phc{memory: h.memory, passes: h.passes, salt: salt})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, h.memory, h.passes, raw64(salt), raw64(sum)), nil
}

// Matches reports whether the hash belongs to the secret. An empty hash belongs to nothing and takes as long to find out.
func (h *Hasher) Matches(ctx context.Context, secret, hash string) (bool, error) {
	want := phc{memory: h.memory, passes: h.passes, salt: make([]byte, saltSize), sum: make([]byte, hashSize)}
	if hash != "" {
		var err error
		if want, err = parsePHC(hash); err != nil {
			return false, err
		}
	}
	sum, err := h.compute(ctx, secret, want)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(sum, want.sum) == 1 && hash != "", nil
}

func (h *Hasher) compute(ctx context.Context, secret string, p phc) ([]byte, error) {
	select {
	case h.admitted <- struct{}{}:
		defer func() { <-h.admitted }()
	default:
		return nil, errBusy()
	}
	if err := h.turn(ctx); err != nil {
		return nil, err
	}
	defer func() { <-h.running }()
	return argon2.IDKey([]byte(secret), p.salt, p.passes, p.memory, 1, hashSize), nil
}

// turn takes a place among the running, at once if one is free, else as soon as one gets free in time.
func (h *Hasher) turn(ctx context.Context) error {
	select {
	case h.running <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(h.wait)
	defer timer.Stop()
	select {
	case h.running <- struct{}{}:
		return nil
	case <-timer.C:
		return errBusy()
	case <-ctx.Done():
		return errs.Away("sign-in", ctx.Err())
	}
}

func errBusy() *errs.Error {
	return errs.New(errs.Overloaded, "overloaded", "too many people sign in at this moment; try again").WithRetryAfter(2 * time.Second)
}

// phc is a parsed hash in the PHC string format.
type phc struct {
	memory, passes uint32
	salt, sum      []byte
}

func parsePHC(text string) (phc, error) {
	var p phc
	var version int
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return phc{}, fmt.Errorf("stored hash is not an argon2id PHC string")
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return phc{}, fmt.Errorf("stored hash has an argon2 version other than %d", argon2.Version)
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=1", &p.memory, &p.passes); err != nil || p.passes == 0 {
		return phc{}, fmt.Errorf("stored hash has unreadable parameters")
	}
	var err error
	if p.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return phc{}, fmt.Errorf("salt of a stored hash: %w", err)
	}
	if p.sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(p.sum) != hashSize {
		return phc{}, fmt.Errorf("stored hash has an unreadable sum")
	}
	return p, nil
}

func raw64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }
