package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"

	"github.com/eprod/eprod/internal/trace"
)

// TraceConfig says which traces are kept, where they go, and what they may cost. Start from DefaultTraceConfig.
type TraceConfig struct {
	Endpoint    string        `koanf:"endpoint"`    // of a collector that takes OTLP over HTTP, such as http://collector:4318; empty: nothing is traced
	Ratio       float64       `koanf:"ratio"`       // of the traces that begin here, this part is kept, from 0 to 1
	Errors      int           `koanf:"errors"`      // so many failed traces a second are kept beyond the ratio; 0: none, and what is not kept costs least
	TrustCaller bool          `koanf:"trustCaller"` // whether a request's traceparent decides that its trace is kept
	Queue       int           `koanf:"queue"`       // spans that wait for the collector; more are dropped
	Batch       int           `koanf:"batch"`       // spans of one call
	Every       time.Duration `koanf:"every"`       // longest wait for a batch to fill
	Timeout     time.Duration `koanf:"timeout"`     // of one call
	Held        int           `koanf:"held"`        // traces held until it is known whether they fail
	HeldSpans   int           `koanf:"heldSpans"`   // spans held of each
}

// DefaultTraceConfig traces nothing until an endpoint is set.
func DefaultTraceConfig() TraceConfig {
	return TraceConfig{Ratio: 0.01, Errors: 20, Queue: 8192, Batch: 512, Every: time.Second, Timeout: 3 * time.Second, Held: 4096, HeldSpans: 64}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c TraceConfig) Validate() error {
	var problems []error
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
			problems = append(problems, fmt.Errorf("endpoint: %s: must be like http://collector:4318, without credentials", c.Endpoint))
		}
	}
	if c.Ratio < 0 || c.Ratio > 1 {
		problems = append(problems, fmt.Errorf("ratio: %v: must be from 0 to 1", c.Ratio))
	}
	for _, n := range []struct {
		key             string
		value, low, top int
	}{{"errors", c.Errors, 0, 10_000}, {"queue", c.Queue, 1, 1_000_000}, {"batch", c.Batch, 1, 10_000}, {"held", c.Held, 1, 1_000_000}, {"heldSpans", c.HeldSpans, 1, 1000}} {
		if n.value < n.low || n.value > n.top {
			problems = append(problems, fmt.Errorf("%s: %d: must be from %d to %d", n.key, n.value, n.low, n.top))
		}
	}
	if c.Every <= 0 || c.Timeout <= 0 {
		problems = append(problems, fmt.Errorf("every: %v and timeout: %v must be above zero", c.Every, c.Timeout))
	}
	return errors.Join(problems...)
}

// Exporter hands finished spans to a collector. Its calls end soon after their context.
type Exporter interface {
	ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error
	Shutdown(ctx context.Context) error
}

// Tracing makes and exports spans. Run must be running for anything to be exported.
type Tracing struct {
	Tracer *trace.Tracer // nil when nothing is traced

	config   TraceConfig
	meter    *Spans
	log      *slog.Logger
	exporter Exporter
	provider *sdk.TracerProvider
	queue    chan sdk.ReadOnlySpan
}

// NewTracing returns the tracing of a valid configuration. Headers, which may be secret, go along with each call. No collector needs to
// answer.
func NewTracing(ctx context.Context, c TraceConfig, headers map[string]string, service Service, meter *Spans, log *slog.Logger) (*Tracing, error) {
	if c.Endpoint == "" {
		return &Tracing{config: c, log: log, meter: meter}, nil
	}
	address, err := url.JoinPath(c.Endpoint, "v1", "traces")
	if err != nil {
		return nil, fmt.Errorf("telemetry.traces.endpoint: %w", err)
	}
	// What is not said here the library would read from the environment.
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(address), otlptracehttp.WithHeaders(headers), otlptracehttp.WithTimeout(c.Timeout),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression), otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: false}))
	if err != nil {
		return nil, fmt.Errorf("telemetry.traces: %w", err)
	}
	// The library's only way to tell of what it could not return is this handler of its own; else it prints lines of another form.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Debug("the trace library tells", "error", err) }))
	return newTracing(c, exporter, service, meter, log), nil
}

