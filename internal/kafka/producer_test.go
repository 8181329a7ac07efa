package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
)

func record(value string) kafka.Message { return kafka.Message{Topic: topic, Value: []byte(value)} }

func TestSendIsAcknowledged(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		p := b.producer(t)
		const senders, records = 64, 20
		var running sync.WaitGroup
		for s := range senders {
			running.Go(func() {
				for i := range records {
					m := kafka.Message{Topic: topic, Partition: int32(s % 4), Value: fmt.Appendf(nil, "%d/%d", s, i)}
					if err := p.Send(t.Context(), m); err != nil {
						t.Errorf("send: %v", err)
					}
				}
			})
		}
		running.Wait()
		found := b.scan(t)
		for s := range senders {
			for i := range records {
				if n := found[fmt.Sprintf("%d/%d", s, i)]; n != 1 {
					t.Fatalf("record %d/%d is there %d times", s, i, n)
				}
			}
		}
	})
}

// TestRecordIsKept: value, headers and partition arrive as they were sent.
func TestRecordIsKept(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		sent := kafka.Message{Topic: topic, Partition: 3, Value: []byte{0, 1, 255}, Headers: []kafka.Header{{Key: "h", Value: []byte{1, 0, 2}}, {Key: "h", Value: nil}}}
		before := time.Now()
		if err := b.producer(t).Send(t.Context(), sent); err != nil {
			t.Fatal(err)
		}
		var got []kafka.Message
		if err := kafka.Scan(t.Context(), b.config, b.dial, topic, time.Time{}, func(m kafka.Message) error {
			got = append(got, m)
			return nil
		}); err != nil || len(got) != 1 {
			t.Fatalf("%d records, %v", len(got), err)
		}
		m := got[0]
		if m.Topic != topic || m.Partition != 3 || m.Offset != 0 || !bytes.Equal(m.Value, sent.Value) || len(m.Headers) != 2 ||
			m.Headers[0].Key != "h" || !bytes.Equal(m.Headers[0].Value, []byte{1, 0, 2}) || len(m.Headers[1].Value) != 0 {
			t.Errorf("got %+v", m)
		}
		if m.Time.Before(before.Add(-time.Minute)) || m.Time.After(time.Now().Add(time.Minute)) {
			t.Errorf("the record's time is %v", m.Time)
		}
	})
}

func TestUnknownPlace(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		p := b.producer(t)
		for name, m := range map[string]kafka.Message{
			"partition": {Topic: topic, Partition: 99, Value: []byte("x")},
			"topic":     {Topic: "nowhere", Value: []byte("x")},
		} {
			if err := p.Send(t.Context(), m); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("%s: got %v, want Unavailable", name, err)
			}
		}
		if err := p.Send(t.Context(), record("after")); err != nil {
			t.Errorf("a sender's mistake stays with others: %v", err)
		}
	})
}

// TestSendersLeave: senders whose time is up leave a broker that hangs, no goroutine stays behind for them, and their
// places are free again when the broker answers.
func TestSendersLeave(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		p := b.producer(t)
		if err := p.Send(t.Context(), record("before")); err != nil {
			t.Fatal(err)
		}
		b.network.set(silent)
		before := runtime.NumGoroutine()
		const senders = 300
		var running sync.WaitGroup
		for range senders {
			running.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				err := p.Send(ctx, record("hung"))
				if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want Unavailable because of the deadline", err)
				}
			})
		}
		running.Wait()
		if after := runtime.NumGoroutine(); after > before+20 {
			t.Errorf("%d goroutines after %d hung sends, %d before", after, senders, before)
		}
		if p.Waiting() != senders {
			t.Errorf("%d records count as waiting, want %d: they may still be stored", p.Waiting(), senders)
		}
		b.network.set(fair)
		eventually(t, "the hung records have an outcome", func() bool { return p.Waiting() == 0 })
		eventually(t, "a send succeeds again", func() bool { return p.Send(t.Context(), record("after")) == nil })
	})
}

func TestOverloaded(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		b.config.MaxBuffered = 5
		p := b.producer(t)
		b.network.set(silent)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for range b.config.MaxBuffered {
			running.Go(func() { _ = p.Send(ctx, record("hung")) })
		}
		eventually(t, "all places are taken", func() bool { return p.Waiting() == int64(b.config.MaxBuffered) })
		err := p.Send(t.Context(), record("one more"))
		if e, ok := errs.As(err); !ok || e.Kind != errs.Overloaded || e.RetryAfter == 0 {
			t.Errorf("got %v, want Overloaded with a time to come back", err)
		}
		cancel()
		running.Wait()
		b.network.set(fair)
		eventually(t, "places are free again", func() bool { return p.Waiting() == 0 })
	})
}

func TestTooLarge(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		p := b.producer(t)
		m := kafka.Message{Topic: topic, Headers: []kafka.Header{{Key: "key", Value: make([]byte, 97)}}}
		m.Value = make([]byte, b.config.MaxBytes-100)
		if err := p.Send(t.Context(), m); err != nil {
			t.Errorf("the largest record: %v", err)
		}
		m.Value = make([]byte, b.config.MaxBytes-99)
		if err := p.Send(t.Context(), m); errs.KindOf(err) != errs.TooLarge || !errs.Permanent(err) {
			t.Errorf("got %v, want TooLarge", err)
		}
	})
}

