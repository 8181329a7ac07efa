package auth

import (
	"crypto/sha256"
	"sync"
	"time"
)

const (
	rememberFor   = time.Minute
	verifiedParts = 64   // each with its own mutex, so that callers on different cores rarely meet
	partSize      = 1024 // entries per generation of a part: 2 × 64 × 1,024 tokens at most, some 25 MB
)

// verified remembers tokens whose signature was checked. An EdDSA check costs some 90 µs, a hit here well under one. Each
// part keeps two generations and forgets the older one when the younger is full: no list to keep, no clean-up to run.
type verified struct{ parts [verifiedParts]verifiedPart }

type verifiedPart struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]verifiedToken
}

type verifiedToken struct {
	principal Principal
	until     time.Time
}

func newVerified() *verified {
	v := new(verified)
	for i := range v.parts {
		v.parts[i].young = make(map[[sha256.Size]byte]verifiedToken)
	}
	return v
}

func (v *verified) get(sum *[sha256.Size]byte, now time.Time) (Principal, bool) {
	part := &v.parts[sum[0]%verifiedParts]
	part.mu.Lock()
	entry, ok := part.young[*sum]
	if !ok {
		entry, ok = part.old[*sum]
	}
	part.mu.Unlock()
	if !ok || !now.Before(entry.until) {
		return Principal{}, false
	}
	return entry.principal, true
}

func (v *verified) put(sum *[sha256.Size]byte, p Principal, now time.Time) {
	until := now.Add(rememberFor)
	if p.Expires.Before(until) {
		until = p.Expires
	}
	part := &v.parts[sum[0]%verifiedParts]
	part.mu.Lock()
	defer part.mu.Unlock()
	if len(part.young) >= partSize {
		part.old, part.young = part.young, make(map[[sha256.Size]byte]verifiedToken)
	}
	part.young[*sum] = verifiedToken{principal: p, until: until}
}
