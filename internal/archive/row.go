package archive

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// kind is what a column holds, the same in every dialect.
type kind byte

const (
	ofInt   kind = 'i'
	ofText  kind = 't'
	ofBytes kind = 'b'
	ofFloat kind = 'f'
)

// column is one column of a table.
type column struct {
	name string
	kind kind
}

// shape is a table as a database has it, or as it was when a block was sealed. Columns are ordered by name, so that two databases
// with other histories agree.
type shape struct {
	table   Table
	columns []column
	key     []int // places of the primary key's columns, in its order
	indexed bool  // an index finds a study's rows in the order of the key
}

func (s *shape) place(name string) int {
	return slices.IndexFunc(s.columns, func(c column) bool { return c.name == name })
}

// some returns a shape of some of the columns, in their order here; the key must be among them.
func (s *shape) some(names ...string) (*shape, error) {
	out := &shape{table: s.table, indexed: s.indexed}
	for _, c := range s.columns {
		if slices.Contains(names, c.name) {
			out.columns = append(out.columns, c)
		}
	}
	for _, k := range s.key {
		out.key = append(out.key, out.place(s.columns[k].name))
	}
	if len(out.columns) != len(names) || slices.Contains(out.key, -1) {
		return nil, fmt.Errorf("table %s does not have the columns %v", s.table.Name, names)
	}
	return out, nil
}

// names returns the columns' names.
func (s *shape) names() []string {
	out := make([]string, len(s.columns))
	for i, c := range s.columns {
		out[i] = c.name
	}
	return out
}

// order returns the places of the columns that rows are walked by: the participant first where rows are found by it.
func (s *shape) order() []int {
	if s.table.by != byParticipant {
		return s.key
	}
	first := s.place("participant_id")
	return append([]int{first}, slices.DeleteFunc(slices.Clone(s.key), func(k int) bool { return k == first })...)
}

// row is the values of one row in the order of its shape's columns: nil, int64, string, []byte or float64.
type row []any

// ofKind brings what a driver gave for a column into the one form of its kind.
func ofKind(k kind, v any) (any, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case int64:
		if k == ofInt {
			return v, nil
		}
	case bool:
		if k == ofInt {
			if v {
				return int64(1), nil
			}
			return int64(0), nil
		}
	case string:
		if k == ofText {
			return v, nil
		}
		if k == ofBytes {
			return []byte(v), nil
		}
	case []byte:
		if k == ofText {
			return string(v), nil
		}
		if k == ofBytes {
			return bytes.Clone(v), nil
		}
	case float64:
		if k == ofFloat {
			return v, nil
		}
	}
	return nil, fmt.Errorf("a value of type %T in a column of kind %c cannot be archived", v, k)
}

// The tags of values as they are encoded.
const (
	tagNull byte = iota
	tagInt
	tagText
	tagBytes
	tagFloat
)

// appendRow encodes a row: for every column a tag and the value, lengths before texts and bytes.
func appendRow(b []byte, r row) ([]byte, error) {
	for _, v := range r {
		switch v := v.(type) {
		case nil:
			b = append(b, tagNull)
		case int64:
			b = binary.AppendVarint(append(b, tagInt), v)
		case string:
			b = append(binary.AppendUvarint(append(b, tagText), uint64(len(v))), v...)
		case []byte:
			b = append(binary.AppendUvarint(append(b, tagBytes), uint64(len(v))), v...)
		case float64:
			b = appendFloat(append(b, tagFloat), v)
		default:
			return nil, fmt.Errorf("a value of type %T cannot be archived", v)
		}
	}
	return b, nil
}

var errTorn = errors.New("a sealed block is torn")

// readRow decodes a row of n columns and returns what is left.
func readRow(b []byte, n int) (row, []byte, error) {
	r := make(row, n)
	for i := range r {
		if len(b) == 0 {
			return nil, nil, errTorn
		}
		tag := b[0]
		b = b[1:]
		switch tag {
		case tagNull:
		case tagInt:
			v, used := binary.Varint(b)
			if used <= 0 {
				return nil, nil, errTorn
			}
			r[i], b = v, b[used:]
		case tagText, tagBytes:
			size, used := binary.Uvarint(b)
			if used <= 0 || size > uint64(len(b)-used) {
				return nil, nil, errTorn
			}
			value := b[used : used+int(size)]
			b = b[used+int(size):]
			if tag == tagText {
				r[i] = string(value)
			} else {
				r[i] = bytes.Clone(value)
			}
		case tagFloat:
			v, rest, ok := readFloat(b)
			if !ok {
				return nil, nil, errTorn
			}
			r[i], b = v, rest
		default:
			return nil, nil, errTorn
		}
	}
	return r, b, nil
}

// Digest is the digest of a set of rows, whatever their order: the sum, modulo 2^512, of the SHA-512 of each. Two sets with other
// rows, or with a row twice, have other digests. It compares what honest databases hold; that nobody forged a file is what the
// files' SHA-256 and the manifest's signature say.
type Digest [sha512.Size]byte

// add puts one more into the sum.
func (d *Digest) add(h *[sha512.Size]byte) {
	carry := uint64(0)
	for i := len(d) - 8; i >= 0; i -= 8 {
		a, b := binary.BigEndian.Uint64(d[i:]), binary.BigEndian.Uint64(h[i:])
		sum := a + b + carry
		if sum < a || carry == 1 && sum == a {
			carry = 1
		} else {
			carry = 0
		}
		binary.BigEndian.PutUint64(d[i:], sum)
	}
}

// Add joins the digests of two sets.
func (d *Digest) Add(e Digest) { d.add((*[sha512.Size]byte)(&e)) }

// digester digests rows of one shape.
type digester struct {
	prefix []byte
	sum    Digest
	rows   int64
}

// digesterOf returns a digester that takes the table and its columns into every row.
func digesterOf(s *shape) *digester {
	var head []byte
	head = appendName(head, s.table.Name)
	for _, c := range s.columns {
		head = appendName(head, c.name)
	}
	sum := sha512.Sum512(head)
	return &digester{prefix: sum[:]}
}

func appendName(b []byte, name string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(name))), name...)
}

// encoded adds a row as appendRow encodes it.
func (d *digester) encoded(b []byte) {
	h := sha512.New()
	h.Write(d.prefix)
	h.Write(b)
	var one [sha512.Size]byte
	h.Sum(one[:0])
	d.sum.add(&one)
	d.rows++
}

// rowsDigest digests rows of a shape.
func rowsDigest(s *shape, rows []row) (Digest, error) {
	d := digesterOf(s)
	var buffer []byte
	for _, r := range rows {
		var err error
		if buffer, err = appendRow(buffer[:0], r); err != nil {
			return Digest{}, err
		}
		d.encoded(buffer)
	}
	return d.sum, nil
}
