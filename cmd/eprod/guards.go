package main

import (
	"github.com/eprod/eprod/internal/limit"
)

// breakerOf makes a breaker that operators see under a label. Clients read the name where it refuses.
func (a *app) breakerOf(name, label string, c limit.BreakerConfig) *limit.Breaker {
	return limit.NewBreaker(name, c, limit.Announce(label, a.metrics.Health, a.log))
}

// protect puts breakers around the stores, before anything uses them. The log, the limits and the gateways have theirs where they are made.
func (a *app) protect() {
	c := a.config
	a.meta.Protect(a.breakerOf("the database of studies and accounts", a.meta.Name, c.Database.Breaker))
	for _, d := range a.shards.All() {
		d.Protect(a.breakerOf("the database of this participant", d.Name, c.Database.Breaker))
	}
	limit.ProtectRedis(a.redis, a.breakerOf("the cache", "redis", c.Redis.Breaker))
}
