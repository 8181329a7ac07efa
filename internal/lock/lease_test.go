package lock

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

func over(s *Lease) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

func TestLeaseEnds(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, one, two *Locks) {
		began := time.Now()
		s, err := one.Acquire(t.Context(), "n", 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if until := s.ValidUntil().Sub(began); until != 10*time.Second-102*time.Millisecond {
			t.Errorf("valid for %v, want 10s less 1 per cent and 2 ms", until)
		}
		time.Sleep(s.ValidUntil().Sub(began) - time.Nanosecond)
		synctest.Wait()
		if over(s) {
			t.Error("over before its end")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !over(s) {
			t.Error("not over at its end")
		}
		if _, err := two.Acquire(t.Context(), "n", time.Second); errs.KindOf(err) != errs.Conflict {
			t.Errorf("got %v before the back end let go", err)
		}
		time.Sleep(102 * time.Millisecond)
		next, err := two.Acquire(t.Context(), "n", time.Second)
		if err != nil || next.Token <= s.Token {
			t.Fatalf("%v %v, want a token above %d", next, err, s.Token)
		}
		if err := s.Release(t.Context()); err != nil || over(next) || m.last.id == "" {
			t.Errorf("the late release of the first: %v", err)
		}
		if err := next.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestValidityCountsFromTheRequest: what the network takes is the holder's loss, and a lease without validity is none.
func TestValidityCountsFromTheRequest(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, one, _ *Locks) {
		m.slow = 300 * time.Millisecond
		began := time.Now()
		s, err := one.Acquire(t.Context(), "n", time.Second)
		if err != nil || s.ValidUntil().Sub(began) > time.Second {
			t.Fatalf("%v, valid for %v", err, s.ValidUntil().Sub(began))
		}
		if err := s.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s, err := one.Acquire(t.Context(), "n", 250*time.Millisecond); errs.KindOf(err) != errs.Unavailable || m.last.id != "" {
			t.Errorf("got %v %v for a lease that was over when it came", s, err)
		}
	})
}

func TestRenewalHasACap(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, one, two *Locks) {
		began := time.Now()
		s, err := one.Acquire(t.Context(), "n", 3*time.Second, Renew(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		next, err := two.Acquire(t.Context(), "n", time.Second, Wait(2*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if held := time.Since(began); held < time.Minute || held > time.Minute+DefaultConfig().WaitMax || !over(s) {
			t.Errorf("held for %v, want a minute", held)
		}
		if n := m.count("extend"); n < 50 || n > 62 {
			t.Errorf("extended %d times in a minute, want about one a second", n)
		}
		if err := errors.Join(next.Release(t.Context()), s.Release(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

func TestRenewalOutlivesLostAnswers(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, one, _ *Locks) {
		s, err := one.Acquire(t.Context(), "n", 3*time.Second, Renew(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			m.mu.Lock()
			m.lose, m.fail = 1, 2
			m.mu.Unlock()
			time.Sleep(4 * time.Second)
			synctest.Wait()
			if over(s) || !s.ValidUntil().After(time.Now()) {
				t.Fatal("three failures in a row ended a lease that had time for more")
			}
		}
		m.mu.Lock()
		m.fail = 1000
		end := s.until
		m.mu.Unlock()
		<-s.Done()
		if late := time.Since(end); late < 0 || late > 10*time.Millisecond {
			t.Errorf("ended %v after its end", late)
		}
		m.fail = 0
		if err := s.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestLossIsNoticed(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, one, _ *Locks) {
		s, err := one.Acquire(t.Context(), "n", 3*time.Second, Renew(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		m.last = tenure{fence: m.last.fence + 1, id: "x", until: time.Now().Add(time.Hour).UnixMicro()}
		m.mu.Unlock()
		began := time.Now()
		<-s.Done()
		if took := time.Since(began); took > time.Second {
			t.Errorf("noticed after %v, want a third of the ttl", took)
		}
		if err := s.Release(t.Context()); err != nil || m.last.id != "x" {
			t.Errorf("released somebody else's lock: %v", err)
		}
	})
}

func TestWaiting(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, one, two *Locks) {
		s, err := one.Acquire(WithOwner(t.Context(), "the first"), "n", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = two.Acquire(t.Context(), "n", time.Minute, Wait(5*time.Second))
		var held *HeldError
		if !errors.As(err, &held) || held.Owner != "the first" || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if n := m.count("take"); n < 20 || n > 60 { // 5 s at 125 to 250 ms
			t.Errorf("asked %d times", n)
		}
		refusal, _ := errs.As(err)
		if refusal == nil || refusal.Kind != errs.Conflict || refusal.Code != "locked" || refusal.Members["holder"] != "the first" || refusal.Members["until"] == "" {
			t.Errorf("refusal %+v", refusal)
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err = two.Acquire(ctx, "n", time.Minute, Wait(time.Hour)); errs.KindOf(err) != errs.Conflict || ctx.Err() == nil {
			t.Errorf("%v, want a refusal when the caller's time is up", err)
		}
		time.AfterFunc(time.Second, func() { _ = s.Release(context.Background()) })
		began = time.Now()
		next, err := two.Acquire(t.Context(), "n", time.Minute, Wait(time.Hour))
		if took := time.Since(began); err != nil || took < time.Second || took > time.Second+DefaultConfig().WaitMax {
			t.Fatalf("%v after %v, want the lock soon after its release", err, took)
		}
		if err := next.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestLostAnswers: each question is asked again, and the answer to the deed itself deceives nobody.
func TestLostAnswers(t *testing.T) {
	inMemory(t, func(t *testing.T, m *memory, one, two *Locks) {
		m.lose = 1
		s, err := one.Acquire(t.Context(), "n", time.Minute)
		if err != nil || s.Token != m.last.fence {
			t.Fatalf("the acquisition's own lock kept it out: %v", err)
		}
		m.lose = 1
		if err := s.Release(t.Context()); err != nil || m.last.id != "" {
			t.Errorf("release: %v", err)
		}
		m.lose = 2 // both tries: it must be given back
		if _, err := one.Acquire(t.Context(), "n", time.Minute); errs.KindOf(err) != errs.Unavailable || !errors.Is(err, errLost) {
			t.Errorf("got %v", err)
		}
		next, err := two.Acquire(t.Context(), "n", time.Minute)
		if err != nil {
			t.Fatalf("an acquisition that failed holds the lock: %v", err)
		}
		m.fail = 2
		if err := next.Release(t.Context()); errs.KindOf(err) != errs.Unavailable || !over(next) {
			t.Errorf("got %v from a release that failed", err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := next.Release(ended); err != nil || m.last.id != "" {
			t.Errorf("the release was not made good: %v", err)
		}
		if n := m.count("free"); next.Release(t.Context()) != nil || m.count("free") != n {
			t.Error("released again")
		}
	})
}

func TestSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &recording{locks: map[string]*Locks{}}
		first, err := AcquireSeveral(t.Context(), l, []string{"b", "c", "a", "b"}, time.Minute)
		if err != nil || !slices.Equal(l.names, []string{"a", "b", "c"}) || len(first) != 3 {
			t.Fatalf("took %v: %v", l.names, err)
		}
		if until := first.ValidUntil(); until != first[0].ValidUntil() {
			t.Errorf("valid until %v", until)
		}
		if err := first[1].Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := AcquireSeveral(t.Context(), l, []string{"b", "c"}, time.Minute); errs.KindOf(err) != errs.Conflict || got != nil {
			t.Errorf("got %v %v, want a refusal", got, err)
		}
		if err := first.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, locks := range l.locks {
			if m := locks.store.(*memory); m.last.id != "" {
				t.Errorf("%s is still held", name)
			}
		}
		if _, err := AcquireSeveral(t.Context(), l, strings.Split(strings.Repeat("x", 65), ""), time.Minute); err != nil {
			t.Errorf("one name many times: %v", err)
		}
		l.slow = time.Second
		if got, err := AcquireSeveral(t.Context(), l, []string{"e", "f"}, 900*time.Millisecond); errs.KindOf(err) != errs.Unavailable || got != nil {
			t.Errorf("got %v %v, though the first ran out", got, err)
		}
		l.locks["x"].store.(*memory).last.id = ""
		time.Sleep(time.Hour)
	})
}

// recording has one memory per name.
type recording struct {
	locks map[string]*Locks
	names []string
	slow  time.Duration
}

func (r *recording) Acquire(ctx context.Context, name string, ttl time.Duration, options ...Option) (*Lease, error) {
	r.names = append(r.names, name)
	if r.locks[name] == nil {
		r.locks[name] = &Locks{Parts: testParts("one"), store: &memory{}}
	}
	time.Sleep(r.slow)
	return r.locks[name].Acquire(ctx, name, ttl, options...)
}

func TestWhatIsAskedFor(t *testing.T) {
	m := &memory{}
	l := &Locks{Parts: testParts("one"), store: m}
	for what, ask := range map[string]func() (*Lease, error){
		"no name":    func() (*Lease, error) { return l.Acquire(t.Context(), "", time.Second) },
		"long name":  func() (*Lease, error) { return l.Acquire(t.Context(), strings.Repeat("x", 201), time.Second) },
		"short ttl":  func() (*Lease, error) { return l.Acquire(t.Context(), "n", time.Millisecond) },
		"long ttl":   func() (*Lease, error) { return l.Acquire(t.Context(), "n", time.Hour) },
		"short hold": func() (*Lease, error) { return l.Acquire(t.Context(), "n", time.Minute, Renew(time.Second)) },
		"no owner":   func() (*Lease, error) { return NewReentrant(nil, "", l.Parts).Acquire(t.Context(), "n", time.Second) },
		"many locks": func() (*Lease, error) { return nil, manyLocks(t, l) },
		"no randomness": func() (*Lease, error) {
			l := &Locks{Parts: testParts("one"), store: m}
			l.Random = bytes.NewReader(nil)
			return l.Acquire(t.Context(), "n", time.Second)
		},
	} {
		if lease, err := ask(); err == nil || lease != nil {
			t.Errorf("%s: taken", what)
		}
	}
	if len(m.calls) != 0 {
		t.Errorf("asked the back end: %v", m.calls)
	}
	s, err := l.Acquire(WithOwner(t.Context(), strings.Repeat("x", 127)+"ü"), "n", time.Second)
	if err != nil || m.last.holder != strings.Repeat("x", 127) {
		t.Errorf("holder %q: %v", m.last.holder, err)
	}
	if err := s.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

func manyLocks(t *testing.T, l *Locks) error {
	names := make([]string, maxSeveral+1)
	for i := range names {
		names[i] = strings.Repeat("x", i+1)
	}
	_, err := AcquireSeveral(t.Context(), l, names, time.Second)
	return err
}

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{Backend: "zookeeper", WaitMin: 2, WaitMax: 1}.Validate()
	for _, key := range []string{"backend: zookeeper", "timeout", "tries", "waitMin", "waitMax", "maxTtl"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
}
