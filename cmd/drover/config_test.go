package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/scheduler"
)

type exampleConfig struct {
	Inner  `yaml:",inline"`
	Labels map[string]string `yaml:"labels"`
	Counts map[string]int    `yaml:"declared"`
	Nested struct {
		Hosts []string `yaml:"plain_http"`
		On    bool     `yaml:"on"`
	} `yaml:"registry"`
	Hidden string `yaml:"-"`
}

// Inner is embedded.
type Inner struct {
	Name string        `yaml:"node_name"`
	Wait time.Duration `yaml:"wait"`
	High float64       `yaml:"image_high"`
}

func TestConfigLayers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	for _, tc := range []struct {
		name, yaml string
		env        map[string]string
		args       []string
		want       func(*exampleConfig)
		err        string
	}{
		{name: "defaults", want: func(*exampleConfig) {}},
		{name: "file", yaml: "node_name: a\nwait: 3s\nregistry: {plain_http: [x, y]}\n", want: func(c *exampleConfig) {
			c.Name, c.Wait, c.Nested.Hosts = "a", 3*time.Second, []string{"x", "y"}
		}},
		{name: "environment over file", yaml: "node_name: a\nwait: 3s\n", env: map[string]string{
			"DROVER_NODE_NAME": "123", "DROVER_REGISTRY_PLAIN_HTTP": "p,q", "DROVER_LABELS": "zone=b,rack=1", "DROVER_REGISTRY_ON": "true",
		}, want: func(c *exampleConfig) {
			c.Name, c.Wait, c.Nested.Hosts, c.Nested.On = "123", 3*time.Second, []string{"p", "q"}, true
			c.Labels = map[string]string{"zone": "b", "rack": "1"}
		}},
		{name: "flags over environment", yaml: "wait: 3s\n", env: map[string]string{"DROVER_WAIT": "4s", "DROVER_IMAGE_HIGH": "0.5"},
			args: []string{"--wait", "5s", "--image-high=0.25", "--registry-plain-http", "z"}, want: func(c *exampleConfig) {
				c.Wait, c.High, c.Nested.Hosts = 5*time.Second, 0.25, []string{"z"}
			}},
		{name: "numbers by name", yaml: "declared: {nvidia: 4}\n", env: map[string]string{"DROVER_DECLARED": "nvidia=8,ascend=16"}, want: func(c *exampleConfig) {
			c.Counts = map[string]int{"nvidia": 8, "ascend": 16}
		}},
		{name: "bad number by name", args: []string{"--declared", "nvidia=all"}, err: `--declared: "nvidia=all": nvidia is "all": want a whole number`},
		{name: "no number by name", args: []string{"--declared", "nvidia="}, err: `nvidia is "": want a whole number`},
		{name: "unknown field", yaml: "nod_name: a\n", err: "field nod_name not found"},
		{name: "unknown nested field", yaml: "registry: {plain: 1}\n", err: "field plain not found"},
		{name: "bad type in the file", yaml: "wait: soon\n", err: "cannot unmarshal"},
		{name: "bad environment", env: map[string]string{"DROVER_WAIT": "soon"}, err: `DROVER_WAIT: "soon": want a time with a unit`},
		{name: "bad map", env: map[string]string{"DROVER_LABELS": "zone"}, err: "want k=v pairs"},
		{name: "bad flag", args: []string{"--wait", "soon"}, err: `--wait: "soon": want a time with a unit`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := func() *exampleConfig {
				return &exampleConfig{Inner: Inner{Name: "default", Wait: time.Second, High: 0.85}}
			}
			a := &app{getenv: func(name string) string { return tc.env[name] }}
			cfg := base()
			cmd := &cobra.Command{Use: "x"}
			load := a.configFlags(cmd, cfg)
			if tc.yaml != "" {
				if err := os.WriteFile(file, []byte(tc.yaml), 0o600); err != nil {
					t.Fatal(err)
				}
				tc.args = append(tc.args, "--config", file)
			}
			if err := cmd.ParseFlags(tc.args); err != nil {
				t.Fatal(err)
			}
			err := load()
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("err = %v, want one line with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := base()
			tc.want(want)
			if !reflect.DeepEqual(cfg, want) {
				t.Errorf("got  %+v\nwant %+v", cfg, want)
			}
		})
	}
}

func TestSchedulerConfigIsChecked(t *testing.T) {
	env := map[string]string{}
	run := func(args ...string) (int, string) {
		var errOut bytes.Buffer
		a := &app{out: &bytes.Buffer{}, err: &errOut, in: strings.NewReader(""), now: time.Now, getenv: func(n string) string { return env[n] }}
		return a.execute(t.Context(), append([]string{"scheduler"}, args...)), errOut.String()
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--grpc-addr", "0.0.0.0:1", "--http-addr", "x"}, 1, "drover: configuration: grpc_addr: \"0.0.0.0:1\" is every address of this host"},
		{[]string{"--config", "/nowhere.yaml"}, 1, "drover: read the configuration: open /nowhere.yaml: no such file or directory\n"},
		{[]string{"--log-format", "xml"}, 2, "drover: --log-format \"xml\": want text or json"},
		{[]string{"--log-level", "loud"}, 2, "invalid argument \"loud\" for \"--log-level\""},
		{[]string{"extra"}, 2, "drover: unexpected argument \"extra\""},
	} {
		code, errOut := run(tc.args...)
		if code != tc.code || !strings.HasPrefix(strings.TrimPrefix(errOut, "drover: "), strings.TrimPrefix(tc.want, "drover: ")) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%v: code %d, %q; want %d, %q", tc.args, code, errOut, tc.code, tc.want)
		}
	}
}

func TestEverySettingHasAFlagOfItsOwn(t *testing.T) {
	cfg := scheduler.DefaultConfig()
	seen := map[string]string{"config": "", "log-level": "", "log-format": "", "help": ""}
	for _, s := range settings(&cfg) {
		if other, ok := seen[s.flag()]; ok {
			t.Errorf("--%s is of %s and %s", s.flag(), s.key, other)
		}
		seen[s.flag()] = s.key
	}
	if want := []string{"data-dir", "grpc-addr", "registry-plain-http"}; !containsAll(seen, want) {
		t.Errorf("flags %v", maps.Keys(seen))
	}
}

func containsAll(m map[string]string, keys []string) bool {
	for _, k := range keys {
		if _, ok := m[k]; !ok {
			return false
		}
	}
	return true
}
