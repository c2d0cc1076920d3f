package agent_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/runtime/fake"
)

// What is wrong with how a node joins is said before anything runs.
func TestCantJoin(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(dir string, c *agent.Config)
		want string
	}{
		"no certificate and no file": {func(string, *agent.Config) {}, "--join-file"},
		"a file that isn't there":    {func(dir string, c *agent.Config) { c.JoinFile = filepath.Join(dir, "none") }, "no such file"},
		"no standard input":          {func(_ string, c *agent.Config) { c.JoinFile = "-" }, "no standard input"},
		"another kind of file": {func(_ string, c *agent.Config) {
			c.JoinFile, c.Stdin = "-", strings.NewReader("schedulers: [10.0.0.1:7400]\ntoken: drover-secret\n")
		}, "begins with drover-join-1"},
		"a damaged identity": {func(dir string, c *agent.Config) {
			if err := os.MkdirAll(filepath.Join(dir, "identity"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "identity", "identity.pem"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "join again"},
	} {
		cfg := agent.DefaultConfig()
		cfg.NodeName, cfg.DataDir, cfg.HTTPAddr = "n1", t.TempDir(), "127.0.0.1:0"
		c.edit(cfg.DataDir, &cfg)
		rt := fake.New(fake.Options{})
		_, err := agent.New(cfg, agent.Deps{Runtime: rt, Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "drover-secret") {
			t.Errorf("%s: %v", name, err)
		}
		if err := rt.Close(); err != nil {
			t.Error(err)
		}
	}
}
