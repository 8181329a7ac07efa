package submission

import (
	"cmp"
	"context"
	"sync"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Spool makes records durable on the participants' shards while the log cannot take them. When the log fails at the worst
// minute, everybody comes at once; records that wait for the same shard are therefore committed together.
type Spool struct {
	shards *db.Shards
	lanes  []chan *spooling // one per shard
}

// spooling is a record on its way into a spool. Its outcome arrives once; nobody may be waiting any more.
type spooling struct {
	record  *Record
	outcome chan error
}

const (
	spoolQueue   = 4096 // records waiting per shard; more are refused at once
	spoolBatch   = 100
	spoolWriters = 2 // transactions per shard at once: one commits while the next gathers
	spoolTimeout = 5 * time.Second
)

// NewSpool returns a spool over the shards. Run must be running for Add to succeed.
func NewSpool(shards *db.Shards) *Spool {
	s := &Spool{shards: shards}
	for range shards.All() {
		s.lanes = append(s.lanes, make(chan *spooling, spoolQueue))
	}
	return s
}

// Add returns nil when the record is committed on its participant's shard; the relay hands it to the log later. A study that takes
// nothing new is refused (see db.IsClosed); other errors are errs.Unavailable: the record may be committed or not. The wait ends with ctx. Safe for concurrent use.
func (s *Spool) Add(ctx context.Context, r *Record) error {
	for {
		err := s.add(ctx, r)
		if !db.IsMoved(err) || s.shards.Await(ctx, r.Participant) != nil {
			return err
		}
	}
}

func (s *Spool) add(ctx context.Context, r *Record) error {
	w := &spooling{record: r, outcome: make(chan error, 1)}
	select {
	case s.lanes[s.shards.Index(r.Participant)] <- w:
	default:
		return errs.New(errs.Overloaded, "overloaded", "too many submissions wait for storage").WithRetryAfter(time.Second)
	}
	select {
	case err := <-w.outcome:
		return err
	case <-ctx.Done():
		return errs.Away("spool", ctx.Err())
	}
}

// Run commits what Add was given until ctx ends, then what is still queued.
func (s *Spool) Run(ctx context.Context) error {
	var writers sync.WaitGroup
	for i, lane := range s.lanes {
		for range spoolWriters {
			writers.Go(func() {
				for {
					select {
					case first := <-lane:
						s.write(ctx, s.shards.All()[i], lane, first)
					case <-ctx.Done():
						select {
						case first := <-lane:
							s.write(ctx, s.shards.All()[i], lane, first)
							continue
						default:
							return
						}
					}
				}
			})
		}
	}
	writers.Wait()
	return nil
}

// write commits one record and those that wait behind it in one transaction.
func (s *Spool) write(ctx context.Context, shard *db.DB, lane <-chan *spooling, first *spooling) {
	batch := []*spooling{first}
	for len(batch) < spoolBatch && len(lane) > 0 {
		select {
		case next := <-lane:
			batch = append(batch, next)
			continue
		default: // the other writer was quicker
		}
		break
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), spoolTimeout)
	defer cancel()
	refused := make([]error, len(batch))
	err := db.Error("spool", shard.Tx(ctx, func(tx *gorm.DB) error { return spool(tx, shard, batch, refused) }))
	for i, w := range batch {
		w.outcome <- cmp.Or(err, refused[i])
	}
}

// spool writes a batch, without the records of studies that take nothing new.
func spool(tx *gorm.DB, shard *db.DB, batch []*spooling, refused []error) error {
	people := make([]int64, len(batch))
	for i, w := range batch {
		people[i] = w.record.Participant
	}
	doors, err := shard.AskOf(tx, people...)
	if err != nil {
		return err
	}
	rows := make([][]any, 0, len(batch))
	for i, w := range batch {
		r := w.record
		if refused[i] = doors.Admit(r.Study, db.Ordinary); refused[i] == nil {
			rows = append(rows, []any{r.ID, r.Participant, r.Study, r.Task, r.Submission[:], r.SHA256[:], db.Micros(r.ReceivedAt), r.Source, int(r.Key), r.Sealed, r.Trace})
		}
	}
	return db.Insert(tx, "spool", spoolColumns, rows)
}
