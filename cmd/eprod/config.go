package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/growth"
	"github.com/eprod/eprod/internal/idgen"
	"github.com/eprod/eprod/internal/ingest"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/lock"
	"github.com/eprod/eprod/internal/notify"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/processor"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/risk"
	"github.com/eprod/eprod/internal/safety"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/user"
	"github.com/eprod/eprod/internal/web"
)

// Config is every setting of eprod. config.yaml documents each key; a test holds the file against this struct.
type Config struct {
	Role          string                    `koanf:"role"`
	Demo          bool                      `koanf:"demo"`
	DataDir       string                    `koanf:"dataDir"`
	PublicURL     string                    `koanf:"publicUrl"`
	Log           LogConfig                 `koanf:"log"`
	Runtime       RuntimeConfig             `koanf:"runtime"`
	Telemetry     TelemetryConfig           `koanf:"telemetry"`
	HTTP          web.Config                `koanf:"http"`
	Database      DatabaseConfig            `koanf:"database"`
	Kafka         KafkaConfig               `koanf:"kafka"`
	Redis         RedisConfig               `koanf:"redis"`
	Etcd          EtcdConfig                `koanf:"etcd"`
	Auth          AuthConfig                `koanf:"auth"`
	Keyring       KeyringConfig             `koanf:"keyring"`
	IDs           idgen.Config              `koanf:"ids"`
	Users         user.Config               `koanf:"users"`
	Participants  participant.Config        `koanf:"participants"`
	Profiles      participant.ProfileConfig `koanf:"profiles"`
	Catalog       study.CatalogConfig       `koanf:"catalog"`
	Tasks         task.GeneratorConfig      `koanf:"tasks"`
	Questionnaire QuestionnaireConfig       `koanf:"questionnaire"`
	Limits        limit.Config              `koanf:"limits"`
	Cache         cache.Config              `koanf:"cache"`
	Locks         lock.Config               `koanf:"locks"`
	Risk          riskSettings              `koanf:"risk"`
	Safety        safety.Config             `koanf:"safety"`
	StudyLock     study.LockConfig          `koanf:"studyLock"`
	Growth        growth.Config             `koanf:"growth"`
	Outbox        outbox.Config             `koanf:"outbox"`
	Ingest        ingest.Config             `koanf:"ingest"`
	Processor     processor.Config          `koanf:"processor"`
	Reminders     notify.ReminderConfig     `koanf:"reminders"`
	Notify        NotifyConfig              `koanf:"notify"`
	SMSSandbox    notify.SandboxConfig      `koanf:"smsSandbox"`
	Archive       ArchiveConfig             `koanf:"archive"`
}

// QuestionnaireConfig bounds questionnaires.
type QuestionnaireConfig struct {
	Limits questionnaire.Limits `koanf:"limits"`
}

// LogConfig says how the log looks.
type LogConfig struct {
	Level  string `koanf:"level"`
	Format string `koanf:"format"`
}

// RuntimeConfig trades memory for CPU.
type RuntimeConfig struct {
	GCPercent   int   `koanf:"gcPercent"`
	MemoryLimit int64 `koanf:"memoryLimit"`
}

// DatabaseConfig says where metadata and shards are. Without a DSN the embedded stores are used.
type DatabaseConfig struct {
	Meta   MetaConfig    `koanf:"meta"`
	Shards []ShardConfig `koanf:"shards"`
	Pool   db.Config     `koanf:"pool"`

	// Breaker is made for each database.
	Breaker limit.BreakerConfig `koanf:"breaker"`
}

// MetaConfig is the metadata database.
type MetaConfig struct {
	DSN Secret `koanf:"dsn"`
}

// ShardConfig is one shard and the buckets that live on it.
type ShardConfig struct {
	Name    string `koanf:"name"`
	DSN     Secret `koanf:"dsn"`
	Buckets string `koanf:"buckets"`
}

// KafkaConfig is the log. Without brokers the embedded one is used.
type KafkaConfig struct {
	kafka.Config `koanf:",squash"`
}

