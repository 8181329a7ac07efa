package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/kafka"
)

// seen collects what handlers got, by partition.
type seen struct {
	mu      sync.Mutex
	offsets map[int32][]int64
	records map[string]int
}

func (s *seen) add(batch []kafka.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.offsets == nil {
		s.offsets, s.records = map[int32][]int64{}, map[string]int{}
	}
	for _, m := range batch {
		s.offsets[m.Partition] = append(s.offsets[m.Partition], m.Offset)
		s.records[string(m.Value)]++
	}
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

func (s *seen) at(partition int32) []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.offsets[partition])
}

func consumer(group string) kafka.ConsumerConfig {
	cc := kafka.DefaultConsumerConfig(group, topic)
	cc.MaxRows, cc.RetryMin, cc.RetryMax, cc.HandlerTimeout = 7, 10*time.Millisecond, 50*time.Millisecond, 10*time.Second
	return cc
}

// TestConsume: a new group starts at the oldest record and gets each partition's records in order, in batches within the
// bounds; after a restart it goes on where it had finished.
func TestConsume(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		b.fill(t, b.producer(t), 0, 200)
		var got seen
		stop := b.consume(t, consumer("g"), func(_ context.Context, batch []kafka.Message) error {
			if len(batch) == 0 || len(batch) > 7 || slices.ContainsFunc(batch, func(m kafka.Message) bool { return m.Partition != batch[0].Partition }) {
				t.Errorf("a batch of %d: want 1 to 7 records of one partition", len(batch))
			}
			got.add(batch)
			return nil
		})
		eventually(t, "all records are handled", func() bool { return got.count() == 200 })
		stop()
		for p := range int32(4) {
			if offsets := got.at(p); len(offsets) != 50 || !consecutive(offsets) {
				t.Errorf("partition %d: %v, want 0 to 49", p, offsets)
			}
		}
		if diff := cmp.Diff(b.ends(t), b.committed(t, "g")); diff != "" {
			t.Errorf("what is committed is not the end: %s", diff)
		}
		var later seen
		b.fill(t, b.producer(t), 200, 4)
		stop = b.consume(t, consumer("g"), func(_ context.Context, batch []kafka.Message) error {
			later.add(batch)
			return nil
		})
		eventually(t, "the later records are handled", func() bool { return later.count() >= 4 })
		stop()
		want := map[string]int{"r200": 1, "r201": 1, "r202": 1, "r203": 1}
		if diff := cmp.Diff(want, later.records); diff != "" {
			t.Errorf("after the restart: %s", diff)
		}
	})
}

func consecutive(offsets []int64) bool {
	for i := range offsets {
		if offsets[i] != offsets[0]+int64(i) {
			return false
		}
	}
	return true
}

// TestFailureHoldsOnePartition: a handler that fails gets the same batch again; nothing behind it is handled or marked;
// the other partitions go on. A consumer that marked too early would lose the batch.
func TestFailureHoldsOnePartition(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		b.fill(t, b.producer(t), 0, 80)
		var got seen
		var mu sync.Mutex
		var tried [][]int64
		told, broken := map[int32]int{}, true
		cc := consumer("g")
		cc.Failing = func(in string, partition int32, err error) {
			mu.Lock()
			defer mu.Unlock()
			if in != topic || err == nil {
				t.Errorf("Failing(%q, %d, %v)", in, partition, err)
			}
			told[partition]++
		}
		attempts := func() int { mu.Lock(); defer mu.Unlock(); return len(tried) }
		stop := b.consume(t, cc, func(_ context.Context, batch []kafka.Message) error {
			mu.Lock()
			defer mu.Unlock()
			if batch[0].Partition == 2 && broken {
				tried = append(tried, []int64{batch[0].Offset, batch[len(batch)-1].Offset})
				return errors.New("not now")
			}
			got.add(batch)
			return nil
		})
		eventually(t, "the other partitions are done and the broken one was tried often", func() bool { return got.count() == 60 && attempts() >= 5 })
		stop()
		if n := b.committed(t, "g")[2]; n != 0 {
			t.Fatalf("partition 2 is marked up to %d although nothing of it is done", n)
		}
		for _, batch := range tried {
			if diff := cmp.Diff(tried[0], batch); diff != "" {
				t.Errorf("another batch came before the first was done: %s", diff)
			}
		}
		if tried[0][0] != 0 || told[2] != len(tried) || len(told) != 1 {
			t.Errorf("first offset %d, told %v of %d failures", tried[0][0], told, len(tried))
		}
		broken = false
		b.consume(t, cc, func(_ context.Context, batch []kafka.Message) error {
			got.add(batch)
			return nil
		})
		eventually(t, "the broken partition is done", func() bool { return got.count() == 80 })
		if offsets := got.at(2); !consecutive(offsets) || offsets[0] != 0 {
			t.Errorf("partition 2 came as %v", offsets)
		}
	})
}

