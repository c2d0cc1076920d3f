package systemd_test

import (
	"bytes"
	"os"
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/drover-fleet/drover/scheduler"
)

// decode reads a configuration file strictly into cfg.
func decode(t *testing.T, path string, cfg any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(cfg); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// missing returns the fields of a configuration, by their path in YAML, that a file doesn't show.
func missing(t *testing.T, path string, cfg reflect.Type) []string {
	t.Helper()
	var shown map[string]any
	decode(t, path, &shown)
	return missingIn("", shown, cfg)
}

func missingIn(prefix string, shown map[string]any, cfg reflect.Type) []string {
	var out []string
	for _, f := range reflect.VisibleFields(cfg) {
		key := f.Tag.Get("yaml")
		value, ok := shown[key]
		if !ok {
			out = append(out, prefix+key)
		}
		if below, ok := value.(map[string]any); ok && f.Type.Kind() == reflect.Struct {
			out = append(out, missingIn(prefix+key+".", below, f.Type)...)
		}
	}
	return out
}

func TestSchedulerConfig(t *testing.T) {
	const path = "config/scheduler.yaml"
	var got scheduler.Config
	decode(t, path, &got)
	if err := got.Validate(); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	want := scheduler.DefaultConfig()
	if want.Registry.PlainHTTP == nil {
		want.Registry.PlainHTTP = []string{}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s says of itself that it holds the defaults\n it has %+v\ndefaults %+v", path, got, want)
	}
	if fields := missing(t, path, reflect.TypeFor[scheduler.Config]()); len(fields) > 0 {
		t.Errorf("%s doesn't show %v", path, fields)
	}
}

func TestMissingFieldsAreFound(t *testing.T) {
	type inner struct {
		Host string `yaml:"host"`
		Port int    `yaml:"port"`
	}
	type config struct {
		Name  string `yaml:"name"`
		Size  int    `yaml:"size"`
		Inner inner  `yaml:"inner"`
	}
	shown := map[string]any{"name": "", "inner": map[string]any{"port": 1}}
	if got := missingIn("", shown, reflect.TypeFor[config]()); !reflect.DeepEqual(got, []string{"size", "inner.host"}) {
		t.Errorf("got %v", got)
	}
}
