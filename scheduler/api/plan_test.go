package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// fleet makes nodes n2 and n3 beside n1, with two devices each, and the pool "wide" of all three.
func (w *world) fleet() {
	w.t.Helper()
	w.furnish()
	for _, name := range []string{"n2", "n3"} {
		n := &fleetv1.Node{Meta: meta(name), Facts: &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 4000, MemoryBytes: 8 << 30, DiskBytes: 100 << 30,
			AdvertiseAddress: "10.0.0." + name[1:]}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady}}
		for i := range 2 {
			n.Facts.Devices = append(n.Facts.Devices, &fleetv1.Device{Id: fmt.Sprintf("%s-%d", name, i), Vendor: "fake", Model: "H100-80GB",
				Index: int32(i), Health: fleetv1.Healthy, MemoryBytes: 80 << 30})
		}
		w.put(n)
	}
	w.put(&fleetv1.Pool{Meta: meta("wide"), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolPublic, Nodes: []string{"n1", "n2", "n3"}}},
		flavor("gpu.2", func(s *fleetv1.FlavorSpec) { s.Accelerator = &fleetv1.Accelerator{Vendor: "fake", Count: 2} }))
}

// wide is a service of the pool "wide".
func wide(name, flavor string, instances int32, edit func(*fleetv1.ServiceVersion)) *fleetv1.Service {
	return iris(func(s *fleetv1.Service) {
		s.Meta.Name, s.Spec.Pool = name, "wide"
		s.Spec.Versions[0].Flavor, s.Spec.Versions[0].Instances = flavor, instances
		if edit != nil {
			edit(s.Spec.Versions[0])
		}
	})
}

// run stores an instance of the service's only version.
func (w *world) run(s *fleetv1.Service, id, node string, edit func(*fleetv1.Instance), devices ...string) *fleetv1.Instance {
	w.t.Helper()
	v := s.GetSpec().GetVersions()[0]
	f := w.store.View().Flavor(v.GetFlavor()).GetSpec()
	i := &fleetv1.Instance{
		Meta: &fleetv1.Meta{Id: id, Name: s.GetMeta().GetName() + "-" + id, Project: fleetv1.Default},
		Spec: &fleetv1.InstanceSpec{ServiceId: s.GetMeta().GetId(), ServiceName: s.GetMeta().GetName(), Model: v.GetModel(), ModelVersion: v.GetModelVersion(),
			Node: node, DeviceIds: devices, CpuMillis: f.GetCpuMillis(), MemoryBytes: f.GetMemoryBytes(), Preemptible: v.GetPreemptible(), Priority: v.GetPriority()},
		Desired:  &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
		Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Ready: true},
	}
	for range devices {
		i.Spec.DeviceModels = append(i.Spec.DeviceModels, "H100-80GB")
	}
	if edit != nil {
		edit(i)
	}
	w.put(i)
	return i
}

// waits makes the service loop's status of a service that has waited for a minute.
func (w *world) waits(s *fleetv1.Service, placed int32) {
	w.t.Helper()
	old := w.store.View().ServiceByID(s.GetMeta().GetId())
	after := proto.CloneOf(old)
	v := s.GetSpec().GetVersions()[0]
	after.Status = &fleetv1.ServiceStatus{State: fleetv1.ServiceDeploying, DeployTime: old.GetDesired().GetStartTime(),
		Versions: []*fleetv1.ServiceVersionStatus{{Model: v.GetModel(), ModelVersion: v.GetModelVersion(), Desired: v.GetInstances(), Placed: placed,
			WaitingReason: "no room", WaitingSince: timestamppb.New(start.Add(-time.Minute))}}}
	w.write(state.Put(old.GetMeta().GetRevision(), after))
}

func (w *world) plan(s *fleetv1.Service) *fleetv1.PlanServiceResponse {
	w.t.Helper()
	before := w.store.View().Index()
	resp, err := w.services().PlanService(w.t.Context(), &fleetv1.PlanServiceRequest{Service: s})
	if err != nil {
		w.t.Fatal(err)
	}
	if now := w.store.View().Index(); now != before {
		w.t.Errorf("planning took the store from index %d to %d", before, now)
	}
	return resp
}

// where names the nodes and devices of planned instances.
func where(resp *fleetv1.PlanServiceResponse) string {
	var all []string
	for _, i := range resp.GetInstances() {
		for _, m := range i.GetMembers() {
			all = append(all, strings.TrimSpace(m.GetNode()+" "+strings.Join(m.GetDeviceIds(), "+")))
		}
	}
	return strings.Join(all, ", ")
}

