package place

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// full is a fleet of nodes of 2 devices, all held: by instances that are to stop on the nodes named.
func full(nodes int, stopping ...string) (objects []proto.Message) {
	for i := range nodes {
		n := host(fmt.Sprintf("n%d", i), 2)
		inst := &fleetv1.Instance{Meta: &fleetv1.Meta{Id: "on-" + n.Meta.Name, Name: "on-" + n.Meta.Name}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
			Spec: &fleetv1.InstanceSpec{Node: n.Meta.Name, ServiceId: "x", DeviceIds: []string{n.Meta.Name + "-0"}, Preemptible: true}}
		for _, s := range stopping {
			if s == n.Meta.Name {
				inst.Desired.State = fleetv1.DesiredStopped
			}
		}
		objects = append(objects, n, inst)
	}
	return objects
}

// What is being cleared is kept for whom it is, beside reservations, from everybody who has no more priority.
func TestKeep(t *testing.T) {
	x := NewIndex(store(t, full(3, "n0")...).View())
	pair := func(service string, priority int32) Request {
		return Request{Pool: "p", Service: service, Accelerator: gpus(2), Priority: priority, Waited: true}
	}
	small := Request{Pool: "p", Service: "small", Accelerator: gpus(1), Priority: 5}
	mine, other := pair("mine", 5), pair("other", 9)
	if !x.Keep(&mine, []string{"n0"}) || x.Keep(&mine, []string{"n1"}) || x.Keep(&mine, []string{"n0", "gone"}) {
		t.Error("only n0 is being cleared")
	}
	x.Undo()
	x.Keep(&mine, []string{"n0"})
	for range 2 { // and for a second plan
		got := x.Plan([]Request{other, mine, small})
		if r := got[0].Reservation; len(r.GetNodes()) != 1 || r.GetNodes()[0] == "n0" {
			t.Errorf("reserved %v where room is being made for another", r)
		}
		if r := got[1].Reservation; len(r.GetNodes()) != 1 || r.GetNodes()[0] != "n0" || r.GetDetail() != "1 of 2 devices are free" {
			t.Errorf("reserved %v", r)
		}
		if where(got) != "- - n1" && where(got) != "- - n2" {
			t.Errorf("placed %s", where(got))
		}
		x.undo(0)
		x.kept = x.kept[:1] // without the reservation
	}
	urgent, second := small, small
	urgent.Priority, urgent.Prefer, second.Service = 6, "n0", "mine"
	second.Prefer = "n0"
	if got := where(x.Plan([]Request{urgent})); got != "n0" {
		t.Errorf("more priority got %s", got)
	}
	x.undo(0)
	if got := where(x.Plan([]Request{second})); got != "n0" {
		t.Errorf("who it is kept for got %s", got)
	}
	x.undo(0)
	if nodes, _, ok := x.Preempt(&mine); !ok || nodes[0] == "n0" {
		t.Errorf("room for a second one on %v (%v)", nodes, ok)
	}
}

// A reservation that yields keeps nobody out, and one that doesn't says whom it keeps out.
func TestYield(t *testing.T) {
	x := NewIndex(store(t, full(1)...).View())
	big := Request{Pool: "p", Service: "big", Accelerator: gpus(2), Waited: true}
	small := Request{Pool: "p", Service: "small", Accelerator: gpus(1)}
	gang := Request{Pool: "p", Service: "gang", Accelerator: gpus(1), Nodes: 2}
	got := x.Plan([]Request{big, small, gang})
	if where(got) != "- - -" || !got[1].KeptOut || got[0].KeptOut || got[2].KeptOut {
		t.Errorf("got %+v", got)
	}
	x.Undo()
	big.Yields = true
	if got = x.Plan([]Request{big, small}); where(got) != "- n0" || got[0].Reservation == nil || got[1].KeptOut {
		t.Errorf("got %+v", got)
	}
}
