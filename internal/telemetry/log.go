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

	"github.com/eprod/eprod/internal/trace"
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

// Service names what writes log lines and traces.
type Service struct {
	Version string // of the program
	Node    string // this process among the others: host and process
}

// NewLogger writes to w, one line per record: JSON by the names and types of the Elastic Common Schema, or text for a terminal. Request,
// which may be nil, finds the id of the request that a context belongs to; it is written as http.request.id, beside trace.id and span.id
// where the context is traced. A level or format that Validate refuses counts as info and json.
func NewLogger(w io.Writer, cfg Config, service Service, request func(context.Context) string) *slog.Logger {
	level := slog.LevelInfo
	_ = level.UnmarshalText([]byte(cfg.Level)) // stays at info
	about := func(ctx context.Context) []slog.Attr {
		var attrs []slog.Attr
		if request != nil {
			if id := request(ctx); id != "" {
				attrs = append(attrs, slog.String("http.request.id", id))
			}
		}
		if traced, span := trace.IDs(ctx); traced != "" {
			attrs = append(attrs, slog.String("trace.id", traced), slog.String("span.id", span))
		}
		return attrs
	}
	if cfg.Format == "text" {
		return slog.New(belonging{slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: terminal}), about})
	}
	return slog.New(ecsHandler{inner: slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: ecs}), about: about,
		fixed: []slog.Attr{slog.String("ecs.version", ecsVersion), slog.String("service.name", "eprod"), slog.String("service.version", service.Version),
			slog.String("service.node.name", service.Node), slog.String("event.dataset", "eprod")}})
}

// ecs renames slog's own fields.
func ecs(_ []string, a slog.Attr) slog.Attr {
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

// belonging adds to lines for a terminal what they belong to.
type belonging struct {
	slog.Handler
	about func(context.Context) []slog.Attr
}

// Handle implements slog.Handler.
func (b belonging) Handle(ctx context.Context, r slog.Record) error {
	if attrs := b.about(ctx); len(attrs) > 0 {
		r = r.Clone()
		r.AddAttrs(attrs...)
	}
	return b.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (b belonging) WithAttrs(attrs []slog.Attr) slog.Handler {
	return belonging{b.Handler.WithAttrs(attrs), b.about}
}

// WithGroup implements slog.Handler.
func (b belonging) WithGroup(name string) slog.Handler {
	return belonging{b.Handler.WithGroup(name), b.about}
}
