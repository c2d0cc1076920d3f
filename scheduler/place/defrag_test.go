package place

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// scatter makes a fleet whose services run on nodes drawn at random, on random devices.
func scatter(t testing.TB, rng *rand.Rand) state.ReadView {
	objects := []proto.Message{}
	var nodes []*fleetv1.Node
	for i := range 3 + rng.IntN(5) {
		n := host(fmt.Sprint("n", i), pick(rng, 0, 4, 8, 8), func(n *fleetv1.Node) {
			n.Facts.CpuMillis, n.Facts.Labels["rack"] = 20_000, pick(rng, "r1", "r2")
			n.Facts.ImageDigests = pick(rng, nil, []string{"i"})
			for j, d := range n.Facts.Devices {
				numa := int32(j / 4)
				if d.NumaNode = &numa; rng.IntN(20) == 0 {
					d.Health = fleetv1.Unhealthy
				}
			}
			n.Spec.Cordoned = rng.IntN(10) == 0
		})
		nodes, objects = append(nodes, n), append(objects, n)
	}
	for _, devices := range []int32{0, 1, 2} {
		f := &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: fmt.Sprint("f", devices)}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: gib}}
		if devices > 0 {
			f.Spec.Accelerator = gpus(devices)
		}
		objects = append(objects, f)
	}
	objects = append(objects, &fleetv1.Model{Meta: &fleetv1.Meta{Name: "m", Project: "default"}, Spec: &fleetv1.ModelSpec{Version: "1.0.0"}, Status: &fleetv1.ModelStatus{ImageDigest: "i"}})
	for i := range 4 {
		v := &fleetv1.ServiceVersion{Model: "m", ModelVersion: "1.0.0", Flavor: pick(rng, "f0", "f1", "f1", "f2"), Nodes: 1, Placement: &fleetv1.PlacementRules{}}
		switch rng.IntN(4) {
		case 0:
			v.Placement.AntiAffinity = true
		case 1:
			v.Placement.Spread = []*fleetv1.SpreadRule{{Label: "rack", MaxSkew: 3, Required: rng.IntN(2) == 0}}
		}
		objects = append(objects, &fleetv1.Service{Meta: &fleetv1.Meta{Name: fmt.Sprint("s", i), Id: fmt.Sprint("s", i), Project: "default"}, Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning},
			Spec: &fleetv1.ServiceSpec{Pool: "p", Versions: []*fleetv1.ServiceVersion{v}}})
	}
	view := store(t, objects...).View()
	held := map[string]bool{}
	for i := range 3 + rng.IntN(14) {
		svc := view.ServiceByID(fmt.Sprint("s", rng.IntN(4)))
		flavor := view.Flavor(svc.Spec.Versions[0].Flavor)
		n := nodes[rng.IntN(len(nodes))]
		if svc.Spec.Versions[0].Placement.AntiAffinity && held[svc.Meta.Id+n.Meta.Name] || rng.IntN(3) > 0 && len(n.Facts.Devices) == 0 {
			continue
		}
		var devices []string
		for _, d := range rng.Perm(len(n.Facts.Devices)) {
			if d := n.Facts.Devices[d]; len(devices) < int(flavor.Spec.GetAccelerator().GetCount()) && d.Health == fleetv1.Healthy && !held[d.Id] {
				devices = append(devices, d.Id)
			}
		}
		if len(devices) < int(flavor.Spec.GetAccelerator().GetCount()) {
			continue
		}
		for _, d := range devices {
			held[d] = true
		}
		held[svc.Meta.Id+n.Meta.Name] = true
		inst := &fleetv1.Instance{Meta: &fleetv1.Meta{Name: fmt.Sprint("i", i), Id: fmt.Sprint("i", i), Project: "default"}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
			Observed: &fleetv1.InstanceObserved{State: pick(rng, fleetv1.InstanceRunning, fleetv1.InstanceRunning, fleetv1.InstanceRunning, fleetv1.InstancePulling)},
			Spec: &fleetv1.InstanceSpec{ServiceId: svc.Meta.Id, Model: "m", ModelVersion: "1.0.0", Flavor: flavor.Meta.Name, Node: n.Meta.Name, DeviceIds: devices,
				CpuMillis: 1000, MemoryBytes: gib}}
		if rng.IntN(12) == 0 {
			inst.Spec.Gang = &fleetv1.Gang{Id: fmt.Sprint("g", i), Size: 1}
		}
		objects = append(objects, inst)
	}
	return store(t, objects...).View()
}

