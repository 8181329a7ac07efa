package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	yamlv3 "gopkg.in/yaml.v3"
)

// Secret is a setting that never appears in output. Each has a twin with the suffix _FILE in the environment.
type Secret string

// String hides the secret from every formatting verb.
func (Secret) String() string { return "***" }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return "***" }

// MarshalText hides the secret from encoders and loggers.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

const envPrefix = "EPROD_"

// foreign tells settings outside the tree: where the file is, and what belongs to tests and to dev/services.
func foreign(name string) bool {
	return name == "EPROD_CONFIG" || strings.HasPrefix(name, "EPROD_TEST_") || strings.HasPrefix(name, "EPROD_SERVICES_")
}

// sources are where settings come from, weakest first: built-in values, the file, the environment, flags.
type sources struct {
	file  []byte            // YAML; nil when there is no file
	name  string            // of the file, for messages
	env   []string          // KEY=value
	flags map[string]string // key path → value, only those that were given
}

// load fills out, which holds the built-in values, from all sources. Its error names every unknown key and every value of
// the wrong type at once; nothing is taken from sources that have problems.
func load(out any, from sources) error {
	known := leaves(reflect.ValueOf(out).Elem())
	k := koanf.New(".")
	if err := k.Load(confmap.Provider(entries(reflect.ValueOf(out).Elem()), "."), nil); err != nil {
		return err
	}
	var problems []error
	if from.file != nil {
		if err := k.Load(rawbytes.Provider(from.file), yaml.Parser()); err != nil {
			return fmt.Errorf("%s: %w", from.name, err)
		}
		problems = append(problems, unknownKeys(k.Keys(), known, from.name)...)
	}
	values, more := environment(from.env, known)
	problems = append(problems, more...)
	for key, text := range from.flags {
		values[key] = text
	}
	if err := k.Load(confmap.Provider(values, "."), nil); err != nil {
		problems = append(problems, err)
	}
	decoder := &mapstructure.DecoderConfig{
		TagName: "koanf", Result: out, WeaklyTypedInput: true, ErrorUnused: len(problems) == 0,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(durationHook, listHook),
	}
	if err := k.UnmarshalWithConf("", out, koanf.UnmarshalConf{Tag: "koanf", DecoderConfig: decoder}); err != nil {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// leaves returns every key path of a settings struct with the type of its value. A section of named entries, which is a map of structs,
// has the paths of the entries in it, and once more with * for any name.
func leaves(settings reflect.Value) map[string]reflect.Type {
	out := make(map[string]reflect.Type)
	walk(settings, "", func(path string, v reflect.Value) { out[path] = v.Type() })
	return out
}

// entries returns the values inside sections of named entries. They are loaded like a file, so that another source may change one
// value of an entry: the decoder would replace the entry.
func entries(settings reflect.Value) map[string]any {
	patterns, out := leaves(settings), make(map[string]any)
	walk(settings, "", func(path string, v reflect.Value) {
		if p := pattern(path, patterns); p != "" && p != path {
			out[path] = v.Interface()
		}
	})
	return out
}

// walk calls leaf for every value of a settings struct.
func walk(v reflect.Value, prefix string, leaf func(path string, v reflect.Value)) {
	for field, value := range v.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("koanf"), ",")
		switch {
		case options == "squash":
			walk(value, prefix, leaf)
		case name == "":
		case value.Kind() == reflect.Struct:
			walk(value, prefix+name+".", leaf)
		case value.Kind() == reflect.Map:
			for entry, of := range value.Seq2() {
				walk(of, prefix+name+"."+entry.String()+".", leaf)
			}
			walk(reflect.Zero(value.Type().Elem()), prefix+name+".*.", leaf)
		default:
			leaf(prefix+name, value)
		}
	}
}

// pattern returns the path with * that covers a value of a named entry, or "".
func pattern(path string, known map[string]reflect.Type) string {
	names := strings.Split(path, ".")
	for i, name := range names {
		names[i] = "*"
		if p := strings.Join(names, "."); known[p] != nil {
			return p
		}
		names[i] = name
	}
	return ""
}

