package telemetry

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
)

// keeper passes on the spans of traces that are kept, and holds those of the others until the first of them in this process ends: then they
// are passed on if one has failed, and forgotten else. It never waits.
type keeper struct {
	config TraceConfig
	pass   func(sdk.ReadOnlySpan)
	meter  *Spans
	now    func() time.Time

	mu   sync.Mutex
	open map[api.SpanID]*held // by each span that is open
	held int                  // traces whose first span is open

	second int64 // that is being counted
	kept   int   // failed traces kept in it
}

// held is what is known of a trace in this process.
type held struct {
	first  api.SpanID
	spans  []sdk.ReadOnlySpan
	failed bool
	over   bool // the first span has ended
	kept   bool
}

func newKeeper(c TraceConfig, pass func(sdk.ReadOnlySpan), meter *Spans) *keeper {
	return &keeper{config: c, pass: pass, meter: meter, now: time.Now, open: make(map[api.SpanID]*held)}
}

// room reports whether one more failed trace may be kept in this second.
func (k *keeper) room() bool {
	if second := k.now().Unix(); second != k.second {
		k.second, k.kept = second, 0
	}
	k.kept++
	return k.kept <= k.config.Errors
}

// OnStart implements sdk.SpanProcessor.
func (k *keeper) OnStart(_ context.Context, s sdk.ReadWriteSpan) {
	at, parent := s.SpanContext(), s.Parent()
	if at.IsSampled() {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if parent.IsValid() && !parent.IsRemote() {
		if h := k.open[parent.SpanID()]; h != nil {
			k.open[at.SpanID()] = h
		}
		return
	}
	if k.held >= k.config.Held {
		k.meter.overlooked.Inc()
		return
	}
	k.held++
	k.open[at.SpanID()] = &held{first: at.SpanID()}
}

// OnEnd implements sdk.SpanProcessor.
func (k *keeper) OnEnd(s sdk.ReadOnlySpan) {
	id := s.SpanContext().SpanID()
	if s.SpanContext().IsSampled() {
		k.pass(s)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.open[id]
	delete(k.open, id)
	if h == nil {
		return
	}
	h.failed = h.failed || s.Status().Code == codes.Error
	switch {
	case h.over && h.kept:
		k.pass(s)
		return
	case h.over:
		return
	case len(h.spans) < k.config.HeldSpans || h.first == id:
		h.spans = append(h.spans, s)
	}
	if h.first != id {
		return
	}
	k.held--
	h.over = true
	if h.failed && k.room() {
		h.kept = true
		for _, span := range h.spans {
			k.pass(span)
		}
	}
	h.spans = nil
}

// Shutdown implements sdk.SpanProcessor.
func (*keeper) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdk.SpanProcessor.
func (*keeper) ForceFlush(context.Context) error { return nil }