// roomOf counts room by planning as many as fit.
func roomOf(view state.ReadView, flavor *Request) int {
	count := 0
	if flavor != nil {
		var many []Request
		for range 200 {
			r := *flavor
			r.Pool, r.Service = "p", "flavor"
			many = append(many, r)
		}
		for _, p := range NewIndex(view).Plan(many) {
			count += len(p.Members)
		}
		return count
	}
	for _, n := range view.Nodes() {
		free, any := n.GetStatus().GetState() == fleetv1.NodeReady && !n.GetSpec().GetCordoned(), len(n.GetFacts().GetDevices()) == 0
		for _, d := range usable(n, &Request{}) {
			any = true
			free = free && !slices.ContainsFunc(view.InstancesOnNode(n.GetMeta().GetName()), func(i *fleetv1.Instance) bool { return slices.Contains(i.GetSpec().GetDeviceIds(), d.GetId()) })
		}
		if len(n.GetFacts().GetDevices()) == 0 {
			free = free && len(view.InstancesOnNode(n.GetMeta().GetName())) == 0
		}
		if free && any {
			count++
		}
	}
	return count
}

// TestDefragMakesRoom makes the moves of plans for scattered fleets as an operator's order would: every
// replacement is placed while what it replaces is still there, and keeps the rules; in the end there is as much
// room as was said.
func TestDefragMakesRoom(t *testing.T) {
	seeds, steps, moves := 300, map[bool]int{}, 0
	if testing.Short() {
		seeds = 60
	}
	for seed := range uint64(seeds) {
		rng := rand.New(rand.NewPCG(seed, 7))
		view := scatter(t, rng)
		ask := DefragRequest{Pool: pick(rng, "", "p"), MaxMoves: rng.IntN(12), StartMillis: func(i *fleetv1.Instance) int64 { return int64(len(i.GetMeta().GetId())) * 10_000 }}
		if rng.IntN(2) == 0 {
			ask.Flavor = &Request{CPUMillis: 1000, MemoryBytes: gib, Accelerator: pick(rng, gpus(4), gpus(2), gpus(8), &fleetv1.Accelerator{Count: 4, Domain: "numa"}, nil)}
		}
		x := NewIndex(view)
		before := contents(x)
		plan := x.Defrag(ask)
		if d := differences(contents(x), before); len(d) > 0 {
			t.Fatalf("seed %d: defragmenting changes %v", seed, d)
		}
		if again := x.Defrag(ask); !reflect.DeepEqual(plan, again) {
			t.Fatalf("seed %d: not deterministic:\n%+v\n%+v", seed, plan, again)
		}
		if got := roomOf(view, ask.Flavor); got != plan.RoomBefore {
			t.Fatalf("seed %d: room %d, said %d", seed, got, plan.RoomBefore)
		}
		a, opened, made := alter(view), map[string]bool{}, 0
		var leaving []*fleetv1.Instance
		for _, step := range plan.Steps {
			opened[step.Node] = true
			for _, m := range step.Moves {
				i := view.Instance(m.InstanceID)
				if i.GetSpec().GetNode() != m.Source || m.Source != step.Node || len(i.GetSpec().GetDeviceIds()) != m.Devices {
					t.Fatalf("seed %d: %+v moves %v", seed, m, i)
				}
				left := proto.CloneOf(i)
				left.Desired.Leave = &fleetv1.Leave{Cause: fleetv1.LeaveDefrag, Target: m.Target}
				a.gone[m.InstanceID] = true
				a.more, leaving = append(a.more, left), append(leaving, left)
				svc := view.ServiceByID(i.GetSpec().GetServiceId())
				v := svc.Spec.Versions[0]
				r := NewRequest(svc.Meta.Id, svc.Spec, v, view.Flavor(v.Flavor), view.Model("default", "m", "1.0.0"))
				r.Prefer, r.Avoid = m.Target, map[string]bool{m.Source: true}
				p := NewIndex(a).Plan([]Request{r})[0]
				if len(p.Members) != 1 || p.Members[0].Node != m.Target {
					t.Fatalf("seed %d: %+v goes to %+v of %+v", seed, m, p, plan)
				}
				if why := newOracle(a).check(&r, p); why != "" {
					t.Fatalf("seed %d: %+v: %s", seed, m, why)
				}
				n := view.Node(m.Target)
				if m.ImagePresent != slices.Contains(n.GetFacts().GetImageDigests(), "i") {
					t.Fatalf("seed %d: image of %+v", seed, m)
				}
				next := proto.CloneOf(i)
				next.Meta.Id, next.Spec.Node, next.Spec.DeviceIds = "new-"+m.InstanceID, m.Target, p.Members[0].DeviceIDs
				a.more = append(a.more, next)
				made++
			}
		}
		for _, i := range leaving {
			at := slices.Index(a.more, i)
			a.more = slices.Delete(a.more, at, at+1)
		}
		if got := roomOf(a, ask.Flavor); got != plan.RoomAfter || made > ask.MaxMoves || len(plan.Steps) > 0 && plan.RoomAfter <= plan.RoomBefore {
			t.Fatalf("seed %d: room %d after %d moves: %+v", seed, got, made, plan)
		}
		for _, step := range plan.Steps {
			for _, i := range a.InstancesOnNode(step.Node) {
				for _, d := range i.GetSpec().GetDeviceIds() {
					if slices.Contains(step.DeviceIDs, d) {
						t.Fatalf("seed %d: device %s is not open after %+v", seed, d, plan)
					}
				}
			}
		}
		steps[ask.Flavor == nil] += len(plan.Steps)
		moves += made
	}
	t.Log(steps, moves)
	if steps[true] < seeds/8 || steps[false] < seeds/8 {
		t.Error("the test tries too little")
	}
}

