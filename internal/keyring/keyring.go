// Package keyring decides how answers and identities are encrypted before they leave the process.
//
// Envelope encryption: each participant has a data key; data keys are stored wrapped by a master key, which comes from the
// settings. Several master keys may be known, so that rotation has no flag day: the first one wraps, all unwrap. Everything
// is AES-256-GCM (NIST SP 800-38D) with random nonces, through tink. Destroying a wrapped data key makes everything sealed
// with it unreadable for ever.
package keyring

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
)

const (
	keySize       = 32
	wrapVersion   = 1
	wrapHeader    = 1 + 4 // version, master key id
	purposeWrap   = "eprod/keyring/1/wrap"
	purposeIntake = "eprod/keyring/1/intake"
	purposeIndex  = "eprod/keyring/1/index/"
)

// MasterKey is a key-encryption key. IDs are small numbers that never name another key again.
type MasterKey struct {
	ID     uint32
	Secret []byte // 32 bytes
}

// ParseMasterKeys reads "2:BASE64,1:BASE64": newest first. Its errors name the position, never a key.
func ParseMasterKeys(text string) ([]MasterKey, error) {
	var keys []MasterKey
	seen := make(map[uint32]bool)
	for part := range strings.SplitSeq(text, ",") {
		n := len(keys) + 1
		number, secret, ok := strings.Cut(strings.TrimSpace(part), ":")
		id, err := strconv.ParseUint(number, 10, 32)
		raw, err64 := base64.StdEncoding.DecodeString(secret)
		switch {
		case !ok || err != nil || id == 0:
			return nil, fmt.Errorf("key %d: must be a number above zero, a colon and base64 of 32 bytes", n)
		case err64 != nil || len(raw) != keySize:
			return nil, fmt.Errorf("key %d: must be base64 of exactly 32 random bytes after the colon", n)
		case seen[uint32(id)]:
			return nil, fmt.Errorf("key %d: its number stands for another key already", n)
		}
		seen[uint32(id)] = true
		keys = append(keys, MasterKey{uint32(id), raw})
	}
	return keys, nil
}

// Keyring wraps and unwraps data keys. It is immutable and safe for concurrent use.
type Keyring struct {
	primary uint32
	wraps   map[uint32]*DataKey
	intakes map[uint32]*DataKey
	index   []byte
	random  io.Reader
}

// New returns a keyring whose first key is the primary, and whose last, oldest one keeps the blind index: it must stay the
// last for as long as indexes are stored. Random must be a cryptographic source, safe for concurrent use.
func New(keys []MasterKey, random io.Reader) (*Keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("keyring: at least one master key is needed")
	}
	k := &Keyring{primary: keys[0].ID, wraps: make(map[uint32]*DataKey), intakes: make(map[uint32]*DataKey), random: random}
	for _, key := range keys {
		if len(key.Secret) != keySize {
			return nil, fmt.Errorf("keyring: master key %d has %d bytes, want %d", key.ID, len(key.Secret), keySize)
		}
		if _, twice := k.wraps[key.ID]; twice {
			return nil, fmt.Errorf("keyring: the number %d stands for two master keys", key.ID)
		}
		for purpose, into := range map[string]map[uint32]*DataKey{purposeWrap: k.wraps, purposeIntake: k.intakes} {
			derived, err := derive(key.Secret, purpose)
			if err != nil {
				return nil, err
			}
			if into[key.ID], err = newDataKey(derived); err != nil {
				return nil, err
			}
			into[key.ID].id = key.ID
		}
	}
	var err error
	k.index, err = derive(keys[len(keys)-1].Secret, purposeIndex)
	return k, err
}

func derive(secret []byte, purpose string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, purpose, keySize) // RFC 5869
	if err != nil {
		return nil, fmt.Errorf("keyring: derive key: %w", err)
	}
	return key, nil
}

