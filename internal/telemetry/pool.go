package telemetry

import (
	"database/sql"

	"github.com/prometheus/client_golang/prometheus"
)

// pools shows what database/sql counts of its pools. Reading it takes no connection.
type pools struct {
	stats map[string]func() sql.DBStats
	descs []*prometheus.Desc
}

// Pools adds the connection pools, by the databases' names: eprod_db_pool_max, _open, _in_use, _waits_total and _wait_seconds_total.
func (h *Health) Pools(stats map[string]func() sql.DBStats) error {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("eprod_db_pool_"+name, help, []string{"database"}, nil)
	}
	return h.registry.Register(&pools{stats, []*prometheus.Desc{
		desc("max", "Connections that this process may have to a database."),
		desc("open", "Connections that this process has to a database."),
		desc("in_use", "Of these, connections at work."),
		desc("waits_total", "How often somebody had to wait for a connection."),
		desc("wait_seconds_total", "How long all of them waited together."),
	}})
}

// Describe implements prometheus.Collector.
func (p *pools) Describe(to chan<- *prometheus.Desc) {
	for _, d := range p.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (p *pools) Collect(to chan<- prometheus.Metric) {
	for name, read := range p.stats {
		s := read()
		for i, value := range []float64{float64(s.MaxOpenConnections), float64(s.OpenConnections), float64(s.InUse), float64(s.WaitCount), s.WaitDuration.Seconds()} {
			kind := prometheus.GaugeValue
			if i > 2 {
				kind = prometheus.CounterValue
			}
			to <- prometheus.MustNewConstMetric(p.descs[i], kind, value, name)
		}
	}
}
