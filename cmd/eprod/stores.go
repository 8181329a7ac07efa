package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/embedded"
	"github.com/eprod/eprod/internal/growth"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/risk"
	"github.com/eprod/eprod/internal/safety"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/web"
)

// stores are the places where data is, real or embedded, each chosen by whether the settings name an address.
type stores struct {
	config   *Config
	log      *slog.Logger
	embedded *embedded.Embedded // nil when every store is real
	meta     *db.DB
	shards   *db.Shards
	growth   *growth.Service // where the buckets of the shards are
	kafka    kafka.Config
	dial     kafka.Dial // nil: TCP
	redis    *redis.Client
	etcd     *clientv3.Client // nil without endpoints
	seed     []byte           // of the key that signs access tokens
	keyring  *keyring.Keyring
	closers  []func() error // in the order of opening
}

func newLogger(w io.Writer, c *Config) *slog.Logger {
	format := c.Log.Format
	if format == "auto" {
		format = "json"
		if f, ok := w.(*os.File); ok {
			if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
				format = "text"
			}
		}
	}
	return telemetry.NewLogger(w, telemetry.Config{Level: c.Log.Level, Format: format}, service(), web.RequestID)
}

// openStores opens everything. No server needs to answer yet, except that the embedded folder must be free.
func openStores(ctx context.Context, c *Config, log *slog.Logger) (*stores, error) {
	s := &stores{config: c, log: log, kafka: c.Kafka.Config}
	err := s.open(ctx)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *stores) open(ctx context.Context) error {
	c := s.config
	if c.embedded() {
		e, err := embedded.Open(c.DataDir, rand.Reader, s.log)
		if err != nil {
			return err
		}
		s.embedded = e
		s.closers = append(s.closers, e.Close)
	}
	if err := s.openDatabases(ctx); err != nil {
		return err
	}
	if len(s.kafka.Brokers) == 0 {
		s.kafka.Brokers, s.dial = s.embedded.KafkaBrokers(), s.embedded.KafkaDial()
		s.kafka.Partitions, s.kafka.Replication, s.kafka.MinInSync = embedded.Partitions, 1, 1
	}
	s.openRedis()
	if err := s.openEtcd(); err != nil {
		return err
	}
	return s.openSecrets()
}

func (s *stores) openDatabases(ctx context.Context) error {
	c := &s.config.Database
	keep := func(d *db.DB, err error) (*db.DB, error) {
		if err == nil {
			s.closers = append(s.closers, d.Close)
		}
		return d, err
	}
	var shards []*db.DB
	var ranges []db.BucketRange
	var err error
	if c.Meta.DSN == "" {
		if s.meta, err = keep(db.OpenSQLite(ctx, "meta", s.embedded.MetaPath(), c.Pool, s.log)); err != nil {
			return err
		}
		ranges = []db.BucketRange{{First: 0, Last: db.Buckets/2 - 1}, {First: db.Buckets / 2, Last: db.Buckets - 1}}
		for i, path := range s.embedded.ShardPaths() {
			shard, err := keep(db.OpenSQLite(ctx, fmt.Sprintf("shard%d", i), path, c.Pool, s.log))
			if err != nil {
				return err
			}
			shards = append(shards, shard)
		}
	} else {
		if s.meta, err = keep(db.OpenMySQL(ctx, "meta", string(c.Meta.DSN), c.Pool, s.log)); err != nil {
			return err
		}
		for _, sc := range c.Shards {
			shard, err := keep(db.OpenMySQL(ctx, sc.Name, string(sc.DSN), c.Pool, s.log))
			if err != nil {
				return err
			}
			r, err := db.ParseRange(sc.Buckets)
			if err != nil {
				return err
			}
			shards, ranges = append(shards, shard), append(ranges, r)
		}
	}
	if s.shards, err = db.NewShards(shards, ranges); err != nil {
		return err
	}
	s.growth = &growth.Service{Store: &growth.Store{Meta: s.meta}, Shards: s.shards, Config: s.config.Growth, Now: time.Now, Logger: s.log}
	return nil
}

func (s *stores) openRedis() {
	c := &s.config.Redis
	options := &redis.Options{Addr: c.Address, Password: string(c.Password), ContextTimeoutEnabled: true, MaxRetries: -1,
		DialTimeout: time.Second, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout, DisableIdentity: true}
	if c.Address == "" {
		options.Addr, options.Dialer = "embedded", s.embedded.RedisDial
	}
	s.redis = redis.NewClient(options)
	s.closers = append(s.closers, s.redis.Close)
}

// openEtcd makes the client, which connects when it is used.
func (s *stores) openEtcd() error {
	c := &s.config.Etcd
	if len(c.Endpoints) == 0 {
		return nil
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints, Username: c.Username, Password: string(c.Password), DialTimeout: time.Second,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	s.etcd = client
	s.closers = append(s.closers, client.Close)
	return nil
}

// openSecrets takes the keys from the settings or, where the data lies in the data folder, from there.
func (s *stores) openSecrets() error {
	keys := []keyring.MasterKey{{ID: 1}}
	var err error
	if s.config.Auth.SigningKey != "" {
		s.seed, err = s.config.signingSeed()
	} else {
		s.seed, err = s.embedded.Secret("signing-key", 32)
	}
	if err != nil {
		return err
	}
	if s.config.Keyring.MasterKeys != "" {
		keys, err = keyring.ParseMasterKeys(string(s.config.Keyring.MasterKeys))
	} else {
		keys[0].Secret, err = s.embedded.Secret("master-key-1", 32)
	}
	if err != nil {
		return err
	}
	s.keyring, err = keyring.New(keys, rand.Reader)
	return err
}

// close closes everything in the reverse order of opening.
func (s *stores) close() error {
	var problems []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		problems = append(problems, s.closers[i]())
	}
	return errors.Join(problems...)
}

// database is a database with the set of its schema.
type database struct {
	*db.DB
	set string
}

func (s *stores) databases() []database {
	all := []database{{s.meta, "meta"}}
	for _, d := range s.shards.All() {
		all = append(all, database{d, "shard"})
	}
	return all
}

// migrate brings all databases to this program's schema, at once, and makes the topics.
func (s *stores) migrate(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range s.databases() {
		group.Go(func() error {
			_, err := db.Migrate(ctx, d.DB, d.set, s.log)
			return err
		})
	}
	group.Go(func() error { return s.topics(ctx) })
	return group.Wait()
}

// topics makes the topics of the log. Records are kept for ever: what was accepted can always be accounted for.
func (s *stores) topics(ctx context.Context) error {
	config := map[string]string{"retention.ms": "-1"}
	return kafka.EnsureTopics(ctx, s.kafka, s.dial, []kafka.Topic{{Name: submission.Topic, Config: config}, {Name: submission.DeadTopic, Config: config}, {Name: submission.Events}, {Name: safety.UrgentTopic},
		{Name: risk.HTTPTopic, Config: config}, {Name: cache.Topic}})
}

// schema refuses to go on with a schema that is older than this program.
func (s *stores) schema(ctx context.Context) error {
	for _, d := range s.databases() {
		n, err := db.PendingMigrations(ctx, d.DB, d.set)
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("database %s lacks %d migrations: run eprod migrate up", d.Name, n)
		}
	}
	return nil
}
