package telemetry

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics holds every metric of eprod and the registry that /metrics shows. Its parts satisfy the small interfaces of the packages that
// count. All methods are safe for concurrent use, and no label ever holds an id of a person.
type Metrics struct {
	Registry *prometheus.Registry
	HTTP     *HTTP
	Intake   *Intake
	Process  *Process
	Cache    *Cache
	Limits   *Limits
	Messages *Messages
	Alerts   *Alerts
	Locks    *Locks
	Spans    *Spans
	Health   *Health
}

// NewMetrics returns metrics at zero in a registry of their own, with those of the Go runtime and the process.
func NewMetrics() *Metrics {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	f := promauto.With(r)
	return &Metrics{Registry: r, HTTP: newHTTP(f), Intake: newIntake(f), Process: newProcess(f), Cache: newCache(f), Limits: newLimits(f), Messages: newMessages(f), Alerts: newAlerts(f), Locks: newLocks(f), Spans: newSpans(f), Health: newHealth(r, f)}
}

// latencies are bucket bounds in seconds from 0.5 ms to 8 s, by doubling.
func latencies() []float64 { return prometheus.ExponentialBuckets(0.0005, 2, 15) }

// HTTP measures requests: eprod_http_requests_total{method,route,status} and eprod_http_request_seconds{method,route}.
type HTTP struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newHTTP(f promauto.Factory) *HTTP {
	return &HTTP{
		requests: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_http_requests_total",
			Help: "Requests answered, by route template and status."}, []string{"method", "route", "status"}),
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{Name: "eprod_http_request_seconds",
			Help: "Time from the end of the headers to the answer.", Buckets: latencies()}, []string{"method", "route"}),
	}
}

// ObserveRequest counts one request. An unknown method becomes "other", for clients may invent them.
func (h *HTTP) ObserveRequest(method, route string, status int, took time.Duration) {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
	default:
		method = "other"
	}
	h.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	h.seconds.WithLabelValues(method, route).Observe(took.Seconds())
}

// Intake counts submissions at the door: eprod_intake_accepted_total{way}, eprod_intake_refused_total{code} and
// eprod_produce_seconds{outcome}.
type Intake struct {
	log, spool     prometheus.Counter
	refused        *prometheus.CounterVec
	acked, unknown prometheus.Observer
}

func newIntake(f promauto.Factory) *Intake {
	accepted := f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_intake_accepted_total",
		Help: "Submissions answered 202, by where they are durable: log or spool."}, []string{"way"})
	produce := f.NewHistogramVec(prometheus.HistogramOpts{Name: "eprod_produce_seconds",
		Help: "Time until the log acknowledged a record, or until the wait for it ended unknown.", Buckets: latencies()}, []string{"outcome"})
	i := &Intake{
		log: accepted.WithLabelValues("log"), spool: accepted.WithLabelValues("spool"),
		refused: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_intake_refused_total",
			Help: "Submissions refused at the door, by the code of the answer."}, []string{"code"}),
		acked: produce.WithLabelValues("acknowledged"), unknown: produce.WithLabelValues("unknown"),
	}
	for _, code := range []string{"overloaded", "unavailable", "internal", "invalid_json", "invalid_response", "task_closed", "task_completed",
		"submission_conflict", "study_locked"} {
		i.refused.WithLabelValues(code) // a rate needs the zero before the first
	}
	return i
}

// Accepted counts a 202.
func (i *Intake) Accepted(spooled bool) {
	if spooled {
		i.spool.Inc()
	} else {
		i.log.Inc()
	}
}

// Refused counts a refusal by its stable code.
func (i *Intake) Refused(code string) { i.refused.WithLabelValues(code).Inc() }

// Produced measures one wait for the log.
func (i *Intake) Produced(took time.Duration, err error) {
	if err == nil {
		i.acked.Observe(took.Seconds())
	} else {
		i.unknown.Observe(took.Seconds())
	}
}