// TestNoBroker: without a broker a send fails at once, Run ends when it is told to, and the producer connects when the
// broker comes.
func TestNoBroker(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		b.network.set(cut)
		p := b.starting(t, quiet())
		if err := p.Send(t.Context(), record("early")); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("got %v, want Unavailable", err)
		}
		if p.Connected() {
			t.Error("connected to nobody")
		}
		b.network.set(fair)
		eventually(t, "a send succeeds", func() bool { return p.Send(t.Context(), record("late")) == nil })
		if n := b.scan(t)["early"]; n != 0 {
			t.Errorf("the refused record is there %d times", n)
		}
	})
}

// TestLostReply: a record whose acknowledgement is lost is sent again and is in the log once. Without an idempotent producer
// it would be there twice.
func TestLostReply(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		p := b.producer(t)
		for range 3 { // the first ones may meet a topic that is still being made
			if err := p.Send(t.Context(), record("before")); err != nil {
				t.Fatal(err)
			}
		}
		b.network.set(deaf)
		sent := make(chan error, 1)
		go func() { sent <- p.Send(t.Context(), record("once")) }()
		other := b
		other.dial = b.network.dial
		eventually(t, "the record is in the log", func() bool { return other.scan(t)["once"] > 0 })
		b.network.set(fair)
		if err := <-sent; err != nil {
			t.Fatalf("send: %v", err)
		}
		if n := b.scan(t)["once"]; n != 1 {
			t.Errorf("the record is there %d times, want once", n)
		}
	})
}

// TestUnknownOutcome: senders go on while replies are lost and the broker goes away; whatever was acknowledged is there
// once, and nothing is there twice that succeeded.
func TestUnknownOutcome(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		p := b.producer(t)
		var acknowledged sync.Map
		var running sync.WaitGroup
		var succeeded atomic.Int64
		stop := make(chan struct{})
		for s := range 16 {
			running.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					value := fmt.Sprintf("%d/%d", s, i)
					if p.Send(t.Context(), kafka.Message{Topic: topic, Partition: int32(s % 4), Value: []byte(value)}) == nil {
						acknowledged.Store(value, true)
						succeeded.Add(1)
					}
				}
			})
		}
		for _, disturbed := range []weather{deaf, cut, silent} {
			more := succeeded.Load() + 50
			eventually(t, "sends succeed", func() bool { return succeeded.Load() > more })
			b.network.set(disturbed)
			still := time.NewTimer(1500 * time.Millisecond) // longer than a reply may take
			<-still.C
			b.network.set(fair)
		}
		more := succeeded.Load() + 50
		eventually(t, "sends succeed at the end", func() bool { return succeeded.Load() > more })
		close(stop)
		running.Wait()
		found := b.scan(t)
		acknowledged.Range(func(value, _ any) bool {
			if n := found[value.(string)]; n != 1 {
				t.Errorf("record %v was acknowledged and is there %d times", value, n)
			}
			return true
		})
	})
}

// TestStopWithSilentBroker: Run returns in bounded time although the broker never answers; waiting senders are told.
func TestStopWithSilentBroker(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		b.config.AckTimeout = time.Second
		p := kafka.NewProducer(b.config, b.dial, quiet())
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		eventually(t, "connected", p.Connected)
		b.network.set(silent)
		sent := make(chan error, 1)
		go func() { sent <- p.Send(context.Background(), record("hung")) }()
		eventually(t, "the record is under way", func() bool { return p.Waiting() == 1 })
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := <-sent; errs.KindOf(err) != errs.Unavailable {
			t.Errorf("send: got %v, want Unavailable", err)
		}
		if p.Waiting() != 0 {
			t.Errorf("%d records without an outcome after Run", p.Waiting())
		}
		if err := p.Send(t.Context(), record("late")); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("after Run: got %v, want Unavailable", err)
		}
		b.network.set(fair)
	})
}

// TestFlushOnStop: what is under way when Run is told to stop is still acknowledged.
func TestFlushOnStop(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		p := kafka.NewProducer(b.config, b.dial, quiet())
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		eventually(t, "connected", p.Connected)
		var running sync.WaitGroup
		var stored atomic.Int64
		for i := range 200 {
			running.Go(func() {
				err := p.Send(t.Context(), record(fmt.Sprintf("r%d", i)))
				if err == nil {
					stored.Add(1)
				}
			})
		}
		eventually(t, "some are under way", func() bool { return p.Waiting() > 0 || stored.Load() > 0 })
		stop()
		running.Wait()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if n := len(b.scan(t)); int64(n) != stored.Load() || n == 0 {
			t.Errorf("%d records are there, %d were acknowledged", n, stored.Load())
		}
	})
}

// TestWornRoute: a producer whose sarama has given up on a partition for ten seconds is replaced.
func TestWornRoute(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		var said bytes.Buffer
		var mu sync.Mutex
		p := b.starting(t, slog.New(slog.NewTextHandler(locked{&mu, &said}, nil)))
		eventually(t, "connected", func() bool { return p.Send(t.Context(), record("before")) == nil })
		b.network.set(cut)
		replaced := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(said.String(), "the route to the log is replaced")
		}
		eventually(t, "the route is given up", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_ = p.Send(ctx, record("lost"))
			return replaced()
		})
		b.network.set(fair)
		eventually(t, "a send succeeds", func() bool { return p.Send(t.Context(), record("after")) == nil })
	})
}

type locked struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

// Write implements io.Writer.
func (l locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(b)
}
