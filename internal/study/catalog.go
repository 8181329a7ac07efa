package study

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/task"
)

// Reader is what the catalog reads; Store implements it.
type Reader interface {
	ByID(ctx context.Context, id int64) (Study, error)
	ByProtocol(ctx context.Context, protocol string) (Study, error)
	Sites(ctx context.Context, study int64) ([]Site, error)
	Arms(ctx context.Context, study int64) ([]Arm, error)
	Questionnaires(ctx context.Context, study int64) ([]Questionnaire, error)
	Questionnaire(ctx context.Context, id int64) (Questionnaire, []byte, error)
	Rules(ctx context.Context, study, version int64) ([]task.Rule, error)
}

// Versions fetches values that never change under their key, from a cache or else from load.
type Versions interface {
	Fetch(ctx context.Context, key string, load func(ctx context.Context) ([]byte, error)) ([]byte, error)
}

// CatalogConfig bounds what the catalog remembers.
type CatalogConfig struct {
	TTL         time.Duration `koanf:"ttl"`         // how old a view may be before it is read again: the delay until another process' change is seen
	StaleFor    time.Duration `koanf:"staleFor"`    // how old a view may be while the metadata database does not answer
	LoadTimeout time.Duration `koanf:"loadTimeout"` // for one reading
	Definitions int           `koanf:"definitions"` // compiled questionnaire versions in memory
}

// DefaultCatalogConfig returns settings for some hundred studies.
func DefaultCatalogConfig() CatalogConfig {
	return CatalogConfig{TTL: 2 * time.Second, StaleFor: 10 * time.Minute, LoadTimeout: time.Second, Definitions: 2000}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c CatalogConfig) Validate() error {
	var problems []error
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"ttl", c.TTL}, {"staleFor", c.StaleFor}, {"loadTimeout", c.LoadTimeout}} {
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

// Catalog is the view of studies from memory. What it tells may be TTL old, and older while the metadata database is away;
// published questionnaire versions never change, so they are compiled once. It is never asked about rights. Safe for
// concurrent use.
type Catalog struct {
	reader   Reader
	versions Versions
	config   CatalogConfig
	limits   questionnaire.Limits
	now      func() time.Time

	mu          sync.RWMutex // guards views
	views       map[int64]*view
	flights     singleflight.Group
	definitions *lru.Cache[int64, *questionnaire.Definition]
	bodies      *lru.Cache[int64, Published]
}

// view is one study as it was at one moment. Its parts are immutable.
type view struct {
	at         time.Time
	refreshing atomic.Bool // one caller at a time reads anew, the others go on with this view
	study      Study
	sites      []Site
	arms       []Arm
	schedule   task.Schedule
	byName     map[string]Questionnaire // canonical → version
}

// Published is a published questionnaire version as it is served.
type Published struct {
	Study int64
	ETag  string
	Body  []byte
}

const maxViews = 5000 // studies in memory; beyond, all are read anew

// NewCatalog returns an empty catalog.
func NewCatalog(config CatalogConfig, limits questionnaire.Limits, reader Reader, versions Versions, now func() time.Time) (*Catalog, error) {
	definitions, err := lru.New[int64, *questionnaire.Definition](config.Definitions)
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	bodies, err := lru.New[int64, Published](min(config.Definitions, 500))
	return &Catalog{reader: reader, versions: versions, config: config, limits: limits, now: now,
		views: make(map[int64]*view), definitions: definitions, bodies: bodies}, err
}

// Forget makes the next question about a study read it anew: this process has just changed it.
func (c *Catalog) Forget(id int64) {
	c.mu.Lock()
	delete(c.views, id)
	c.mu.Unlock()
	c.flights.Forget(strconv.FormatInt(id, 10)) // a reading that began before the change must not be taken for newer
}

func (c *Catalog) view(ctx context.Context, id int64) (*view, error) {
	c.mu.RLock()
	v := c.views[id]
	c.mu.RUnlock()
	if v == nil {
		return c.load(ctx, id)
	}
	age := c.now().Sub(v.at)
	if age < c.config.TTL {
		return v, nil
	}
	if age < c.config.StaleFor && !v.refreshing.CompareAndSwap(false, true) {
		return v, nil
	}
	defer v.refreshing.Store(false)
	fresh, err := c.load(ctx, id)
	if err != nil && age < c.config.StaleFor && errs.KindOf(err) != errs.NotFound {
		return v, nil
	}
	return fresh, err
}

// again returns a view that is younger than v, unless v is very young: for what v does not know.
func (c *Catalog) again(ctx context.Context, v *view) *view {
	if c.now().Sub(v.at) < c.config.TTL/10 {
		return v
	}
	if fresh, err := c.load(ctx, v.study.ID); err == nil {
		return fresh
	}
	return v
}

func (c *Catalog) load(ctx context.Context, id int64) (*view, error) {
	flight := c.flights.DoChan(strconv.FormatInt(id, 10), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.config.LoadTimeout)
		defer cancel()
		v, err := c.read(ctx, id)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.views) >= maxViews {
			clear(c.views)
		}
		c.views[id] = v
		return v, nil
	})
	select {
	case r := <-flight:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*view), nil
	case <-ctx.Done():
		return nil, errs.Away("the study", ctx.Err())
	}
}

