package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/eprod/eprod/internal/archive"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/idgen"
	"github.com/eprod/eprod/internal/lock"
	"github.com/eprod/eprod/internal/notify"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/user"
)

// app is the contexts, wired over the stores. Commands and roles take from it what they need.
type app struct {
	*stores
	metrics      *telemetry.Metrics
	tracing      *telemetry.Tracing
	ids          idgen.Generator
	endIDs       func() error // gives the worker number back; ids are refused from then on
	redisStore   *cache.Redis
	designs      *cache.Gated
	editing      *lock.Reentrant // of patient records
	procedures   lock.Locker
	guard        auth.Guard
	signer       *auth.Signer
	engine       *task.Engine
	catalog      *study.Catalog
	studies      *study.Service
	profiles     *participant.Profiles
	participants *participant.Service
	users        *user.Service
	tasks        *task.Service
	generator    *task.Generator
	messages     *notify.Service
	reminders    *notify.Reminders
	submissions  *submission.Store
	memory       *submission.Memory
	archives     *archive.Service
}

// newApp wires the contexts. It takes a worker number for ids; close gives it back.
func newApp(ctx context.Context, s *stores) (*app, error) {
	a := &app{stores: s, metrics: telemetry.NewMetrics(), engine: task.NewEngine(), submissions: &submission.Store{Shards: s.shards}}
	if err := a.openTracing(ctx); err != nil {
		return nil, err
	}
	a.protect()
	if err := a.openIDs(ctx); err != nil {
		return nil, err
	}
	if err := a.wire(); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

// prefix begins every key that this installation has in Redis and etcd.
func (a *app) prefix() string { return "eprod:" + a.config.Kafka.Prefix }

// processName is how this process is called where it holds something.
func processName() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

func (a *app) wire() error {
	c := a.config
	now := time.Now
	a.redisStore = cache.NewRedis(a.redis, a.prefix(), c.Redis.Timeout)
	a.memory = submission.NewMemory(a.redisStore, a.log)
	shelf := &study.Store{Meta: a.meta}
	a.guard = auth.Guard{Grants: shelf}
	var err error
	if a.signer, err = auth.NewSigner(a.seed, now); err != nil {
		return err
	}
	a.designs = cache.NewGated(a.redisStore, c.Cache, a.metrics.Cache)
	a.catalog, err = study.NewCatalog(c.Catalog, c.Questionnaire.Limits, shelf, cache.New(a.redisStore, c.Cache.TTL), a.designs, now)
	if err != nil {
		return err
	}
	people := &participant.Store{Meta: a.meta, Shards: a.shards}
	accounts := &user.Store{Meta: a.meta, Shards: a.shards, Activated: participant.Activate}
	a.openLocks()
	if a.profiles, err = participant.NewProfiles(c.Profiles, people, a.keyring, now); err != nil {
		return err
	}
	a.participants = participant.New(c.Participants, participant.Parts{Shelf: people, Studies: a.catalog, Guard: a.guard, Profiles: a.profiles,
		Keys: a.keyring, IDs: a.ids, Random: rand.Reader, Now: now, Locks: a.editing, Staff: accounts, Logger: a.log, PublicURL: c.PublicURL})
	a.users = user.New(c.Users, user.Parts{
		Accounts: accounts, Participants: a.participants, Policies: a.catalog,
		Tokens: a.signer, Secrets: a.keyring.Intake(), Hasher: user.NewHasher(c.Users, rand.Reader), IDs: a.ids, Random: rand.Reader, Now: now, Logger: a.log})
	a.studies = study.New(study.Parts{Shelf: shelf, Catalog: a.catalog, Guard: a.guard, Accounts: a.users, Engine: a.engine, IDs: a.ids,
		Limits: c.Questionnaire.Limits, Now: now})
	a.openTasks(people, shelf)
	if err := a.openMessages(a.profiles); err != nil {
		return err
	}
	a.openReminders()
	return a.openArchive(shelf)
}

// openLocks makes the locks of patient records, which people wait for, and those of procedures, which must be strict.
func (a *app) openLocks() {
	prefix := a.prefix()
	parts := lock.Parts{Config: a.config.Locks, Holder: processName(), Clock: time.Now, Random: rand.Reader, Log: a.log, Meter: a.metrics.Locks}
	a.showLocks()
	a.editing = lock.NewReentrant(a.redis, prefix, parts)
	switch a.config.Locks.Backend {
	case lock.OnEtcd:
		parts.Guard = a.breakerOf("the lock service", "etcd", a.config.Etcd.Breaker)
		a.procedures = lock.NewEtcd(a.etcd, prefix, parts)
	case lock.OnRedis:
		a.procedures = lock.NewRedis(a.redis, prefix, parts)
	default:
		a.procedures = lock.NewTable(a.meta, parts)
	}
}

// personOf shows profiles to the task lists.
type personOf struct{ *participant.Profiles }

// Site implements task.People.
func (p personOf) Site(ctx context.Context, id int64) (study, site int64, err error) {
	profile, err := p.Get(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	return profile.Study, profile.Site, nil
}
