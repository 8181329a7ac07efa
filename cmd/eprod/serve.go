package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/idgen"
	"github.com/eprod/eprod/internal/ingest"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/processor"
	"github.com/eprod/eprod/internal/risk"
	"github.com/eprod/eprod/internal/safety"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/trace"
	"github.com/eprod/eprod/internal/web"
)

// part is something that runs for the life of the process: a blocking call that returns when it has drained.
type part struct {
	name  string
	roles []string
	// stage orders the stop: the parts of a stage are told to stop when those of the stages before have ended.
	stage int
	run   func(ctx context.Context) error
}

// The stages of stopping, first to last.
const (
	stageIntake  = iota // takes work in: listener, consumer, spool relay
	stageRelay          // hands on what the work left: outbox, shared receipts
	stageProduce        // what the others send through
	stageStores         // what everything stands on, and what tells operators that it stands
)

const (
	roleAPI       = "api"
	roleProcessor = "processor"
	roleAll       = "all"
)

// server is a process in its roles.
type server struct {
	*app
	web      *web.Server
	ops      *web.Ops
	producer *kafka.Producer
	breaker  *limit.Breaker
	door     *ingest.Service
	spool    *submission.Spool
	relays   outbox.Relays
	sampler  *telemetry.Sampler
	locker   *study.Locker
	locks    *study.LockService
	safety   alerting
	risk     assessing
}

// consumer is a part that reads a topic as a group of its own.
type consumer struct {
	name  string
	roles []string
	group kafka.Group
	run   func(ctx context.Context) error
}

// consumers is the table of who reads which topic as which group. Adding a consumer is adding a line: it runs, and operators see from
// every process how far its group is behind, also when no such consumer is alive.
func (s *server) consumers() []consumer {
	worker, both := []string{roleProcessor}, []string{roleAPI, roleProcessor}
	return []consumer{
		{"processor", worker, accepted, s.consume},
		{"cache invalidation", worker, kafka.Group{Name: invalidationGroup, Topic: cache.Topic}, s.invalidate},
		s.follower("alerts", worker, kafka.Group{Name: safetyGroup, Topic: submission.Events}, s.safety.consumer.Handle),
		{"risk assessment", worker, kafka.Group{Name: riskGroup, Topic: submission.Events}, s.assess},
		{"risk assessment by HTTP", worker, kafka.Group{Name: riskHTTPGroup, Topic: risk.HTTPTopic}, s.assessByHTTP},
		// Beside the doors as well, because the processors may be the ones that are down.
		s.follower("urgent alerts", both, kafka.Group{Name: urgentGroup, Topic: safety.UrgentTopic}, s.safety.urgent.Handle),
	}
}

// follower is a consumer with the bounds of kafka.DefaultConsumerConfig.
func (s *server) follower(name string, roles []string, group kafka.Group, handle kafka.Handler) consumer {
	return consumer{name, roles, group, func(ctx context.Context) error {
		cc := kafka.DefaultConsumerConfig(group.Name, group.Topic)
		cc.Failing = func(topic string, partition int32, err error) {
			s.log.WarnContext(ctx, "a batch waits", "topic", topic, "partition", partition, "error", err)
		}
		return kafka.Consume(ctx, s.kafka, s.dial, cc, handle, s.log)
	}}
}

// consumerGroups are the groups whose lag operators see.
func (s *server) consumerGroups() []kafka.Group {
	var groups []kafka.Group
	for _, c := range s.consumers() {
		groups = append(groups, c.group)
	}
	return groups
}

// parts is the table of what runs in which role; those that read topics stand in consumers.
func (s *server) parts() []part {
	api, both := []string{roleAPI}, []string{roleAPI, roleProcessor}
	parts := []part{
		{"public listener", api, stageIntake, s.web.Run},
		{"spool relay", api, stageIntake, s.spoolRelay().Run},
		{"cache verification", []string{roleProcessor}, stageIntake, s.verifier().Run},
		{"tasks", []string{roleProcessor}, stageIntake, s.generator.Run},
		{"reminders", []string{roleProcessor}, stageIntake, s.reminders.Run},
		{"messages", []string{roleProcessor}, stageIntake, s.messages.Work},
		{"escalation of alerts", both, stageIntake, s.safety.escalator.Run},
		{"urgent rules", api, stageRelay, s.safety.watch.Run},
		{"study locks", []string{roleProcessor}, stageIntake, s.locker.Run},
		{"archive", []string{roleProcessor}, stageIntake, s.archives.Run},
		{"messages on request", both, stageRelay, s.messages.Run},
		{"outbox relay", []string{roleProcessor}, stageRelay, s.relays.Run},
		{"demonstration", api, stageIntake, s.demonstrate},
		{"spool", api, stageRelay, s.spool.Run},
		{"shared receipts", api, stageRelay, s.memory.Run},
		{"producer", both, stageProduce, s.producer.Run},
		{"metrics of the stores", both, stageProduce, s.sampler.Run},
		{"traces", both, stageStores, s.tracing.Run},
		{"map of the shards", both, stageStores, s.followMap},
		{"embedded stores", both, stageStores, s.embeddedStores},
		{"operators' listener", both, stageStores, s.ops.Run},
	}
	for _, c := range s.consumers() {
		parts = append(parts, part{c.name, c.roles, stageIntake, c.run})
	}
	return parts
}

