package limit_test

import (
	"sync"
	"testing"

	"github.com/eprod/eprod/internal/limit"
)

func TestInFlight(t *testing.T) {
	f := limit.NewInFlight(2)
	one, ok1 := f.TryAcquire()
	_, ok2 := f.TryAcquire()
	_, ok3 := f.TryAcquire()
	if !ok1 || !ok2 || ok3 || f.Count() != 2 || f.Refused() != 1 {
		t.Fatalf("%v %v %v count %d refused %d", ok1, ok2, ok3, f.Count(), f.Refused())
	}
	one()
	if _, ok := f.TryAcquire(); !ok {
		t.Error("a released place was not given again")
	}
}

func TestInFlightConcurrent(t *testing.T) {
	f := limit.NewInFlight(8)
	var wg sync.WaitGroup
	var mu sync.Mutex
	inside, most := 0, 0
	for range 64 {
		wg.Go(func() {
			for range 200 {
				release, ok := f.TryAcquire()
				if !ok {
					continue
				}
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				mu.Lock()
				inside--
				mu.Unlock()
				release()
			}
		})
	}
	wg.Wait()
	if most > 8 || f.Count() != 0 {
		t.Errorf("most %d inside, %d left", most, f.Count())
	}
}
