package submission

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
)

// Cipher encrypts and authenticates; keyring.DataKey is one.
type Cipher interface {
	Seal(plain, associated []byte) ([]byte, error)
	Open(sealed, associated []byte) ([]byte, error)
}

const (
	packed      = 0x01     // first byte of a compressed body; JSON cannot begin with it
	maxUnpacked = 64 << 20 // far beyond what the door takes
)

// Seal puts body, the JSON of a response, into the record: compressed where that makes it smaller, then encrypted and bound to
// the record's identity. Everything downstream (log, database, backups) carries about a third of the bytes.
func (r *Record) Seal(key Cipher, body []byte) error {
	buffer := make([]byte, 1+s2.MaxEncodedLen(len(body)))
	buffer[0] = packed
	plain := buffer[:1+len(s2.Encode(buffer[1:], body))]
	if len(plain) >= len(body) && !bytes.HasPrefix(body, []byte{packed}) {
		plain = body
	}
	sealed, err := key.Seal(plain, r.Associated())
	if err != nil {
		return fmt.Errorf("seal a response: %w", err)
	}
	r.Sealed = sealed
	return nil
}

// Open returns the body as it was given to Seal. It fails when the key or the record's identity is not the one it was sealed with.
func (r *Record) Open(key Cipher) ([]byte, error) {
	plain, err := key.Open(r.Sealed, r.Associated())
	if err != nil || len(plain) == 0 || plain[0] != packed {
		return plain, err
	}
	if n, err := s2.DecodedLen(plain[1:]); err != nil || n > maxUnpacked {
		return nil, errors.Join(errors.New("a sealed response cannot be unpacked"), err)
	}
	body, err := s2.Decode(nil, plain[1:])
	if err != nil {
		return nil, fmt.Errorf("a sealed response cannot be unpacked: %w", err)
	}
	return body, nil
}
