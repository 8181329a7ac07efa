package main

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/lock"
	"github.com/eprod/eprod/internal/notify"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/telemetry"
)

// TelemetryConfig says what operators are shown beyond the log.
type TelemetryConfig struct {
	Sample telemetry.SampleConfig `koanf:"sample"`
	Traces TraceSettings          `koanf:"traces"`
}

// TraceSettings are those of traces, with their secret.
type TraceSettings struct {
	telemetry.TraceConfig `koanf:",squash"`
	Authorization         Secret `koanf:"authorization"`
}

func defaultTelemetry() TelemetryConfig {
	return TelemetryConfig{Sample: telemetry.DefaultSampleConfig(), Traces: TraceSettings{TraceConfig: telemetry.DefaultTraceConfig()}}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c TelemetryConfig) Validate() error {
	return errors.Join(beneath("sample", c.Sample.Validate()), beneath("traces", c.Traces.Validate()))
}

// beneath puts a section's name before each problem.
func beneath(section string, err error) error {
	if err == nil {
		return nil
	}
	var problems []error
	for line := range strings.SplitSeq(err.Error(), "\n") {
		problems = append(problems, errors.New(section+"."+line))
	}
	return errors.Join(problems...)
}

// service is what log lines and traces call this process.
func service() telemetry.Service { return telemetry.Service{Version: release(), Node: processName()} }

// openTracing makes what follows requests; nothing where no collector is named.
func (a *app) openTracing(ctx context.Context) error {
	c, headers := a.config.Telemetry.Traces, map[string]string{}
	if c.Authorization != "" {
		headers["Authorization"] = string(c.Authorization)
	}
	var err error
	a.tracing, err = telemetry.NewTracing(ctx, c.TraceConfig, headers, service(), a.metrics.Spans, a.log)
	return err
}

// accepted is the group that stores what was acknowledged.
var accepted = kafka.Group{Name: processorGroup, Topic: submission.Topic}

// observe adds the metrics that are read when somebody looks, and the sampler of the stores.
func (s *server) observe() error {
	pools := make(map[string]func() sql.DBStats)
	for _, d := range s.databases() {
		pools[d.Name] = d.Pool().Stats
	}
	health := s.metrics.Health
	s.metrics.Limits.Rules(slices.Collect(maps.Keys(s.config.Limits.Routes))...)
	var err error
	s.sampler, err = telemetry.NewSampler(s.metrics, s.config.Telemetry.Sample, time.Now, s.log)
	if err != nil {
		return err
	}
	s.sample()
	return errors.Join(
		health.Pools(pools),
		health.Build(release(), revision(), runtime.Version(), s.config.Role),
		health.Gauge("eprod_log_connected", "Whether this process has a connection to the log: 1 or 0.", func() float64 { return flag(s.producer.Connected()) }),
		health.Gauge("eprod_produce_waiting", "Records that this process has sent and the log has not acknowledged.", func() float64 { return float64(s.producer.Waiting()) }),
		health.Gauge("eprod_redis_pool_open", "Connections that this process has to Redis.", func() float64 { return float64(s.redis.PoolStats().TotalConns) }),
		health.Counter("eprod_redis_pool_timeouts_total", "How often nobody gave back a connection to Redis in time.", func() float64 { return float64(s.redis.PoolStats().Timeouts) }),
	)
}

// sample says what is read from which store.
func (s *server) sample() {
	s.sampler.Add("log", s.sampleLog)
	s.sampler.Add("spools", s.sampleSpools)
	for i, d := range slices.Concat(s.shards.All(), []*db.DB{s.meta}) { // as the relays stand
		s.sampler.Add(d.Name, func(ctx context.Context) ([]telemetry.Reading, error) {
			return sampleDatabase(ctx, d, s.relays[i], d != s.meta)
		})
	}
}