// RedisConfig is the cache. Without an address the embedded one is used.
type RedisConfig struct {
	Address  string        `koanf:"address"`
	Password Secret        `koanf:"password"`
	Timeout  time.Duration `koanf:"timeout"`

	// Breaker is around every call, beside the one that the limits have.
	Breaker limit.BreakerConfig `koanf:"breaker"`
}

// EtcdConfig is where strict locks and worker numbers may be held instead of the metadata database.
type EtcdConfig struct {
	Endpoints []string `koanf:"endpoints"`
	Username  string   `koanf:"username"`
	Password  Secret   `koanf:"password"`

	// Breaker is around the locks, where they are in etcd.
	Breaker limit.BreakerConfig `koanf:"breaker"`
}

// AuthConfig holds the key that signs access tokens.
type AuthConfig struct {
	SigningKey Secret `koanf:"signingKey"`
}

// KeyringConfig holds the keys that wrap the participants' data keys.
type KeyringConfig struct {
	MasterKeys Secret `koanf:"masterKeys"`
}

// defaultConfig is what runs when nothing is set: everything embedded.
func defaultConfig() Config {
	c := Config{
		Role: "all", DataDir: "data", PublicURL: "http://localhost:8080",
		Log:           LogConfig{Level: "info", Format: "auto"},
		Runtime:       RuntimeConfig{GCPercent: 400, MemoryLimit: 1 << 30},
		Telemetry:     defaultTelemetry(),
		HTTP:          web.DefaultConfig(),
		Database:      DatabaseConfig{Pool: db.DefaultConfig(), Breaker: steadyBreaker(2 * time.Second)},
		Kafka:         KafkaConfig{kafka.DefaultConfig()},
		Redis:         RedisConfig{Timeout: 100 * time.Millisecond, Breaker: steadyBreaker(100 * time.Millisecond)},
		Etcd:          EtcdConfig{Endpoints: []string{}, Breaker: steadyBreaker(500 * time.Millisecond)},
		IDs:           idgen.DefaultConfig(),
		Users:         user.DefaultConfig(),
		Participants:  participant.DefaultConfig(),
		Profiles:      participant.DefaultProfileConfig(),
		Catalog:       study.DefaultCatalogConfig(),
		Tasks:         task.DefaultGeneratorConfig(),
		Questionnaire: QuestionnaireConfig{Limits: questionnaire.DefaultLimits()},
		Limits:        limit.DefaultConfig(),
		Cache:         cache.DefaultConfig(),
		Locks:         lock.DefaultConfig(),
		Risk:          riskSettings{Config: risk.DefaultConfig()},
		Safety:        safety.DefaultConfig(),
		StudyLock:     study.DefaultLockConfig(),
		Growth:        growth.DefaultConfig(),
		Outbox:        outbox.DefaultConfig(),
		Ingest:        ingest.DefaultConfig(),
		Processor:     processor.DefaultConfig(),
		Reminders:     notify.DefaultReminderConfig(),
		Notify:        defaultNotify(),
		SMSSandbox:    notify.DefaultSandboxConfig(),
		Archive:       defaultArchive(),
	}
	return c
}

// steadyBreaker suits what is worth waiting for: only failures in a row open it, and it is tried again after a second.
func steadyBreaker(callTimeout time.Duration) limit.BreakerConfig {
	b := limit.DefaultBreakerConfig()
	b.CallTimeout, b.Ratio, b.OpenFor, b.Probes = callTimeout, 1, time.Second, 1
	return b
}

// config reads all sources and validates the result. Its error lists every problem, one a line.
func (p *program) config() (*Config, error) {
	content, name, err := p.readFile()
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	c := defaultConfig()
	err = load(&c, sources{file: content, name: name, env: p.env, flags: p.flags})
	if c.Role == "consumer" {
		c.Role = "processor"
	}
	if err = errors.Join(err, c.Validate()); err != nil { // what could not be read has kept its default
		return nil, fmt.Errorf("the settings cannot be used:\n%s", bullets(err))
	}
	return &c, nil
}

// bullets flattens joined errors into one line each.
func bullets(err error) string {
	var lines []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, "  - "+line)
		}
	}
	return strings.Join(lines, "\n")
}

