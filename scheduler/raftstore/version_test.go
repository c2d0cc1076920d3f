package raftstore

import (
	"errors"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/scheduler/state"
)

// An entry that a newer program has written stops this one: to refuse it, as the store would, would make the store
// another one than where it was applied.
func TestNewerCommandStops(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Bootstrap = true
	s, st := mustOpen(t, cfg, nil)
	awaitLeader(t, s)
	propose(t, s, "known")
	newer := flavorCommand("newer")
	newer.Introduced = state.CommandVersion + 1
	if _, err := s.Propose(testContext(t), newer); !errors.Is(err, ErrUnknown) {
		t.Errorf("propose: %v", err)
	}
	select {
	case err := <-s.Failed():
		if !strings.Contains(err.Error(), "a newer one has written it") {
			t.Errorf("failed: %v", err)
		}
	case <-testContext(t).Done():
		t.Fatal("the scheduler goes on")
	}
	if n := len(st.View().Flavors()); n != 1 {
		t.Errorf("%d flavors", n)
	}
}