// sampleLog reads where the groups stand.
func (s *server) sampleLog(ctx context.Context) ([]telemetry.Reading, error) {
	list, err := kafka.Lag(ctx, s.kafka, s.dial, s.consumerGroups(), accepted)
	var out []telemetry.Reading
	waiting, partitions, oldest := int64(0), 0, time.Time{}
	for _, b := range list {
		out = append(out, telemetry.Reading{Gauge: telemetry.ConsumerLag, Value: float64(b.Records),
			Labels: []string{b.Group.Name, b.Group.Topic, strconv.Itoa(int(b.Partition))}})
		if b.Group != accepted {
			continue
		}
		partitions++
		waiting += b.Records
		if b.Records > 0 && (oldest.IsZero() || b.Oldest.Before(oldest)) {
			oldest = b.Oldest
		}
	}
	if partitions < s.kafka.Partitions {
		return out, errors.Join(err, errors.New("not every partition of the submissions answered"))
	}
	out = append(out, telemetry.Reading{Gauge: telemetry.Unprocessed, Labels: []string{"log"}, Value: float64(waiting)})
	if err != nil && waiting > 0 { // one of the times may be missing
		return out, err
	}
	return append(out, telemetry.Reading{Gauge: telemetry.OldestUnprocessed, Labels: []string{"log"}, Since: oldest}), err
}

// sampleSpools adds up the shards; one that does not answer makes the sum unknown.
func (s *server) sampleSpools(ctx context.Context) ([]telemetry.Reading, error) {
	var depth int64
	var oldest time.Time
	for _, d := range s.shards.All() {
		n, err := submission.SpoolDepth(ctx, d)
		if err != nil {
			return nil, err
		}
		first, err := submission.SpoolOldest(ctx, d)
		if err != nil {
			return nil, err
		}
		depth += n
		if !first.IsZero() && (oldest.IsZero() || first.Before(oldest)) {
			oldest = first
		}
	}
	return []telemetry.Reading{{Gauge: telemetry.Unprocessed, Labels: []string{"spool"}, Value: float64(depth)},
		{Gauge: telemetry.OldestUnprocessed, Labels: []string{"spool"}, Since: oldest}}, nil
}

func sampleDatabase(ctx context.Context, d *db.DB, relay *outbox.Relay, shard bool) ([]telemetry.Reading, error) {
	var out []telemetry.Reading
	var problems []error
	count := func(gauge telemetry.Gauge, read func() (int64, error)) {
		n, err := read()
		if problems = append(problems, err); err == nil {
			out = append(out, telemetry.Reading{Gauge: gauge, Labels: []string{d.Name}, Value: float64(n)})
		}
	}
	count(telemetry.OutboxDepth, func() (int64, error) { return relay.Depth(ctx) })
	oldest, err := relay.Oldest(ctx)
	if problems = append(problems, err); err == nil {
		out = append(out, telemetry.Reading{Gauge: telemetry.OutboxOldest, Labels: []string{d.Name}, Since: oldest})
	}
	if shard {
		count(telemetry.SpoolDepth, func() (int64, error) { return submission.SpoolDepth(ctx, d) })
		count(telemetry.QuarantineDepth, func() (int64, error) { return submission.QuarantineDepth(ctx, d) })
	}
	return out, errors.Join(problems...)
}

// timedLog measures how long the log takes to acknowledge.
type timedLog struct {
	*kafka.Producer
	meter *telemetry.Intake
}

// Send implements ingest.Log.
func (l timedLog) Send(ctx context.Context, m kafka.Message) error {
	began := time.Now()
	err := l.Producer.Send(ctx, m)
	l.meter.Produced(time.Since(began), err)
	return err
}

// showLocks shows the back ends in use before anything is locked.
func (a *app) showLocks() {
	a.metrics.Locks.Backend(lock.Editing)
	a.metrics.Locks.Backend(a.config.Locks.Backend)
}

// showMessages shows the gateways in use before anything is sent.
func (a *app) showMessages(senders []notify.Sender) {
	names := make([]string, len(senders))
	for i, sender := range senders {
		names[i] = sender.Name()
	}
	a.metrics.Messages.Outcomes(names, notify.ReminderOutcomes())
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
