package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/scheduler"
)

// The configuration files that a package installs say of themselves that they hold every field with its
// default; docs/configuration.md calls them the reference.
func TestReferenceFiles(t *testing.T) {
	schedulerDefaults, agentDefaults := scheduler.DefaultConfig(), agentConfig{Config: agent.DefaultConfig()}
	var schedulerFile scheduler.Config
	var agentFile agentConfig
	for _, c := range []struct {
		path           string
		defaults, file any
		validate       func() error
	}{
		{"scheduler.yaml", &schedulerDefaults, &schedulerFile, func() error { return schedulerFile.Validate() }},
		{"agent.yaml", &agentDefaults, &agentFile, func() error { return agentFile.Validate() }},
	} {
		t.Run(c.path, func(t *testing.T) {
			data, err := os.ReadFile("../../systemd/config/" + c.path)
			if err != nil {
				t.Fatal(err)
			}
			if err := decodeStrict(data, c.file); err != nil {
				t.Fatal(err)
			}
			var shown map[string]any
			if err := yaml.Unmarshal(data, &shown); err != nil {
				t.Fatal(err)
			}
			defaults := map[string]string{}
			for _, s := range settings(c.defaults) {
				defaults[s.key] = fmt.Sprint(s.value.Interface())
			}
			for _, s := range settings(c.file) {
				if got := fmt.Sprint(s.value.Interface()); got != defaults[s.key] {
					t.Errorf("%s is %q, by default %q", s.key, got, defaults[s.key])
				}
				if !has(shown, s.key) {
					t.Errorf("%s isn't shown", s.key)
				}
			}
			if err := c.validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

// has reports whether a YAML tree holds a key: "registry.plain_http".
func has(tree map[string]any, key string) bool {
	first, rest, below := strings.Cut(key, ".")
	value, ok := tree[first]
	if !below {
		return ok
	}
	sub, isMap := value.(map[string]any)
	return isMap && has(sub, rest)
}