func unknownKeys(keys []string, known map[string]reflect.Type, source string) []error {
	var problems []error
	for _, key := range keys {
		if known[key] == nil && pattern(key, known) == "" {
			problems = append(problems, fmt.Errorf("%s: %s: unknown key%s", source, key, nearest(key, known)))
		}
	}
	return problems
}

// environment reads EPROD_SECTION__KEY_NAME settings; case and single underscores inside a name do not matter, and stand for hyphens.
func environment(env []string, known map[string]reflect.Type) (map[string]any, []error) {
	byName := make(map[string]string, len(known))
	for key := range known {
		byName[envName(key)] = key
	}
	values := make(map[string]any)
	var problems []error
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, envPrefix) || foreign(name) {
			continue
		}
		plain := strings.TrimPrefix(name, envPrefix)
		key, fromFile := byName[squeeze(plain)], false
		if key == "" {
			key, fromFile = byName[squeeze(strings.TrimSuffix(plain, "_FILE"))], true
		}
		if key == "" || fromFile && (!strings.HasSuffix(plain, "_FILE") || !holdsSecret(known[key])) {
			problems = append(problems, fmt.Errorf("environment: %s: unknown setting", name))
			continue
		}
		if fromFile {
			content, err := os.ReadFile(value)
			if err != nil {
				problems = append(problems, fmt.Errorf("environment: %s: %w", name, err))
				continue
			}
			value = strings.TrimSpace(string(content))
		}
		values[key] = value
	}
	return values, problems
}

// holdsSecret tells whether a setting may come from a file: a secret, or a list whose entries have one.
func holdsSecret(t reflect.Type) bool {
	if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct {
		for _, field := range reflect.VisibleFields(t.Elem()) {
			if holdsSecret(field.Type) {
				return true
			}
		}
	}
	return t == reflect.TypeFor[Secret]()
}

func envName(key string) string { return squeeze(strings.ReplaceAll(key, ".", "__")) }

func squeeze(name string) string {
	name = strings.ReplaceAll(strings.ToLower(name), "__", ".")
	return strings.NewReplacer("_", "", "-", "").Replace(name)
}

// nearest offers the known key with the same last word, or the same section's keys.
func nearest(key string, known map[string]reflect.Type) string {
	last := key[strings.LastIndexByte(key, '.')+1:]
	section := strings.TrimSuffix(key, last)
	var same []string
	for _, candidate := range slices.Sorted(maps.Keys(known)) {
		if strings.EqualFold(candidate[strings.LastIndexByte(candidate, '.')+1:], last) {
			return ", perhaps " + candidate
		}
		if section != "" && strings.HasPrefix(candidate, section) {
			same = append(same, strings.TrimPrefix(candidate, section))
		}
	}
	if len(same) == 0 {
		return ""
	}
	return "; " + strings.TrimSuffix(section, ".") + " has " + strings.Join(same, ", ")
}

func durationHook(from, to reflect.Type, value any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() || from == to {
		return value, nil
	}
	text, ok := value.(string)
	if !ok {
		return nil, fmt.Errorf("%v: must be a duration with its unit, such as 500ms, 3s or 10m", value)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return nil, fmt.Errorf("%q: must be a duration with its unit, such as 500ms, 3s or 10m", text)
	}
	return d, nil
}

// listHook reads a list from one environment variable: YAML or JSON in brackets, else separated by commas.
func listHook(from, to reflect.Type, value any) (any, error) {
	if to.Kind() != reflect.Slice || from.Kind() != reflect.String {
		return value, nil
	}
	text := strings.TrimSpace(reflect.ValueOf(value).String())
	if text == "" {
		return []any{}, nil
	}
	if strings.HasPrefix(text, "[") {
		var list []any
		err := yamlv3.Unmarshal([]byte(text), &list)
		return list, err
	}
	if to.Elem().Kind() != reflect.String {
		return nil, fmt.Errorf("must be a list in brackets, as JSON or YAML")
	}
	var list []any
	for part := range strings.SplitSeq(text, ",") {
		list = append(list, strings.TrimSpace(part))
	}
	return list, nil
}