// serve runs the process until ctx ends and returns when everything has drained. Problems of the start are reported before
// anything is taken in.
func serve(ctx context.Context, c *Config, out, logTo io.Writer) error {
	log := newLogger(logTo, c)
	debug.SetGCPercent(c.Runtime.GCPercent)
	debug.SetMemoryLimit(c.Runtime.MemoryLimit)
	st, err := openStores(ctx, c, log)
	if err != nil {
		return err
	}
	err = func() error {
		if err := st.prepare(ctx); err != nil {
			return err
		}
		a, err := newApp(ctx, st)
		if err != nil {
			return err
		}
		return errors.Join(runServer(ctx, a, out), a.close())
	}()
	return errors.Join(err, st.close())
}

// prepare migrates embedded databases, whose only program this is, and checks the schema of real ones.
func (s *stores) prepare(ctx context.Context) error {
	if s.embedded != nil {
		if err := s.migrate(ctx); err != nil {
			return err
		}
		return s.growth.Prepare(ctx)
	}
	if err := s.schema(ctx); err != nil {
		return err
	}
	if err := s.growth.Prepare(ctx); err != nil {
		return err
	}
	if err := s.topics(ctx); err != nil {
		// The log may be away while the process starts: intake has the spool.
		s.log.WarnContext(ctx, "topics could not be checked", "error", err)
	}
	return nil
}

// newServer makes a process' doors and joins everything to them; nothing listens yet.
func newServer(ctx context.Context, a *app) (*server, error) {
	s := &server{app: a, spool: submission.NewSpool(a.shards), producer: kafka.NewProducer(a.kafka, a.dial, a.log)}
	return s, s.build(ctx)
}

func runServer(ctx context.Context, a *app, out io.Writer) error {
	s, err := newServer(ctx, a)
	if err != nil {
		return err
	}
	if err := errors.Join(s.web.Listen(ctx), s.ops.Listen(ctx)); err != nil {
		return err
	}
	if err := s.welcome(ctx, out); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "ready", "role", s.config.Role, "stores", s.config.stores(), "api", s.apiAddress(), "ops", "http://"+s.ops.Addr(), "version", version())
	err = runParts(trace.With(ctx, s.tracing.Tracer), s.log, s.config.Role, s.parts())
	s.log.InfoContext(context.WithoutCancel(ctx), "stopped")
	return err
}

func (s *server) apiAddress() string {
	if s.config.Role == roleProcessor {
		return ""
	}
	return "http://" + s.web.Addr()
}

// build makes the doors and joins everything to them.
func (s *server) build(ctx context.Context) error {
	c := s.config
	limits, err := limit.New(c.Limits, limit.Parts{Redis: s.redis, Prefix: s.prefix(), Caller: callerKey, Random: rand.Reader,
		Clock: time.Now, Meter: s.metrics.Limits, Gauge: s.metrics.Health, Log: s.log})
	if err != nil {
		return err
	}
	s.web, err = web.New(c.HTTP, web.Deps{Log: s.log, Metrics: s.metrics.HTTP, Version: version(), Tracer: s.tracing.Tracer, Edge: web.Edge{
		InFlight: limit.NewInFlight(c.HTTP.MaxInFlight), Authenticate: auth.Middleware(s.signer), Limit: limits.Middleware(), Elsewhere: s.archives.Answer()}})
	if err != nil {
		return err
	}
	s.ops = web.NewOps(c.HTTP, web.OpsDeps{Ready: s.ready, Registry: s.metrics.Registry, Version: version(), Log: s.log})
	for _, d := range slices.Concat(s.shards.All(), []*db.DB{s.meta}) { // relays of shards stand at their shard's index
		s.relays = append(s.relays, outbox.NewRelay(d, s.producer, s.kafka.Partitions, c.Outbox, s.log))
	}
	const name = "the intake log"
	s.breaker = limit.NewBreaker(name, c.Ingest.Breaker, limit.Announce("log", s.metrics.Health, s.log))
	s.openSafety()
	s.openRisk()
	s.door, err = ingest.New(c.Ingest, ingest.Parts{Catalog: s.catalog, People: s.profiles, Engine: s.engine, Log: timedLog{s.producer, s.metrics.Intake}, Breaker: s.breaker,
		Spool: s.spool, Records: s.submissions, IDs: s.ids, Memory: s.memory, Intake: s.keyring.Intake(), Partitions: s.kafka.Partitions, Now: time.Now,
		Meter: s.metrics.Intake, Logger: s.log, Urgent: s.safety.watch})
	if err != nil {
		return err
	}
	s.openClosing()
	return errors.Join(s.observe(), s.routes(), limits.Bind(s.web.API()))
}

