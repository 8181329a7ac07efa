// Package telemetry decides how eprod tells operators what it does: log lines with the field names of the Elastic Common Schema, and
// Prometheus metrics. Neither ever holds personal or health data.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Config holds the settings of the log. The zero value is not usable; start from DefaultConfig.
type Config struct {
	Level  string `koanf:"level"`  // debug, info, warn or error
	Format string `koanf:"format"` // json (ECS names) or text (for a terminal)
}

// DefaultConfig logs JSON from info up.
func DefaultConfig() Config { return Config{Level: "info", Format: "json"} }

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	var level slog.Level
	if level.UnmarshalText([]byte(c.Level)) != nil {
		problems = append(problems, fmt.Errorf("level: %s: must be debug, info, warn or error", c.Level))
	}
	if c.Format != "json" && c.Format != "text" {
		problems = append(problems, fmt.Errorf("format: %s: must be json or text", c.Format))
	}
	return errors.Join(problems...)
}

// NewLogger writes to w, one line per record. Trace, which may be nil, finds the id under which the lines of one request belong together;
// it is written as trace.id. A level or format that Validate refuses counts as info and json.
func NewLogger(w io.Writer, cfg Config, trace func(context.Context) string) *slog.Logger {
	level := slog.LevelInfo
	_ = level.UnmarshalText([]byte(cfg.Level)) // stays at info
	var h slog.Handler
	if cfg.Format == "text" {
		h = slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: terminal})
	} else {
		h = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: ecs}).
			WithAttrs([]slog.Attr{slog.String("ecs.version", "8.11.0"), slog.String("service.name", "eprod")})
	}
	if trace != nil {
		h = traced{h, trace}
	}
	return slog.New(h)
}

// ecs renames slog's own fields.
func ecs(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		a.Key = "@timestamp"
		a.Value = slog.TimeValue(a.Value.Time().UTC())
	case slog.LevelKey:
		a.Key = "log.level"
		a.Value = slog.StringValue(strings.ToLower(a.Value.String()))
	case slog.MessageKey:
		a.Key = "message"
	}
	return a
}

// terminal shortens the time to what a person at a terminal wants.
func terminal(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		a.Value = slog.StringValue(a.Value.Time().Format("15:04:05.000"))
	}
	return a
}

// traced adds trace.id to the records of a request.
type traced struct {
	slog.Handler
	trace func(context.Context) string
}

// Handle adds the id, where there is one.
func (t traced) Handle(ctx context.Context, r slog.Record) error {
	if id := t.trace(ctx); id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String("trace.id", id))
	}
	return t.Handler.Handle(ctx, r)
}

// WithAttrs keeps the trace.
func (t traced) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traced{t.Handler.WithAttrs(attrs), t.trace}
}

// WithGroup keeps the trace.
func (t traced) WithGroup(name string) slog.Handler {
	return traced{t.Handler.WithGroup(name), t.trace}
}
