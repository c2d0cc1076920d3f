package raftstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/scheduler/state"
)

// Two of three schedulers are lost for good: the third goes on alone with all that it has, and others can join it.
func TestRecoverFromLostMajority(t *testing.T) {
	for _, snapshot := range []bool{false, true} {
		t.Run(fmt.Sprint("snapshot=", snapshot), func(t *testing.T) {
			members := newCluster(t, busy)
			leader := leaderOf(t, members)
			for i := range 10 {
				propose(t, leader.Store, fmt.Sprint("f", i))
			}
			for _, m := range members {
				awaitFlavors(t, m.st, 10)
			}
			left := members[2]
			if leader == left {
				left = members[1]
			}
			if snapshot {
				if err := left.Snapshot(testContext(t)); err != nil {
					t.Fatal(err)
				}
				propose(t, leader.Store, "f10")
				awaitFlavors(t, left.st, 11)
			}
			for _, m := range members {
				if err := m.Close(); err != nil {
					t.Fatal(err)
				}
			}
			before := left.logs.log.Last
			sink := &sinkRecorder{}
			recovered := recoverOne(t, left, sink)
			if recovered.ID != left.ID() || recovered.Addr != left.cfg.Addr || len(recovered.Members) != 3 || recovered.LastIndex != before ||
				recovered.LastTerm == 0 || (recovered.SnapshotIndex > 0) != snapshot {
				t.Errorf("%+v", recovered)
			}
			if sink.flushed == 0 || len(sink.events) == 0 {
				t.Errorf("the events of the log were not kept: %d, flushed to %d", len(sink.events), sink.flushed)
			}
			alone, st := mustOpen(t, left.cfg, nil)
			awaitLeader(t, alone)
			want := 10
			if snapshot {
				want = 11
			}
			if n := len(st.View().Flavors()); n != want {
				t.Errorf("%d of %d writes", n, want)
			}
			if m := alone.Status().Members; len(m) != 1 || m[0].ID != left.ID() || !m[0].Voter {
				t.Errorf("members: %+v", m)
			}
			propose(t, alone, "after")
			cfg := testConfig(t.TempDir())
			cfg.Bootstrap = false
			joined, st := mustOpen(t, cfg, nil)
			if err := alone.AddVoter(testContext(t), joined.ID(), joined.Addr()); err != nil {
				t.Fatal(err)
			}
			awaitFlavors(t, st, want+1)
		})
	}
}

func recoverOne(t *testing.T, m *member, sink EventSink) (found Recovery) {
	t.Helper()
	err := Recover(m.cfg, state.New(), sink, func(r Recovery) error {
		found = r
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestRecoverRefuses(t *testing.T) {
	yes := func(Recovery) error { return nil }
	if err := Recover(testConfig(t.TempDir()), state.New(), nil, yes); err == nil || !strings.Contains(err.Error(), "holds no state") {
		t.Errorf("an empty directory: %v", err)
	}
	cfg := testConfig(t.TempDir())
	s, _ := mustOpen(t, cfg, nil)
	awaitLeader(t, s)
	propose(t, s, "a")
	if err := Recover(cfg, state.New(), nil, yes); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("a scheduler that runs: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	if err := Recover(cfg, state.New(), nil, func(Recovery) error { return no }); !errors.Is(err, no) {
		t.Errorf("not confirmed: %v", err)
	}
	again, st := mustOpen(t, cfg, nil)
	awaitLeader(t, again)
	if b := again.logs.bounds(); b.First != 1 || len(st.View().Flavors()) != 1 {
		t.Errorf("something was changed: entries %v", b)
	}
}
