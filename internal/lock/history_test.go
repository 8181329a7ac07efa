package lock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/eprod/eprod/internal/testenv"
)

// step is what one caller did; token is 0 for an acquisition that was refused.
type step struct {
	release bool
	token   int64
}

// mutex is what a lock must look like to all callers together: free, or held by one, and every token above all before.
type mutex struct{ held, last int64 }

func lockModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return mutex{} },
		Step: func(state, _, output any) (bool, any) {
			m, did := state.(mutex), output.(step)
			switch {
			case did.release:
				return m.held == did.token, mutex{last: m.last}
			case did.token == 0:
				return m.held != 0, m
			}
			return m.held == 0 && did.token > m.last, mutex{held: did.token, last: did.token}
		},
	}
}

// diary is the history of all callers.
type diary struct {
	mu    sync.Mutex
	began time.Time
	steps []porcupine.Operation
}

func (d *diary) do(caller int, act func() (step, error)) (step, error) {
	call := time.Since(d.began)
	did, err := act()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.steps = append(d.steps, porcupine.Operation{ClientId: caller, Call: int64(call), Output: did, Return: int64(time.Since(d.began))})
	return did, err
}

// TestHistory lets callers take and release one lock at random, with replies lost where there is a network, and looks for an order
// in which one after another could have done all that.
func TestHistory(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		const callers, rounds = 4, 60
		d := &diary{began: time.Now()}
		var proxy *testenv.Proxy
		if p.server != "" {
			proxy = testenv.NewProxy(t, p.server)
		}
		var running sync.WaitGroup
		for caller := range callers {
			owner := fmt.Sprintf("caller-%d", caller)
			parts, address := testParts(owner), ""
			parts.Config.Timeout, parts.Config.Tries = 5*time.Second, rounds // more than replies are lost: none stays unknown
			if proxy != nil {
				address = proxy.Address()
			}
			l := p.open(t, address, parts)
			running.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(caller)))
				for round := range rounds {
					if proxy != nil && caller == 0 && round%4 == 0 {
						proxy.LoseReply(p.lose("caller-")) // whose it is, chance decides
					}
					if err := turn(by(t, owner), d, caller, l, random); err != nil {
						t.Errorf("%s: %v", owner, err)
						return
					}
				}
			})
		}
		running.Wait()
		got := 0
		for _, s := range d.steps {
			if did := s.Output.(step); did.token != 0 && !did.release {
				got++
			}
		}
		if got < callers || got == callers*rounds {
			t.Errorf("%d of %d acquisitions: nobody met anybody", got, callers*rounds)
		}
		if porcupine.CheckOperationsTimeout(lockModel(), d.steps, 30*time.Second) != porcupine.Ok {
			t.Errorf("no order explains the history of %d steps", len(d.steps))
		}
	})
}

// turn tries once to take the lock, and gives it back.
func turn(ctx context.Context, d *diary, caller int, l Locker, random *rand.Rand) error {
	var s *Lease
	did, err := d.do(caller, func() (step, error) {
		var err error
		s, err = l.Acquire(ctx, "n", time.Minute)
		var held *HeldError
		if errors.As(err, &held) {
			return step{}, nil
		}
		if err != nil {
			return step{}, err
		}
		return step{token: s.Token}, nil
	})
	if err != nil {
		return err
	}
	if !pause(ctx, time.Duration(random.IntN(2000))*time.Microsecond) {
		return ctx.Err()
	}
	if did.token == 0 {
		return nil
	}
	_, err = d.do(caller, func() (step, error) { return step{release: true, token: did.token}, s.Release(ctx) })
	return err
}

// TestHistoryIsRead: the check would see two holders at once, a token that does not grow, and a refusal without a holder.
func TestHistoryIsRead(t *testing.T) {
	at := func(call int64, s step) porcupine.Operation {
		return porcupine.Operation{ClientId: int(call), Call: call, Output: s, Return: call + 1}
	}
	for what, c := range map[string]struct {
		steps []porcupine.Operation
		want  bool
	}{
		"right":       {[]porcupine.Operation{at(1, step{token: 5}), at(3, step{}), at(5, step{true, 5}), at(7, step{token: 6})}, true},
		"two holders": {[]porcupine.Operation{at(1, step{token: 5}), at(3, step{token: 6}), at(5, step{true, 5})}, false},
		"same token":  {[]porcupine.Operation{at(1, step{token: 5}), at(3, step{true, 5}), at(5, step{token: 5})}, false},
		"no holder":   {[]porcupine.Operation{at(1, step{token: 5}), at(3, step{true, 5}), at(5, step{})}, false},
	} {
		if got := porcupine.CheckOperations(lockModel(), c.steps); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}
