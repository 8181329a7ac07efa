package study

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/task"
)

// Reader is what the catalog reads; Store implements it.
type Reader interface {
	ByID(ctx context.Context, id int64) (Study, error)
	Revision(ctx context.Context, id int64) (int64, error)
	ByProtocol(ctx context.Context, protocol string) (Study, error)
	Sites(ctx context.Context, study int64) ([]Site, error)
	Arms(ctx context.Context, study int64) ([]Arm, error)
	Questionnaires(ctx context.Context, study int64) ([]Questionnaire, error)
	Questionnaire(ctx context.Context, id int64) (Questionnaire, []byte, error)
	Schedules(ctx context.Context, study int64) ([]ScheduleVersion, error)
}

// Versions fetches values that never change under their key, from a cache or else from load.
type Versions interface {
	Fetch(ctx context.Context, key string, load func(ctx context.Context) ([]byte, error)) ([]byte, error)
}

// Designs fetches values that change under their key; see cache.Gated for its promises.
type Designs interface {
	Get(ctx context.Context, key string, floor int64, load cache.Load) ([]byte, error)
	Invalidate(ctx context.Context, key string, version int64) error
}

// CatalogConfig bounds what the catalog remembers.
type CatalogConfig struct {
	TTL         time.Duration `koanf:"ttl"`         // how old a view may be before it is read again: the delay until another process' change is seen
	StaleFor    time.Duration `koanf:"staleFor"`    // how old a view may be while the metadata database does not answer
	LoadTimeout time.Duration `koanf:"loadTimeout"` // for one reading
	Definitions int           `koanf:"definitions"` // compiled questionnaire versions in memory
	VerifyEvery time.Duration `koanf:"verifyEvery"` // how often a sample of the shared cache is held against the database
}

// DefaultCatalogConfig returns settings for some hundred studies.
func DefaultCatalogConfig() CatalogConfig {
	return CatalogConfig{TTL: 2 * time.Second, StaleFor: 10 * time.Minute, LoadTimeout: time.Second, Definitions: 2000, VerifyEvery: time.Minute}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c CatalogConfig) Validate() error {
	var problems []error
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"ttl", c.TTL}, {"staleFor", c.StaleFor}, {"loadTimeout", c.LoadTimeout}, {"verifyEvery", c.VerifyEvery}} {
		if d.value <= 0 {
			problems = append(problems, fmt.Errorf("%s: %v: must be above zero, such as 2s", d.key, d.value))
		}
	}
	if c.StaleFor < c.TTL {
		problems = append(problems, fmt.Errorf("staleFor: %v: must be at least ttl", c.StaleFor))
	}
	if c.Definitions < 1 {
		problems = append(problems, fmt.Errorf("definitions: %d: must be 1 or more", c.Definitions))
	}
	return errors.Join(problems...)
}

// Catalog is the view of studies from memory. Another process' change is seen after the TTL at the latest, this process' own
// at once; while the metadata database is away the last view is good for StaleFor. Published questionnaire versions never
// change, so they are compiled once. Rights are never asked of it. Safe for concurrent use.
type Catalog struct {
	reader   Reader
	versions Versions
	designs  Designs
	config   CatalogConfig
	limits   questionnaire.Limits
	now      func() time.Time

	mu      sync.RWMutex // guards views, names and changes
	views   map[int64]*view
	names   map[string]int64 // protocol number → study; it never changes
	floors  map[int64]int64  // the youngest revision that was seen, or unseen after a change of this process' own
	changes int64            // how often Forget was called

	flights     singleflight.Group
	definitions *lru.Cache[int64, *questionnaire.Definition]
	bodies      *lru.Cache[int64, Published]
}

// view is one study as it was at one moment. Only its atomics ever change.
type view struct {
	at       time.Time
	revision int64
	study    Study
	sites    []Site
	arms     []Arm
	plan     task.Plan
	active   map[string]*Questionnaire // by canonical

	next   atomic.Int64 // Unix nanoseconds from which on a caller may try to read it anew
	failed atomic.Bool  // the last try did not succeed
}

// turn lets one caller at a time read the view anew, and the next one only after a pause.
func (v *view) turn(now time.Time, pause time.Duration) bool {
	next := v.next.Load()
	return now.UnixNano() >= next && v.next.CompareAndSwap(next, now.Add(pause).UnixNano())
}

const maxViews = 5000 // studies in memory; beyond, all are read anew

// NewCatalog returns an empty catalog.
func NewCatalog(config CatalogConfig, limits questionnaire.Limits, reader Reader, versions Versions, designs Designs, now func() time.Time) (*Catalog, error) {
	definitions, err := lru.New[int64, *questionnaire.Definition](config.Definitions)
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	bodies, err := lru.New[int64, Published](min(config.Definitions, maxBodies))
	return &Catalog{reader: reader, versions: versions, designs: designs, config: config, limits: limits, now: now, views: make(map[int64]*view),
		names: make(map[string]int64), floors: make(map[int64]int64), definitions: definitions, bodies: bodies}, err
}

