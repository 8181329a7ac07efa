package idgen_test

import (
	"cmp"
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

// TestHundredMillion issues 10^8 ids from eight processes that share leases, whose clocks are set back and forth by ten seconds, which
// crash, restart, and are paused past their leases while others take their numbers. Every id is there once.
func TestHundredMillion(t *testing.T) {
	const total, processes = 100_000_000, 8
	random := rand.New(rand.NewPCG(20, 26))
	leases := newMemory()
	base := newClock().Now()
	fleet := make([]*process, processes)
	begin := func(i int) {
		fleet[i] = start(t, leases, &fakeClock{now: base.Add(time.Duration(random.IntN(4000)-2000) * time.Millisecond)})
		_ = fleet[i].lease.Acquire(t.Context()) // a number may still rest: then it refuses until a step finds one
	}
	for i := range fleet {
		begin(i)
	}
	var spans []span
	var refused, restarts, steps, pauses int
	for issued := 0; issued < total; {
		base = base.Add(time.Millisecond)
		i := random.IntN(processes)
		p := fleet[i]
		p.clock.Add(time.Duration(1+random.IntN(3)) * time.Millisecond)
		switch random.IntN(400) {
		case 0:
			p.clock.Add(-10 * time.Second)
			steps++
		case 1:
			p.clock.Add(10 * time.Second)
			steps++
		case 2: // crash
			begin(i)
			restarts++
		case 3: // proper end
			_ = p.stop(t.Context())
			begin(i)
			restarts++
		case 4: // everybody else goes on for a minute, and may take its number
			for j, other := range fleet {
				if j != i {
					other.clock.Add(time.Minute)
					other.lease.Step(t.Context())
				}
			}
			base = base.Add(time.Minute)
			pauses++
		case 5, 6, 7, 8, 9, 10, 11, 12:
			p.lease.Step(t.Context())
		}
		ids, err := p.gen.NextN(idgen.MaxBatch)
		if err != nil {
			refused++
			p.clock.Add(50 * time.Millisecond)
			p.lease.Step(t.Context())
			continue
		}
		spans = append(spans, spanOf(t, ids))
		issued += len(ids)
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.worker, b.worker), cmp.Compare(a.first, b.first)) })
	for i := 1; i < len(spans); i++ {
		if a, b := spans[i-1], spans[i]; a.worker == b.worker && b.first <= a.last {
			t.Fatalf("ids of worker %d twice: %v and %v", a.worker, a, b)
		}
	}
	t.Logf("%d ids in %d packs, %d refusals, %d clock steps, %d restarts, %d pauses past the lease", len(spans)*idgen.MaxBatch, len(spans), refused, steps, restarts, pauses)
	if refused == 0 || steps == 0 || restarts == 0 || pauses == 0 {
		t.Error("something that should have happened did not")
	}
}
