package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/events"
)

// holding is a node that keeps these instances since the restore of epoch 9.
func holding(name string, ids ...string) *fleetv1.Node {
	n := &fleetv1.Node{Meta: &fleetv1.Meta{Name: name, Id: "id-" + name}, Spec: &fleetv1.NodeSpec{}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady},
		Facts: &fleetv1.NodeFacts{Hold: &fleetv1.NodeHold{RestoreEpoch: 9}}}
	for _, id := range ids {
		n.Facts.Hold.Strangers = append(n.Facts.Hold.Strangers, &fleetv1.Stranger{InstanceId: id, InstanceName: "iris-" + id, Service: "iris"})
	}
	return n
}

func TestRemovalsAreConfirmedAsListed(t *testing.T) {
	w := newWorld(t)
	client := fleetv1.NewBackupServiceClient(w.conn)
	confirm := func(epoch uint64, ids ...string) (*fleetv1.ConfirmRemovalsResponse, error) {
		return client.ConfirmRemovals(t.Context(), &fleetv1.ConfirmRemovalsRequest{RestoreEpoch: epoch, InstanceIds: ids, RequestId: fmt.Sprint(len(ids), epoch)})
	}
	w.put(&fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c1"}})
	if _, err := confirm(0); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "never restored") {
		t.Errorf("without a restore: %v", err)
	}

	w = newWorld(t)
	client = fleetv1.NewBackupServiceClient(w.conn)
	w.put(&fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c1"}, RestoreEpoch: 9, RemovalsConfirmed: 4})
	const many = 2*confirmedAtOnce + 50
	for i := range many {
		w.put(holding(fmt.Sprintf("n%04d", i)))
	}
	silent, older := holding("silent", "s"), holding("older", "o")
	silent.Facts.Hold = nil
	older.Facts.Hold.RestoreEpoch = 4
	w.put(silent, older, holding("seen", "a", "b"), holding("unseen", "c", "d"))
	list, err := client.ListRemovals(t.Context(), &fleetv1.ListRemovalsRequest{})
	if err != nil || !list.GetHeld() || list.GetRestoreEpoch() != 9 || len(list.GetNodes()) != 3 || len(list.GetSilentNodes()) != 1 || list.GetSilentNodes()[0] != "silent" {
		t.Fatalf("listed %v, %v", list, err)
	}
	if _, err := confirm(8, "a"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("another list: %v", err)
	}
	resp, err := confirm(9, "a", "b", "c")
	if err != nil || len(resp.GetNodes()) != many+1 || len(resp.GetNotes()) != 3 || !strings.Contains(strings.Join(resp.GetNotes(), "\n"), "node unseen also runs iris-d of service iris") {
		t.Fatalf("confirmed %d nodes, notes %v, %v", len(resp.GetNodes()), resp.GetNotes(), err)
	}
	view := w.store.View()
	for name, want := range map[string]uint64{"seen": 9, "n0449": 9, "unseen": 0, "silent": 0, "older": 0} {
		if got := view.Node(name).GetSpec().GetRemovalsConfirmed(); got != want {
			t.Errorf("node %s is confirmed up to %d, want %d", name, got, want)
		}
	}
	if view.Cluster().GetRemovalsConfirmed() != 9 {
		t.Error("the loops are still held")
	}
	before := view.Index()
	if again, err := confirm(9, "a", "b", "c"); err != nil || len(again.GetNodes()) != many+1 || w.store.View().Index() != before {
		t.Errorf("again: %v, %v", again.GetNotes(), err)
	}
	if more, err := confirm(9, "c", "d"); err != nil || len(more.GetNodes()) != many+2 {
		t.Errorf("of the node that was left: %d nodes, %v", len(more.GetNodes()), err)
	}
}

func TestSlowWatchersAreTold(t *testing.T) {
	err := toStatus(fmt.Errorf("watch events: %w", events.ErrSlow))
	if status.Code(err) != codes.ResourceExhausted || errors.Is(err, events.ErrSlow) || !strings.Contains(err.Error(), "watch again") {
		t.Errorf("told %v", err)
	}
}