// Forget makes the next question about a study read it anew, from the database: this process has just changed it. Other
// processes share a cache, which forgets it as well; should it not answer, the change's own event repeats that.
func (c *Catalog) Forget(ctx context.Context, id int64) {
	_ = c.designs.Invalidate(context.WithoutCancel(ctx), designKey(id), 0)
	c.mu.Lock()
	delete(c.views, id)
	c.floors[id] = unseen
	c.changes++ // a reading that began before the change must not become the view again
	c.mu.Unlock()
	c.flights.Forget(flightOf(id))
}

const unseen = math.MaxInt64 // a floor that only the database reaches

func flightOf(study int64) string { return "study:" + strconv.FormatInt(study, 10) }

// view returns a study. In the second half of the TTL one caller reads it anew while the others go on with what there is;
// after the TTL all wait, unless the database has just failed to answer: then the old view is good for StaleFor, and one
// caller at a time tries.
func (c *Catalog) view(ctx context.Context, id int64) (*view, error) {
	c.mu.RLock()
	v := c.views[id]
	c.mu.RUnlock()
	if v == nil {
		return c.load(ctx, id)
	}
	now := c.now()
	age := now.Sub(v.at)
	usable := age < c.config.TTL || v.failed.Load() && age < c.config.StaleFor
	if age < c.config.TTL/2 || usable && !v.turn(now, c.config.TTL/2+c.config.LoadTimeout) {
		return v, nil
	}
	fresh, err := c.load(ctx, id)
	if err == nil || errs.KindOf(err) == errs.NotFound || age >= c.config.StaleFor {
		return fresh, err
	}
	if ctx.Err() == nil { // else only this caller was in a hurry
		v.failed.Store(true)
	}
	return v, nil
}

// again returns a younger view, for what v does not know: another process may have added it just now. It reads at most ten
// times in a TTL, however many callers ask for what does not exist, and not while the database fails to answer.
func (c *Catalog) again(ctx context.Context, v *view) *view {
	if v.failed.Load() || c.now().Sub(v.at) < c.config.TTL/10 {
		return v
	}
	fresh, err := c.load(ctx, v.study.ID)
	if err != nil {
		return v
	}
	return fresh
}

func (c *Catalog) load(ctx context.Context, id int64) (*view, error) {
	return shared(ctx, c, flightOf(id), func(ctx context.Context) (*view, error) {
		c.mu.RLock()
		changes, floor := c.changes, c.floors[id]
		c.mu.RUnlock()
		v, err := c.read(ctx, id, floor)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if changes != c.changes {
			return v, nil
		}
		if len(c.views) >= maxViews {
			clear(c.views)
			clear(c.names)
			clear(c.floors)
		}
		c.views[id], c.names[v.study.Protocol], c.floors[id] = v, id, v.revision
		return v, nil
	})
}

// shared lets callers that ask for the same thing at once share one reading. It goes on when one of them leaves, for
// LoadTimeout at the longest.
func shared[T any](ctx context.Context, c *Catalog, key string, read func(ctx context.Context) (T, error)) (T, error) {
	flight := c.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.config.LoadTimeout)
		defer cancel()
		return read(ctx)
	})
	var none T
	select {
	case r := <-flight:
		if r.Err != nil {
			return none, r.Err
		}
		return r.Val.(T), nil
	case <-ctx.Done():
		return none, errs.Away("the study", ctx.Err())
	}
}

func designKey(study int64) string { return "design:2:" + strconv.FormatInt(study, 10) }

// snapshot is everything that a view is made of, as processes share it.
type snapshot struct {
	Revision       int64
	Study          Study
	Sites          []Site
	Arms           []Arm
	Questionnaires []Questionnaire // active ones
	Schedules      []ScheduleVersion
}

// read returns a study as it is now, or as the shared cache has it where that is not older than revision floor.
func (c *Catalog) read(ctx context.Context, id, floor int64) (*view, error) {
	at := c.now()
	raw, err := c.designs.Get(ctx, designKey(id), floor, func(ctx context.Context) ([]byte, int64, error) {
		d, err := c.gather(ctx, id)
		if err != nil {
			return nil, 0, err
		}
		raw, err := json.Marshal(d)
		return raw, d.Revision, err
	})
	if err != nil {
		return nil, err
	}
	var d snapshot
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("cached study %d: %w", id, err)
	}
	return d.view(at)
}

// Verify holds what the shared cache has of a study against the database; see cache.Gated.Verify.
func (c *Catalog) Verify(ctx context.Context, id int64, verify func(ctx context.Context, key string, load cache.Load) (bool, error)) (bool, error) {
	return verify(ctx, designKey(id), func(ctx context.Context) ([]byte, int64, error) {
		revision, err := c.reader.Revision(ctx, id)
		return nil, revision, err
	})
}

