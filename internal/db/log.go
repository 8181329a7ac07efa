package db

import (
	"context"
	"log/slog"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"

	"gorm.io/gorm/logger"
)

// slow is when a statement is worth a line.
const slow = 500 * time.Millisecond

// sqlLogger tells of slow statements by the place in the program that asked for them. It never shows their text: gorm puts
// the values, which are answers and identities, into it on some of its ways. Errors are returned to callers, who know what
// they mean, so they are not logged here.
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

// ParamsFilter spares gorm the work of putting values into texts that nobody reads.
func (l sqlLogger) ParamsFilter(_ context.Context, sql string, _ ...any) (string, []any) {
	return sql, nil
}

// Trace implements logger.Interface.
func (l sqlLogger) Trace(ctx context.Context, begin time.Time, statement func() (string, int64), _ error) {
	took := time.Since(begin)
	if took < slow || l.log == nil || !l.log.Enabled(ctx, slog.LevelWarn) {
		return
	}
	_, rows := statement()
	l.log.WarnContext(ctx, "slow statement", "database", l.name, "duration", took, "rows", rows, "at", caller())
}

// caller returns the nearest place outside gorm and this package, as folder/file.go:line.
func caller() string {
	var frames [24]uintptr
	walk := runtime.CallersFrames(frames[:runtime.Callers(3, frames[:])])
	for {
		f, more := walk.Next()
		if !strings.HasPrefix(f.Function, "gorm.io/") && !strings.HasPrefix(f.Function, "github.com/eprod/eprod/internal/db.") {
			return path.Join(path.Base(path.Dir(f.File)), path.Base(f.File)) + ":" + strconv.Itoa(f.Line)
		}
		if !more {
			return ""
		}
	}
}
