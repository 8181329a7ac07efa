package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	driver "github.com/go-sql-driver/mysql"
	"gorm.io/driver/mysql"
	"gorm.io/driver/sqlite"
	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// OpenMySQL returns a MySQL database. The server need not be up: every use reports by itself. The DSN has the driver's form
// user:password@tcp(host:port)/name; what it says of time-outs and character sets is overridden.
func OpenMySQL(_ context.Context, name, dsn string, config Config, log *slog.Logger) (*DB, error) {
	c, err := driver.ParseDSN(dsn)
	if err != nil {
		return nil, fmt.Errorf("database %s: the DSN must look like user:password@tcp(host:3306)/name", name)
	}
	c.Timeout, c.ReadTimeout, c.WriteTimeout = config.DialTimeout, config.ReadTimeout, config.WriteTimeout
	c.RejectReadOnly = true             // after a fail-over, leave the old primary at once
	c.ClientFoundRows = true            // an UPDATE that changes nothing still found its row
	c.ParseTime, c.Loc = true, time.UTC // only the lock of the migrations has times; instants are integers
	c.InterpolateParams = false
	c.MultiStatements = false
	if c.Params == nil {
		c.Params = make(map[string]string)
	}
	// Strict: what does not fit is an error, never a silent truncation.
	c.Params["sql_mode"] = "'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'"
	// As a session's default: named in each transaction, it would cost each a round trip.
	c.Params["transaction_isolation"] = "'READ-COMMITTED'"
	if err := c.Apply(driver.Charset("utf8mb4", "")); err != nil {
		return nil, fmt.Errorf("database %s: %w", name, err)
	}
	c.Params["collation_connection"] = "'utf8mb4_0900_bin'" // its number does not fit into the handshake
	c.Logger = quietDriver{}
	connector, err := driver.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", name, err)
	}
	// The version is not asked for, since that would need the server; RETURNING, which it would switch on for some
	// servers, must stay off, so that all run the same SQL.
	guarded := &guardedPool{DB: sql.OpenDB(preparing{connector})}
	d, err := open(name, MySQL, mysqlDialector{&mysql.Dialector{Config: &mysql.Config{Conn: guarded,
		SkipInitializeWithVersion: true, DisableWithReturning: true}}}, config, log)
	if err != nil {
		return nil, err
	}
	d.guarded = guarded
	patient := c.Clone()
	patient.ReadTimeout = maxMigration
	if d.patient, err = driver.NewConnector(patient); err != nil {
		return nil, fmt.Errorf("database %s: %w", name, errors.Join(err, d.Close()))
	}
	return d, nil
}

// quietDriver drops the driver's own log lines: every failure is returned as an error as well.
type quietDriver struct{}

// Print implements the driver's Logger.
func (quietDriver) Print(...any) {}

// OpenSQLite returns the SQLite database in a file, which is made if it is missing. Every commit is flushed to the disk.
func OpenSQLite(ctx context.Context, name, path string, config Config, log *slog.Logger) (*DB, error) {
	query := url.Values{
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)", "foreign_keys(1)", "cache_size(-8192)"},
		"_txlock": {"immediate"},
	}
	config.MaxOpen, config.MaxIdle = 8, 8 // readers; writers queue in Tx
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}).String()
	d, err := open(name, SQLite, sqliteDialector{&sqlite.Dialector{DriverName: "sqlite", DSN: dsn}}, config, log)
	if err != nil {
		return nil, err
	}
	if err := d.Ping(ctx); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return d, nil
}