func TestPlanService(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	resp := w.plan(wide("two", "gpu.2", 3, nil))
	if got := where(resp); got != "n2 n2-0+n2-1, n3 n3-0+n3-1" && got != "n3 n3-0+n3-1, n2 n2-0+n2-1" {
		t.Errorf("planned on %s", got)
	}
	if len(resp.GetWaits()) != 1 || resp.GetWaits()[0].GetInstances() != 1 || resp.GetWaits()[0].GetModel() != "iris" || resp.GetWaits()[0].GetModelVersion() != "0.0.2" {
		t.Fatalf("waits %v", resp.GetWaits())
	}
	if why := resp.GetWaits()[0].GetExplanation(); why.GetNodes() != 3 || !strings.Contains(why.GetSummary(), "of 3 nodes") {
		t.Errorf("explanation %v", why)
	}
	if again := w.plan(wide("two", "gpu.2", 3, nil)); !proto.Equal(again, resp) {
		t.Errorf("the same question is answered differently: %v, then %v", resp, again)
	}
	// What was planned is free again, and what is deployed counts.
	s := w.mustDeploy(wide("one", "gpu.1", 1, nil))
	w.run(s, "11111111", "n2", nil, "n2-0")
	if resp := w.plan(wide("one", "gpu.1", 1, nil)); len(resp.GetInstances()) != 0 || len(resp.GetWaits()) != 0 {
		t.Errorf("the service that has all its instances: %v", resp)
	}
	if got := where(w.plan(wide("one", "gpu.1", 4, nil))); strings.Count(got, "n") == 0 || strings.Contains(got, "n2-0") || strings.Count(got, ",") != 2 {
		t.Errorf("scaled from 1 to 4: %s", got)
	}
}

func TestPlanServicePlansGangs(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	gang := func(v *fleetv1.ServiceVersion) { v.Nodes = 2 }
	resp := w.plan(wide("gang", "gpu.2", 2, gang))
	if len(resp.GetInstances()) != 1 || len(resp.GetInstances()[0].GetMembers()) != 2 || len(resp.GetWaits()) != 1 {
		t.Errorf("got %v", resp)
	}
	s := w.mustDeploy(wide("gang", "gpu.2", 2, gang))
	for rank, node := range []string{"n2", "n3"} {
		w.run(s, fmt.Sprint(rank, "1111111"), node, func(i *fleetv1.Instance) {
			i.Spec.Gang = &fleetv1.Gang{Id: "g", Rank: int32(rank), Size: 2, Addresses: []string{"a", "b"}}
		}, node+"-0", node+"-1")
	}
	if resp := w.plan(wide("gang", "gpu.2", 2, gang)); len(resp.GetInstances()) != 0 || resp.GetWaits()[0].GetInstances() != 1 {
		t.Errorf("one gang of two runs: %v", resp)
	}
}

// What waits already, with no less priority, comes first.
func TestPlanServiceKeepsTheLine(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	waiting := w.mustDeploy(wide("big", "gpu.2", 2, nil))
	w.waits(waiting, 0)
	if got := where(w.plan(wide("small", "gpu.1", 2, nil))); got != "n1 GPU-0" {
		t.Errorf("planned on %q, which others wait for", got)
	}
	if got := where(w.plan(wide("small", "gpu.1", 2, func(v *fleetv1.ServiceVersion) { v.Priority = 1 }))); strings.Count(got, ",") != 1 {
		t.Errorf("planned on %q with more priority than those that wait", got)
	}
}

func TestPlanServiceRefusals(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	w.put(&fleetv1.Quota{Meta: meta(fleetv1.Default), Spec: &fleetv1.QuotaSpec{Instances: proto.Int64(2)}})
	w.mustDeploy(wide("there", "cpu.1u1g", 1, nil))
	w.mustDeploy(wide("leaving", "cpu.1u1g", 1, nil))
	if _, err := w.services().DeleteService(t.Context(), &fleetv1.DeleteServiceRequest{Name: "leaving"}); err != nil {
		t.Fatal(err)
	}
	before := w.store.View().Index()
	for _, c := range []struct {
		name, field, words string
		code               codes.Code
		service            *fleetv1.Service
	}{
		{"nothing", "service.spec", "missing", codes.InvalidArgument, &fleetv1.Service{}},
		{"unknown flavor", "service.spec.versions[0].flavor", `did you mean "gpu.1"`, codes.NotFound, wide("x", "gpu.3", 1, nil)},
		{"weight", "service.spec.versions[0].weight", "0–100", codes.InvalidArgument, wide("x", "gpu.1", 1, func(v *fleetv1.ServiceVersion) { v.Weight = 101 })},
		{"quota", "", "quota of project", codes.ResourceExhausted, wide("x", "gpu.1", 2, nil)},
		{"being deleted", "", "is being deleted", codes.FailedPrecondition, wide("leaving", "cpu.1u1g", 1, nil)},
	} {
		_, err := w.services().PlanService(t.Context(), &fleetv1.PlanServiceRequest{Service: c.service})
		w.refused(c.name, err, c.code, c.field, c.words, before)
	}
	if resp := w.plan(wide("x", "gpu.1", 1, nil)); len(resp.GetInstances()) != 1 {
		t.Errorf("within the quota: %v", resp)
	}
	// A plan takes no place within the quota.
	w.mustDeploy(wide("last", "gpu.1", 1, nil))
}