func TestDefragSaysWhatItLeaves(t *testing.T) {
	view := store(t, host("a", 2), &fleetv1.Instance{Meta: &fleetv1.Meta{Id: "i"}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
		Spec: &fleetv1.InstanceSpec{Node: "a", ServiceId: "x", DeviceIds: []string{"a-0"}, Gang: &fleetv1.Gang{Id: "g", Size: 1}}}).View()
	if got := NewIndex(view).Defrag(DefragRequest{Pool: "p", MaxMoves: 9}); got.RoomBefore != 0 || len(got.Steps) > 0 || !strings.Contains(strings.Join(got.Notes, "|"), "1 member of gangs is not moved") {
		t.Errorf("%+v", got)
	}
	if got := NewIndex(view).Defrag(DefragRequest{Pool: "q"}); len(got.Notes) != 1 || got.Notes[0] != `there is no pool "q"` {
		t.Errorf("%+v", got)
	}
}

// TestDefragTakesTheBestFirst: one small instance holds back a whole node, three hold back another.
func TestDefragTakesTheBestFirst(t *testing.T) {
	on := func(id, node string, device int) proto.Message {
		return &fleetv1.Instance{Meta: &fleetv1.Meta{Id: id}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning}, Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning},
			Spec: &fleetv1.InstanceSpec{Node: node, ServiceId: "s", Model: "m", ModelVersion: "1.0.0", DeviceIds: []string{fmt.Sprint(node, "-", device)}}}
	}
	objects := []proto.Message{host("a", 8), host("b", 8), host("c", 8),
		&fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "f"}, Spec: &fleetv1.FlavorSpec{Accelerator: gpus(1)}},
		&fleetv1.Model{Meta: &fleetv1.Meta{Name: "m", Project: "default"}, Spec: &fleetv1.ModelSpec{Version: "1.0.0"}},
		&fleetv1.Service{Meta: &fleetv1.Meta{Name: "s", Id: "s", Project: "default"}, Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning},
			Spec: &fleetv1.ServiceSpec{Pool: "p", Versions: []*fleetv1.ServiceVersion{{Model: "m", ModelVersion: "1.0.0", Flavor: "f"}}}},
		on("1", "b", 5)}
	for i := range 4 {
		if objects = append(objects, on(fmt.Sprint("a", i), "a", i)); i > 0 {
			objects = append(objects, on(fmt.Sprint("c", i), "c", i))
		}
	}
	view := store(t, objects...).View()
	for moves, want := range map[int]string{0: "0", 1: "1 b", 3: "1 b", 4: "2 b c"} {
		got := NewIndex(view).Defrag(DefragRequest{Pool: "p", MaxMoves: moves})
		said := fmt.Sprint(got.RoomAfter)
		for _, s := range got.Steps {
			said += " " + s.Node
		}
		if said != want {
			t.Errorf("with %d moves %s, want %s: %+v", moves, said, want, got)
		}
	}
}
