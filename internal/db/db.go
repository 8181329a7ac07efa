// Package db decides how eprod reaches its databases: one metadata database and any number of shards, MySQL or SQLite,
// through the same gorm code; which shard a participant lives on; and what a transaction promises.
//
// Every transaction is READ COMMITTED on MySQL (SQLite has one writer at a time, which is stricter) and is repeated a
// bounded number of times after a deadlock or lock wait, so its function must do nothing but database work. A commit whose
// reply was lost is reported as errs.Unavailable: it may have happened.
package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/trace"
)

// Dialect is the kind of SQL that a database speaks.
type Dialect string

// The dialects.
const (
	MySQL  Dialect = "mysql"
	SQLite Dialect = "sqlite"
)

// Config bounds one database's pool. Start from DefaultConfig.
type Config struct {
	MaxOpen         int           `koanf:"maxOpen"`         // connections of one process to one database
	MaxIdle         int           `koanf:"maxIdle"`         // of these, kept when idle
	ConnLifetime    time.Duration `koanf:"connLifetime"`    // a connection is replaced after this, so that fail-overs are noticed
	DialTimeout     time.Duration `koanf:"dialTimeout"`     // to connect
	ReadTimeout     time.Duration `koanf:"readTimeout"`     // for one reply; the driver itself would wait for ever
	WriteTimeout    time.Duration `koanf:"writeTimeout"`    // to send one statement
	TxTimeout       time.Duration `koanf:"txTimeout"`       // for one transaction with all its repetitions
	DeadlockRetries int           `koanf:"deadlockRetries"` // repetitions after a deadlock, a lock wait or a busy SQLite file
}

// DefaultConfig returns settings for a server with a few cores.
func DefaultConfig() Config {
	return Config{
		MaxOpen: 32, MaxIdle: 32, ConnLifetime: 30 * time.Minute,
		DialTimeout: time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		TxTimeout: 10 * time.Second, DeadlockRetries: 5,
	}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	for _, n := range []struct {
		key        string
		value, low int
	}{{"maxOpen", c.MaxOpen, 1}, {"maxIdle", c.MaxIdle, 0}, {"deadlockRetries", c.DeadlockRetries, 0}} {
		if n.value < n.low {
			problems = append(problems, fmt.Errorf("%s: %d: must be %d or more", n.key, n.value, n.low))
		}
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"connLifetime", c.ConnLifetime}, {"dialTimeout", c.DialTimeout}, {"readTimeout", c.ReadTimeout}, {"writeTimeout", c.WriteTimeout}, {"txTimeout", c.TxTimeout}} {
		if d.value <= 0 {
			problems = append(problems, fmt.Errorf("%s: %v: must be above zero, such as 5s", d.key, d.value))
		}
	}
	return errors.Join(problems...)
}

// DB is one database. It is safe for concurrent use.
type DB struct {
	Name    string
	Dialect Dialect

	gorm    *gorm.DB
	pool    *sql.DB
	config  Config
	span    string                    // name of its transactions' spans
	writer  chan struct{}             // SQLite only: one writer at a time, first come first served, instead of polling for the file's lock
	guarded *guardedPool              // MySQL only: what gorm works on
	patient driver.Connector          // MySQL only: waits for replies as long as a migration may take
	studies atomic.Pointer[standings] // what is known of this shard's studies
}

