package jobs

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest/model"
	"github.com/drover-fleet/drover/runtime/fake"
)

// simulate adds a node whose containers exist in memory alone, and serve the same model.
func (l *lab) simulate(node string) {
	l.t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/predict", model.Predict)
	rt := fake.New(fake.Options{Listen: true, HostIP: "127.0.0.2", Handler: func(runtime.Spec) http.Handler { return mux },
		Program: func(runtime.Spec, []string) (fake.Program, error) { return fake.Program{}, nil }})
	cfg := agent.DefaultConfig()
	cfg.NodeName, cfg.JoinFile, cfg.DataDir = node, filepath.Join(l.t.TempDir(), "join.yaml"), l.t.TempDir()
	l.WriteJoinFile(cfg.JoinFile, node)
	cfg.HTTPAddr, cfg.AdvertiseAddress, cfg.PortMin, cfg.PortMax = "127.0.0.1:0", "127.0.0.2", l.PortMin, l.PortMax
	cfg.StorageDirs = []string{l.shared}
	a, err := agent.New(cfg, agent.Deps{Runtime: rt, Logger: slog.New(slog.NewTextHandler(l.t.Output(), nil))})
	l.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	l.t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, rt.Close()); err != nil {
			l.t.Errorf("the simulated node: %v", err)
		}
	})
	l.Within(limit, "the simulated node is Ready", func() error {
		out, errs, code := l.Drover("node", "show", node)
		if code != 0 || !strings.Contains(out, "Ready") {
			return errors.New(out + errs)
		}
		return nil
	})
}
