package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/parquet-go/parquet-go"
)

// Block is a row of an evidence file.
type Block struct {
	Number int64  `parquet:"block"`
	Rows   int32  `parquet:"rows"`
	Digest []byte `parquet:"digest"` // of the rows within; see Digest
	Sealed []byte `parquet:"sealed"`
}

// The kinds of files.
const (
	KindEvidence  = "evidence"
	KindResponses = "responses"
	KindAnswers   = "answers"
)

// Entry is one file of an archive as the manifest lists it.
type Entry struct {
	Path          string `json:"path"`
	Kind          string `json:"kind"`
	Shard         string `json:"shard"`
	Table         string `json:"table,omitempty"`         // of evidence
	Questionnaire string `json:"questionnaire,omitempty"` // canonical url, of the researchers' files
	Month         string `json:"month,omitempty"`
	Rows          int64  `json:"rows"` // of the table, the responses or the answers
	Withheld      int64  `json:"withheld,omitempty"`
	Bytes         int64  `json:"bytes"`
	SHA256        string `json:"sha256"` // of the file
	Digest        string `json:"digest"` // of the rows, whatever their order
	verified      bool
	loaded        bool
	moved         int64 // blocks that have been removed from, or brought back to, the shards
}

// sheet writes one Parquet file: a row group at a time is in memory.
type sheet[T any] struct {
	entry  Entry
	upload Upload
	sum    hash.Hash
	writer *parquet.GenericWriter[T]
	encode func(*T, []byte) []byte // for the digest; nil: the caller keeps it
	digest *digester
	buffer []byte
}

func newSheet[T any](ctx context.Context, d Destination, e Entry, groupRows int, options ...parquet.WriterOption) (*sheet[T], error) {
	up, err := d.Create(ctx, e.Path)
	if err != nil {
		return nil, err
	}
	s := &sheet[T]{entry: e, upload: up, sum: sha256.New(), digest: &digester{prefix: []byte(e.Kind)}}
	options = append(options, parquet.MaxRowsPerRowGroup(int64(groupRows)), parquet.CreatedBy("eprod", "1", "archive"))
	s.writer = parquet.NewGenericWriter[T](s, options...)
	return s, nil
}

// Write implements io.Writer for the Parquet writer.
func (s *sheet[T]) Write(b []byte) (int, error) {
	n, err := s.upload.Write(b)
	s.sum.Write(b[:n])
	s.entry.Bytes += int64(n)
	return n, err
}

func (s *sheet[T]) add(r T) error {
	if s.encode != nil {
		s.buffer = s.encode(&r, s.buffer[:0])
		s.digest.encoded(s.buffer)
	}
	_, err := s.writer.Write([]T{r})
	return err
}

// finish ends the file, makes it durable and returns how it is listed.
func (s *sheet[T]) finish() (Entry, error) {
	if err := s.writer.Close(); err != nil {
		s.upload.Abort()
		return Entry{}, fmt.Errorf("parquet: %w", err)
	}
	if err := s.upload.Commit(); err != nil {
		return Entry{}, err
	}
	s.entry.SHA256 = fmt.Sprintf("%x", s.sum.Sum(nil))
	s.entry.Digest = fmt.Sprintf("%x", s.digest.sum)
	s.entry.Rows = s.digest.rows
	return s.entry, nil
}

func (s *sheet[T]) abort() { s.upload.Abort() }

const readAhead = 256 // rows that are read at once

// each opens a Parquet file and calls fn for every row.
func each[T any](f File, readAhead int, fn func(*T) error) error {
	file, err := parquet.OpenFile(f, f.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return fmt.Errorf("parquet: %w", err)
	}
	reader := parquet.NewGenericReader[T](file)
	defer reader.Close()
	for {
		rows := make([]T, readAhead)
		n, err := reader.Read(rows)
		for i := range rows[:n] {
			if err := fn(&rows[i]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("parquet: %w", err)
		}
	}
}

// hashOf reads a whole file.
func hashOf(ctx context.Context, f File) (string, error) {
	h := sha256.New()
	section := io.NewSectionReader(f, 0, f.Size())
	buffer := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := section.Read(buffer)
		h.Write(buffer[:n])
		if errors.Is(err, io.EOF) {
			return fmt.Sprintf("%x", h.Sum(nil)), nil
		}
		if err != nil {
			return "", fmt.Errorf("archive: %w", err)
		}
	}
}

// readBack holds a file against its entry: its bytes, its rows and their digest.
func readBack(ctx context.Context, d Destination, e *Entry, p *packer, run *Run) error {
	f, err := d.Open(ctx, e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, err := hashOf(ctx, f)
	if err != nil {
		return err
	}
	if sum != e.SHA256 || f.Size() != e.Bytes {
		return differs("the file %s has other bytes than were written", e.Path)
	}
	var got *digester
	switch e.Kind {
	case KindEvidence:
		got, err = digestEvidence(ctx, f, e, p, run)
	case KindResponses:
		got, err = digestRows(ctx, f, e.Kind, (*Response).encode)
	default:
		got, err = digestRows(ctx, f, e.Kind, (*Answer).encode)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	if got.rows != e.Rows || fmt.Sprintf("%x", got.sum) != e.Digest {
		return differs("the file %s has %d rows, and %d with another digest were written", e.Path, got.rows, e.Rows)
	}
	return nil
}

func digestRows[T any](ctx context.Context, f File, kind string, encode func(*T, []byte) []byte) (*digester, error) {
	d := &digester{prefix: []byte(kind)}
	var buffer []byte
	return d, each(f, readAhead, func(r *T) error {
		buffer = encode(r, buffer[:0])
		d.encoded(buffer)
		return ctx.Err()
	})
}

func digestEvidence(ctx context.Context, f File, e *Entry, p *packer, run *Run) (*digester, error) {
	total := &digester{}
	return total, eachBlock(ctx, f, e, p, run, 0, func(_ int64, s *shape, rows []row) error {
		sum, err := rowsDigest(s, rows)
		total.sum.Add(sum)
		total.rows += int64(len(rows))
		return err
	})
}

// eachBlock opens the blocks of an evidence file from a number on and compares each with its own digest.
func eachBlock(ctx context.Context, f File, e *Entry, p *packer, run *Run, from int64, fn func(number int64, s *shape, rows []row) error) error {
	return each(f, 1, func(b *Block) error {
		if err := ctx.Err(); err != nil || b.Number < from {
			return err
		}
		s, rows, err := p.open(b.Sealed, blockPlace(run.Study, run.ID, e.Path, b.Number), tableNamed)
		if err != nil {
			return fmt.Errorf("block %d: %w", b.Number, err)
		}
		sum, err := rowsDigest(s, rows)
		if err != nil {
			return err
		}
		if s.table.Name != e.Table || len(rows) != int(b.Rows) || string(sum[:]) != string(b.Digest) {
			return differs("block %d of %s holds other rows than it says", b.Number, e.Path)
		}
		return fn(b.Number, s, rows)
	})
}