func (s *server) routes() error {
	c := s.config
	api := s.web.API()
	slots := limit.NewInFlight(c.Ingest.MaxInFlight)
	if err := s.metrics.Health.InFlight(slots.Count, slots.Refused); err != nil {
		return err
	}
	(&ingest.Door{Service: s.door, Slots: slots}).Routes(s.web.Gin(), api)
	submission.Routes(api, &submission.Service{Store: s.submissions, Participants: s.profiles, Recent: s.door, Intake: s.keyring.Intake(), Guard: s.guard,
		Definitions: s.catalog})
	s.studies.Routes(api)
	s.locks.Routes(api)
	s.safety.service.Routes(api)
	s.risk.service.Routes(api)
	s.signer.Routes(api)
	s.participants.Routes(s.web)
	s.users.Routes(s.web)
	s.tasks.Routes(api)
	s.messages.Routes(s.web)
	s.archives.Routes(api)
	idgen.Routes(s.web, s.ids, func(ctx context.Context) error {
		_, err := s.guard.Global(ctx, auth.IDIssue)
		return err
	})
	return nil
}

// callerKey names the account that signed in, or nobody: "".
func callerKey(ctx context.Context) string {
	p, ok := auth.From(ctx)
	if !ok {
		return ""
	}
	return string(p.Kind) + strconv.FormatInt(p.ID, 36)
}

func (s *server) spoolRelay() *ingest.SpoolRelay {
	return &ingest.SpoolRelay{Shards: s.shards, Log: s.producer, Partitions: s.kafka.Partitions, Config: s.config.Ingest, Logger: s.log}
}

// processorGroup is the consumer group of the processor.
const processorGroup = "processor"

func (s *server) consume(ctx context.Context) error {
	relayOf := make(map[*db.DB]*outbox.Relay)
	for i, d := range s.shards.All() {
		relayOf[d] = s.relays[i]
	}
	p := processor.New(s.config.Processor, processor.Parts{Catalog: s.catalog, People: s.profiles, Engine: s.engine, Shards: s.shards,
		Intake: s.keyring.Intake(), IDs: s.ids, Now: time.Now, Meter: s.metrics.Process, Logger: s.log, Barriers: &study.Store{Meta: s.meta},
		Committed: func(d *db.DB) { relayOf[d].Notify() }})
	cc := kafka.DefaultConsumerConfig(processorGroup, submission.Topic)
	cc.MaxRows, cc.MaxBytes = s.config.Processor.MaxRows, s.config.Processor.MaxBytes
	cc.Failing = func(topic string, partition int32, err error) {
		s.log.WarnContext(ctx, "a batch waits", "topic", topic, "partition", partition, "error", err)
	}
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var writers sync.WaitGroup
	writers.Go(func() { _ = p.Run(writing) })
	err := kafka.Consume(ctx, s.kafka, s.dial, cc, p.Handle, s.log)
	stop() // nobody hands anything over any more
	writers.Wait()
	return err
}

func (s *server) embeddedStores(ctx context.Context) error {
	if s.embedded == nil {
		<-ctx.Done()
		return nil
	}
	return s.embedded.Run(ctx)
}

// runParts runs a role's parts until ctx ends or one of them fails, then stops stage after stage and returns all errors.
func runParts(ctx context.Context, log *slog.Logger, role string, parts []part) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	type stage struct {
		stop    context.CancelFunc
		running sync.WaitGroup
	}
	stages := make([]stage, stageStores+1)
	problems := make(chan error, len(parts))
	for i := range stages {
		running, stop := context.WithCancel(context.WithoutCancel(ctx))
		defer stop()
		stages[i].stop = stop
		for _, p := range parts {
			if p.stage != i || role != roleAll && !slices.Contains(p.roles, role) {
				continue
			}
			stages[i].running.Go(func() {
				err := p.run(running)
				if err != nil {
					err = fmt.Errorf("%s: %w", p.name, err)
					problems <- err
				}
				if running.Err() == nil { // it ended by itself
					fail(errors.Join(errors.New(p.name+" ended"), err))
				}
			})
		}
	}
	<-ctx.Done()
	log.InfoContext(context.WithoutCancel(ctx), "stopping", "cause", context.Cause(ctx).Error())
	for i := range stages {
		stages[i].stop()
		stages[i].running.Wait()
	}
	close(problems)
	var all []error
	for err := range problems {
		all = append(all, err)
	}
	return errors.Join(all...)
}