func open(name string, dialect Dialect, dialector gorm.Dialector, config Config, log *slog.Logger) (*DB, error) {
	g, err := gorm.Open(dialector, &gorm.Config{
		SkipDefaultTransaction: true,
		TranslateError:         true,
		QueryFields:            true,
		DisableAutomaticPing:   true,
		Logger:                 newLogger(log, name),
		NowFunc:                func() time.Time { return time.Now().UTC() },
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	pool, err := g.DB()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	pool.SetMaxOpenConns(config.MaxOpen)
	pool.SetMaxIdleConns(config.MaxIdle)
	pool.SetConnMaxLifetime(config.ConnLifetime)
	d := &DB{Name: name, Dialect: dialect, gorm: g, pool: pool, config: config, span: "transaction " + name}
	if dialect == SQLite {
		d.writer = make(chan struct{}, 1)
	}
	return d, nil
}

// Close ends all connections.
func (d *DB) Close() error { return d.pool.Close() }

// Ping reports whether the database answers; errs.Unavailable when it does not.
func (d *DB) Ping(ctx context.Context) error {
	return d.failure(d.pool.PingContext(ctx))
}

// away and failure name the database for operators only: clients are not told how many there are.
func (d *DB) away(err error) error {
	return errs.Away("the database", fmt.Errorf("database %s: %w", d.Name, err))
}

func (d *DB) failure(err error) error {
	if err == nil {
		return nil
	}
	return Error("the database", fmt.Errorf("database %s: %w", d.Name, err))
}

// Pool returns the pool beneath, for migrations, statistics and bulk loading.
func (d *DB) Pool() *sql.DB { return d.pool }

// Read returns a fresh session for reads outside a transaction. Pass its errors through Error.
func (d *DB) Read(ctx context.Context) *gorm.DB {
	return d.gorm.Session(&gorm.Session{NewDB: true, Context: ctx})
}

// Tx runs fn in one transaction and commits it if fn returns nil. After a deadlock, a lock wait or a busy file everything
// is rolled back and fn runs again, at most DeadlockRetries times. An error of fn is returned as it is, so that IsDuplicate
// and errs work on it; connection failures are errs.Unavailable, and so is a commit without a reply. Fn must not call Tx of
// the same database: on SQLite it would wait for itself.
func (d *DB) Tx(ctx context.Context, fn func(tx *gorm.DB) error) error {
	ctx, span := trace.Start(ctx, d.span, trace.Client)
	if !span.On() {
		return d.run(ctx, fn)
	}
	span.Set(trace.String("db.system.name", string(d.Dialect)), trace.String("db.namespace", d.Name))
	err := d.run(ctx, fn)
	if IsDuplicate(err) { // an answer, not a failure
		span.End(nil)
	} else {
		span.End(err)
	}
	return err
}

func (d *DB) run(ctx context.Context, fn func(tx *gorm.DB) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.config.TxTimeout)
	defer cancel()
	if d.writer != nil {
		select {
		case d.writer <- struct{}{}:
			defer func() { <-d.writer }()
		case <-ctx.Done():
			return d.away(ctx.Err())
		}
	}
	for try := 0; ; try++ {
		err := d.once(ctx, fn)
		if err == nil || !repeatable(err) || try >= d.config.DeadlockRetries {
			return err
		}
		// Full jitter: the rivals of a deadlock must not meet again.
		pause := time.NewTimer(rand.N(time.Millisecond << min(try+1, 6)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return d.away(errors.Join(err, ctx.Err()))
		}
	}
}

func (d *DB) once(ctx context.Context, fn func(tx *gorm.DB) error) (err error) {
	tx := d.Read(ctx).Begin() // READ COMMITTED, as OpenMySQL sets for the session
	if tx.Error != nil {
		return d.failure(tx.Error)
	}
	finished := false
	defer func() {
		if !finished { // fn failed or panicked; what rollback says does not matter, the connection's end rolls back too
			tx.Rollback()
		}
	}()
	if err := fn(tx); err != nil {
		if _, named := errs.As(err); !named && down(err) {
			return d.away(err)
		}
		return err
	}
	finished = true
	if err := tx.Commit().Error; err != nil {
		return d.away(fmt.Errorf("commit, outcome unknown: %w", err))
	}
	return nil
}

// ForUpdate locks the rows that a query reads until the transaction ends. SQLite's single writer needs no such lock.
func ForUpdate(tx *gorm.DB) *gorm.DB {
	if tx.Name() == string(SQLite) {
		return tx
	}
	return tx.Clauses(clause.Locking{Strength: "UPDATE"})
}

// SkipLocked locks the rows that a query reads and leaves out those that another transaction holds.
func SkipLocked(tx *gorm.DB) *gorm.DB {
	if tx.Name() == string(SQLite) {
		return tx
	}
	return tx.Clauses(clause.Locking{Strength: "UPDATE", Options: "SKIP LOCKED"})
}

// Micros is how instants are stored: microseconds since 1970 UTC; the zero time is 0.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time reads what Micros wrote, in UTC.
func Time(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