// TestBatchInHandIsFinished: a stop while the handler works lets it finish and marks its batch.
func TestBatchInHandIsFinished(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		if err := b.producer(t).Send(t.Context(), record("one")); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		finished, bounded := false, false
		err := kafka.Consume(ctx, b.config, b.dial, consumer("g"), func(handling context.Context, _ []kafka.Message) error {
			stop()
			<-ctx.Done()
			finished = handling.Err() == nil
			_, bounded = handling.Deadline()
			return nil
		}, quiet())
		if err != nil || !finished || !bounded {
			t.Fatalf("error %v; the handler's context lives after the stop: %v, has an end: %v", err, finished, bounded)
		}
		if n := b.committed(t, "g")[0]; n != 1 {
			t.Errorf("committed up to %d: the batch in hand was not marked", n)
		}
	})
}

// TestHandlerTimeout: a handler that hangs is told to give up, and its batch comes again.
func TestHandlerTimeout(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		if err := b.producer(t).Send(t.Context(), record("one")); err != nil {
			t.Fatal(err)
		}
		cc := consumer("g")
		cc.HandlerTimeout = 50 * time.Millisecond
		var got seen
		calls := make(chan int, 100)
		b.consume(t, cc, func(ctx context.Context, batch []kafka.Message) error {
			calls <- len(batch)
			if len(calls) < 3 {
				<-ctx.Done()
				return ctx.Err()
			}
			got.add(batch)
			return nil
		})
		eventually(t, "the record is done at the third call", func() bool { return got.count() == 1 })
		if len(calls) != 3 {
			t.Errorf("%d calls, want 3", len(calls))
		}
	})
}

// TestMembersComeAndGo: members join and leave while records flow. Every record is handled, a partition's records come in
// order but for repetitions, and the end is committed.
func TestMembersComeAndGo(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		p := b.producer(t)
		var got seen
		member := func() func() {
			return b.consume(t, consumer("g"), func(_ context.Context, batch []kafka.Message) error {
				got.add(batch)
				return nil
			})
		}
		n := 0
		more := func() {
			b.fill(t, p, n, 100)
			n += 100
		}
		first := member()
		more()
		eventually(t, "the first member works", func() bool { return got.count() == n })
		second := member()
		more()
		eventually(t, "both work", func() bool { return got.count() == n })
		more()
		first()
		eventually(t, "the second takes over", func() bool { return got.count() == n })
		third := member()
		more()
		second()
		eventually(t, "the third takes over", func() bool { return got.count() == n })
		third()
		if diff := cmp.Diff(b.ends(t), b.committed(t, "g")); diff != "" {
			t.Errorf("what is committed is not the end: %s", diff)
		}
		for p := range int32(4) {
			most := int64(-1)
			for _, offset := range got.at(p) {
				if offset > most+1 {
					t.Errorf("partition %d: %d came after %d", p, offset, most)
				}
				most = max(most, offset)
			}
		}
	})
}

// TestFailingMemberLeaves: what one member could not do, the next one gets.
func TestFailingMemberLeaves(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		b.fill(t, b.producer(t), 0, 40)
		failed := make(chan struct{}, 1)
		stop := b.consume(t, consumer("g"), func(context.Context, []kafka.Message) error {
			select {
			case failed <- struct{}{}:
			default:
			}
			return errors.New("never")
		})
		<-failed
		var got seen
		b.consume(t, consumer("g"), func(_ context.Context, batch []kafka.Message) error {
			got.add(batch)
			return nil
		})
		stop()
		eventually(t, "the healthy member has done everything", func() bool { return got.count() == 40 })
	})
}

// TestConsumerSurvives: the broker goes away, hangs, and loses replies; the consumer comes back and loses nothing.
func TestConsumerSurvives(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		p := b.producer(t)
		mine := b
		mine.network = &network{dial: b.network.dial} // the consumer's weather alone
		mine.dial = mine.network.connect
		var got seen
		stop := mine.consume(t, consumer("g"), func(_ context.Context, batch []kafka.Message) error {
			got.add(batch)
			return nil
		})
		n := 0
		for _, disturbed := range []weather{cut, silent, deaf} {
			b.fill(t, p, n, 40)
			n += 40
			eventually(t, "records are handled", func() bool { return got.count() == n })
			mine.network.set(disturbed)
			b.fill(t, p, n, 40)
			n += 40
			still := time.NewTimer(1500 * time.Millisecond) // longer than a reply may take
			<-still.C
			mine.network.set(fair)
			eventually(t, fmt.Sprintf("records are handled after weather %d", disturbed), func() bool { return got.count() == n })
		}
		stop()
		for p := range int32(4) {
			if offsets := got.at(p); int64(len(slices.Compact(slices.Sorted(slices.Values(offsets))))) != b.ends(t)[p] {
				t.Errorf("partition %d: %v", p, offsets)
			}
		}
	})
}

