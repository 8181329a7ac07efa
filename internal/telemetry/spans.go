package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Spans counts what became of spans: eprod_spans_total{outcome}.
type Spans struct{ exported, failed, dropped, overlooked prometheus.Counter }

func newSpans(f promauto.Factory) *Spans {
	total := f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_spans_total",
		Help: "Spans by outcome: exported, failed (the collector did not take them), dropped (too many waited) or overlooked (too many traces were open to hold another)."},
		[]string{"outcome"})
	return &Spans{exported: total.WithLabelValues("exported"), failed: total.WithLabelValues("failed"), dropped: total.WithLabelValues("dropped"),
		overlooked: total.WithLabelValues("overlooked")}
}
