package main

import (
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// setting is one value of a daemon's configuration: "registry.plain_http". It is set from the file, from
// DROVER_REGISTRY_PLAIN_HTTP, and from --registry-plain-http.
type setting struct {
	key   string
	value reflect.Value
}

// settings finds every value of a configuration, a pointer to a struct with yaml tags.
func settings(cfg any) []setting {
	var all []setting
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			switch {
			case !f.IsExported() || name == "-":
			case options == "inline":
				walk(prefix, v.Field(i))
			case f.Type.Kind() == reflect.Struct:
				walk(prefix+name+".", v.Field(i))
			default:
				all = append(all, setting{prefix + name, v.Field(i)})
			}
		}
	}
	walk("", reflect.ValueOf(cfg).Elem())
	return all
}

func (s setting) env() string {
	return "DROVER_" + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
}
func (s setting) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(s.key) }

// kind is what help calls the value.
func (s setting) kind() string {
	switch s.value.Kind() {
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "k=v,k=v"
	case reflect.Bool:
		return "true|false"
	}
	return "value"
}

// String, Set and Type make a setting a flag's value.
func (s setting) String() string {
	if !s.value.IsValid() {
		return ""
	}
	if s.value.Kind() == reflect.Map {
		m := make(map[string]string)
		for k, v := range s.value.Seq2() {
			m[k.String()] = fmt.Sprint(v.Interface())
		}
		return words(m)
	}
	return strings.Trim(fmt.Sprint(s.value.Interface()), "[]")
}

func (s setting) Type() string { return s.kind() }

// Set reads text as the value's type: a list is separated by commas, a map is k=v pairs.
func (s setting) Set(text string) error {
	var node any = text
	switch s.value.Kind() {
	case reflect.String:
		s.value.SetString(text)
		return nil
	case reflect.Slice:
		node = strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
	case reflect.Map:
		return s.setMap(text)
	}
	data := []byte(text)
	if node != any(text) {
		var err error
		if data, err = yaml.Marshal(node); err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
	}
	fresh := reflect.New(s.value.Type())
	if err := yaml.Unmarshal(data, fresh.Interface()); err != nil {
		return fmt.Errorf("%q: want %s", text, wanted(s.value.Type()))
	}
	s.value.Set(fresh.Elem())
	return nil
}

// wanted says what a value of a type is written like.
func wanted(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a time with a unit, such as 30s or 1m30s"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// setMap reads k=v pairs.
func (s setting) setMap(text string) error {
	fresh := reflect.MakeMap(s.value.Type())
	for pair := range strings.SplitSeq(text, ",") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q: want k=v pairs, separated by commas", text)
		}
		value := reflect.New(s.value.Type().Elem()).Elem()
		if value.Kind() == reflect.String {
			value.SetString(v)
		} else if err := yaml.Unmarshal([]byte(v), value.Addr().Interface()); err != nil || v == "" {
			return fmt.Errorf("%q: %s is %q: want %s", text, k, v, wanted(value.Type()))
		}
		fresh.SetMapIndex(reflect.ValueOf(k), value)
	}
	s.value.Set(fresh)
	return nil
}

// configFlags gives a daemon its flags, and answers what reads its configuration into cfg, which holds the
// defaults: the file, then the environment, then the flags that were given.
func (a *app) configFlags(cmd *cobra.Command, cfg any) (load func() error) {
	var file string
	cmd.Flags().StringVar(&file, "config", "", "YAML `file` with the configuration")
	must(cmd.MarkFlagFilename("config", "yaml", "yml"))
	given := make(map[string]string)
	for _, s := range settings(cfg) {
		cmd.Flags().Var(flagText{s, given}, s.flag(), "`"+s.kind()+"` of "+s.key+" in the file, or "+s.env())
	}
	return func() error {
		if file != "" {
			data, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("read the configuration: %w", err)
			}
			if err := decodeStrict(data, cfg); err != nil {
				return fmt.Errorf("configuration file %s: %w", file, err)
			}
		}
		for _, s := range settings(cfg) {
			if text := a.getenv(s.env()); text != "" {
				if err := s.Set(text); err != nil {
					return fmt.Errorf("%s: %w", s.env(), err)
				}
			}
			if text, ok := given[s.key]; ok {
				if err := s.Set(text); err != nil {
					return usagef(cmd, "--%s: %v", s.flag(), err)
				}
			}
		}
		return nil
	}
}

// flagText keeps a flag's text until file and environment have been read.
type flagText struct {
	setting
	given map[string]string
}

func (f flagText) Set(text string) error {
	f.given[f.key] = text
	return nil
}

// loggerFlags gives a daemon its logging flags, and answers what makes its logger.
func (a *app) loggerFlags(cmd *cobra.Command) func() (*slog.Logger, error) {
	level := slog.LevelInfo
	var format string
	cmd.Flags().TextVar(&level, "log-level", slog.LevelInfo, "`level`: debug, info, warn or error")
	cmd.Flags().StringVar(&format, "log-format", "text", "`format`: text or json")
	return func() (*slog.Logger, error) {
		options := &slog.HandlerOptions{Level: level}
		switch format {
		case "text":
			return slog.New(slog.NewTextHandler(a.err, options)), nil
		case "json":
			return slog.New(slog.NewJSONHandler(a.err, options)), nil
		}
		return nil, usagef(cmd, "--log-format %q: want text or json", format)
	}
}
