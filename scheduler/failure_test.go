package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A scheduler whose Raft store has failed ends with the reason, without waiting for what may hang.
func TestFailureOfTheRaftStoreEndsTheServer(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DataDir, cfg.Version = t.TempDir(), "v9"
	cfg.GRPCAddr, cfg.HTTPAddr, cfg.RaftAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	s, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	s.failed = failed
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case <-ctx.Done():
		t.Fatal("not ready")
	}
	if v := s.ClusterStatus().GetVersion(); v != "v9" {
		t.Errorf("version %q", v)
	}
	disk := errors.New("a write hangs")
	failed <- disk
	select {
	case err := <-ended:
		if !errors.Is(err, disk) || !strings.Contains(err.Error(), "the Raft log has failed") {
			t.Errorf("Run: %v", err)
		}
	case <-ctx.Done():
		t.Fatal("Run goes on")
	}
	if err := s.Healthy(); !errors.Is(err, disk) {
		t.Errorf("Healthy: %v", err)
	}
	// The process would end here; the test cleans up in its place.
	s.stopServing()
	if err := s.release(); err != nil {
		t.Error(err)
	}
}
