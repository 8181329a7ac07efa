package idgen_test

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/idgen"
)

// span is a run of neighbouring ids of one worker number, as milliseconds<<12 | sequence.
type span struct{ worker, first, last int64 }

func spanOf(t *testing.T, ids []int64) span {
	t.Helper()
	word := func(id int64) int64 { return id>>22<<12 | id&4095 }
	s := span{ids[0] >> 12 & 1023, word(ids[0]), word(ids[len(ids)-1])}
	if s.last-s.first != int64(len(ids))-1 {
		t.Fatalf("%d ids span %d numbers", len(ids), s.last-s.first+1)
	}
	for i, id := range ids {
		if word(id) != s.first+int64(i) || id>>12&1023 != s.worker {
			t.Fatalf("id %d of a pack is not the neighbour of the one before", i)
		}
	}
	return s
}

// fleet is eight processes that share leases, whose clocks are set back and forth by ten seconds, which crash, restart, and stand
// still while others take their numbers.
type fleet struct {
	t      *testing.T
	leases idgen.Leases
	random *rand.Rand
	base   time.Time
	alive  [8]*process

	spans                              []span
	clock, lease                       int // refusals
	steps, restarts, takeOvers, pauses int
}

func runFleet(t *testing.T, leases idgen.Leases, total int64) *fleet {
	f := &fleet{t: t, leases: leases, random: rand.New(rand.NewPCG(20, 26)), base: newClock().Now()}
	for i := range f.alive {
		f.begin(i)
	}
	for issued := int64(0); issued < total; {
		f.base = f.base.Add(time.Millisecond)
		i := f.random.IntN(len(f.alive))
		p := f.alive[i]
		p.clock.Add(time.Duration(1+f.random.IntN(3)) * time.Millisecond)
		switch f.random.IntN(200) {
		case 0:
			p.clock.Add(-10 * time.Second)
			f.steps++
		case 1:
			p.clock.Add(10 * time.Second)
			f.steps++
		case 2: // crash
			f.begin(i)
		case 3: // a new version is rolled out
			for j, old := range f.alive {
				_ = old.stop(t.Context())
				f.begin(j)
			}
		case 4:
			issued += f.standStill(i)
		case 5, 6, 7, 8, 9, 10:
			p.lease.Step(t.Context())
		}
		n := f.issue(f.alive[i])
		if n == 0 {
			f.alive[i].clock.Add(50 * time.Millisecond)
			f.alive[i].lease.Step(t.Context())
		}
		issued += n
	}
	return f
}

// begin replaces a process by one whose clock is off by up to two seconds.
func (f *fleet) begin(i int) {
	f.alive[i] = start(f.t, f.leases, &fakeClock{now: f.base.Add(time.Duration(f.random.IntN(4000)-2000) * time.Millisecond)})
	_ = f.alive[i].lease.Acquire(f.t.Context()) // a number may still rest: then it refuses until a step finds one
	f.restarts++
}

// issue takes a pack of ids from a process and returns how many it got.
func (f *fleet) issue(p *process) int64 {
	n := idgen.MaxBatch
	if f.random.IntN(2) == 0 {
		n = 1 + f.random.IntN(n)
	}
	ids, err := p.gen.NextN(n)
	switch {
	case errors.Is(err, idgen.ErrClock):
		f.clock++
	case errors.Is(err, idgen.ErrNoLease):
		f.lease++
	case err == nil:
		f.spans = append(f.spans, spanOf(f.t, ids))
	}
	return int64(len(ids))
}

// standStill stops a process for up to a minute, in which others start anew and may take its number. It wakes up with a clock that went
// on or stood still, and issues ids as long as it believes that it may, as its heir does.
func (f *fleet) standStill(i int) (issued int64) {
	p, pause := f.alive[i], time.Duration(20+f.random.IntN(40))*time.Second
	f.base = f.base.Add(pause)
	f.pauses++
	busy := []*process{p}
	for j, other := range f.alive {
		if j == i {
			continue
		}
		other.clock.Add(pause)
		if f.random.IntN(2) == 0 {
			f.begin(j)
		} else {
			other.lease.Step(f.t.Context())
		}
		if w := f.alive[j].lease.Worker(); w >= 0 && w == p.lease.Worker() {
			f.takeOvers++
			busy = append(busy, f.alive[j])
		}
	}
	if f.random.IntN(2) == 0 {
		p.clock.Add(pause)
	}
	for range 100 {
		for _, q := range busy {
			q.clock.Add(time.Duration(f.random.IntN(30)) * time.Millisecond)
			issued += f.issue(q)
		}
	}
	return issued
}

// ids counts what was issued.
func (f *fleet) ids() (n int64) {
	for _, s := range f.spans {
		n += s.last - s.first + 1
	}
	return n
}

// repeated sorts the spans and counts those that share ids with another.
func (f *fleet) repeated() int {
	slices.SortFunc(f.spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.worker, b.worker), cmp.Compare(a.first, b.first)) })
	n, last := 0, span{worker: -1}
	for _, s := range f.spans {
		if s.worker == last.worker && s.first <= last.last {
			n++
		}
		if s.worker != last.worker || s.last > last.last {
			last = s
		}
	}
	return n
}

// TestHundredMillion: every one of 10^8 ids is there once.
func TestHundredMillion(t *testing.T) {
	f := runFleet(t, newMemory(), 100_000_000)
	if n := f.repeated(); n != 0 || f.ids() < 100_000_000 {
		t.Errorf("%d packs hold ids that another holds", n)
	}
	t.Logf("%d ids in %d packs, refused %d times for the clock and %d for want of a lease; %d clock steps, %d restarts, %d pauses past the lease, %d take-overs",
		f.ids(), len(f.spans), f.clock, f.lease, f.steps, f.restarts, f.pauses, f.takeOvers)
	if f.clock == 0 || f.lease == 0 || f.steps == 0 || f.restarts == 0 || f.pauses == 0 || f.takeOvers == 0 {
		t.Error("something that should have happened did not")
	}
}

// hasty gives numbers away ten seconds before their leases end, and does not say so.
type hasty struct{ *memory }

func (h hasty) Take(ctx context.Context, owner string, now, until time.Time) (idgen.Grant, error) {
	g, err := h.memory.Take(ctx, owner, now.Add(10*time.Second), until)
	g.Floor = time.Time{}
	return g, err
}

// oral renews without writing it down.
type oral struct{ *memory }

func (oral) Renew(context.Context, idgen.Grant, time.Time) (bool, error) { return true, nil }

// lying is told of a high water and forgets it.
type lying struct{ *memory }

func (l lying) Release(ctx context.Context, g idgen.Grant, highWater time.Time) error {
	return l.memory.Release(ctx, g, highWater.Add(-10*time.Second))
}

// TestDefectsShow: the same fleet repeats ids as soon as a store of leases breaks its promise, so the test above would see it.
func TestDefectsShow(t *testing.T) {
	for name, leases := range map[string]idgen.Leases{
		"numbers given away early": hasty{newMemory()}, "renewals not stored": oral{newMemory()}, "high water forgotten": lying{newMemory()},
	} {
		t.Run(name, func(t *testing.T) {
			n := runFleet(t, leases, 100_000_000).repeated()
			if n == 0 {
				t.Error("no id came twice")
			}
			t.Logf("%d packs hold ids that another holds", n)
		})
	}
}