// Process counts what became of records: eprod_processed_total{outcome}, eprod_batch_records and eprod_batch_seconds.
type Process struct {
	stored, quarantined, conflicts, duplicates, late prometheus.Counter
	records, seconds                                 prometheus.Histogram
}

func newProcess(f promauto.Factory) *Process {
	processed := f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_processed_total",
		Help: "Records processed: stored, quarantined, conflict (same identity, other body), late (its study was locked) or duplicate (delivered again)."}, []string{"outcome"})
	return &Process{
		stored: processed.WithLabelValues("stored"), quarantined: processed.WithLabelValues("quarantined"),
		conflicts: processed.WithLabelValues("conflict"), duplicates: processed.WithLabelValues("duplicate"), late: processed.WithLabelValues("late"),
		records: f.NewHistogram(prometheus.HistogramOpts{Name: "eprod_batch_records",
			Help: "Records in one batch.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 100}}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{Name: "eprod_batch_seconds",
			Help: "Time to check and store one batch.", Buckets: latencies()}),
	}
}

// Processed counts the outcomes of one batch.
func (p *Process) Processed(stored, quarantined, conflicts, duplicates, late int) {
	p.stored.Add(float64(stored))
	p.quarantined.Add(float64(quarantined))
	p.conflicts.Add(float64(conflicts))
	p.duplicates.Add(float64(duplicates))
	p.late.Add(float64(late))
}

// Batch measures one batch.
func (p *Process) Batch(records int, took time.Duration) {
	p.records.Observe(float64(records))
	p.seconds.Observe(took.Seconds())
}

// Cache counts reads of the shared cache, eprod_cache_reads_total{outcome}, and what it was held against the database for:
// eprod_cache_verified_total and eprod_cache_mismatches_total.
type Cache struct {
	reads              *prometheus.CounterVec
	verified, mismatch prometheus.Counter
}

func newCache(f promauto.Factory) *Cache {
	c := &Cache{
		reads: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_cache_reads_total",
			Help: "Reads of the shared cache: hit, miss, stale (older than the reader had seen) or away (Redis does not answer)."}, []string{"outcome"}),
		verified: f.NewCounter(prometheus.CounterOpts{Name: "eprod_cache_verified_total",
			Help: "Cached records that were held against the database."}),
		mismatch: f.NewCounter(prometheus.CounterOpts{Name: "eprod_cache_mismatches_total",
			Help: "Of those, records that were old. More than a rare one means that deletions do not arrive."}),
	}
	for _, outcome := range []string{"hit", "miss", "stale", "away"} {
		c.reads.WithLabelValues(outcome)
	}
	return c
}

// Cached counts a read.
func (c *Cache) Cached(outcome string) { c.reads.WithLabelValues(outcome).Inc() }

// Verified counts a sample.
func (c *Cache) Verified(checked, wrong int) {
	c.verified.Add(float64(checked))
	c.mismatch.Add(float64(wrong))
}

// Limits counts what token buckets decide: eprod_limited_total{rule} and eprod_limited_alone_total{rule}.
type Limits struct{ refused, alone *prometheus.CounterVec }

func newLimits(f promauto.Factory) *Limits {
	return &Limits{
		refused: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_limited_total",
			Help: "Requests answered 429, by the rule of limits.routes."}, []string{"rule"}),
		alone: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_limited_alone_total",
			Help: "Requests of shared rules that this process decided alone, because Redis did not answer."}, []string{"rule"}),
	}
}

// Rules shows the rules at zero, so that a rate sees the first refusal.
func (l *Limits) Rules(names ...string) {
	for _, name := range names {
		l.refused.WithLabelValues(name)
		l.alone.WithLabelValues(name)
	}
}

// Limited counts a refusal.
func (l *Limits) Limited(rule string) { l.refused.WithLabelValues(rule).Inc() }

