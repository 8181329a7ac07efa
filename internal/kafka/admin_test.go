package kafka_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
)

func containsText(err error, text string) bool {
	return err != nil && strings.Contains(err.Error(), text)
}

// TestEnsureTopics: it may be repeated, also by several processes at once, and refuses a topic that breaks what the
// configuration promises.
func TestEnsureTopics(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		ensure := func(change func(c *kafka.Config)) error {
			c := b.config
			change(&c)
			return kafka.EnsureTopics(t.Context(), c, b.dial, []kafka.Topic{{Name: topic}})
		}
		var running sync.WaitGroup
		for range 4 {
			running.Go(func() {
				if err := ensure(func(*kafka.Config) {}); err != nil {
					t.Errorf("again: %v", err)
				}
			})
		}
		running.Wait()
		refused := map[string]func(*kafka.Config){
			"kafka.partitions is 5":  func(c *kafka.Config) { c.Partitions = 5 },
			"kafka.replication is 9": func(c *kafka.Config) { c.Replication = 9 },
			"kafka.minInSync is 9":   func(c *kafka.Config) { c.MinInSync = 9 },
		}
		for want, change := range refused {
			if err := ensure(change); !containsText(err, want) || errs.KindOf(err) == errs.Unavailable {
				t.Errorf("got %v, want a refusal that says %q", err, want)
			}
		}
	})
}

// TestTopicSettings: a topic gets the settings of its caller and room for the largest record.
func TestTopicSettings(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		b.config.Prefix += "own-"
		own := kafka.Topic{Name: topic, Config: map[string]string{"retention.ms": "-1"}}
		if err := kafka.EnsureTopics(t.Context(), b.config, b.dial, []kafka.Topic{own}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.drop(t) })
		admin := b.raw(t)
		defer func() { _ = admin.Close() }()
		existing, err := admin.ListTopics()
		if err != nil {
			t.Fatal(err)
		}
		have := existing[b.config.Prefix+topic]
		if got := have.ConfigEntries["retention.ms"]; have.NumPartitions != 4 || got == nil || *got != "-1" {
			t.Errorf("got %d partitions, retention %v", have.NumPartitions, got)
		}
	})
}

func TestScan(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		if found := b.scan(t); len(found) != 0 {
			t.Errorf("an empty topic has %v", found)
		}
		p := b.producer(t)
		b.fill(t, p, 0, 1000)
		if found := b.scan(t); len(found) != 1000 {
			t.Errorf("%d records, want 1000", len(found))
		}
		calls, enough := 0, errors.New("enough")
		err := kafka.Scan(t.Context(), b.config, b.dial, topic, time.Time{}, func(kafka.Message) error { calls++; return enough })
		if err != enough || calls != 1 { //nolint:errorlint // it must be the very error
			t.Errorf("got %v after %d calls, want the error of the first", err, calls)
		}
		for since, want := range map[time.Duration]int{-time.Hour: 1000, time.Hour: 0} {
			n := 0
			err := kafka.Scan(t.Context(), b.config, b.dial, topic, time.Now().Add(since), func(kafka.Message) error { n++; return nil })
			if err != nil || n != want {
				t.Errorf("from %v: %d records, %v; want %d", since, n, err, want)
			}
		}
		if err := kafka.Scan(t.Context(), b.config, b.dial, "nowhere", time.Time{}, nil); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("unknown topic: %v", err)
		}
	})
}

func TestOffsets(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		zero := map[int32]int64{0: 0, 1: 0, 2: 0, 3: 0}
		if diff := cmp.Diff(zero, b.ends(t)) + cmp.Diff(zero, b.committed(t, "nobody")); diff != "" {
			t.Error(diff)
		}
		b.fill(t, b.producer(t), 0, 6)
		if diff := cmp.Diff(map[int32]int64{0: 2, 1: 2, 2: 1, 3: 1}, b.ends(t)); diff != "" {
			t.Error(diff)
		}
		if _, err := kafka.Committed(t.Context(), b.config, b.dial, "nobody", "nowhere"); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("unknown topic: %v", err)
		}
	})
}

// TestWaitsEnd: every call ends with its context although the broker hangs.
func TestWaitsEnd(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		b.config.ReadTimeout, b.config.DialTimeout = time.Minute, time.Minute
		calls := map[string]func(ctx context.Context) error{
			"EnsureTopics": func(ctx context.Context) error {
				return kafka.EnsureTopics(ctx, b.config, b.dial, []kafka.Topic{{Name: topic}})
			},
			"Scan": func(ctx context.Context) error {
				return kafka.Scan(ctx, b.config, b.dial, topic, time.Time{}, nil)
			},
			"Committed": func(ctx context.Context) error {
				_, err := kafka.Committed(ctx, b.config, b.dial, "g", topic)
				return err
			},
			"Ends": func(ctx context.Context) error {
				_, err := kafka.Ends(ctx, b.config, b.dial, topic)
				return err
			},
			"Run": func(ctx context.Context) error {
				_ = kafka.NewProducer(b.config, b.dial, quiet()).Run(ctx)
				return errs.Away("the log", ctx.Err())
			},
		}
		for name, call := range calls {
			b.network.set(silent)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			err := call(ctx)
			cancel()
			if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v, want Unavailable because of the deadline", name, err)
			}
			b.network.set(fair)
		}
	})
}