// Validate names every setting that cannot work, each with its full key.
func (c *Config) Validate() error {
	var problems []error
	section := func(name string, err error) {
		if err == nil {
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			problems = append(problems, fmt.Errorf("%s.%s", name, strings.Replace(line, "breaker: ", "breaker.", 1)))
		}
	}
	switch c.Role {
	case roleAll, roleAPI, roleProcessor:
	default:
		problems = append(problems, fmt.Errorf("role: %q: must be all, api or processor", c.Role))
	}
	if c.DataDir == "" {
		problems = append(problems, errors.New("dataDir: must name a folder"))
	}
	if !strings.HasPrefix(c.PublicURL, "http://") && !strings.HasPrefix(c.PublicURL, "https://") {
		problems = append(problems, fmt.Errorf("publicUrl: %q: must start with http:// or https://", c.PublicURL))
	}
	problems = append(problems, c.Log.problems()...)
	if c.Runtime.GCPercent < 10 || c.Runtime.GCPercent > 2000 {
		problems = append(problems, fmt.Errorf("runtime.gcPercent: %d: must be between 10 and 2000", c.Runtime.GCPercent))
	}
	if c.Runtime.MemoryLimit < 64<<20 {
		problems = append(problems, fmt.Errorf("runtime.memoryLimit: %d: must be at least 67108864", c.Runtime.MemoryLimit))
	}
	section("telemetry", c.Telemetry.Validate())
	section("http", c.HTTP.Validate())
	section("database.pool", c.Database.Pool.Validate())
	section("database.breaker", c.Database.Breaker.Validate())
	section("redis.breaker", c.Redis.Breaker.Validate())
	section("etcd.breaker", c.Etcd.Breaker.Validate())
	section("kafka", c.Kafka.Validate())
	section("ids", c.IDs.Validate())
	section("users", c.Users.Validate())
	section("participants", c.Participants.Validate())
	section("profiles", c.Profiles.Validate())
	section("catalog", c.Catalog.Validate())
	section("tasks", c.Tasks.Validate())
	section("limits", c.Limits.Validate())
	section("cache", c.Cache.Validate())
	section("locks", c.Locks.Validate())
	section("risk", c.Risk.Validate())
	section("safety", c.Safety.Validate())
	section("studyLock", c.StudyLock.Validate())
	section("growth", c.Growth.Validate())
	section("outbox", c.Outbox.Validate())
	section("ingest", c.Ingest.Validate())
	section("processor", c.Processor.Validate())
	section("reminders", c.Reminders.Validate())
	section("notify", c.Notify.Validate())
	section("smsSandbox", c.SMSSandbox.Validate())
	section("archive", c.Archive.Validate())
	problems = append(problems, c.storeProblems()...)
	if c.StudyLock.Settle <= 2*c.Catalog.TTL {
		problems = append(problems, fmt.Errorf("studyLock.settle: %v: must be more than twice catalog.ttl, which is %v: until then a door may not know that a study is being locked", c.StudyLock.Settle, c.Catalog.TTL))
	}
	if c.Redis.Timeout <= 0 {
		problems = append(problems, fmt.Errorf("redis.timeout: %v: must be greater than zero", c.Redis.Timeout))
	}
	if c.Locks.Backend == lock.OnRedis && c.Redis.Address == "" {
		problems = append(problems, errors.New("locks.backend: redis: the embedded Redis ends locks early; set redis.address, or use database"))
	}
	if c.IDs.Source == idgen.FromEtcd && len(c.Etcd.Endpoints) == 0 {
		problems = append(problems, errors.New("etcd.endpoints: ids.source is etcd, so at least one host:port is needed"))
	}
	if c.Redis.Address == "" && (c.IDs.Source == idgen.FromRedis || c.IDs.Kind == idgen.OfNumber) {
		problems = append(problems, errors.New("redis.address: ids are counted or leased in Redis, and the embedded one forgets them at every start"))
	}
	if c.Locks.Backend == lock.OnEtcd && len(c.Etcd.Endpoints) == 0 {
		problems = append(problems, errors.New("etcd.endpoints: locks.backend is etcd, so at least one host:port is needed"))
	}
	return errors.Join(append(problems, c.secretProblems()...)...)
}

