package archive

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"

	"github.com/eprod/eprod/internal/keyring"
)

// A block is some rows of one table: packed, compressed and sealed together with the archive's key, and bound to where it stands.
// Its plain form is a version, the table, the columns with their kinds, which of them are the key, and the rows.

const blockVersion = 1

// maxBlock bounds what a block may unpack to: far beyond one row of the largest column.
const maxBlock = 256 << 20

// packer compresses and seals blocks. It is for one goroutine.
type packer struct {
	key *keyring.DataKey
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newPacker(key *keyring.DataKey) (*packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &packer{key: key, enc: enc, dec: dec}, nil
}

func (p *packer) close() {
	_ = p.enc.Close()
	p.dec.Close()
}

// blockPlace binds a block to its study, run, file and number.
func blockPlace(study, run int64, path string, number int64) []byte {
	return fmt.Appendf(nil, "eprod/archive/1/%d/%d/%s/%d", study, run, path, number)
}

// seal packs the encoded rows of a shape.
func (p *packer) seal(s *shape, rows int, encoded, place []byte) ([]byte, error) {
	head := appendName([]byte{blockVersion}, s.table.Name)
	head = binary.AppendUvarint(head, uint64(len(s.columns)))
	for _, c := range s.columns {
		head = append(appendName(head, c.name), byte(c.kind))
	}
	head = binary.AppendUvarint(head, uint64(len(s.key)))
	for _, k := range s.key {
		head = binary.AppendUvarint(head, uint64(k))
	}
	head = binary.AppendUvarint(head, uint64(rows))
	return p.key.Seal(p.enc.EncodeAll(append(head, encoded...), nil), place)
}

// open returns a block's shape and rows.
func (p *packer) open(sealed, place []byte, by func(name string) Table) (*shape, []row, error) {
	packed, err := p.key.Open(sealed, place)
	if err != nil {
		return nil, nil, err
	}
	plain, err := p.dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, nil, errTorn
	}
	r := &blockReader{rest: plain}
	if r.byte() != blockVersion {
		return nil, nil, errTorn
	}
	s := &shape{table: by(r.name())}
	for range r.count(math.MaxUint16) {
		s.columns = append(s.columns, column{r.name(), kind(r.byte())})
	}
	for range r.count(len(s.columns)) {
		k := r.count(len(s.columns) - 1)
		s.key = append(s.key, k)
	}
	rows := make([]row, 0, r.count(1<<20))
	for range cap(rows) {
		one, rest, err := readRow(r.rest, len(s.columns))
		if err != nil || r.torn {
			return nil, nil, errTorn
		}
		rows, r.rest = append(rows, one), rest
	}
	if r.torn || len(r.rest) > 0 || len(s.columns) == 0 || len(s.key) == 0 {
		return nil, nil, errTorn
	}
	return s, rows, nil
}

// blockReader reads the head of a block; after a failure everything is zero.
type blockReader struct {
	rest []byte
	torn bool
}

func (r *blockReader) byte() byte {
	if len(r.rest) == 0 {
		r.torn = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *blockReader) count(most int) int {
	n, used := binary.Uvarint(r.rest)
	if used <= 0 || n > uint64(most) {
		r.torn = true
		return 0
	}
	r.rest = r.rest[used:]
	return int(n)
}

func (r *blockReader) name() string {
	n := r.count(1 << 10)
	if n > len(r.rest) {
		r.torn = true
		return ""
	}
	name := string(r.rest[:n])
	r.rest = r.rest[n:]
	return name
}

func appendFloat(b []byte, v float64) []byte {
	return binary.BigEndian.AppendUint64(b, math.Float64bits(v))
}

func readFloat(b []byte) (float64, []byte, bool) {
	if len(b) < 8 {
		return 0, nil, false
	}
	return math.Float64frombits(binary.BigEndian.Uint64(b)), b[8:], true
}