func (c *Catalog) read(ctx context.Context, id int64) (*view, error) {
	v := &view{at: c.now()}
	var err error
	if v.study, err = c.reader.ByID(ctx, id); err != nil {
		return nil, err
	}
	if v.sites, err = c.reader.Sites(ctx, id); err != nil {
		return nil, err
	}
	if v.arms, err = c.reader.Arms(ctx, id); err != nil {
		return nil, err
	}
	list, err := c.reader.Questionnaires(ctx, id)
	if err != nil {
		return nil, err
	}
	v.byName = make(map[string]Questionnaire, len(list))
	for _, q := range list {
		v.byName[q.Canonical()] = q
	}
	if v.study.ScheduleVersion == 0 {
		return v, nil
	}
	rules, err := c.reader.Rules(ctx, id, v.study.ScheduleVersion)
	if err != nil {
		return nil, err
	}
	// It was checked against the study when it was put; here it is only compiled.
	schedule, findings := task.NewSchedule(v.study.ScheduleVersion, rules, task.Known{})
	if len(findings) > 0 {
		return nil, fmt.Errorf("stored schedule of study %d: %s: %s", id, findings[0].Pointer, findings[0].Detail)
	}
	v.schedule = schedule
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
	return c.reader.ByProtocol(ctx, name)
}

// Schedule returns the study's current schedule, one without rules where there is none.
func (c *Catalog) Schedule(ctx context.Context, study int64) (task.Schedule, error) {
	v, err := c.view(ctx, study)
	if err != nil {
		return task.Schedule{}, err
	}
	return v.schedule, nil
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

func (c *Catalog) version(ctx context.Context, study int64, canonical string) (Questionnaire, error) {
	return look(ctx, c, study, "questionnaire", func(v *view) (Questionnaire, bool) {
		q, ok := v.byName[canonical]
		return q, ok && q.Status == Active
	})
}

// QuestionnaireID returns the id of an active version.
func (c *Catalog) QuestionnaireID(ctx context.Context, study int64, canonical string) (int64, error) {
	q, err := c.version(ctx, study, canonical)
	return q.ID, err
}

// Definition returns the compiled form of an active version. A canonical that is none is errs.Unprocessable with the code
// invalid_response.
func (c *Catalog) Definition(ctx context.Context, study int64, canonical string) (*questionnaire.Definition, error) {
	q, err := c.version(ctx, study, canonical)
	if errs.KindOf(err) == errs.NotFound && err != nil {
		return nil, errs.New(errs.Unprocessable, "invalid_response", "the questionnaire version is not active in this study").
			WithFindings([]errs.Finding{{Pointer: "/response/questionnaire", Expression: "QuestionnaireResponse.questionnaire",
				Code: "unknown_questionnaire", Detail: "must be the url|version that the task names"}})
	}
	if err != nil {
		return nil, err
	}
	if d, ok := c.definitions.Get(q.ID); ok {
		return d, nil
	}
	published, err := c.Published(ctx, q.ID)
	if err != nil {
		return nil, err
	}
	d, findings := questionnaire.Compile(published.Body, c.limits)
	if len(findings) > 0 {
		return nil, fmt.Errorf("published questionnaire %d does not compile: %s %s", q.ID, findings[0].Code, findings[0].Pointer)
	}
	c.definitions.Add(q.ID, d)
	return d, nil
}

// Published returns a published version's bytes; a draft or an unknown one is errs.NotFound. The bytes are shared.
func (c *Catalog) Published(ctx context.Context, id int64) (Published, error) {
	if p, ok := c.bodies.Get(id); ok {
		return p, nil
	}
	// The value carries study and hash before the body, so that one fetch answers everything.
	value, err := c.versions.Fetch(ctx, "questionnaire:"+strconv.FormatInt(id, 10), func(ctx context.Context) ([]byte, error) {
		q, body, err := c.reader.Questionnaire(ctx, id)
		if err != nil {
			return nil, err
		}
		if q.Status != Active {
			return nil, errs.Absent("questionnaire")
		}
		return append(fmt.Appendf(nil, "%d %x ", q.Study, q.SHA256[:16]), body...), nil
	})
	if err != nil {
		return Published{}, err
	}
	var p Published
	var hash string
	if _, err := fmt.Sscanf(string(value[:min(len(value), 64)]), "%d %s ", &p.Study, &hash); err != nil {
		return Published{}, fmt.Errorf("cached questionnaire %d is damaged: %w", id, err)
	}
	p.ETag = `"` + hash + `"`
	p.Body = value[len(strconv.FormatInt(p.Study, 10))+len(hash)+2:]
	c.bodies.Add(id, p)
	return p, nil
}
