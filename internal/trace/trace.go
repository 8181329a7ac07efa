// Package trace decides how work is followed through the processes: which spans there are, what they are called, and how the next process
// learns of them, by the W3C's Trace Context (traceparent) and OpenTelemetry's semantic conventions.
//
// A context carries the tracer of its process (With) and the spans that are open in it. Without a tracer, or without an open span, every
// function here does nothing, allocates nothing, and costs a look into the context.
//
// A batch of the log holds records of many requests. Its context carries one span for each that is followed, and whatever is started in it is
// started once in each of these traces: so the transaction that commits a hundred records is seen in the trace of every one of them.
//
// Names and attributes are words of the program and ids; never an answer, a name, an address or the text of an error.
package trace

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	api "go.opentelemetry.io/otel/trace"

	"github.com/eprod/eprod/internal/errs"
)

// Kind says which part a span has in a conversation.
type Kind = api.SpanKind

// The kinds.
const (
	Internal = api.SpanKindInternal
	Server   = api.SpanKindServer
	Client   = api.SpanKindClient
	Producer = api.SpanKindProducer
	Consumer = api.SpanKindConsumer
)

// Attr is a fact about a span.
type Attr = attribute.KeyValue

// String returns a fact that is a word or an id.
func String(key, value string) Attr { return attribute.String(key, value) }

// Int returns a fact that is a number.
func Int(key string, value int64) Attr { return attribute.Int64(key, value) }

// Tracer begins spans; nil begins none. It is safe for concurrent use.
type Tracer struct{ begin api.Tracer }

// New returns a tracer that hands its spans to t.
func New(t api.Tracer) *Tracer { return &Tracer{t} }

type (
	tracerKey struct{}
	openKey   struct{}
)

// With returns a context that carries the process' tracer: everything that works under it is followed.
func With(ctx context.Context, t *Tracer) context.Context {
	if t == nil {
		return ctx
	}
	return context.WithValue(ctx, tracerKey{}, t)
}

func of(ctx context.Context) *Tracer {
	t, _ := ctx.Value(tracerKey{}).(*Tracer)
	return t
}

// open are the spans of a context, one per trace.
type open struct {
	tracer *Tracer
	spans  []api.Span
}

func openIn(ctx context.Context) *open {
	o, _ := ctx.Value(openKey{}).(*open)
	return o
}

// On reports whether ctx follows anything: whether Start would begin a span.
func On(ctx context.Context) bool { return openIn(ctx) != nil }

// Following reports whether ctx has a tracer: whether Begin and Continue may begin a span.
func Following(ctx context.Context) bool { return of(ctx) != nil }

// Span is one piece of work, in every trace that it belongs to. The zero Span is of work that nobody follows.
type Span struct{ spans []api.Span }

// On reports whether somebody follows: whether gathering facts for Set is worth it.
func (s Span) On() bool { return len(s.spans) > 0 }

// Set adds facts.
func (s Span) Set(attrs ...Attr) {
	for _, span := range s.spans {
		span.SetAttributes(attrs...)
	}
}

// End ends the work. An error makes it a failure, whose traces are kept, unless it is a refusal of what a client asked (4xx). Only the
// error's code or type is told, never its text.
func (s Span) End(err error) {
	if len(s.spans) == 0 {
		return
	}
	if err != nil && Failed(err) {
		s.Fail(cause(err))
	}
	for _, span := range s.spans {
		span.End()
	}
}

// Fail makes the work a failure for a reason: a fixed word.
func (s Span) Fail(reason string) {
	for _, span := range s.spans {
		span.SetAttributes(attribute.String("error.type", reason))
		span.SetStatus(codes.Error, "")
	}
}

// Failed reports whether an error is a failure of ours: anything but a refusal.
func Failed(err error) bool {
	e, ok := errs.As(err)
	return !ok || errs.Status(e.Kind) >= 500
}

func cause(err error) string {
	if e, ok := errs.As(err); ok {
		return e.Code
	}
	return fmt.Sprintf("%T", err)
}

// Start begins a piece of what ctx follows; where it follows nothing, it returns ctx itself and the zero Span.
func Start(ctx context.Context, name string, kind Kind) (context.Context, Span) {
	o := openIn(ctx)
	if o == nil {
		return ctx, Span{}
	}
	spans := make([]api.Span, 0, len(o.spans))
	for _, parent := range o.spans {
		if parent.IsRecording() {
			_, span := o.tracer.begin.Start(api.ContextWithSpan(ctx, parent), name, api.WithSpanKind(kind))
			spans = append(spans, span)
		}
	}
	if len(spans) == 0 {
		return ctx, Span{}
	}
	return context.WithValue(ctx, openKey{}, &open{o.tracer, spans}), Span{spans}
}

// Begin begins a piece of work that continues none, such as a round of something that runs by the clock.
func Begin(ctx context.Context, name string, kind Kind) (context.Context, Span) {
	t := of(ctx)
	if t == nil {
		return ctx, Span{}
	}
	return t.first(ctx, name, kind)
}