// LimitedAlone counts a decision without Redis.
func (l *Limits) LimitedAlone(rule string) { l.alone.WithLabelValues(rule).Inc() }

// Alerts counts safety alerts: eprod_alerts_total{way}, what urgent rules could not look at in time: eprod_alerts_unwatched_total, and what
// locked studies could not take any more: eprod_alerts_refused_total, and steps that reached nobody: eprod_alerts_untold_total. It counts calls
// of risk models, too: eprod_assessments_total{outcome}.
type Alerts struct {
	urgent, ordinary, unwatched, refused, untold prometheus.Counter
	assessments                                  *prometheus.CounterVec
}

func newAlerts(f promauto.Factory) *Alerts {
	raised := f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_alerts_total",
		Help: "Safety alerts raised: by an urgent rule at the door, or by the consumer of stored responses."}, []string{"way"})
	a := &Alerts{urgent: raised.WithLabelValues("urgent"), ordinary: raised.WithLabelValues("stored"),
		unwatched: f.NewCounter(prometheus.CounterOpts{Name: "eprod_alerts_unwatched_total",
			Help: "Accepted submissions that urgent rules could not look at in time; the consumer of stored responses looks at them."}),
		refused: f.NewCounter(prometheus.CounterOpts{Name: "eprod_alerts_refused_total",
			Help: "Alerts that are not kept, because their study was locked before they were found."}),
		untold: f.NewCounter(prometheus.CounterOpts{Name: "eprod_alerts_untold_total",
			Help: "Steps of an escalation that reached nobody: the rota or the site lacks an address, or no gateway takes it."}),
		assessments: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_assessments_total",
			Help: "Calls of risk models: assessed, refused (never to be repeated) or failed (repeated)."}, []string{"outcome"})}
	for _, outcome := range []string{"assessed", "refused", "failed"} {
		a.assessments.WithLabelValues(outcome)
	}
	return a
}

// Assessment counts a call of a risk model.
func (a *Alerts) Assessment(outcome string) { a.assessments.WithLabelValues(outcome).Inc() }

// Alerts counts alerts that were raised.
func (a *Alerts) Alerts(n int, urgent bool) {
	if urgent {
		a.urgent.Add(float64(n))
		return
	}
	a.ordinary.Add(float64(n))
}

// Refused counts alerts that a locked study could not take any more.
func (a *Alerts) Refused(n int) { a.refused.Add(float64(n)) }

// Untold counts a step of an escalation that reached nobody.
func (a *Alerts) Untold() { a.untold.Inc() }

// Unwatched counts a submission that urgent rules could not look at.
func (a *Alerts) Unwatched() { a.unwatched.Inc() }

// Messages counts messages and reminders: eprod_messages_total{provider,outcome} and eprod_reminders_total{outcome}.
type Messages struct{ total, reminders *prometheus.CounterVec }

func newMessages(f promauto.Factory) *Messages {
	return &Messages{
		total: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_messages_total",
			Help: "Messages by gateway and outcome: accepted, delivered, failed, unknown, gone (given up), refused (certainly not sent) or not_wanted."}, []string{"provider", "outcome"}),
		reminders: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_reminders_total",
			Help: "Reminders that were decided about: queued, or why none was sent."}, []string{"outcome"}),
	}
}

// Outcomes shows a gateway's messages, and reminders, at zero.
func (m *Messages) Outcomes(providers, reminders []string) {
	for _, provider := range providers {
		for _, outcome := range []string{"accepted", "delivered", "failed", "unknown", "gone", "refused"} {
			m.total.WithLabelValues(provider, outcome)
		}
	}
	m.total.WithLabelValues("", "not_wanted") // is decided before a gateway is chosen
	for _, outcome := range reminders {
		m.reminders.WithLabelValues(outcome)
	}
}

// Message counts an outcome.
func (m *Messages) Message(provider, outcome string) {
	m.total.WithLabelValues(provider, outcome).Inc()
}

