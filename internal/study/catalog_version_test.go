package study

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
)

func TestDefinition(t *testing.T) {
	s := newShelf()
	c, m := newCatalog(t, s)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			d, err := c.Definition(t.Context(), 7, canonical)
			if err != nil || d.Canonical() != canonical {
				t.Errorf("definition %v, %v", d, err)
			}
		})
	}
	wg.Wait()
	if m.fetches != 1 {
		t.Errorf("%d fetches of one version, want 1", m.fetches)
	}
	_, err := c.Definition(t.Context(), 7, "https://example.org/q/pain|2.0.0")
	wantBecause(t, "draft", err, "invalid_response", "/response/questionnaire unknown_questionnaire")
	id, err := c.QuestionnaireID(t.Context(), 7, canonical)
	if err != nil || id != 700 {
		t.Errorf("id %d, %v", id, err)
	}
	_, err = c.QuestionnaireID(t.Context(), 7, "x|1")
	want(t, "id of an unknown one", err, "not_found")
	s.set(func() { s.err = errs.Away("study", errors.New("down")) })
	c.Forget(t.Context(), 7)
	_, err = c.Definition(t.Context(), 7, canonical)
	want(t, "nothing known and the database away", err, "unavailable")
}

func TestPublished(t *testing.T) {
	s := newShelf()
	good := packed(s.forms[0], s.body)
	for name, cached := range map[string][]byte{
		"nothing cached": nil, "as published": good, "empty": {}, "another body": []byte(strings.Replace(string(good), "Pain?", "Gain?", 1)),
		"cut off": good[:len(good)-1], "no head": s.body, "study is no number": append([]byte("x"), good...),
	} {
		t.Run(name, func(t *testing.T) {
			c, m := newCatalog(t, s)
			if cached != nil {
				m.values["questionnaire:700"] = cached
			}
			p, err := c.Published(t.Context(), 700)
			if diff := cmp.Diff(Published{7, fmt.Sprintf(`"%x"`, sha256.Sum256(s.body)), s.body}, p); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
	c, m := newCatalog(t, s)
	for _, id := range []int64{701, 999} {
		_, err := c.Published(t.Context(), id)
		want(t, "a draft or an unknown one", err, "not_found")
	}
	if len(m.values) != 0 {
		t.Errorf("what is not published got cached: %v", m.values)
	}
}

// TestWarmLookups holds the way of a submission to memory: nothing is read and nothing allocated.
func TestWarmLookups(t *testing.T) {
	c, _ := newCatalog(t, newShelf())
	for name, ask := range warm(t, c) {
		if n := testing.AllocsPerRun(1000, ask); n >= 1 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func warm(t testing.TB, c *Catalog) map[string]func() {
	ctx := t.Context()
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	return map[string]func(){
		"Study":      func() { _, err := c.Study(ctx, 7); check(err) },
		"Plan":       func() { _, err := c.Plan(ctx, 7); check(err) },
		"Definition": func() { _, err := c.Definition(ctx, 7, canonical); check(err) },
		"Site":       func() { _, err := c.Site(ctx, 7, "S01"); check(err) },
	}
}

func BenchmarkCatalog(b *testing.B) {
	c, _ := newCatalog(b, newShelf())
	for name, ask := range warm(b, c) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ask()
			}
		})
	}
}

func TestWhatDoesNotExistCostsFewReadings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		c, _ := newCatalog(t, s)
		for i := range 1000 {
			_, err := c.Definition(t.Context(), 7, fmt.Sprintf("https://example.org/q/%d|1", i))
			wantBecause(t, "unknown canonical", err, "invalid_response", "/response/questionnaire unknown_questionnaire")
			time.Sleep(time.Millisecond)
		}
		if n := s.reads.Load(); n > 6 {
			t.Errorf("%d readings in one second, want at most one every 200 ms", n)
		}
	})
}

func TestCatalogConfig(t *testing.T) {
	if err := DefaultCatalogConfig().Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	err := CatalogConfig{TTL: time.Second}.Validate()
	for _, key := range []string{"staleFor: 0s", "loadTimeout: 0s", "definitions: 0", "at least ttl"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %q", err, key)
		}
	}
}
