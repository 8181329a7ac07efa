package db

import (
	"context"
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

// Migrate brings a database to this program's schema: set is "meta" or "shard". It returns the names of the files that it
// applied. Several processes may call it at once; on MySQL a table lock lets one of them work.
func Migrate(ctx context.Context, d *DB, set string, log *slog.Logger) ([]string, error) {
	p, err := provider(d, set, true)
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
	p, err := provider(d, set, false)
	if err != nil {
		return nil, err
	}
	status, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", d.Name, err)
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

func provider(d *DB, set string, locked bool) (*goose.Provider, error) {
	files, err := fs.Sub(migrations.Files, string(d.Dialect)+"/"+set)
	if err != nil {
		return nil, fmt.Errorf("schema set %s: %w", set, err)
	}
	dialect := goose.DialectSQLite3
	options := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true), goose.WithAllowOutofOrder(true)}
	if d.Dialect == MySQL {
		dialect = goose.DialectMySQL
		if locked {
			locker, err := lock.NewMySQLTableLocker(lock.WithTableLockTimeout(500*time.Millisecond, 120))
			if err != nil {
				return nil, fmt.Errorf("schema lock: %w", err)
			}
			options = append(options, goose.WithLocker(locker))
		}
	}
	p, err := goose.NewProvider(dialect, d.pool, files, options...)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", d.Name, err)
	}
	return p, nil
}
