package trace

import (
	"context"
	"encoding/hex"
	"strings"

	api "go.opentelemetry.io/otel/trace"
)

// HeaderName is the header of requests and records that carries a traceparent.
const HeaderName = "traceparent"

// HeaderLength is that of a traceparent, in bytes.
const HeaderLength = 55

// Header returns the traceparent of what is open in ctx for whoever goes on with it; empty where nothing is, where the trace is not kept, and
// where it is several (HeaderFor).
func Header(ctx context.Context) string {
	o := openIn(ctx)
	if o == nil || len(o.spans) != 1 || !o.spans[0].SpanContext().IsSampled() {
		return ""
	}
	return header(o.spans[0].SpanContext())
}

// HeaderFor returns, of the traces that are open in ctx, the traceparent of that which another traceparent names: how a record of a batch hands on its
// own trace. Where it is not open the other is returned as it is.
func HeaderFor(ctx context.Context, traceparent string) string {
	o := openIn(ctx)
	if o == nil || len(traceparent) != HeaderLength {
		return traceparent
	}
	for _, span := range o.spans {
		if at := span.SpanContext(); at.IsSampled() && at.TraceID().String() == traceparent[3:35] {
			return header(at)
		}
	}
	return traceparent
}

func header(at api.SpanContext) string {
	var b strings.Builder
	b.Grow(HeaderLength)
	b.WriteString("00-")
	b.WriteString(at.TraceID().String())
	b.WriteString("-")
	b.WriteString(at.SpanID().String())
	b.WriteString("-")
	b.WriteString(at.TraceFlags().String())
	return b.String()
}

// parse reads a traceparent by https://www.w3.org/TR/trace-context/: four parts in lower-case hexadecimal digits, of which a later version may
// append more. One that is not valid counts as none.
func parse(s string) (api.SpanContext, bool) {
	if len(s) < HeaderLength || len(s) > 512 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s != strings.ToLower(s) {
		return api.SpanContext{}, false
	}
	var version, flags [1]byte
	var trace api.TraceID
	var span api.SpanID
	for _, part := range []struct {
		to   []byte
		text string
	}{{version[:], s[:2]}, {trace[:], s[3:35]}, {span[:], s[36:52]}, {flags[:], s[53:55]}} {
		if _, err := hex.Decode(part.to, []byte(part.text)); err != nil {
			return api.SpanContext{}, false
		}
	}
	if version[0] == 0xff || version[0] == 0 && len(s) != HeaderLength || len(s) > HeaderLength && s[HeaderLength] != '-' {
		return api.SpanContext{}, false
	}
	at := api.NewSpanContext(api.SpanContextConfig{TraceID: trace, SpanID: span, TraceFlags: api.TraceFlags(flags[0]) & api.FlagsSampled, Remote: true})
	return at, at.IsValid()
}