func newTracing(c TraceConfig, exporter Exporter, service Service, meter *Spans, log *slog.Logger) *Tracing {
	t := &Tracing{config: c, meter: meter, log: log, exporter: exporter, queue: make(chan sdk.ReadOnlySpan, c.Queue)}
	about := resource.NewSchemaless(attribute.String("service.name", "eprod"), attribute.String("service.version", service.Version),
		attribute.String("service.instance.id", service.Node))
	limits := sdk.SpanLimits{AttributeValueLengthLimit: 256, AttributeCountLimit: 32, EventCountLimit: 8, LinkCountLimit: 64,
		AttributePerEventCountLimit: 8, AttributePerLinkCountLimit: 8}
	t.provider = sdk.NewTracerProvider(sdk.WithResource(about), sdk.WithRawSpanLimits(limits), sdk.WithSampler(sampler{c}),
		sdk.WithSpanProcessor(newKeeper(c, t.enqueue, meter)))
	t.Tracer = trace.New(t.provider.Tracer("github.com/eprod/eprod"))
	return t
}

// enqueue hands a span over, or drops it: whoever ends a span never waits.
func (t *Tracing) enqueue(span sdk.ReadOnlySpan) {
	select {
	case t.queue <- span:
	default:
		t.meter.dropped.Inc()
	}
}

// Run exports until ctx ends, then tries once more what is left, for at most Timeout.
func (t *Tracing) Run(ctx context.Context) error {
	if t.exporter == nil {
		<-ctx.Done()
		return nil
	}
	batch := make([]sdk.ReadOnlySpan, 0, t.config.Batch)
	tick := time.NewTicker(t.config.Every)
	defer tick.Stop()
	failing := false
	send := func(ctx context.Context) {
		if len(batch) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, t.config.Timeout)
		defer cancel()
		err := t.exporter.ExportSpans(ctx, batch)
		if err == nil {
			t.meter.exported.Add(float64(len(batch)))
		} else {
			t.meter.failed.Add(float64(len(batch)))
			if !failing {
				t.log.WarnContext(ctx, "the collector does not take spans; they are dropped", "error", err)
			}
		}
		failing = err != nil
		clear(batch)
		batch = batch[:0]
	}
	work := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		select {
		case span := <-t.queue:
			if batch = append(batch, span); len(batch) == t.config.Batch {
				send(work)
			}
		case <-tick.C:
			send(work)
		case <-ctx.Done():
		}
	}
	last, cancel := context.WithTimeout(work, t.config.Timeout)
	defer cancel()
	for len(t.queue) > 0 && last.Err() == nil {
		if batch = append(batch, <-t.queue); len(batch) == t.config.Batch {
			send(last)
		}
	}
	send(last)
	t.meter.dropped.Add(float64(len(t.queue)))
	return errors.Join(t.provider.Shutdown(last), t.exporter.Shutdown(last))
}

// sampler decides at its first span whether a trace is kept. A trace that came through the log goes on as it was decided. One that comes
// with a request is decided anew, by this process' own chance and not by the trace's number, which the caller chooses: nobody outside can
// have more kept than the ratio.
type sampler struct{ config TraceConfig }

// Description implements sdk.Sampler.
func (s sampler) Description() string { return "eprod" }

// ShouldSample implements sdk.Sampler.
func (s sampler) ShouldSample(p sdk.SamplingParameters) sdk.SamplingResult {
	parent := api.SpanContextFromContext(p.ParentContext)
	var keep bool
	if parent.IsValid() && (!parent.IsRemote() || p.Kind != api.SpanKindServer || s.config.TrustCaller) {
		keep = parent.IsSampled()
	} else {
		keep = rand.Float64() < s.config.Ratio
	}
	switch {
	case keep:
		return sdk.SamplingResult{Decision: sdk.RecordAndSample}
	case s.config.Errors > 0:
		return sdk.SamplingResult{Decision: sdk.RecordOnly}
	default:
		return sdk.SamplingResult{Decision: sdk.Drop}
	}
}
