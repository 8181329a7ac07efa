package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// SampleConfig bounds how often the stores are asked what waits in them. Start from DefaultSampleConfig.
type SampleConfig struct {
	Every   time.Duration `koanf:"every"`   // between two looks at a store; each look is a few bounded reads
	Timeout time.Duration `koanf:"timeout"` // for one look; what it did not find by then is not shown
}

// DefaultSampleConfig suits a scrape every 15 s.
func DefaultSampleConfig() SampleConfig {
	return SampleConfig{Every: 10 * time.Second, Timeout: 3 * time.Second}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c SampleConfig) Validate() error {
	var problems []error
	if c.Every < 100*time.Millisecond {
		problems = append(problems, fmt.Errorf("every: %v: must be 100ms or more", c.Every))
	}
	if c.Timeout <= 0 {
		problems = append(problems, fmt.Errorf("timeout: %v: must be above zero, such as 3s", c.Timeout))
	}
	return errors.Join(problems...)
}

// Gauge is a metric that is sampled.
type Gauge int

// The sampled metrics; described says what each means.
const (
	Unprocessed Gauge = iota
	OldestUnprocessed
	ConsumerLag
	QuarantineDepth
	SpoolDepth
	OutboxDepth
	OutboxOldest
)

// described returns the sampled metrics, at the places that their constants name.
func described() []*prometheus.Desc {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return []*prometheus.Desc{
		Unprocessed: desc("eprod_submissions_unprocessed",
			"Submissions acknowledged and neither stored nor quarantined nor kept as a conflict, by where they wait: log or spool.", "where"),
		OldestUnprocessed: desc("eprod_submissions_oldest_unprocessed_seconds",
			"Age of the oldest acknowledged submission that waits there, 0 when none does.", "where"),
		ConsumerLag: desc("eprod_consumer_lag",
			"Records of a partition that a consumer group has not finished.", "group", "topic", "partition"),
		QuarantineDepth: desc("eprod_quarantine_depth", "Submissions in quarantine on a shard, counted up to 10,000.", "database"),
		SpoolDepth:      desc("eprod_spool_depth", "Submissions in a shard's spool, counted up to 100,000.", "database"),
		OutboxDepth:     desc("eprod_outbox_depth", "Events in a database's outbox, counted over at most 2,000 rows.", "database"),
		OutboxOldest:    desc("eprod_outbox_oldest_seconds", "Age of the first event in a database's outbox, 0 when there is none.", "database"),
	}
}

// Reading is one value of a sampled metric. Labels have the order of its description and are words of the settings, never of a client.
type Reading struct {
	Gauge  Gauge
	Labels []string
	Value  float64
	Since  time.Time // where set, the value is the age of this instant, and grows between two looks
}

// Sampler asks stores what waits in them and shows the answers to Prometheus. A source that fails hides its own metrics and nobody
// else's: what is not known is absent, never old. Add sources first, then Run.
type Sampler struct {
	config   SampleConfig
	now      func() time.Time
	log      *slog.Logger
	descs    []*prometheus.Desc
	sources  []*source
	failures *prometheus.CounterVec
	seconds  *prometheus.GaugeVec
}

// source is one store.
type source struct {
	name string
	read func(ctx context.Context) ([]Reading, error)

	mu   sync.Mutex
	at   time.Time // of the last look
	last []Reading
}

// NewSampler registers the sampled metrics, and eprod_sample_failures_total{source} and eprod_sample_seconds{source}.
func NewSampler(m *Metrics, config SampleConfig, now func() time.Time, log *slog.Logger) (*Sampler, error) {
	s := &Sampler{config: config, now: now, log: log, descs: described(),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "eprod_sample_failures_total",
			Help: "Looks at a store that failed, wholly or in part; its metrics are then absent."}, []string{"source"}),
		seconds: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "eprod_sample_seconds",
			Help: "How long the last look at a store took."}, []string{"source"})}
	return s, errors.Join(m.Registry.Register(s), m.Registry.Register(s.failures), m.Registry.Register(s.seconds))
}

// Add adds a store. Read returns what it found although it failed in part; it must end soon after its context. Names and labels come from
// the settings. Sources are asked at the same time, so that one which hangs does not hold up the others.
func (s *Sampler) Add(name string, read func(ctx context.Context) ([]Reading, error)) {
	s.sources = append(s.sources, &source{name: name, read: read})
	s.failures.WithLabelValues(name)
}

// Run looks at every store until ctx ends.
func (s *Sampler) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, src := range s.sources {
		running.Go(func() { s.watch(ctx, src) })
	}
	running.Wait()
	return nil
}

func (s *Sampler) watch(ctx context.Context, src *source) {
	failing := false
	for ctx.Err() == nil {
		err := s.look(ctx, src)
		if err != nil && ctx.Err() == nil && !failing {
			s.log.WarnContext(ctx, "metrics of a store are absent", "source", src.name, "error", err)
		}
		failing = err != nil
		// Jitter: the processes of a deployment must not ask all at once.
		timer := time.NewTimer(s.config.Every*9/10 + rand.N(s.config.Every/5))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (s *Sampler) look(ctx context.Context, src *source) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	began := s.now()
	readings, err := src.read(ctx)
	took := s.now().Sub(began)
	if err != nil {
		s.failures.WithLabelValues(src.name).Inc()
	}
	s.seconds.WithLabelValues(src.name).Set(took.Seconds())
	src.mu.Lock()
	src.at, src.last = began, readings
	src.mu.Unlock()
	return err
}

// Describe implements prometheus.Collector.
func (s *Sampler) Describe(to chan<- *prometheus.Desc) {
	for _, d := range s.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector. What two looks in a row did not renew is not shown.
func (s *Sampler) Collect(to chan<- prometheus.Metric) {
	now := s.now()
	for _, src := range s.sources {
		src.mu.Lock()
		at, readings := src.at, src.last
		src.mu.Unlock()
		if now.Sub(at) > 2*s.config.Every+s.config.Timeout {
			continue
		}
		for _, r := range readings {
			value := r.Value
			if !r.Since.IsZero() {
				value = max(0, now.Sub(r.Since).Seconds())
			}
			m, err := prometheus.NewConstMetric(s.descs[r.Gauge], prometheus.GaugeValue, value, r.Labels...)
			if err != nil {
				m = prometheus.NewInvalidMetric(s.descs[r.Gauge], err)
			}
			to <- m
		}
	}
}