// TestConsumerBeforeEverything: a consumer that starts without a broker, and then without its topic, begins when they come.
func TestConsumerBeforeEverything(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		b.network.set(cut)
		var got seen
		stop := b.consume(t, consumer("g"), func(_ context.Context, batch []kafka.Message) error {
			got.add(batch)
			return nil
		})
		b.network.set(fair)
		p := b.producer(t)
		b.fill(t, p, 0, 8)
		eventually(t, "records are handled", func() bool { return got.count() == 8 })
		stop()

		b.config.Prefix += "later-"
		got = seen{}
		b.consume(t, consumer("g"), func(_ context.Context, batch []kafka.Message) error {
			got.add(batch)
			return nil
		})
		if err := kafka.EnsureTopics(t.Context(), b.config, b.dial, []kafka.Topic{{Name: topic}}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.drop(t) })
		p = b.producer(t)
		eventually(t, "the new topic takes records", func() bool { return p.Send(t.Context(), record("r")) == nil })
		eventually(t, "its records are handled", func() bool { return got.count() == 1 })
	})
}

// TestStopWithoutBroker: a consumer whose broker hangs or is gone stops in bounded time.
func TestStopWithoutBroker(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		for _, disturbed := range []weather{silent, cut} {
			var got seen
			b.fill(t, b.producer(t), 0, 4)
			cc := consumer("g")
			cc.HandlerTimeout = 100 * time.Millisecond
			mine := b
			mine.network = &network{dial: b.network.dial}
			mine.dial = mine.network.connect
			stop := mine.consume(t, cc, func(_ context.Context, batch []kafka.Message) error {
				got.add(batch)
				return nil
			})
			eventually(t, "records are handled", func() bool { return got.count() > 0 })
			mine.network.set(disturbed)
			stop()
			mine.network.set(fair)
		}
	})
}

// TestLostRecords: a group whose next records were deleted is told so by name and skips nothing on its own; the other
// partitions go on.
func TestLostRecords(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		p := b.producer(t)
		b.fill(t, p, 0, 40)
		var got seen
		stop := b.consume(t, consumer("g"), func(_ context.Context, batch []kafka.Message) error {
			got.add(batch)
			return nil
		})
		eventually(t, "records are handled", func() bool { return got.count() == 40 })
		stop()
		b.fill(t, p, 40, 40)
		admin := b.raw(t)
		defer func() { _ = admin.Close() }()
		if err := admin.DeleteRecords(b.config.Prefix+topic, map[int32]int64{1: 15}); err != nil {
			t.Fatal(err)
		}
		told := make(chan error, 100)
		cc := consumer("g")
		cc.Failing = func(in string, partition int32, err error) {
			if in != topic || partition != 1 {
				t.Errorf("Failing(%q, %d, %v)", in, partition, err)
			}
			select {
			case told <- err:
			default:
			}
		}
		b.consume(t, cc, func(_ context.Context, batch []kafka.Message) error {
			got.add(batch)
			return nil
		})
		err := <-told
		for _, want := range []string{"group g stands at offset 10 of records/1", "the log has 15 to 20", "nothing is skipped"} {
			if !containsText(err, want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		eventually(t, "the other partitions go on", func() bool { return got.count() == 70 })
		if offsets := got.at(1); len(offsets) != 10 {
			t.Errorf("partition 1 went on to %v", offsets)
		}
		if n := b.committed(t, "g")[1]; n != 10 {
			t.Errorf("the group stands at %d, want where it stood", n)
		}
	})
}

// TestProgress: the hook says how many records wait, also while the handler fails.
func TestProgress(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		b.fill(t, b.producer(t), 0, 40)
		var mu sync.Mutex
		waiting, first, failed := map[int32]int64{}, int64(0), false
		cc := consumer("g")
		cc.Progress = func(in string, partition int32, n int64) {
			mu.Lock()
			defer mu.Unlock()
			if in != topic {
				t.Errorf("progress of %q", in)
			}
			if partition == 0 && failed && first == 0 {
				first = n
			}
			waiting[partition] = n
		}
		b.consume(t, cc, func(_ context.Context, batch []kafka.Message) error {
			mu.Lock()
			defer mu.Unlock()
			if batch[0].Partition == 0 && !failed {
				failed = true
				return errors.New("once")
			}
			return nil
		})
		want := map[int32]int64{0: 0, 1: 0, 2: 0, 3: 0}
		eventually(t, "nothing waits", func() bool { mu.Lock(); defer mu.Unlock(); return maps.Equal(waiting, want) })
		if first != 10 {
			t.Errorf("after the failed call %d records wait, want all 10", first)
		}
	})
}