func (t *Tracer) first(ctx context.Context, name string, kind Kind, options ...api.SpanStartOption) (context.Context, Span) {
	_, span := t.begin.Start(ctx, name, append(options, api.WithSpanKind(kind))...)
	ctx = context.WithValue(ctx, openKey{}, &open{t, []api.Span{span}})
	if !span.IsRecording() {
		return ctx, Span{}
	}
	return ctx, Span{[]api.Span{span}}
}

// Request begins the work for a request from outside, which may have a traceparent. The trace goes on under the caller's number; whether the
// caller's wish to have it kept counts is the sampler's to decide.
func (t *Tracer) Request(ctx context.Context, name, traceparent string) (context.Context, Span) {
	if parent, ok := parse(traceparent); ok {
		return t.first(api.ContextWithRemoteSpanContext(ctx, parent), name, Server)
	}
	return t.first(ctx, name, Server)
}

// Continue begins one piece of work in every trace that the traceparents name, as a batch does. Traces that are not kept are left out: each
// would be of this piece alone.
func Continue(ctx context.Context, name string, kind Kind, traceparents ...string) (context.Context, Span) {
	t := of(ctx)
	if t == nil {
		return ctx, Span{}
	}
	var spans []api.Span
	for _, traceparent := range traceparents {
		if parent, ok := parse(traceparent); ok && parent.IsSampled() {
			_, span := t.begin.Start(api.ContextWithRemoteSpanContext(ctx, parent), name, api.WithSpanKind(kind))
			spans = append(spans, span)
		}
	}
	if len(spans) == 0 {
		return ctx, Span{}
	}
	return context.WithValue(ctx, openKey{}, &open{t, spans}), Span{spans}
}

// maxLinks bounds how many traces a failure names.
const maxLinks = 32

// Failure tells of work that failed and belongs to no trace that is kept, with links to those that it was done for.
func Failure(ctx context.Context, name string, kind Kind, began time.Time, err error, attrs []Attr, traceparents ...string) {
	t := of(ctx)
	if t == nil {
		return
	}
	var links []api.Link
	for _, traceparent := range traceparents {
		if parent, ok := parse(traceparent); ok && len(links) < maxLinks {
			links = append(links, api.Link{SpanContext: parent})
		}
	}
	_, span := t.first(ctx, name, kind, api.WithNewRoot(), api.WithTimestamp(began), api.WithLinks(links...), api.WithAttributes(attrs...))
	span.End(err)
}

// Join returns ctx with what is open in the others as well, each trace once.
func Join(ctx context.Context, others ...context.Context) context.Context {
	all := openIn(ctx)
	if all != nil {
		all = &open{all.tracer, slices.Clone(all.spans)}
	}
	for _, other := range others {
		o := openIn(other)
		switch {
		case o == nil:
		case all == nil:
			all = &open{o.tracer, slices.Clone(o.spans)}
		default:
			for _, span := range o.spans {
				if !slices.ContainsFunc(all.spans, func(have api.Span) bool { return have.SpanContext().SpanID() == span.SpanContext().SpanID() }) {
					all.spans = append(all.spans, span)
				}
			}
		}
	}
	if all == nil {
		return ctx
	}
	return context.WithValue(ctx, openKey{}, all)
}

// child is a span that knows what it continues, as those of OpenTelemetry's SDK do.
type child interface{ Parent() api.SpanContext }

// Of returns ctx with only that one of its spans open which continues a traceparent, and with none where none belongs to that trace: what is
// done for one record of a batch is no other record's, also where a trace has several in the batch. Where ctx follows nothing, or that span
// alone, it is returned itself.
func Of(ctx context.Context, traceparent string) context.Context {
	o := openIn(ctx)
	if o == nil {
		return ctx
	}
	var of api.Span
	if len(traceparent) == HeaderLength {
		for _, span := range o.spans {
			if span.SpanContext().TraceID().String() != traceparent[3:35] {
				continue
			}
			if c, ok := span.(child); ok && c.Parent().SpanID().String() == traceparent[36:52] {
				of = span
				break
			}
			if of == nil {
				of = span
			}
		}
	}
	switch {
	case of == nil:
		return context.WithValue(ctx, openKey{}, (*open)(nil))
	case len(o.spans) == 1:
		return ctx
	}
	return context.WithValue(ctx, openKey{}, &open{o.tracer, []api.Span{of}})
}

// IDs returns the numbers of the trace and the span that ctx belongs to, as hexadecimal digits: empty where it is none, or several.
func IDs(ctx context.Context) (trace, span string) {
	o := openIn(ctx)
	if o == nil || len(o.spans) != 1 {
		return "", ""
	}
	at := o.spans[0].SpanContext()
	return at.TraceID().String(), at.SpanID().String()
}
