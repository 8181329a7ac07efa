package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

//go:generate go run ecs_generate.go

// ecsHandler gives log lines the names and types of the Elastic Common Schema, with every name flat. An attribute whose dotted name is
// one of the schema's keeps it if its value has the type; "error" becomes error.message, error.type and error.code, "duration" event.duration;
// all others become labels, whose values are texts.
type ecsHandler struct {
	inner slog.Handler
	group string      // before the names of attributes, with underscores
	fixed []slog.Attr // of With, converted
	about func(ctx context.Context) []slog.Attr
}

// Enabled implements slog.Handler.
func (h ecsHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.inner.Enabled(ctx, level)
}

// Handle implements slog.Handler. Of two attributes with one name the later is written.
func (h ecsHandler) Handle(ctx context.Context, r slog.Record) error {
	attrs := slices.Clone(h.fixed)
	if h.about != nil {
		attrs = append(attrs, h.about(ctx)...)
	}
	r.Attrs(func(a slog.Attr) bool {
		attrs = convert(attrs, h.group, a)
		return true
	})
	out := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	for i, a := range attrs {
		later := slices.ContainsFunc(attrs[i+1:], func(b slog.Attr) bool { return a.Key == b.Key })
		if !later {
			out.AddAttrs(a)
		}
	}
	return h.inner.Handle(ctx, out)
}

// WithAttrs implements slog.Handler.
func (h ecsHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.fixed = slices.Clone(h.fixed)
	for _, a := range attrs {
		h.fixed = convert(h.fixed, h.group, a)
	}
	return h
}

// WithGroup implements slog.Handler.
func (h ecsHandler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.group += name + "_"
	}
	return h
}

// convert appends what an attribute is in the schema.
func convert(to []slog.Attr, group string, a slog.Attr) []slog.Attr {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "_"
		}
		for _, inside := range value.Group() {
			to = convert(to, group, inside)
		}
		return to
	}
	if a.Key == "" {
		return to
	}
	if err, ok := value.Any().(error); ok && group == "" && a.Key == "error" {
		return append(to, failure(err)...)
	}
	if group == "" && a.Key == "duration" && value.Kind() == slog.KindDuration {
		a.Key = "event.duration"
	}
	if group == "" && strings.Contains(a.Key, ".") { // names without a dot are no fields: "message" may be one's number
		if field, ok := typed(a.Key, value); ok {
			return append(to, field)
		}
	}
	return append(to, slog.String("labels."+strings.ReplaceAll(group+a.Key, ".", "_"), text(value)))
}

// failure tells an error's text, the type at its root and, of a refusal of our own, its code.
func failure(err error) []slog.Attr {
	out := []slog.Attr{slog.String("error.message", err.Error()), slog.String("error.type", fmt.Sprintf("%T", root(err)))}
	if e, ok := errs.As(err); ok {
		out = append(out, slog.String("error.code", e.Code))
	}
	return out
}

// root unwraps an error as far as there is one way to go.
func root(err error) error {
	for {
		if inner := errors.Unwrap(err); inner != nil {
			err = inner
			continue
		}
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok || len(joined.Unwrap()) == 0 {
			return err
		}
		err = joined.Unwrap()[0]
	}
}

// typed returns the field if the schema has it with the type of the value.
func typed(name string, v slog.Value) (slog.Attr, bool) {
	switch ecsType(name) {
	case "keyword", "wildcard", "match_only_text", "constant_keyword", "ip":
		return slog.String(name, text(v)), true
	case "keyword[]":
		list, ok := v.Any().([]string)
		return slog.Any(name, list), ok
	case "long":
		switch v.Kind() {
		case slog.KindInt64, slog.KindUint64:
			return slog.Attr{Key: name, Value: v}, true
		case slog.KindDuration:
			return slog.Int64(name, v.Duration().Nanoseconds()), true
		}
	case "float", "scaled_float":
		return slog.Attr{Key: name, Value: v}, v.Kind() == slog.KindFloat64
	case "boolean":
		return slog.Attr{Key: name, Value: v}, v.Kind() == slog.KindBool
	case "date":
		if v.Kind() == slog.KindTime {
			return slog.Time(name, v.Time().UTC()), true
		}
	}
	return slog.Attr{}, false
}

func text(v slog.Value) string {
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().UTC().Format(time.RFC3339Nano)
	case slog.KindAny:
		return fmt.Sprint(v.Any())
	default:
		return v.String()
	}
}

// Fields holds a line against the schema: every problem with a name that it does not know, or a value of another type. A line must be
// a decoded JSON object.
func Fields(line map[string]any) []error {
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(line)) {
		value := line[name]
		kind := ecsType(name)
		if strings.HasPrefix(name, "labels.") {
			kind = "keyword"
			if strings.Contains(name[len("labels."):], ".") {
				kind = ""
			}
		}
		if want := fits(kind, value); want != "" {
			problems = append(problems, fmt.Errorf("%s: %v: %s", name, value, want))
		}
	}
	for _, name := range []string{"@timestamp", "log.level", "message", "ecs.version", "service.name", "service.version", "service.node.name", "event.dataset"} {
		if line[name] == nil {
			problems = append(problems, fmt.Errorf("%s: missing", name))
		}
	}
	return problems
}

// fits returns what a value should be, or "".
func fits(kind string, value any) string {
	ok := false
	switch kind {
	case "keyword", "wildcard", "match_only_text", "constant_keyword", "ip":
		_, ok = value.(string)
	case "keyword[]":
		_, ok = value.([]any)
	case "long":
		var n float64
		n, ok = value.(float64)
		ok = ok && n == float64(int64(n))
	case "float", "scaled_float":
		_, ok = value.(float64)
	case "boolean":
		_, ok = value.(bool)
	case "date":
		var s string
		if s, ok = value.(string); ok {
			_, err := time.Parse(time.RFC3339Nano, s)
			ok = err == nil
		}
	case "":
		return "is no field of the schema"
	}
	if ok {
		return ""
	}
	return "must be of the type " + kind
}
