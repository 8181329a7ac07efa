package trace_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/eprod/eprod/internal/trace"
)

const (
	one = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	two = "00-1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01"
)

func recorded() (context.Context, *trace.Tracer, *tracetest.SpanRecorder) {
	recorder := tracetest.NewSpanRecorder()
	t := trace.New(sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)).Tracer("test"))
	return trace.With(context.Background(), t), t, recorder
}

// TestOff: where nobody follows, nothing is allocated and the context stays what it was.
func TestOff(t *testing.T) {
	ctx, failure := t.Context(), errors.New("x")
	allocated := testing.AllocsPerRun(100, func() {
		inner, span := trace.Start(ctx, "a", trace.Client)
		batch, process := trace.Continue(inner, "b", trace.Consumer)
		round, begun := trace.Begin(batch, "c", trace.Internal)
		if inner != ctx || batch != ctx || round != ctx || trace.Of(ctx, one) != ctx || span.On() || trace.On(ctx) || trace.Following(ctx) || trace.Header(ctx) != "" || trace.HeaderFor(ctx, one) != one {
			t.Error("something is followed")
		}
		for _, s := range []trace.Span{span, process, begun} {
			s.End(failure)
		}
	})
	if allocated > 0 {
		t.Errorf("%v allocations", allocated)
	}
	if trace.With(ctx, nil) != ctx {
		t.Error("a process without a tracer has another context")
	}
}

// TestBatchOfOneTrace: of two records of one trace in a batch, each has the span that continues it.
func TestBatchOfOneTrace(t *testing.T) {
	ctx, _, recorder := recorded()
	other := one[:36] + "c7ad6b7169203331" + one[52:] // another span of the same trace
	batch, span := trace.Continue(ctx, "process", trace.Consumer, one, other)
	for _, header := range []string{one, other} {
		_, work := trace.Start(trace.Of(batch, header), header, trace.Internal)
		work.End(nil)
	}
	span.End(nil)
	parentOf := map[string]string{} // by span
	for _, s := range recorder.Ended() {
		parentOf[s.SpanContext().SpanID().String()] = s.Parent().SpanID().String()
	}
	for _, s := range recorder.Ended() {
		if header := s.Name(); header != "process" && parentOf[s.Parent().SpanID().String()] != header[36:52] {
			t.Errorf("what is done for %s is under the span that continues %s", header, parentOf[s.Parent().SpanID().String()])
		}
	}
}

// TestBatch: what is done for many records is in the trace of each; each hands on its own.
func TestBatch(t *testing.T) {
	ctx, _, recorder := recorded()
	first, a := trace.Continue(ctx, "process", trace.Consumer, one)
	second, b := trace.Continue(ctx, "process", trace.Consumer, two, strings.TrimSuffix(one, "1")+"0", "rubbish")
	joined := trace.Join(first, second, first, ctx)
	inner, commit := trace.Start(joined, "commit", trace.Client)
	if trace.Header(inner) != "" {
		t.Error("one header for several traces")
	}
	for _, header := range []string{one, two} {
		own := trace.HeaderFor(inner, header)
		if own[:35] != header[:35] || own == header || own[53:] != "01" {
			t.Errorf("%s goes on as %s", header, own)
		}
	}
	const other = "00-2af7651916cd43dd8448eb211c80319c-c7ad6b7169203331-01"
	if got := trace.HeaderFor(inner, other); got != other {
		t.Errorf("%s goes on as %s", other, got)
	}
	if id, _ := trace.IDs(inner); id != "" {
		t.Errorf("several traces have the id %s", id)
	}
	if id, span := trace.IDs(first); id != one[3:35] || len(span) != 16 {
		t.Errorf("ids %s %s", id, span)
	}
	for _, header := range []string{one, two} {
		if id, _ := trace.IDs(trace.Of(inner, header)); id != header[3:35] {
			t.Errorf("what is done for %s is in the trace %q", header, id)
		}
	}
	for _, header := range []string{other, "", "rubbish"} {
		if of := trace.Of(inner, header); trace.On(of) || trace.Header(of) != "" || !trace.Following(of) {
			t.Errorf("what is done for %q is in somebody's trace", header)
		}
	}
	if trace.Of(first, one) != first || trace.On(trace.Of(first, two)) {
		t.Error("one record is the other's")
	}
	for _, s := range []trace.Span{commit, a, b} {
		s.End(nil)
	}
	inTrace := map[string]int{}
	for _, s := range recorder.Ended() {
		inTrace[s.Name()+" "+s.SpanContext().TraceID().String()]++
	}
	for _, header := range []string{one, two} {
		for _, name := range []string{"process ", "commit "} {
			if inTrace[name+header[3:35]] != 1 {
				t.Errorf("%v", inTrace)
			}
		}
	}
	if len(recorder.Ended()) != 4 {
		t.Errorf("%d spans, want 4", len(recorder.Ended()))
	}
}

// FuzzTraceparent: whatever a client sends, a request begins, and a header that is handed on can be read again.
func FuzzTraceparent(f *testing.F) {
	for _, s := range []string{one, two, "", "00", strings.ToUpper(one), one + "-x", "01" + one[2:] + "-future", "ff" + one[2:],
		"00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, tracer, _ := recorded()
		ctx, span := tracer.Request(context.Background(), "r", s)
		defer span.End(nil)
		header := trace.Header(ctx)
		if len(header) != trace.HeaderLength {
			t.Fatalf("%q is handed on as %q", s, header)
		}
		id, _ := trace.IDs(ctx)
		adopted := len(s) >= trace.HeaderLength && s[3:35] == id
		valid := s == one || s == two || strings.HasPrefix(s, "01"+one[2:]+"-")
		if valid && !adopted {
			t.Errorf("%q is not adopted", s)
		}
		if again, _ := tracer.Request(context.Background(), "r", header); func() string { id, _ := trace.IDs(again); return id }() != id {
			t.Errorf("%q cannot be read", header)
		}
	})
}
