package kafka

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/IBM/sarama"
	"github.com/eapache/go-resiliency/breaker"
	"pgregory.net/rapid"
)

// TestBatcher: whatever is waiting comes out in order, each batch within the bounds, and as full as they allow.
func TestBatcher(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(0, 50), 0, 60).Draw(t, "sizes")
		b := &batcher{rows: rapid.IntRange(1, 10).Draw(t, "rows"), bytes: rapid.IntRange(1, 60).Draw(t, "bytes")}
		waiting := make(chan *sarama.ConsumerMessage, len(sizes))
		for i, size := range sizes {
			waiting <- &sarama.ConsumerMessage{Offset: int64(i), Value: make([]byte, size)}
		}
		close(waiting)
		b.messages = waiting
		next := 0
		for {
			batch := b.next(context.Background())
			if len(batch) == 0 {
				break
			}
			total := 0
			for _, m := range batch {
				if m.Offset != int64(next) {
					t.Fatalf("record %d came where %d was due", m.Offset, next)
				}
				next++
				total += len(m.Value)
			}
			if len(batch) > b.rows || (total > b.bytes && len(batch) > 1) {
				t.Fatalf("%d records of %d bytes, the bounds are %d and %d", len(batch), total, b.rows, b.bytes)
			}
			if next < len(sizes) && len(batch) < b.rows && total+sizes[next] <= b.bytes {
				t.Fatalf("%d records of %d bytes, and the next of %d bytes would fit", len(batch), total, sizes[next])
			}
		}
		if next != len(sizes) {
			t.Fatalf("%d of %d records came", next, len(sizes))
		}
	})
}

// TestBatcherDoesNotWait: a batch is what is there; the next call waits, and ends with the session.
func TestBatcherDoesNotWait(t *testing.T) {
	waiting := make(chan *sarama.ConsumerMessage, 10)
	b := &batcher{messages: waiting, rows: 100, bytes: 100}
	waiting <- &sarama.ConsumerMessage{}
	if n := len(b.next(t.Context())); n != 1 {
		t.Fatalf("%d records, want the one that was there", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if batch := b.next(ctx); batch != nil {
		t.Fatalf("%v after the end of the session", batch)
	}
}

func TestWearsOut(t *testing.T) {
	for err, want := range map[error]bool{
		sarama.ErrOutOfOrderSequenceNumber:                         true,
		sarama.ErrInvalidProducerEpoch:                             true,
		fmt.Errorf("produce: %w", sarama.ErrUnknownProducerID):     true,
		breaker.ErrBreakerOpen:                                     true,
		sarama.ErrNotEnoughReplicas:                                false,
		sarama.ErrMessageSizeTooLarge:                              false,
		errors.New("connection refused"):                           false,
		sarama.ErrRequestTimedOut:                                  false,
		fmt.Errorf("produce: %w", sarama.ErrNotLeaderForPartition): false,
	} {
		if got := wearsOut(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}