func (c *Catalog) gather(ctx context.Context, id int64) (snapshot, error) {
	var d snapshot
	var err error
	// The revision comes first, so that nothing else is older; then the study: what its schedule speaks of was there before, so
	// the readings that follow know it.
	if d.Revision, err = c.reader.Revision(ctx, id); err != nil {
		return d, err
	}
	if d.Study, err = c.reader.ByID(ctx, id); err != nil {
		return d, err
	}
	if d.Sites, err = c.reader.Sites(ctx, id); err != nil {
		return d, err
	}
	if d.Arms, err = c.reader.Arms(ctx, id); err != nil {
		return d, err
	}
	list, err := c.reader.Questionnaires(ctx, id)
	if err != nil {
		return d, err
	}
	for i := range list {
		if list[i].Status == Active {
			d.Questionnaires = append(d.Questionnaires, list[i])
		}
	}
	d.Schedules, err = c.reader.Schedules(ctx, id)
	return d, err
}

func (d *snapshot) view(at time.Time) (*view, error) {
	v := &view{at: at, revision: d.Revision, study: d.Study, sites: d.Sites, arms: d.Arms, active: make(map[string]*Questionnaire, len(d.Questionnaires))}
	for i := range d.Questionnaires {
		v.active[d.Questionnaires[i].Canonical()] = &d.Questionnaires[i]
	}
	var err error
	if v.plan, err = planOf(d.Schedules, d.Questionnaires); err != nil {
		return nil, fmt.Errorf("study %d: %w", v.study.ID, err)
	}
	return v, nil
}

// Study returns a study.
func (c *Catalog) Study(ctx context.Context, id int64) (Study, error) {
	v, err := c.view(ctx, id)
	if err != nil {
		return Study{}, err
	}
	return v.study, nil
}

// StudyByProtocol returns a study by id or protocol number.
func (c *Catalog) StudyByProtocol(ctx context.Context, name string) (Study, error) {
	if id, err := strconv.ParseInt(name, 10, 64); err == nil {
		if st, err := c.Study(ctx, id); err == nil || errs.KindOf(err) != errs.NotFound {
			return st, err
		}
	}
	c.mu.RLock()
	id, known := c.names[name]
	c.mu.RUnlock()
	if known {
		return c.Study(ctx, id)
	}
	st, err := c.reader.ByProtocol(ctx, name)
	if err != nil {
		return Study{}, err
	}
	return c.Study(ctx, st.ID)
}

// Plan returns the versions of the study's schedule that apply at some time; none where there is no schedule.
func (c *Catalog) Plan(ctx context.Context, study int64) (task.Plan, error) {
	v, err := c.view(ctx, study)
	if err != nil {
		return nil, err
	}
	return v.plan, nil
}

// Versions returns the active versions of a questionnaire, in no order.
func (c *Catalog) Versions(ctx context.Context, study int64, url string) ([]*questionnaire.Definition, error) {
	v, err := c.view(ctx, study)
	if err != nil {
		return nil, err
	}
	var out []*questionnaire.Definition
	for canonical, q := range c.again(ctx, v).active {
		if q.URL != url {
			continue
		}
		d, err := c.Definition(ctx, study, canonical)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// Site returns a site by its code.
func (c *Catalog) Site(ctx context.Context, study int64, code string) (Site, error) {
	return look(ctx, c, study, "site", func(v *view) (Site, bool) {
		for _, s := range v.sites {
			if s.Code == code {
				return s, true
			}
		}
		return Site{}, false
	})
}

// SiteByID returns a site by its id.
func (c *Catalog) SiteByID(ctx context.Context, study, id int64) (Site, error) {
	return look(ctx, c, study, "site", func(v *view) (Site, bool) {
		for _, s := range v.sites {
			if s.ID == id {
				return s, true
			}
		}
		return Site{}, false
	})
}

// Arm returns an arm by its code.
func (c *Catalog) Arm(ctx context.Context, study int64, code string) (Arm, error) {
	return look(ctx, c, study, "arm", func(v *view) (Arm, bool) {
		for _, a := range v.arms {
			if a.Code == code {
				return a, true
			}
		}
		return Arm{}, false
	})
}

// Arms returns a study's arms.
func (c *Catalog) Arms(ctx context.Context, study int64) ([]Arm, error) {
	v, err := c.view(ctx, study)
	if err != nil {
		return nil, err
	}
	return v.arms, nil
}

// PinRequired implements user.Policies.
func (c *Catalog) PinRequired(ctx context.Context, study int64) (bool, error) {
	st, err := c.Study(ctx, study)
	return st.ParticipantPin == PinRequired, err
}

// look asks a view, and once more a younger one when the first does not know: another process may have added it just now.
func look[T any](ctx context.Context, c *Catalog, study int64, what string, ask func(*view) (T, bool)) (T, error) {
	v, err := c.view(ctx, study)
	if err == nil {
		if found, ok := ask(v); ok {
			return found, nil
		}
		if found, ok := ask(c.again(ctx, v)); ok {
			return found, nil
		}
		err = errs.Absent(what)
	}
	var none T
	return none, err
}