func TestGetServiceExplainsWhyItWaits(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	s := w.mustDeploy(wide("two", "gpu.2", 3, nil))
	get := func() *fleetv1.ServiceVersionStatus {
		t.Helper()
		resp, err := w.services().GetService(t.Context(), &fleetv1.GetServiceRequest{Name: "two"})
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.GetService().GetStatus().GetVersions()) == 0 {
			return nil
		}
		return resp.GetService().GetStatus().GetVersions()[0]
	}
	if st := get(); st.GetExplanation() != nil {
		t.Errorf("it does not wait yet: %v", st)
	}
	w.run(s, "11111111", "n2", nil, "n2-0", "n2-1")
	w.run(s, "21111111", "n3", nil, "n3-0", "n3-1")
	w.waits(s, 2)
	why := get().GetExplanation()
	if why.GetNodes() != 3 || why.GetSummary() == "" {
		t.Errorf("explanation %v", why)
	}
	if stored := w.store.View().Service(fleetv1.Default, "two"); stored.GetStatus().GetVersions()[0].GetExplanation() != nil {
		t.Error("the explanation is in the store")
	}
	w.put(&fleetv1.Quota{Meta: meta(fleetv1.Default), Spec: &fleetv1.QuotaSpec{Devices: []*fleetv1.DeviceQuota{{Model: "H100*", Count: 5}}}})
	if why := get().GetExplanation(); strings.Contains(why.GetSummary(), "quota") {
		t.Errorf("its flavor does not say which model it gets: %v", why)
	}
	w.write(state.Put(w.store.View().Quota(fleetv1.Default).GetMeta().GetRevision(),
		&fleetv1.Quota{Meta: meta(fleetv1.Default), Spec: &fleetv1.QuotaSpec{Instances: proto.Int64(2)}}))
	if why := get().GetExplanation(); !strings.Contains(why.GetSummary(), "quota of project default: instances: 2 of 2 are held, 1 more") || len(why.GetRemedies()) != 1 {
		t.Errorf("explanation with a quota %v", why)
	}
}

// The index follows the store, and is made again when it was dropped.
func TestPlannerFollowsTheStore(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	p := &planner{store: w.store}
	free := func() (n int) {
		service := wide("x", "gpu.1", 9, nil)
		service.Spec.Versions[0].ModelVersion = "0.0.2"
		service.Meta = meta("x")
		p.ask(func(sc *scene) {
			wait := newWaiter(sc, service, service.GetSpec().GetVersions()[0], start)
			wait.count = 9
			sc.plan([]*waiter{wait})
			n = len(wait.placed)
		})
		return n
	}
	if n := free(); n != 5 {
		t.Errorf("%d of 5 devices are found", n)
	}
	s := w.mustDeploy(wide("one", "gpu.1", 1, nil))
	w.run(s, "11111111", "n2", nil, "n2-0")
	if n := free(); n != 4 {
		t.Errorf("%d devices are found when one is held", n)
	}
	p.forget()
	if open, _ := w.store.Feeds(); open != 0 {
		t.Errorf("%d feeds are open", open)
	}
	if n := free(); n != 4 {
		t.Errorf("%d devices are found by a new index", n)
	}
	p.ask(func(sc *scene) {
		n := proto.CloneOf(sc.Node("n3"))
		n.Spec = &fleetv1.NodeSpec{Cordoned: true}
		sc.setNode(n)
		sc.end(sc.Instance("11111111"))
		sc.settle()
	})
	if n := free(); n != 4 {
		t.Errorf("%d devices are found after a scene has ended", n)
	}
	p.forget()
}

// Whoever gives way is named with who is placed for it, once.
func TestPlanServicePreempts(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	batch := w.mustDeploy(wide("batch", "gpu.1", 4, func(v *fleetv1.ServiceVersion) { v.Preemptible = true }))
	for id, device := range map[string]string{"11111111": "n2-0", "21111111": "n2-1", "31111111": "n3-0", "41111111": "n3-1"} {
		w.run(batch, id, device[:2], nil, device)
	}
	urgent := func(v *fleetv1.ServiceVersion) { v.Priority = 50 }
	resp := w.plan(wide("urgent", "gpu.2", 3, urgent))
	var victims []string
	for _, i := range resp.GetInstances() {
		if len(i.GetPreempts()) != 2 || len(i.GetMembers()) != 1 {
			t.Errorf("planned %v", i)
		}
		victims = append(victims, i.GetPreempts()...)
	}
	slices.Sort(victims)
	if got := strings.Join(victims, " "); got != "batch-11111111 batch-21111111 batch-31111111 batch-41111111" {
		t.Errorf("preempts %s", got)
	}
	if len(resp.GetWaits()) != 1 || resp.GetWaits()[0].GetInstances() != 1 {
		t.Errorf("waits %v", resp.GetWaits())
	}
	if again := w.plan(wide("urgent", "gpu.2", 3, urgent)); !proto.Equal(again, resp) {
		t.Errorf("the same question is answered differently: %v, then %v", resp, again)
	}
	if resp := w.plan(wide("meek", "gpu.2", 1, nil)); len(resp.GetInstances()) != 0 || len(resp.GetWaits()) != 1 {
		t.Errorf("without a priority: %v", resp)
	}
}
