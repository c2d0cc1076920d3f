package session

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// While entries are on their way reports of all nodes share the next one, and its fate.
func TestReportsShareEntries(t *testing.T) {
	run(t, func(w *world) {
		const nodes = reportsUnderway + 3
		var pipes []*agentEnd
		for n := range nodes {
			pipes = append(pipes, w.agent(fmt.Sprint("n", n), facts()))
			w.place(fmt.Sprint("i", n), fmt.Sprint("n", n))
		}
		send := func(id uint64) {
			for n, p := range pipes {
				p.got()
				report(p, id, fmt.Sprint("i", n), id)
				synctest.Wait()
			}
		}
		w.gate = make(chan struct{})
		before := w.proposals
		send(1)
		pipes[nodes-1].cancel() // concerns nobody else
		synctest.Wait()
		close(w.gate)
		for n, p := range pipes[:nodes-1] {
			if got := p.got(); len(got) != 1 || got[0].GetAck().GetId() != 1 {
				t.Errorf("node %d got %v", n, got)
			}
		}
		for n := range nodes {
			want := uint64(1)
			if n == nodes-1 {
				want = 0 // its session has ended: its agent says it again, and by then the node may have been lost
			}
			if seen := w.store.View().Instance(fmt.Sprint("i", n)).GetObserved(); seen.GetSequence() != want {
				t.Errorf("stored of node %d: %v", n, seen)
			}
		}
		if got := w.proposals - before; got != reportsUnderway+1 {
			t.Errorf("%d entries", got)
		}
		pipes = pipes[:nodes-1]
		w.gate, w.fail = make(chan struct{}), errors.New("outcome unknown")
		send(2)
		close(w.gate)
		for n, p := range pipes {
			if got := p.got(); len(got) != 0 || p.code() != codes.Unavailable {
				t.Errorf("node %d got %v after a failed commit", n, got)
			}
		}
	})
}

// A full entry takes no more.
func TestEntriesOfReportsAreBounded(t *testing.T) {
	var g gather
	g.init()
	big := &fleetv1.Report{Node: "n", Instances: []*fleetv1.InstanceReport{{InstanceId: string(make([]byte, maxReportBytes))}}}
	small, first := g.add(t.Context(), &fleetv1.Report{Node: "n"})
	if again, second := g.add(t.Context(), big); !first || second || again != small {
		t.Error("the reports don't share a batch")
	}
	if next, first := g.add(t.Context(), &fleetv1.Report{Node: "n"}); !first || next == small {
		t.Error("a full batch was joined")
	}
}

// Without a leader a report isn't left waiting.
func TestReportAfterResigning(t *testing.T) {
	run(t, func(w *world) {
		w.hub.Resign()
		if err := w.hub.commitReport(context.Background(), &fleetv1.Report{Node: "n"}); err == nil {
			t.Error("it was committed")
		}
	})
}
