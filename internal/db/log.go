package db

import (
	"context"
	"log/slog"
	"time"

	"gorm.io/gorm/logger"
)

// slow is when a statement is worth a line.
const slow = 500 * time.Millisecond

// sqlLogger tells of slow statements by their text with placeholders; values are answers and identities and never shown.
// Errors are returned to callers, who know what they mean, so they are not logged here.
type sqlLogger struct {
	log  *slog.Logger
	name string
}

func newLogger(log *slog.Logger, name string) logger.Interface { return sqlLogger{log, name} }

// LogMode implements logger.Interface; the level is that of slog.
func (l sqlLogger) LogMode(logger.LogLevel) logger.Interface { return l }

// Info implements logger.Interface.
func (l sqlLogger) Info(context.Context, string, ...any) {}

// Warn implements logger.Interface.
func (l sqlLogger) Warn(context.Context, string, ...any) {}

// Error implements logger.Interface.
func (l sqlLogger) Error(context.Context, string, ...any) {}

// ParamsFilter keeps values out of what Trace is given.
func (l sqlLogger) ParamsFilter(_ context.Context, sql string, _ ...any) (string, []any) {
	return sql, nil
}

// Trace implements logger.Interface.
func (l sqlLogger) Trace(ctx context.Context, begin time.Time, statement func() (string, int64), _ error) {
	took := time.Since(begin)
	if took < slow || l.log == nil || !l.log.Enabled(ctx, slog.LevelWarn) {
		return
	}
	sql, rows := statement()
	l.log.WarnContext(ctx, "slow statement", "database", l.name, "duration", took, "rows", rows, "statement", sql[:min(len(sql), 300)])
}
