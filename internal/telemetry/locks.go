package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Locks counts what becomes of locks: eprod_lock_requests_total{backend,outcome}, eprod_locks_held{backend} and
// eprod_locks_lost_total{backend}.
type Locks struct {
	requests, lost *prometheus.CounterVec
	held           *prometheus.GaugeVec
}

func newLocks(f promauto.Factory) *Locks {
	l := &Locks{
		requests: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_lock_requests_total",
			Help: "Locks asked for, by outcome: acquired, held (by another) or unavailable (no answer)."}, []string{"backend", "outcome"}),
		lost: f.NewCounterVec(prometheus.CounterOpts{Name: "eprod_locks_lost_total",
			Help: "Locks that ended under their holder."}, []string{"backend"}),
		held: f.NewGaugeVec(prometheus.GaugeOpts{Name: "eprod_locks_held",
			Help: "Locks that this process holds now."}, []string{"backend"}),
	}
	return l
}

// Backend shows a back end at zero.
func (l *Locks) Backend(backend string) {
	for _, outcome := range []string{"acquired", "held", "unavailable"} {
		l.requests.WithLabelValues(backend, outcome)
	}
	l.lost.WithLabelValues(backend)
	l.held.WithLabelValues(backend)
}

// Requested counts a request for a lock.
func (l *Locks) Requested(backend, outcome string) {
	l.requests.WithLabelValues(backend, outcome).Inc()
}

// Holding counts locks that this process has taken (1) or given up (−1).
func (l *Locks) Holding(backend string, change int) {
	l.held.WithLabelValues(backend).Add(float64(change))
}

// Lost counts a lock that ended before its holder gave it back.
func (l *Locks) Lost(backend string) { l.lost.WithLabelValues(backend).Inc() }
