package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/drover-fleet/drover/scheduler/state"
)

// A restored state reaches every scheduler, survives their restarts, and is written on.
func TestRestoreReachesEveryScheduler(t *testing.T) {
	members := newCluster(t, busy)
	leader := leaderOf(t, members)
	propose(t, leader.Store, "before")
	source := state.New()
	for i := range 20 {
		source.Apply(uint64(1000+i), flavorCommand(fmt.Sprint("restored", i)))
	}
	var snapshot bytes.Buffer
	size, err := source.Snapshot().WriteTo(&snapshot)
	if err != nil {
		t.Fatal(err)
	}
	var notLeader *NotLeaderError
	for _, m := range members {
		if m != leader {
			if err := m.Restore(testContext(t), 1019, size, bytes.NewReader(snapshot.Bytes())); !errors.As(err, &notLeader) {
				t.Errorf("a follower answers %v", err)
			}
		}
	}
	if err := leader.Restore(testContext(t), 1019, size, bytes.NewReader(snapshot.Bytes())); err != nil {
		t.Fatal(err)
	}
	if err := leader.ReadIndex(testContext(t)); err != nil {
		t.Fatal(err)
	}
	propose(t, leader.Store, "after")
	for _, m := range members {
		awaitFlavors(t, m.st, 21)
		if m.st.View().Flavor("before") != nil || m.st.View().Flavor("restored0") == nil || m.st.View().Index() <= 1019 {
			t.Errorf("a scheduler is at index %d with %d flavors", m.st.View().Index(), len(m.st.View().Flavors()))
		}
	}
	for _, m := range members {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range members {
		_, st := mustOpen(t, m.cfg, nil)
		m.st = st
	}
	for _, m := range members {
		awaitFlavors(t, m.st, 21)
	}
}