// NewDataKey makes a data key for an owner and returns it wrapped by the primary master key.
func (k *Keyring) NewDataKey(owner int64) (wrapped []byte, err error) {
	secret := make([]byte, keySize)
	if _, err := io.ReadFull(k.random, secret); err != nil {
		return nil, fmt.Errorf("keyring: random: %w", err)
	}
	sealed, err := k.wraps[k.primary].Seal(secret, ownerData(owner))
	if err != nil {
		return nil, err
	}
	wrapped = append(make([]byte, 0, wrapHeader+len(sealed)), wrapVersion)
	wrapped = binary.BigEndian.AppendUint32(wrapped, k.primary)
	return append(wrapped, sealed...), nil
}

// DataKey unwraps an owner's data key. It fails when the key belongs to another owner, was changed, or was wrapped by a
// master key that this keyring does not have.
func (k *Keyring) DataKey(owner int64, wrapped []byte) (*DataKey, error) {
	if len(wrapped) < wrapHeader || wrapped[0] != wrapVersion {
		return nil, errors.New("keyring: a wrapped data key has an unknown form")
	}
	id := binary.BigEndian.Uint32(wrapped[1:])
	master, ok := k.wraps[id]
	if !ok {
		return nil, fmt.Errorf("keyring: master key %d is not among keyring.masterKeys", id)
	}
	secret, err := master.Open(wrapped[wrapHeader:], ownerData(owner))
	if err != nil {
		return nil, err
	}
	return newDataKey(secret)
}

func ownerData(owner int64) []byte {
	return binary.BigEndian.AppendUint64([]byte("eprod/data-key/1/"), uint64(owner))
}

// Intake returns the door's key, for bodies whose owner's key could not be read at that moment. It follows from the
// primary master key; what it sealed under an earlier primary still opens. One key with random nonces may seal 2^32 bodies
// (NIST SP 800-38D, 8.3): enough for what is sealed only while a participant's key is out of reach.
func (k *Keyring) Intake() *DataKey {
	intake := *k.intakes[k.primary]
	intake.tagged = k.intakes
	return &intake
}

// Index returns a blind index of a value: equal values have equal indexes, and nothing else can be learned without the key.
func (k *Keyring) Index(purpose string, value []byte) [32]byte {
	mac := hmac.New(sha256.New, k.index)
	mac.Write(binary.BigEndian.AppendUint32(nil, uint32(len(purpose))))
	mac.Write([]byte(purpose))
	mac.Write(value)
	return [32]byte(mac.Sum(nil))
}

// DataKey seals and opens. It is immutable and safe for concurrent use.
type DataKey struct {
	aead   *subtle.AESGCM
	id     uint32
	tagged map[uint32]*DataKey // where set, what is sealed begins with the id of its key
}

func newDataKey(secret []byte) (*DataKey, error) {
	aead, err := subtle.NewAESGCM(secret)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return &DataKey{aead: aead}, nil
}

// Seal encrypts plain and binds it to associated, which Open must be given again: the place where it is kept.
func (d *DataKey) Seal(plain, associated []byte) ([]byte, error) {
	sealed, err := d.aead.Encrypt(plain, associated)
	if err != nil {
		return nil, fmt.Errorf("keyring: seal: %w", err)
	}
	if d.tagged == nil {
		return sealed, nil
	}
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(sealed)), d.id), sealed...), nil
}

// Open decrypts what Seal returned. It fails when the key, the associated data or a single bit differs.
func (d *DataKey) Open(sealed, associated []byte) ([]byte, error) {
	key := d
	if d.tagged != nil {
		if len(sealed) < 4 {
			return nil, errors.New("keyring: sealed data is too short")
		}
		var ok bool
		if key, ok = d.tagged[binary.BigEndian.Uint32(sealed)]; !ok {
			return nil, errors.New("keyring: sealed with a master key that is not among keyring.masterKeys")
		}
		sealed = sealed[4:]
	}
	plain, err := key.aead.Decrypt(sealed, associated)
	if err != nil {
		return nil, errors.New("keyring: the sealed data does not open with this key")
	}
	return plain, nil
}
