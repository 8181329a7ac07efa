package ingest

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/trace"
)

// TestSpooledInTrace: a record that waits in the spool keeps its request's trace, and one that nobody follows has none.
func TestSpooledInTrace(t *testing.T) {
	s, f, taskID := newDoor(t)
	f.logAway = errs.Away("the log", errors.New("down"))
	tracer := trace.New(sdk.NewTracerProvider().Tracer("test"))
	const id = "0af7651916cd43dd8448eb211c80319c"
	ctx, span := tracer.Request(signedIn(t), "POST", "00-"+id+"-b7ad6b7169203331-01")
	if _, err := s.Accept(ctx, request(taskID, uuid.New(), "1", fresh), "source"); err != nil {
		t.Fatal(err)
	}
	span.End(nil)
	s, second, taskID := newDoor(t) // one task is answered once
	second.logAway = f.logAway
	if _, err := s.Accept(signedIn(t), request(taskID, uuid.New(), "1", fresh), "source"); err != nil {
		t.Fatal(err)
	}
	f.spooled = append(f.spooled, second.spooled...)
	if len(f.spooled) != 2 || !strings.HasPrefix(f.spooled[0].Trace, "00-"+id+"-") || !strings.HasSuffix(f.spooled[0].Trace, "-01") || f.spooled[1].Trace != "" {
		t.Errorf("spooled: %+v", f.spooled)
	}
}