func (l LogConfig) problems() []error {
	var problems []error
	switch l.Level {
	case "debug", "info", "warn", "error":
	default:
		problems = append(problems, fmt.Errorf("log.level: %q: must be debug, info, warn or error", l.Level))
	}
	switch l.Format {
	case "auto", "json", "text":
	default:
		problems = append(problems, fmt.Errorf("log.format: %q: must be auto, json or text", l.Format))
	}
	return problems
}

func (c *Config) storeProblems() []error {
	var problems []error
	if (c.Database.Meta.DSN == "") != (len(c.Database.Shards) == 0) {
		problems = append(problems, errors.New("database: meta.dsn and shards belong together: set both (MySQL) or neither (embedded)"))
	}
	var ranges []db.BucketRange
	for i, s := range c.Database.Shards {
		r, err := db.ParseRange(s.Buckets)
		if err != nil {
			problems = append(problems, fmt.Errorf("database.shards[%d].buckets: %w", i, err))
		}
		if s.Name == "" || s.DSN == "" {
			problems = append(problems, fmt.Errorf("database.shards[%d]: name and dsn are required", i))
		}
		ranges = append(ranges, r)
	}
	if len(ranges) > 0 && len(problems) == 0 {
		if err := db.CheckRanges(ranges); err != nil {
			problems = append(problems, fmt.Errorf("database.shards: %w", err))
		}
	}
	if (c.Role == roleAPI || c.Role == roleProcessor) && c.embedded() {
		problems = append(problems, fmt.Errorf("role: %s: separate roles need shared stores: set database.meta.dsn, database.shards, kafka.brokers and redis.address", c.Role))
	}
	if c.Demo && !c.allEmbedded() {
		problems = append(problems, errors.New("demo: fills the embedded stores only; unset the addresses of MySQL, Kafka and Redis"))
	}
	return problems
}

// embedded reports whether any store runs inside this process.
func (c *Config) embedded() bool {
	return c.Database.Meta.DSN == "" || len(c.Kafka.Brokers) == 0 || c.Redis.Address == ""
}

func (c *Config) allEmbedded() bool {
	return c.Database.Meta.DSN == "" && len(c.Kafka.Brokers) == 0 && c.Redis.Address == ""
}

// stores says in a few words which stores are used.
func (c *Config) stores() string {
	word := func(embedded bool, real string) string {
		if embedded {
			return "embedded"
		}
		return real
	}
	return fmt.Sprintf("database %s, log %s, cache %s", word(c.Database.Meta.DSN == "", fmt.Sprintf("MySQL with %d shards", len(c.Database.Shards))),
		word(len(c.Kafka.Brokers) == 0, "Kafka"), word(c.Redis.Address == "", "Redis"))
}

// secretProblems: keys may be made by the program only where the data folder holds the data as well.
func (c *Config) secretProblems() []error {
	var problems []error
	if c.Auth.SigningKey == "" {
		if c.Database.Meta.DSN != "" {
			problems = append(problems, errors.New("auth.signingKey: missing: base64 of 32 random bytes, as EPROD_AUTH__SIGNING_KEY or in the file that EPROD_AUTH__SIGNING_KEY_FILE names"))
		}
	} else if _, err := c.signingSeed(); err != nil {
		problems = append(problems, err)
	}
	if c.Keyring.MasterKeys == "" {
		if c.Database.Meta.DSN != "" {
			problems = append(problems, errors.New("keyring.masterKeys: missing: a number, a colon and base64 of 32 random bytes, as EPROD_KEYRING__MASTER_KEYS or in the file that EPROD_KEYRING__MASTER_KEYS_FILE names"))
		}
	} else if _, err := keyring.ParseMasterKeys(string(c.Keyring.MasterKeys)); err != nil {
		problems = append(problems, fmt.Errorf("keyring.masterKeys: %w", err))
	}
	return problems
}

func (c *Config) signingSeed() ([]byte, error) {
	seed, err := base64.StdEncoding.DecodeString(string(c.Auth.SigningKey))
	if err != nil || len(seed) != 32 {
		return nil, errors.New("auth.signingKey: must be base64 of exactly 32 random bytes")
	}
	return seed, nil
}
