package study

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/questionnaire"
)

type uncounted struct{}

func (uncounted) Cached(string) {}

// deaf is a shared cache whose deletions get lost.
type deaf struct{ *cache.Gated }

func (deaf) Invalidate(context.Context, string, int64) error { return errors.New("cut off") }

// carrier carries out invalidations as the consumer of the relayed events does.
type carrier struct {
	*cache.Invalidator
	carried int
}

func (c *carrier) Publish(ctx context.Context, messages []kafka.Message) error {
	c.carried += len(messages)
	return c.Handle(ctx, messages)
}

// TestProcessesShareDesigns: a catalog reads what another one has filled in, sees its own process' change at once even where
// the deletion is lost, never goes back behind what it has seen, and the change's event sets the shared cache right for all.
func TestProcessesShareDesigns(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
		defer client.Close()
		gated := cache.NewGated(cache.NewRedis(client, "x:", time.Second), cache.DefaultConfig(), uncounted{})
		process := func(designs Designs) *Catalog {
			c, err := NewCatalog(DefaultCatalogConfig(), questionnaire.DefaultLimits(), w.store, &memory{values: make(map[string][]byte)}, designs, w.clock.Now)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		writer, other := process(deaf{gated}), process(gated)
		w.Service.Catalog = writer
		st := w.create(t, "EP-900")
		sites := func(c *Catalog) int {
			t.Helper()
			w.clock.Advance(DefaultCatalogConfig().TTL) // so that it asks the shared cache
			v, err := c.view(t.Context(), st.ID)
			if err != nil {
				t.Fatal(err)
			}
			return len(v.sites)
		}
		before := sites(writer)
		if n := sites(other); n != before {
			t.Fatalf("%d sites, the other process sees %d", before, n)
		}
		if _, err := w.AddSite(acting(t.Context(), manager), st.ID, "S99", "Late"); err != nil {
			t.Fatal(err)
		}
		if own, others := sites(writer), sites(process(gated)); own != before+1 || others != before+1 {
			t.Errorf("after the change, which its own reading repairs: %d and %d sites, want %d", own, others, before+1)
		}
		// The deletion is lost and nobody reads in the writing process: only the event is left.
		if _, err := w.AddSite(acting(t.Context(), manager), st.ID, "S98", "Later"); err != nil {
			t.Fatal(err)
		}
		stale := sites(process(gated))
		log := &carrier{Invalidator: &cache.Invalidator{Cache: gated, Logger: slog.New(slog.DiscardHandler)}}
		if _, err := outbox.NewRelay(w.meta, log, 8, outbox.DefaultConfig(), slog.New(slog.DiscardHandler)).Once(t.Context()); err != nil || log.carried == 0 {
			t.Fatalf("%d events, %v", log.carried, err)
		}
		if n := sites(process(gated)); stale != before+1 || n != before+2 {
			t.Errorf("before the event %d sites, after it %d, want %d and %d", stale, n, before+1, before+2)
		}
		var out strings.Builder
		v := &Verifier{Studies: w.store, Catalog: other, Cache: gated, Logger: slog.New(slog.NewTextHandler(&out, nil))}
		if checked, wrong, err := v.All(t.Context()); checked != 1 || wrong != 0 || err != nil {
			t.Errorf("all right: %d checked, %d wrong, %v", checked, wrong, err)
		}
		if _, err := w.AddSite(acting(t.Context(), manager), st.ID, "S97", "Latest"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{1, 0} {
			if checked, wrong, err := v.All(t.Context()); checked != 1 || wrong != want || err != nil || !strings.Contains(out.String(), "old version of a study") {
				t.Errorf("after a lost deletion: %d checked, %d wrong, %v, logged %s", checked, wrong, err, out.String())
			}
		}
	})
}
