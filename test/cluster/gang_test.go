package cluster

import (
	"fmt"
	"strings"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A gang is placed on two nodes, each member knows its place, it is one endpoint while all members are ready, and is
// replaced as a whole when one is lost.
func TestAGangsLife(t *testing.T) {
	f := startFleet(t, 3, "2xH100-80GB")
	strict := &fleetv1.HealthCheck{CheckMethod: "HTTP", PeriodSeconds: 1, FailureThreshold: 1}
	_, err := f.Client.Models.CreateModel(f.ctx, &fleetv1.CreateModelRequest{Model: &fleetv1.Model{
		Meta: &fleetv1.Meta{Name: "strict", Project: "default"}, Spec: &fleetv1.ModelSpec{Image: f.Image, Health: strict},
	}})
	f.must(err)
	first := f.run("train", "gpu.2", 1, func(v *fleetv1.ServiceVersion) { v.Model, v.Nodes, v.Env = "strict", 2, map[string]string{"A": "b"} })
	checkGang(t, f, first)
	one := func(rank0 *fleetv1.Instance) func() bool {
		return func() bool {
			e := f.endpoints("train")
			return len(e) == 1 && e[0].GetInstanceId() == rank0.GetMeta().GetId()
		}
	}
	f.within("the endpoint is that of rank 0", one(first[0]))

	node, id := f.container(first[1])
	f.must(node.Runtime.SetHealthy(id, false))
	f.within("no endpoint while rank 1 is unhealthy", func() bool { return len(f.endpoints("train")) == 0 })
	f.must(node.Runtime.SetHealthy(id, true))
	f.within("the endpoint is back", one(first[0]))

	lost := f.node(first[1].GetSpec().GetNode())
	lost.Stop()
	old := first[0].GetSpec().GetGang().GetId()
	f.WaitService("train", "to be replaced", func(r *fleetv1.WatchServiceResponse) bool {
		all := staying(r.Instances)
		return r.Service.GetStatus().GetState() == fleetv1.ServiceRunning && len(all) == 2 && all[0].GetSpec().GetGang().GetId() != old && all[1].GetSpec().GetGang().GetId() != old
	})
	second := f.running("train")
	checkGang(t, f, second)
	f.within("the endpoint is that of the new rank 0", one(second[0]))
	lost.Start()
	f.within("the lost member ends when its node is back", func() bool { return len(lost.Runtime.Containers()) == 0 })
	if again := f.running("train"); again[0].GetSpec().GetGang().GetId() != second[0].GetSpec().GetGang().GetId() {
		t.Errorf("replaced once more: %v", again)
	}
}

// checkGang checks who its members are and what their containers were told.
func checkGang(t *testing.T, f *fleet, members []*fleetv1.Instance) {
	t.Helper()
	if len(members) != 2 || members[0].GetSpec().GetNode() == members[1].GetSpec().GetNode() {
		t.Fatalf("members %v", members)
	}
	var addresses []string
	for _, m := range members {
		addresses = append(addresses, f.node(m.GetSpec().GetNode()).address())
	}
	for rank, m := range members {
		node, id := f.container(m)
		spec, found := node.Runtime.Spec(id)
		if !found {
			t.Fatalf("%s has no container %s", node.Name, id)
		}
		for k, want := range map[string]string{
			"A": "b", "DROVER_GANG_ID": members[0].GetSpec().GetGang().GetId(), "DROVER_GANG_RANK": fmt.Sprint(rank), "DROVER_GANG_SIZE": "2",
			"DROVER_GANG_ADDRESSES": strings.Join(addresses, ","),
		} {
			if got := spec.Env[k]; got != want {
				t.Errorf("rank %d: %s is %q, want %q", rank, k, got, want)
			}
		}
		if len(spec.Devices) != 2 {
			t.Errorf("rank %d has devices %v", rank, spec.Devices)
		}
	}
}

// A gang of which not all members find a node takes none.
func TestAGangIsWholeOrAbsent(t *testing.T) {
	f := startFleet(t, 2, "2xH100-80GB")
	f.run("small", "gpu.1", 1, nil)
	f.deploy("train", "gpu.2", 1, func(v *fleetv1.ServiceVersion) { v.Nodes = 2 })
	f.waiting("train", "1 of 2 members")
	f.run("other", "gpu.2", 1, nil) // what a part of it would fit on is not held
	f.remove("small")
	f.remove("other")
	if members := f.running("train"); len(members) != 2 {
		t.Errorf("members %v", members)
	}
}
