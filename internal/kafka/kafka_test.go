package kafka_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/eprod/eprod/internal/embedded"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/testenv"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// log is one implementation of the log: the embedded broker or the real one.
type log struct {
	config kafka.Config
	dial   kafka.Dial
}

func logs(t testing.TB) map[string]log {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	e, err := embedded.Open(t.TempDir(), rand.Reader, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	config := kafka.DefaultConfig()
	config.Partitions = 4
	config.Prefix = fmt.Sprintf("t%d-", time.Now().UnixNano())
	inProcess := config
	inProcess.Brokers = e.KafkaBrokers()
	all := map[string]log{"embedded": {inProcess, e.KafkaDial()}}
	if brokers, ok := testenv.Kafka(t); ok {
		config.Brokers = brokers
		all["kafka"] = log{config, nil}
	}
	return all
}

func each(t *testing.T, test func(t *testing.T, l log)) {
	for name, l := range logs(t) {
		t.Run(name, func(t *testing.T) {
			if err := kafka.EnsureTopics(t.Context(), l.config, l.dial, []kafka.Topic{{Name: "records"}}); err != nil {
				t.Fatal(err)
			}
			test(t, l)
		})
	}
}

// producer runs a producer for the test and stops it before the test's log.
func (l log) producer(t testing.TB) *kafka.Producer {
	t.Helper()
	p := kafka.NewProducer(l.config, l.dial, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	deadline := time.Now().Add(10 * time.Second)
	for p.Send(t.Context(), kafka.Message{Topic: "records", Value: []byte("hello")}) != nil {
		if time.Now().After(deadline) {
			t.Fatal("the producer does not connect")
		}
	}
	return p
}

func (l log) scan(t testing.TB) map[string]int {
	t.Helper()
	found := map[string]int{}
	err := kafka.Scan(t.Context(), l.config, l.dial, "records", time.Time{}, func(m kafka.Message) error {
		found[string(m.Value)]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestSendIsAcknowledged(t *testing.T) {
	each(t, func(t *testing.T, l log) {
		p := l.producer(t)
		const senders, each = 64, 20
		var running sync.WaitGroup
		for s := range senders {
			running.Go(func() {
				for i := range each {
					m := kafka.Message{Topic: "records", Partition: int32(s % 4), Value: fmt.Appendf(nil, "%d/%d", s, i), Headers: []kafka.Header{{Key: "h", Value: []byte{1, 0, 2}}}}
					if err := p.Send(t.Context(), m); err != nil {
						t.Errorf("send: %v", err)
					}
				}
			})
		}
		running.Wait()
		found := l.scan(t)
		for s := range senders {
			for i := range each {
				if n := found[fmt.Sprintf("%d/%d", s, i)]; n != 1 {
					t.Fatalf("record %d/%d is there %d times", s, i, n)
				}
			}
		}
	})
}

// TestConsumeOnlyMarksWhatIsDone: a handler that fails gets the same batch again, a new member of the group starts where
// the last one finished, and a new group starts at the oldest record.
func TestConsumeOnlyMarksWhatIsDone(t *testing.T) {
	each(t, func(t *testing.T, l log) {
		p := l.producer(t)
		var batch []kafka.Message
		for i := range 200 {
			batch = append(batch, kafka.Message{Topic: "records", Partition: int32(i % 4), Value: fmt.Appendf(nil, "r%d", i)})
		}
		if err := p.Publish(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		var failures atomic.Int32
		first := l.collect(t, 200, func(m []kafka.Message) error {
			if len(m) > 7 {
				t.Errorf("batch of %d, want at most 7", len(m))
			}
			if failures.Add(1) <= 3 {
				return errors.New("not now")
			}
			return nil
		})
		for i := range 200 {
			if n := first[fmt.Sprintf("r%d", i)]; n != 1 {
				t.Fatalf("record r%d was handled %d times", i, n)
			}
		}
		if err := p.Send(t.Context(), kafka.Message{Topic: "records", Value: []byte("later")}); err != nil {
			t.Fatal(err)
		}
		second := l.collect(t, 1, func([]kafka.Message) error { return nil })
		if len(second) != 1 || second["later"] != 1 {
			t.Fatalf("after a restart the group got %v, want only what came later", second)
		}
		committed, err := kafka.Committed(t.Context(), l.config, l.dial, "group", "records")
		if err != nil {
			t.Fatal(err)
		}
		var total int64
		for _, offset := range committed {
			total += offset
		}
		if total < 201 {
			t.Errorf("committed %v, want at least 201 in all", committed)
		}
	})
}

// collect consumes until want records (beside the greeting) were handled, stops, and returns how often each was handled.
func (l log) collect(t *testing.T, want int, before func([]kafka.Message) error) map[string]int {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 60*time.Second)
	defer stop()
	var mu sync.Mutex
	handled, total := map[string]int{}, 0
	cc := kafka.DefaultConsumerConfig("group", "records")
	cc.MaxRows = 7
	err := kafka.Consume(ctx, l.config, l.dial, cc, func(_ context.Context, batch []kafka.Message) error {
		if err := before(batch); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, m := range batch {
			if string(m.Value) != "hello" {
				handled[string(m.Value)]++
				total++
			}
		}
		if total >= want {
			stop()
		}
		return nil
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if total < want {
		t.Fatalf("handled %d records in time, want %d", total, want)
	}
	return handled
}

// TestBatchInHandIsFinished: a stop while the handler works lets it finish and marks its batch.
func TestBatchInHandIsFinished(t *testing.T) {
	each(t, func(t *testing.T, l log) {
		p := l.producer(t)
		if err := p.Send(t.Context(), kafka.Message{Topic: "records", Value: []byte("one")}); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		finished := false
		cc := kafka.DefaultConsumerConfig("drain", "records")
		err := kafka.Consume(ctx, l.config, l.dial, cc, func(handling context.Context, _ []kafka.Message) error {
			stop()
			<-ctx.Done()
			finished = handling.Err() == nil
			return nil
		}, slog.New(slog.DiscardHandler))
		if err != nil || !finished {
			t.Fatalf("error %v; the handler's context was alive after the stop: %v", err, finished)
		}
		committed, err := kafka.Committed(t.Context(), l.config, l.dial, "drain", "records")
		if err != nil || committed[0] == 0 {
			t.Fatalf("committed %v, %v: the batch in hand was not marked", committed, err)
		}
	})
}

// TestNoBroker: without a broker a send fails at once with Unavailable, and Run still ends when it is told to.
func TestNoBroker(t *testing.T) {
	config := kafka.DefaultConfig()
	config.Brokers = []string{"127.0.0.1:1"}
	p := kafka.NewProducer(config, nil, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	if err := p.Send(t.Context(), kafka.Message{Topic: "records"}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPartitionCountMustStay(t *testing.T) {
	each(t, func(t *testing.T, l log) {
		l.config.Partitions = 5
		if err := kafka.EnsureTopics(t.Context(), l.config, l.dial, []kafka.Topic{{Name: "records"}}); err == nil {
			t.Fatal("another partition count must be refused: participants would move to other partitions")
		}
	})
}

func BenchmarkSend(b *testing.B) {
	for name, l := range logs(b) {
		b.Run(name, func(b *testing.B) {
			if err := kafka.EnsureTopics(b.Context(), l.config, l.dial, []kafka.Topic{{Name: "records"}}); err != nil {
				b.Fatal(err)
			}
			p := l.producer(b)
			value := make([]byte, 2200)
			b.SetParallelism(128)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := p.Send(context.Background(), kafka.Message{Topic: "records", Value: value}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
