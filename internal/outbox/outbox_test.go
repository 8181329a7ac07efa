package outbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/testenv"
)

// topic is a log in memory. Before, where set, decides about a batch before it is kept; after, once it is.
type topic struct {
	before, after func(ctx context.Context, ids []int64) error

	mu      sync.Mutex
	copies  map[int64][]kafka.Message
	batches [][]kafka.Message
	grown   chan struct{} // closed and replaced at every batch
}

func newTopic() *topic {
	return &topic{copies: make(map[int64][]kafka.Message), grown: make(chan struct{})}
}

// Publish implements outbox.Publisher.
func (l *topic) Publish(ctx context.Context, messages []kafka.Message) error {
	ids := make([]int64, len(messages))
	for i, m := range messages {
		ids[i] = eventID(m)
	}
	if l.before != nil {
		if err := l.before(ctx, ids); err != nil {
			return err
		}
	}
	l.mu.Lock()
	for i, m := range messages {
		l.copies[ids[i]] = append(l.copies[ids[i]], m)
	}
	l.batches = append(l.batches, messages)
	close(l.grown)
	l.grown = make(chan struct{})
	l.mu.Unlock()
	if l.after != nil {
		return l.after(ctx, ids)
	}
	return nil
}

func (l *topic) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.grown
}

// wait waits until n different events are there.
func (l *topic) wait(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		have, grown := len(l.copies), l.grown
		l.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-grown:
		case <-deadline:
			t.Fatalf("%d events after 20s, want %d", have, n)
		}
	}
}

func eventID(m kafka.Message) int64 {
	for _, h := range m.Headers {
		if h.Key == outbox.HeaderID {
			id, _ := strconv.ParseInt(string(h.Value), 10, 64)
			return id
		}
	}
	return 0
}

func event(id int64) outbox.Event {
	return outbox.Event{ID: id, Topic: "events", Type: "response.store", Study: 7, Participant: id * 31, At: time.UnixMicro(1_790_000_000_000_001).UTC(),
		Payload: fmt.Appendf(nil, `{"id":"%d"}`, id), Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
}

func add(t *testing.T, d *db.DB, events ...outbox.Event) {
	t.Helper()
	if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return outbox.Add(tx, events...) }); err != nil {
		t.Fatal(err)
	}
}

func depth(t *testing.T, r *outbox.Relay) int64 {
	t.Helper()
	n, err := r.Depth(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func each(t *testing.T, test func(t *testing.T, d *db.DB)) {
	for name, d := range testenv.Databases(t, "shard") {
		t.Run(name, func(t *testing.T) { test(t, d) })
	}
}

var quiet = slog.New(slog.DiscardHandler)

func relay(d *db.DB, l outbox.Publisher) *outbox.Relay {
	return outbox.NewRelay(d, l, 8, outbox.DefaultConfig(), quiet)
}

func TestAddSharesTheTransaction(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		boom := errors.New("boom")
		if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return errors.Join(outbox.Add(tx, event(1)), boom) }); !errors.Is(err, boom) {
			t.Fatal(err)
		}
		wrong := event(2)
		wrong.Payload = []byte("{")
		if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return outbox.Add(tx, event(1), wrong) }); err == nil || !strings.Contains(err.Error(), "not JSON") {
			t.Errorf("a broken payload: %v", err)
		}
		if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return errors.Join(outbox.Add(tx, event(1)), outbox.Add(tx, event(1))) }); !db.IsDuplicate(err) {
			t.Errorf("an id twice: %v", err)
		}
		if n := depth(t, relay(d, newTopic())); n != 0 {
			t.Errorf("%d events of transactions that failed", n)
		}
		add(t, d)
	})
}

func TestRelayedEvent(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		bare := outbox.Event{ID: 2, Topic: "dead", Type: "x.y", Payload: []byte("{}"), At: time.UnixMicro(1)}
		add(t, d, event(1), bare)
		log := newTopic()
		if n, err := relay(d, log).Once(t.Context()); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		want := []kafka.Message{
			{Topic: "events", Partition: int32(db.Bucket(31) / 32), Value: []byte(`{"id":"1"}`), Headers: []kafka.Header{
				{Key: "eprod-event", Value: []byte("1")}, {Key: "eprod-type", Value: []byte("response.store")},
				{Key: "eprod-at", Value: []byte("2026-09-21T14:13:20.000001Z")}, {Key: "traceparent", Value: []byte(event(1).Trace)}}},
			{Topic: "dead", Value: []byte("{}"), Headers: []kafka.Header{
				{Key: "eprod-event", Value: []byte("2")}, {Key: "eprod-type", Value: []byte("x.y")}, {Key: "eprod-at", Value: []byte("1970-01-01T00:00:00.000001Z")}}},
		}
		if diff := cmp.Diff([][]kafka.Message{want}, log.batches); diff != "" {
			t.Error(diff)
		}
	})
}

