package lock

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// counts is a Meter for tests.
type counts struct {
	mu sync.Mutex
	of map[string]int
}

// Requested implements Meter.
func (c *counts) Requested(_, outcome string) { c.add(outcome, 1) }

// Holding implements Meter.
func (c *counts) Holding(_ string, change int) { c.add("holding", change) }

// Lost implements Meter.
func (c *counts) Lost(string) { c.add("lost", 1) }

func (c *counts) add(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[what] += n
}

func (c *counts) read() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprint(c.of)
}

// TestMeter: every back end counts what is asked for, what is held, and what ended under its holder.
func TestMeter(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		meter := &counts{of: map[string]int{}}
		parts := testParts("one")
		parts.Config.Timeout, parts.Meter = 5*time.Second, meter
		l := p.open(t, "", parts)
		mine := acquired(t, l, "anna", "n", time.Minute)
		refused(t, l, "bert", "n", "anna")
		if diff := cmp.Diff("map[acquired:1 held:1 holding:1]", meter.read()); diff != "" {
			t.Error(diff)
		}
		released(t, mine)
		released(t, mine)
		short, err := l.Acquire(WithOwner(context.Background(), "anna"), "m", max(p.ttl, 30*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		<-short.Done()
		end := time.Now().Add(5 * time.Second)
		const want = "map[acquired:2 held:1 holding:0 lost:1]"
		for meter.read() != want && time.Now().Before(end) {
			time.Sleep(time.Millisecond)
		}
		if diff := cmp.Diff(want, meter.read()); diff != "" {
			t.Error(diff)
		}
		released(t, short)
	})
}
