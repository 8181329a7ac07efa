package user

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"io"
	"strings"

	"github.com/eprod/eprod/internal/db"
)

const (
	codeBytes   = 14 // the bucket and 104 random bits
	codeSymbols = 23 // in base 32, without padding
	codeGroup   = 5
)

// crockford is the alphabet without I, L, O and U, so that nothing is mistaken when read aloud or typed.
var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// readAs maps what people type to what was meant.
var readAs = strings.NewReplacer("-", "", " ", "", "O", "0", "I", "1", "L", "1")

// NewActivation makes an activation code for a participant, in groups of five symbols, and the hash under which it is kept.
// Its first byte is the participant's bucket, so that the shard is found without a table over all participants.
func NewActivation(participant int64, random io.Reader) (code string, hash [32]byte, err error) {
	raw := make([]byte, codeBytes)
	raw[0] = byte(db.Bucket(participant))
	if _, err := io.ReadFull(random, raw[1:]); err != nil {
		return "", hash, fmt.Errorf("activation code: %w", err)
	}
	symbols := crockford.EncodeToString(raw)
	var b strings.Builder
	for len(symbols) > codeGroup {
		b.WriteString(symbols[:codeGroup])
		b.WriteByte('-')
		symbols = symbols[codeGroup:]
	}
	b.WriteString(symbols)
	return b.String(), sha256.Sum256(raw), nil
}

// readActivation returns the bucket and the hash of a code in any case and grouping; false means that it is no code.
func readActivation(code string) (bucket int, hash [32]byte, ok bool) {
	if len(code) > 2*codeSymbols {
		return 0, hash, false
	}
	symbols := readAs.Replace(strings.ToUpper(code))
	if len(symbols) != codeSymbols {
		return 0, hash, false
	}
	raw, err := crockford.DecodeString(symbols)
	if err != nil || len(raw) != codeBytes || crockford.EncodeToString(raw) != symbols {
		return 0, hash, false
	}
	return int(raw[0]), sha256.Sum256(raw), true
}