// TestNothingIsLeftUnpublished: writers commit in another order than their ids were given out, two relays look on.
func TestNothingIsLeftUnpublished(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		const writers, each = 8, 25
		log, nextID := newTopic(), testenv.IDs()
		ctx, stop := context.WithCancel(t.Context())
		relays := outbox.Relays{relay(d, log)}
		if d.Dialect == db.MySQL {
			relays = append(relays, relay(d, log))
		}
		ended := make(chan error, 1)
		go func() { ended <- relays.Run(ctx) }()
		var running sync.WaitGroup
		for w := range writers {
			running.Go(func() {
				for i := range each {
					err := d.Tx(t.Context(), func(tx *gorm.DB) error {
						if err := outbox.Add(tx, event(nextID())); err != nil {
							return err
						}
						if (w+i)%2 == 0 && d.Dialect == db.MySQL { // higher ids are committed and relayed meanwhile
							select {
							case <-log.next():
							case <-time.After(30 * time.Millisecond):
							}
						}
						return nil
					})
					if err != nil {
						t.Error(err)
					}
					for _, r := range relays {
						r.Notify()
					}
				}
			})
		}
		running.Wait()
		log.wait(t, writers*each)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := depth(t, relays[0]); n != 0 || len(log.copies) != writers*each {
			t.Errorf("%d events wait, %d of %d are published", n, len(log.copies), writers*each)
		}
	})
}

// TestStopBeforeDelete: what was published and not deleted is published again, as the same event.
func TestStopBeforeDelete(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		add(t, d, event(1), event(2))
		log := newTopic()
		ctx, die := context.WithCancel(t.Context())
		log.after = func(context.Context, []int64) error { die(); return nil }
		if _, err := relay(d, log).Once(ctx); errs.KindOf(err) != errs.Unavailable {
			t.Fatalf("got %v, want Unavailable", err)
		}
		log.after = nil
		again := relay(d, log)
		if n, err := again.Once(t.Context()); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		for id, copies := range log.copies {
			if len(copies) != 2 {
				t.Errorf("event %d was published %d times, want 2", id, len(copies))
			} else if diff := cmp.Diff(copies[0], copies[1]); diff != "" {
				t.Errorf("the copies of event %d differ: %s", id, diff)
			}
		}
		if n := depth(t, again); n != 0 || len(log.copies) != 2 {
			t.Errorf("%d wait, %d published", n, len(log.copies))
		}
	})
}

// TestRefusedEvent: one event that the log will never take holds nobody up and is not lost.
func TestRefusedEvent(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		for id := range int64(9) {
			add(t, d, event(id+1))
		}
		var out bytes.Buffer
		log, offered := newTopic(), 0
		log.before = func(_ context.Context, ids []int64) error {
			if slices.Contains(ids, 4) {
				offered++
				return errs.New(errs.TooLarge, "too_large", "no")
			}
			return nil
		}
		r := outbox.NewRelay(d, log, 8, outbox.DefaultConfig(), slog.New(slog.NewTextHandler(&out, nil)))
		if n, err := r.Once(t.Context()); n != 9 || err != nil {
			t.Fatal(n, err)
		}
		if len(log.copies) != 8 || depth(t, r) != 1 || !strings.Contains(out.String(), "event=4") {
			t.Errorf("%d published, %d wait, logged %s", len(log.copies), depth(t, r), out.String())
		}
		before := offered
		add(t, d, event(10))
		if n, err := r.Once(t.Context()); n != 1 || err != nil || offered != before {
			t.Errorf("%d, %v; offered %d times more", n, err, offered-before)
		}
		log.before = nil // the operator raised the limit and started anew
		if n, err := relay(d, log).Once(t.Context()); n != 1 || err != nil || depth(t, r) != 0 {
			t.Errorf("%d, %v, %d wait", n, err, depth(t, r))
		}
	})
}

// TestRefusedEventInARow: the others of its row are published, and the row stays for the operators.
func TestRefusedEventInARow(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		add(t, d, event(1), event(2), event(3))
		add(t, d, event(4))
		log := newTopic()
		log.before = func(_ context.Context, ids []int64) error {
			if slices.Contains(ids, 2) {
				return errs.New(errs.TooLarge, "too_large", "no")
			}
			return nil
		}
		r := relay(d, log)
		if n, err := r.Once(t.Context()); n != 4 || err != nil {
			t.Fatal(n, err)
		}
		if len(log.copies) != 3 || len(log.copies[2]) != 0 || depth(t, r) != 3 {
			t.Errorf("published %v, %d wait", slices.Sorted(maps.Keys(log.copies)), depth(t, r))
		}
	})
}