// Reminder counts what became of a reminder.
func (m *Messages) Reminder(outcome string) { m.reminders.WithLabelValues(outcome).Inc() }

// Health shows what is open or refused: eprod_in_flight, eprod_breaker_state{name}, eprod_ids_refused_total{reason} and what Gauge and
// Counter add.
type Health struct {
	registry prometheus.Registerer
	breakers *breakers
	ids      *prometheus.CounterVec
}

// breakers asks every breaker for its state when somebody looks.
type breakers struct {
	described *prometheus.Desc
	mu        sync.Mutex
	states    map[string][]func() string // by name
}

// Describe implements prometheus.Collector.
func (b *breakers) Describe(to chan<- *prometheus.Desc) { to <- b.described }

// Collect implements prometheus.Collector. Of several breakers with one name it shows the worst.
func (b *breakers) Collect(to chan<- prometheus.Metric) {
	b.mu.Lock()
	states := maps.Clone(b.states)
	b.mu.Unlock()
	for name, list := range states {
		worst := 0.0
		for _, state := range list {
			worst = max(worst, map[string]float64{"closed": 0, "half-open": 1, "open": 2}[state()])
		}
		to <- prometheus.MustNewConstMetric(b.described, prometheus.GaugeValue, worst, name)
	}
}

func newHealth(r prometheus.Registerer, f promauto.Factory) *Health {
	h := &Health{
		registry: r,
		breakers: &breakers{states: make(map[string][]func() string),
			described: prometheus.NewDesc("eprod_breaker_state", "Circuit breakers: 0 closed, 1 half-open, 2 open.", []string{"name"}, nil)},
		ids: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_ids_refused_total",
			Help: "Ids that were not issued, by reason. Any is worth an alarm."}, []string{"reason"}),
	}
	r.MustRegister(h.breakers)
	for _, reason := range []string{"clock", "no_lease", "saturated", "other"} {
		h.ids.WithLabelValues(reason) // a rate needs the zero before the first
	}
	return h
}

// Breaker shows a breaker. State is asked whenever somebody looks and returns "closed", "half-open" or "open"; it must be quick and safe for
// concurrent use, and must not call Breaker.
func (h *Health) Breaker(name string, state func() string) {
	h.breakers.mu.Lock()
	defer h.breakers.mu.Unlock()
	h.breakers.states[name] = append(slices.Clip(h.breakers.states[name]), state)
}

// IDRefused counts an id that was not issued; reason is a fixed word, never an error's text.
func (h *Health) IDRefused(reason string) { h.ids.WithLabelValues(reason).Inc() }

// Gauge adds a metric that is read when somebody looks, such as the number of requests in flight. Read must be quick and safe for
// concurrent use. A name that exists is an error.
func (h *Health) Gauge(name, help string, read func() float64) error {
	if read == nil {
		return errors.New("telemetry: gauge " + name + " has no function to read it")
	}
	return h.registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
}

// Counter adds a count that somebody else keeps. What holds for Gauge holds here.
func (h *Health) Counter(name, help string, read func() float64) error {
	if read == nil {
		return errors.New("telemetry: counter " + name + " has no function to read it")
	}
	return h.registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, read))
}

// Build adds eprod_build_info{version,revision,go_version,role}, which is always 1.
func (h *Health) Build(version, revision, language, role string) error {
	return h.registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "eprod_build_info", Help: "What runs here; always 1.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "go_version": language, "role": role}}, func() float64 { return 1 }))
}

// InFlight adds eprod_in_flight and eprod_in_flight_refused_total, read from the bound at the door.
func (h *Health) InFlight(count func() int, refused func() uint64) error {
	return errors.Join(
		h.Gauge("eprod_in_flight", "Submissions inside the server now.", func() float64 { return float64(count()) }),
		h.Counter("eprod_in_flight_refused_total", "Submissions refused because the server was full.", func() float64 { return float64(refused()) }),
	)
}
