package main

import (
	"context"
	"net/http"
	"time"

	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/risk"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
)

// The consumer groups of the assessments: one for what was stored, one for what waits for the sponsor's model.
const (
	riskGroup     = "risk"
	riskHTTPGroup = "risk-http"
)

// riskSettings are risk.Config and the secret that belongs to it.
type riskSettings struct {
	risk.Config `koanf:",squash"`
	HTTPToken   Secret `koanf:"httpToken"`
}

// assessing is risk in this process.
type assessing struct {
	service  *risk.Service
	consumer *risk.Consumer
}

func (s *server) openRisk() {
	c := s.config.Risk
	store := &risk.Store{Meta: s.meta, Shards: s.shards, Mutable: study.Mutable}
	models := map[string]risk.Assessor{risk.ModelRules: risk.RuleModel{}}
	if c.HTTP.URL != "" {
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		models[risk.ModelHTTP] = &risk.Remote{URL: c.HTTP.URL, Token: string(c.HTTPToken), Name: risk.Model{Name: c.HTTP.Model, Version: c.HTTP.Version}, Client: client, Timeout: c.HTTP.Timeout,
			Breaker: limit.NewBreaker("the risk model", c.Breaker, limit.Announce("risk", s.metrics.Health, s.log))}
	}
	// Without the shared limits every process would have a rate of its own.
	shared := limit.NewBreaker("the shared limits", s.config.Limits.Breaker, limit.Announce("risk_limits", s.metrics.Health, s.log))
	alone := limit.NewBuckets(c.Rate/float64(s.config.Limits.Processes), max(1, c.Burst/s.config.Limits.Processes), 16, time.Now)
	rate := limit.NewLeased(c.Rate, c.Burst, 16, limit.LeasedParts{Client: s.redis, Breaker: shared, Prefix: s.prefix() + "limit:risk:", Process: processName(), Clock: time.Now, Alone: alone,
		OnAlone: func() { s.metrics.Limits.LimitedAlone("risk") }})
	s.risk.service = &risk.Service{Store: store, Catalog: s.catalog, People: s.profiles, Guard: s.guard, IDs: s.ids, Now: time.Now, Remote: c.HTTP.URL != ""}
	s.risk.consumer = risk.NewConsumer(c.Config, risk.Parts{Store: store, Catalog: s.catalog, People: s.profiles, Responses: s.submissions, Models: models, Rate: rate,
		Log: s.producer, Index: s.keyring, Intake: s.keyring.Intake(), IDs: s.ids, Now: time.Now, Meter: s.metrics.Alerts, Logger: s.log})
}

// assess assesses what was stored, at its own rate, until ctx ends.
func (s *server) assess(ctx context.Context) error {
	return s.assessFrom(ctx, riskGroup, submission.Events, s.risk.consumer.Handle)
}

// assessByHTTP asks the sponsor's model, at its own rate, until ctx ends. Where none is set up it leaves what waits for one to other
// processes.
func (s *server) assessByHTTP(ctx context.Context) error {
	if s.config.Risk.HTTP.URL == "" {
		<-ctx.Done()
		return nil
	}
	return s.assessFrom(ctx, riskHTTPGroup, risk.HTTPTopic, s.risk.consumer.HandleHTTP)
}

func (s *server) assessFrom(ctx context.Context, group, topic string, handle kafka.Handler) error {
	cc := kafka.DefaultConsumerConfig(group, topic)
	cc.MaxRows, cc.HandlerTimeout = s.config.Risk.Batch, s.config.Risk.Timeout
	cc.FetchBytes = 64 << 10 // assessments are in no hurry
	cc.Failing = func(topic string, partition int32, err error) {
		s.log.WarnContext(ctx, "assessments wait", "topic", topic, "partition", partition, "error", err)
	}
	return kafka.Consume(ctx, s.kafka, s.dial, cc, handle, s.log)
}
