package notify

import (
	"context"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/eprod/eprod/internal/trace"
)

// TestSentInTrace: a message that a worker sends later is sent in the trace of what wished for it.
func TestSentInTrace(t *testing.T) {
	eachDesk(t, []string{TwilioName}, func(t *testing.T, w *desk) {
		recorder := tracetest.NewSpanRecorder()
		tracer := trace.New(sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)).Tracer("test"))
		ctx, span := tracer.Request(t.Context(), "alert", "")
		status, _, err := w.Queue(ctx, w.wish("alert/1"))
		if err != nil {
			t.Fatal(err)
		}
		span.End(nil)
		id, _ := trace.IDs(ctx)
		w.clock.Advance(time.Second)
		if n := w.Once(trace.With(context.Background(), tracer)); n != 1 {
			t.Fatalf("%d messages", n)
		}
		w.settled(status.ID, Accepted, Delivered)
		for _, s := range recorder.Ended() {
			if s.Name() == "send message" && s.SpanContext().TraceID().String() == id {
				return
			}
		}
		t.Errorf("no span of the trace %s in %d spans", id, len(recorder.Ended()))
	})
}
