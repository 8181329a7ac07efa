package notify

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/testenv"
)

func TestBudgetSuite(t *testing.T) {
	for dialect, meta := range testenv.Databases(t, "meta") {
		t.Run(dialect, func(t *testing.T) {
			budget := &Budget{Meta: meta}
			t.Run("Share", func(t *testing.T) { testBudgetShare(t, budget) })
			t.Run("Apart", func(t *testing.T) { testBudgetsApart(t, budget) })
			t.Run("Model", func(t *testing.T) { testBudgetModel(t, budget) })
			t.Run("Together", func(t *testing.T) { testBudgetTogether(t, budget) })
			t.Run("Interrupted", func(t *testing.T) { testBudgetInterrupted(t, budget) })
		})
	}
}

func wantGrant(t *testing.T, b *Budget, study int64, channel Channel, day string, n, limit, want int) {
	t.Helper()
	if got, err := b.Take(t.Context(), study, channel, day, n, limit); got != want || err != nil {
		t.Errorf("%d of %d for study %d, %s, %s: got %d, %v, want %d", n, limit, study, channel, day, got, err, want)
	}
}

func testBudgetShare(t *testing.T, b *Budget) {
	for _, c := range []struct{ n, limit, want int }{
		{0, 10, 0}, {-1, 10, 0}, {3, 0, 0}, {3, -5, 0}, // none asked for, or none allowed
		{4, 10, 4}, {4, 10, 4}, {4, 10, 2}, {1, 10, 0}, // what is left, then nothing
		{5, 8, 0}, {5, 12, 2}, {1, 12, 0}, // the limit is changed during the day
	} {
		wantGrant(t, b, 1, SMS, "2026-03-01", c.n, c.limit, c.want)
	}
}

func testBudgetsApart(t *testing.T, b *Budget) {
	wantGrant(t, b, 2, SMS, "2026-03-01", 5, 5, 5)
	wantGrant(t, b, 2, Email, "2026-03-01", 5, 5, 5)
	wantGrant(t, b, 2, SMS, "2026-03-02", 5, 5, 5)
	wantGrant(t, b, 3, SMS, "2026-03-01", 5, 5, 5)
	wantGrant(t, b, 2, SMS, "2026-03-01", 1, 5, 0)
}

// testBudgetModel holds any sequence of limits and wishes against the rule in one line.
func testBudgetModel(t *testing.T, b *Budget) {
	study := int64(100)
	rapid.Check(t, func(t *rapid.T) {
		study++
		used := 0
		for range rapid.IntRange(1, 6).Draw(t, "calls") {
			n, limit := rapid.IntRange(-1, 9).Draw(t, "n"), rapid.IntRange(-1, 20).Draw(t, "limit")
			want := max(0, min(n, limit-used))
			if got, err := b.Take(context.Background(), study, SMS, "2026-03-01", n, limit); got != want || err != nil {
				t.Fatalf("%d of %d, %d used: got %d, %v, want %d", n, limit, used, got, err, want)
			}
			used += want
		}
	})
}

// testBudgetTogether: eight takers who begin at once, the row not there yet, get the limit and not one more, on any of many days.
func testBudgetTogether(t *testing.T, b *Budget) {
	const limit = 20
	for day := range 8 {
		var granted atomic.Int64
		var takers sync.WaitGroup
		begin := make(chan struct{})
		for taker := range 8 {
			takers.Go(func() {
				<-begin
				for range 3 {
					got, err := b.Take(t.Context(), 4, Email, fmt.Sprintf("2026-03-%02d", day+1), 1+taker%3, limit)
					if err != nil {
						t.Error(err)
						return
					}
					granted.Add(int64(got))
				}
			})
		}
		close(begin)
		takers.Wait()
		if n := granted.Load(); n != limit {
			t.Errorf("day %d: %d were granted, want %d", day, n, limit)
		}
	}
}

// testBudgetInterrupted: takers who are cut off at any point may lose what they were granted, but none gets too much.
func testBudgetInterrupted(t *testing.T, b *Budget) {
	const limit = 40
	var granted atomic.Int64
	var takers sync.WaitGroup
	for taker := range 8 {
		takers.Go(func() {
			for range 10 {
				ctx, leave := context.WithCancel(t.Context())
				if taker%2 == 0 {
					go leave()
				}
				got, err := b.Take(ctx, 5, SMS, "2026-03-01", 1, limit)
				leave()
				if err == nil {
					granted.Add(int64(got))
				} else if got != 0 {
					t.Errorf("%d were granted with %v", got, err)
				}
			}
		})
	}
	takers.Wait()
	rest, err := b.Take(t.Context(), 5, SMS, "2026-03-01", limit, limit)
	if n := granted.Load() + int64(rest); n > limit || err != nil {
		t.Errorf("%d were granted, %v", n, err)
	}
	wantGrant(t, b, 5, SMS, "2026-03-01", 1, limit, 0)
}
