package ingest

import (
	"context"
	"sync"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/submission"
)

// attempt is one submission inside this process: in hand until settled, then remembered if it became durable.
type attempt struct {
	sum     [32]byte
	done    chan struct{} // closed when settled; receipt and durable may be read only afterwards
	receipt submission.Receipt
	durable bool
}

type taskKey struct{ participant, task int64 }

// recent remembers the last submissions of this process, so that a repeated one gets the same receipt and two copies in
// flight become one record. Its size is bounded; forgetting is safe, because the processor decides by the unique key.
type recent struct {
	mu       sync.Mutex // guards both tables; held for map operations only
	attempts *lru.LRU[submission.Identity, *attempt]
	tasks    *lru.LRU[taskKey, uuid.UUID] // which submission answered a task
}

func newRecent(size int) (*recent, error) {
	attempts, err := lru.NewLRU[submission.Identity, *attempt](size, nil)
	if err != nil {
		return nil, err
	}
	tasks, err := lru.NewLRU[taskKey, uuid.UUID](size, nil)
	return &recent{attempts: attempts, tasks: tasks}, err
}

// claim returns a fresh attempt that the caller must settle, or the receipt of the same submission. Another body under the
// same UUID is submission_conflict. It waits, no longer than ctx, while a copy of the submission is in hand.
func (r *recent) claim(ctx context.Context, id submission.Identity, sum [32]byte) (*attempt, submission.Receipt, error) {
	for {
		a, mine := r.lookup(id, sum)
		if mine {
			return a, submission.Receipt{}, nil
		}
		select {
		case <-a.done:
		case <-ctx.Done():
			return nil, submission.Receipt{}, errs.Away("the first copy of this submission", ctx.Err())
		}
		if !a.durable {
			continue // its owner has failed and taken it out: the next lookup claims
		}
		if a.sum != sum {
			return nil, submission.Receipt{}, errConflict()
		}
		return nil, a.receipt, nil
	}
}

func (r *recent) lookup(id submission.Identity, sum [32]byte) (a *attempt, mine bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.attempts.Get(id); ok {
		return old, false
	}
	a = &attempt{sum: sum, done: make(chan struct{})}
	r.attempts.Add(id, a)
	return a, true
}

// settle ends an attempt: durable ones are remembered under identity and task, others forgotten.
func (r *recent) settle(a *attempt, id submission.Identity, receipt submission.Receipt, durable bool) {
	r.mu.Lock()
	a.receipt, a.durable = receipt, durable
	if !durable {
		if now, ok := r.attempts.Peek(id); ok && now == a {
			r.attempts.Remove(id)
		}
	} else if receipt.Task != 0 {
		r.tasks.Add(taskKey{id.Participant, receipt.Task}, id.Submission)
	}
	r.mu.Unlock()
	close(a.done)
}

// answered returns which submission completed a task, as far as this process knows.
func (r *recent) answered(participant, task int64) (uuid.UUID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks.Get(taskKey{participant, task})
}

// receipt returns a remembered receipt.
func (r *recent) receipt(id submission.Identity) (submission.Receipt, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.attempts.Peek(id)
	if !ok || !a.durable {
		return submission.Receipt{}, false
	}
	return a.receipt, true
}

func errConflict() *errs.Error {
	return errs.New(errs.Conflict, "submission_conflict", "another body was already accepted under this identifier; the first one stands")
}
