package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/migrations"
)

// Migration is one file of a set and whether it is applied.
type Migration struct {
	Version int64
	Name    string
	Applied bool
}

// maxMigration is how long one statement of a migration may take on MySQL: an index over millions of rows takes minutes, and
// a client that stops listening leaves the server at work on a change that nobody recorded.
const maxMigration = 4 * time.Hour

// Migrate brings a database to this program's schema: set is "meta" or "shard". It returns the names of the files that it
// applied. Several processes may call it at once; on MySQL a table lock lets one of them work.
func Migrate(ctx context.Context, d *DB, set string, log *slog.Logger) ([]string, error) {
	pool := d.pool
	var options []goose.ProviderOption
	if d.patient != nil {
		pool = sql.OpenDB(d.patient)
		defer pool.Close()
		locker, err := tableLock(log)
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithLocker(locker))
	}
	p, err := provider(d, pool, set, options...)
	if err != nil {
		return nil, err
	}
	results, err := p.Up(ctx)
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		results = partial.Applied
	}
	applied := make([]string, len(results))
	for i, r := range results {
		applied[i] = filepath.Base(r.Source.Path)
	}
	if len(applied) > 0 && log != nil {
		log.InfoContext(ctx, "schema migrated", "database", d.Name, "applied", len(applied))
	}
	if err != nil {
		if down(err) {
			err = errs.Away("database "+d.Name, err)
		}
		return applied, fmt.Errorf("migrate %s: %w", d.Name, err)
	}
	return applied, nil
}

// MigrationStatus lists every file of a set in order.
func MigrationStatus(ctx context.Context, d *DB, set string) ([]Migration, error) {
	p, err := provider(d, d.pool, set)
	if err != nil {
		return nil, err
	}
	status, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", Error("database "+d.Name, err))
	}
	list := make([]Migration, len(status))
	for i, s := range status {
		name := strings.TrimSuffix(filepath.Base(s.Source.Path), ".sql")
		_, name, _ = strings.Cut(name, "_")
		list[i] = Migration{Version: s.Source.Version, Name: name, Applied: s.State == goose.StateApplied}
	}
	return list, nil
}

// PendingMigrations returns how many files of a set are not applied.
func PendingMigrations(ctx context.Context, d *DB, set string) (int, error) {
	list, err := MigrationStatus(ctx, d, set)
	n := 0
	for _, m := range list {
		if !m.Applied {
			n++
		}
	}
	return n, err
}

// tableLock lets one of several processes migrate a MySQL database; the others wait for a minute.
func tableLock(log *slog.Logger) (lock.Locker, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	locker, err := lock.NewMySQLTableLocker(lock.WithTableLockTimeout(500*time.Millisecond, 120), lock.WithTableLogger(log))
	if err != nil {
		return nil, fmt.Errorf("schema lock: %w", err)
	}
	return locker, nil
}

func provider(d *DB, pool *sql.DB, set string, options ...goose.ProviderOption) (*goose.Provider, error) {
	files, err := fs.Sub(migrations.Files, string(d.Dialect)+"/"+set)
	if err != nil {
		return nil, fmt.Errorf("schema set %s: %w", set, err)
	}
	dialect := goose.DialectSQLite3
	if d.Dialect == MySQL {
		dialect = goose.DialectMySQL
	}
	options = append(options, goose.WithDisableGlobalRegistry(true), goose.WithAllowOutofOrder(true))
	p, err := goose.NewProvider(dialect, pool, files, options...)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", d.Name, err)
	}
	return p, nil
}
