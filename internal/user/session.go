package user

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
)

// Session is one signed-in device. Ending it deletes it; the audit trail remembers.
type Session struct {
	ID        int64
	Kind      auth.Kind // staff or participant
	Account   int64     // staff account or participant
	Study     int64     // of a participant; 0 for staff
	Family    [32]byte  // hash of the part of the refresh token that stays
	Current   [32]byte  // hash of the part that changes with each use
	CreatedAt time.Time
	ExpiresAt time.Time
}

// refresh is an opaque refresh token: where the session is, a secret that stays for the session's life, and one that works
// once. Whoever presents the first with an old second holds a copy of a token that was used already, so the session ends;
// without the first, knowing a session's number is not enough to end it.
type refresh struct {
	kind    byte
	bucket  byte // of a participant; 0 for staff
	session int64
	family  [16]byte
	secret  [32]byte // 256 random bits
}

const refreshBytes = 1 + 1 + 8 + 16 + 32

const (
	refreshStaff       = 's'
	refreshParticipant = 'p'
)

func newRefresh(kind auth.Kind, account, session int64, random io.Reader) (refresh, error) {
	r := refresh{kind: refreshStaff, session: session}
	if kind == auth.KindParticipant {
		r.kind, r.bucket = refreshParticipant, byte(db.Bucket(account))
	}
	if _, err := io.ReadFull(random, r.family[:]); err != nil {
		return refresh{}, fmt.Errorf("refresh token: %w", err)
	}
	return r.next(random)
}

// next returns the token that replaces r.
func (r refresh) next(random io.Reader) (refresh, error) {
	if _, err := io.ReadFull(random, r.secret[:]); err != nil {
		return refresh{}, fmt.Errorf("refresh token: %w", err)
	}
	return r, nil
}

func (r refresh) familyHash() [32]byte  { return sha256.Sum256(r.family[:]) }
func (r refresh) currentHash() [32]byte { return sha256.Sum256(r.secret[:]) }

// of reports whether the token was made for the session, be it the current one or an older one.
func (r refresh) of(s *Session) bool {
	sum := r.familyHash()
	return subtle.ConstantTimeCompare(sum[:], s.Family[:]) == 1
}

// String returns the token as the client keeps it.
func (r refresh) String() string {
	b := make([]byte, 0, refreshBytes)
	b = append(b, r.kind, r.bucket)
	b = binary.BigEndian.AppendUint64(b, uint64(r.session))
	b = append(b, r.family[:]...)
	b = append(b, r.secret[:]...)
	return base64.RawURLEncoding.EncodeToString(b)
}

func readRefresh(token string) (r refresh, ok bool) {
	if len(token) != base64.RawURLEncoding.EncodedLen(refreshBytes) {
		return refresh{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || b[0] != refreshStaff && b[0] != refreshParticipant {
		return refresh{}, false
	}
	r.kind, r.bucket, r.session = b[0], b[1], int64(binary.BigEndian.Uint64(b[2:10]))
	copy(r.family[:], b[10:26])
	copy(r.secret[:], b[26:])
	return r, true
}