// TestUnreadableRow: damage in one row holds nobody up, and the row is kept.
func TestUnreadableRow(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		add(t, d, event(1))
		if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return tx.Exec("UPDATE outbox SET payload = '[{'").Error }); err != nil {
			t.Fatal(err)
		}
		add(t, d, event(2))
		log := newTopic()
		r := relay(d, log)
		if n, err := r.Once(t.Context()); n != 1 || err != nil || len(log.copies[2]) != 1 || depth(t, r) != 1 {
			t.Errorf("%d, %v, published %v, %d wait", n, err, slices.Sorted(maps.Keys(log.copies)), depth(t, r))
		}
	})
}

// TestRowsAreBound: many events share a row, up to its bounds in number and bytes; none is lost on the way.
func TestRowsAreBound(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		events := make([]outbox.Event, 1201)
		for i := range events {
			events[i] = event(int64(i + 1))
			if i > 1195 {
				events[i].Payload = fmt.Appendf(nil, `{"x":"%s"}`, strings.Repeat("a", 60<<10))
			}
		}
		add(t, d, events...)
		var rows []int
		if err := d.Read(t.Context()).Table("outbox").Order("id").Pluck("events", &rows).Error; err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]int{500, 500, 197, 2, 2}, rows); diff != "" {
			t.Error(diff)
		}
		log := newTopic()
		r := relay(d, log)
		if n, err := r.Once(t.Context()); n != len(events) || err != nil || len(log.copies) != len(events) || depth(t, r) != 0 {
			t.Errorf("%d, %v, %d published, %d wait", n, err, len(log.copies), depth(t, r))
		}
	})
}

// TestLogAway: failures are followed by pauses and everything comes through in the end.
func TestLogAway(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		for id := range int64(20) {
			add(t, d, event(id+1))
		}
		log, tries := newTopic(), 0
		log.before = func(context.Context, []int64) error {
			if tries++; tries <= 3 {
				return errs.Away("the log", errors.New("down"))
			}
			return nil
		}
		r := outbox.NewRelay(d, log, 8, outbox.Config{Interval: 5 * time.Millisecond, Batch: 6, MaxPause: 20 * time.Millisecond}, quiet)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		log.wait(t, 20)
		stop()
		if err := <-ended; err != nil || depth(t, r) != 0 {
			t.Errorf("%v, %d wait", err, depth(t, r))
		}
		for _, b := range log.batches {
			if len(b) > 6 {
				t.Errorf("a batch of %d, may have 6", len(b))
			}
		}
	})
}

// TestStop: the batch in hand is finished, what was committed meanwhile follows, and Run is over.
func TestStop(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		ctx, stop := context.WithCancel(t.Context())
		log, first := newTopic(), true
		log.before = func(ctx context.Context, _ []int64) error {
			if first {
				first = false
				add(t, d, event(2))
				stop()
			}
			return ctx.Err()
		}
		add(t, d, event(1))
		r := outbox.NewRelay(d, log, 8, outbox.Config{Interval: time.Hour, Batch: 10, MaxPause: time.Hour}, quiet)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
		if n := depth(t, r); n != 0 || len(log.copies) != 2 || len(log.copies[1]) != 1 {
			t.Errorf("%d wait, %d published", n, len(log.copies))
		}
	})
}

func TestNotifyWakes(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		log := newTopic()
		r := outbox.NewRelay(d, log, 8, outbox.Config{Interval: time.Hour, Batch: 10, MaxPause: time.Hour}, quiet)
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		for id := range int64(3) {
			add(t, d, event(id+1))
			r.Notify()
			log.wait(t, int(id+1))
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestBatchesAreBoundInBytes(t *testing.T) {
	each(t, func(t *testing.T, d *db.DB) {
		sizes := []int{1 << 20, 1 << 20, 5 << 20, 3 << 20, 1 << 10}
		for i, size := range sizes {
			e := event(int64(i + 1))
			e.Payload = fmt.Appendf(nil, `{"x":"%s"}`, strings.Repeat("a", size-8))
			add(t, d, e)
		}
		log := newTopic()
		r := relay(d, log)
		var batches []int
		for range sizes {
			n, err := r.Once(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			batches = append(batches, n)
		}
		if diff := cmp.Diff([]int{2, 1, 2, 0, 0}, batches); diff != "" {
			t.Error(diff)
		}
	})
}

func TestConfigNamesEveryProblem(t *testing.T) {
	if err := outbox.DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	err := outbox.Config{Batch: 9999, MaxPause: -1}.Validate()
	for _, key := range []string{"interval: ", "batch: ", "maxPause: "} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
}
