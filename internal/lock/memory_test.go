package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a back end in memory whose answers can be lost. It counts from when it is asked, as the others do.
type memory struct {
	mu    sync.Mutex
	last  tenure
	lose  int           // so many answers are lost after the deed
	fail  int           // so many calls do nothing and fail
	slow  time.Duration // before every deed
	calls []string
}

var errLost = errors.New("the answer was lost")

func (m *memory) call(ctx context.Context, what string, deed func(now int64) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, what)
	if !pause(ctx, m.slow) {
		return ctx.Err()
	}
	if m.fail > 0 {
		m.fail--
		return errors.New("away")
	}
	err := deed(time.Now().UnixMicro())
	if m.lose > 0 {
		m.lose--
		return errLost
	}
	return err
}

func (m *memory) take(ctx context.Context, c *claim, ttl time.Duration) (int64, error) {
	err := m.call(ctx, "take", func(now int64) error {
		next, held := m.last.succeed(c, now, ttl)
		if held != nil {
			return held
		}
		m.last = next
		return nil
	})
	return m.last.fence, err
}

func (m *memory) extend(ctx context.Context, c *claim, ttl time.Duration) (held bool, err error) {
	err = m.call(ctx, "extend", func(now int64) error {
		if held = m.last.id == c.id && m.last.until > now; held {
			m.last.until = now + ttl.Microseconds()
		}
		return nil
	})
	return held, err
}

func (m *memory) free(ctx context.Context, c *claim) error {
	return m.call(ctx, "free", func(int64) error {
		if m.last.id == c.id {
			m.last.id = ""
		}
		return nil
	})
}

func (m *memory) count(what string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, c := range m.calls {
		if c == what {
			n++
		}
	}
	return n
}

func testParts(holder string) Parts {
	return Parts{Config: DefaultConfig(), Holder: holder, Clock: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)}
}

// inMemory runs a test on a fake clock, with two processes on one back end.
func inMemory(t *testing.T, test func(t *testing.T, m *memory, one, two *Locks)) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		test(t, m, &Locks{Parts: testParts("one"), store: m}, &Locks{Parts: testParts("two"), store: m})
	})
}
