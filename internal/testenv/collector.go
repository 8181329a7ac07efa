package testenv

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector is a server that takes spans as OTLP over HTTP.
type Collector struct {
	URL string

	mu    sync.Mutex
	spans []ReceivedSpan
	raw   bytes.Buffer
	calls int
}

// ReceivedSpan is one span with what it is of, ids as hexadecimal digits.
type ReceivedSpan struct {
	*otlp.Span
	Trace, ID, Parent, Node string
	Attrs                   map[string]string
}

// NewCollector starts a collector that ends with the test. Answer, where set, may answer in its place by returning true.
func NewCollector(t testing.TB, answer func(w http.ResponseWriter, r *http.Request) bool) *Collector {
	c := &Collector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.calls++
		c.mu.Unlock()
		sent, err := io.ReadAll(r.Body) // only then a server notices that its client leaves
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(sent))
		if answer != nil && answer(w, r) {
			return
		}
		body, err := c.read(r)
		if err != nil {
			t.Errorf("the collector was sent: %v", err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.add(body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

func (c *Collector) read(r *http.Request) (*collector.ExportTraceServiceRequest, error) {
	if r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		return nil, io.ErrUnexpectedEOF
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		body = unzipped
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.raw.Write(raw)
	c.mu.Unlock()
	request := new(collector.ExportTraceServiceRequest)
	return request, proto.Unmarshal(raw, request)
}

func (c *Collector) add(request *collector.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range request.ResourceSpans {
		node := ""
		for _, a := range of.Resource.Attributes {
			if a.Key == "service.instance.id" {
				node = a.Value.GetStringValue()
			}
		}
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				r := ReceivedSpan{Span: s, Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId), Node: node,
					Attrs: make(map[string]string)}
				for _, a := range s.Attributes {
					r.Attrs[a.Key] = a.Value.GetStringValue()
				}
				c.spans = append(c.spans, r)
			}
		}
	}
}

// Spans returns what came so far, of one trace, or all with "".
func (c *Collector) Spans(trace string) []ReceivedSpan {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []ReceivedSpan
	for _, s := range c.spans {
		if trace == "" || s.Trace == trace {
			out = append(out, s)
		}
	}
	return out
}

// Raw returns the bodies that came so far.
func (c *Collector) Raw() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.raw.Bytes())
}

// Calls returns how often the collector was called.
func (c *Collector) Calls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}
