package place

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func in(rackName string) func(*fleetv1.Node) {
	return func(n *fleetv1.Node) { n.Facts.Labels["rack"] = rackName }
}

// held is an instance of service x on a node.
func held(node, id string, change func(*fleetv1.Instance), devices ...string) *fleetv1.Instance {
	i := &fleetv1.Instance{Meta: &fleetv1.Meta{Id: id, Name: id}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
		Spec: &fleetv1.InstanceSpec{Node: node, ServiceId: "x", ServiceName: "web", Flavor: "gpu.1", DeviceIds: devices}}
	if change != nil {
		change(i)
	}
	return i
}

func soft(i *fleetv1.Instance) { i.Spec.Preemptible = true }

func stopping(i *fleetv1.Instance) { i.Desired.State = fleetv1.DesiredStopped }

// TestExplanationsInFull checks all parts of explanations, one for each filter and remedy that no other test has.
func TestExplanationsInFull(t *testing.T) {
	numa := func(n *fleetv1.Node) {
		for i, d := range n.Facts.Devices {
			v := int32(i % 2)
			d.NumaNode = &v
		}
	}
	drain := func(n *fleetv1.Node) { n.Spec.Cordoned, n.Spec.Drain = true, &fleetv1.Drain{} }
	mine := func(i *fleetv1.Instance) { i.Spec.ServiceId, i.Spec.Model, i.Spec.ModelVersion = "s", "m", "1" }
	spread := &fleetv1.PlacementRules{Spread: []*fleetv1.SpreadRule{{Label: "rack", Required: true}}}
	domain := func(n int32) *fleetv1.Accelerator {
		return &fleetv1.Accelerator{Vendor: "nvidia", Model: "H100*", Count: n, Domain: "numa"}
	}
	for _, c := range []struct {
		name    string
		objects []proto.Message
		request Request
		filters []string
		misses  string
		want    []string // remedies, among others
	}{
		{"draining", []proto.Message{host("a", 0, drain)}, Request{}, []string{"draining: 1 is being drained"}, "a: it is being drained",
			[]string{"ending the drain of a and uncordoning it makes room"}},
		{"several cordoned, for a gang", []proto.Message{host("a", 0, drain), host("b", 0, func(n *fleetv1.Node) { n.Spec.Cordoned = true }), host("c", 0, func(n *fleetv1.Node) { n.Spec.Cordoned = true })},
			Request{Nodes: 2}, []string{"draining: 1 is being drained", "cordoned: 2 are cordoned", "gang: 0 would take one member alone, but only 0 of 2 members find a node"}, "",
			[]string{"uncordoning b and c make room"}},
		{"in a domain", []proto.Message{host("a", 4, numa), held("a", "i", nil, "a-0"), held("a", "j", nil, "a-1")}, Request{Accelerator: domain(2)},
			[]string{"link domain: 1 lacks 2 free devices in one numa domain (most 1 on a)"}, "a: 1 of 2 devices are free in one numa domain",
			[]string{"it fits if 1 gpu.1 (instance j of service web) on a is freed", "it fits with 1 device instead of 2", "it fits without domain numa"}},
		{"slices", []proto.Message{host("a", 2)}, Request{Accelerator: &fleetv1.Accelerator{Model: "H100*", Count: 1, Share: "1g"}},
			[]string{"slice profile: 1 has its devices cut otherwise (need 1 × H100* 1g, most 0 on a)"}, "a: 0 of 1 devices are cut as needed", []string{"it fits when 1 node of the pool is free that has"}},
		{"pinned", []proto.Message{host("a", 0), host("b", 0, func(n *fleetv1.Node) { n.Spec.Cordoned = true })}, Request{Rules: &fleetv1.PlacementRules{Nodes: []string{"b"}}},
			[]string{"pinned nodes: 1 is not among the nodes that it is pinned to (b only)", "cordoned: "}, "b: it is cordoned", []string{"uncordoning b makes room", "it fits when it is not pinned to nodes"}},
		{"labels", []proto.Message{host("a", 0)}, Request{Rules: &fleetv1.PlacementRules{Required: map[string]string{"disk": "ssd"}}},
			[]string{"labels: 1 has not the labels disk=ssd"}, "a: it has not the labels disk=ssd", []string{"it fits without the required label disk=ssd"}},
		{"spread", []proto.Message{host("a", 0, in("r1")), host("b", 0, in("r2"), func(n *fleetv1.Node) { n.Facts.CpuMillis = 4000 }), held("b", "j", func(i *fleetv1.Instance) { i.Spec.CpuMillis = 4000 }), held("a", "i", mine)},
			Request{Service: "s", Version: "m@1", CPUMillis: 1000, Rules: spread}, []string{"CPU: 1 lacks CPU (need 1 core, most free 0 cores on b)",
				"spread: 1 has enough of the version by the rules of spreading (rack=r1 has 1, the least is 0, they may differ by 1)"}, "",
			[]string{"it fits if 1 gpu.1 (instance j of service web) on b is freed", "it fits if spreading over rack is not required"}},
		{"anti-affinity", []proto.Message{host("a", 0), held("a", "i", mine)}, Request{Service: "s", Version: "m@1", Rules: &fleetv1.PlacementRules{AntiAffinity: true}},
			[]string{"anti-affinity: 1 has an instance of the version already"}, "", []string{"it fits without anti-affinity"}},
		{"preempted", []proto.Message{host("a", 2), held("a", "i", soft, "a-0"), held("a", "j", nil, "a-1")}, Request{Accelerator: gpus(1), Priority: 1}, []string{"devices: 1 lacks free devices (need 1 × nvidia H100*, most free 0 on a)"},
			"a: 0 of 1 devices are free", []string{"it fits on a once i of service web, of less priority, is preempted"}},
		{"stopping", []proto.Message{host("a", 2), held("a", "i", stopping, "a-0"), held("a", "j", soft, "a-1")}, Request{Accelerator: gpus(1), Priority: 1}, nil,
			"", []string{"it fits on a once i of service web, which is stopping, has ended"}},
		{"preempted and stopping", []proto.Message{host("a", 2), held("a", "i", stopping, "a-0"), held("a", "j", soft, "a-1")}, Request{Accelerator: gpus(2), Priority: 1}, nil,
			"", []string{"it fits on a once j of service web, of less priority, is preempted and i of service web, which is stopping, has ended"}},
		{"smaller gang", []proto.Message{host("a", 2), host("b", 2)}, Request{Accelerator: gpus(2), Nodes: 3}, []string{"gang: 2 would take one member alone, but only 2 of 3 members find a node"}, "",
			[]string{"it fits with 2 nodes instead of 3"}},
		{"less memory", []proto.Message{host("a", 0)}, Request{MemoryBytes: 20 * gib}, nil, "a: 16.0 GiB of 20.0 GiB memory free", []string{"it fits with 16.0 GiB of memory instead of 20.0 GiB"}},
		{"less disk", []proto.Message{host("a", 0)}, Request{DiskBytes: 200 * gib}, nil, "a: 100.0 GiB of 200.0 GiB disk free", []string{"it fits with 100.0 GiB of disk instead of 200.0 GiB"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.request.Pool = "p"
			why := NewIndex(store(t, c.objects...).View()).Explain(&c.request)
			var said []string
			for _, f := range why.GetFilters() {
				said = append(said, fmt.Sprintf("%s: %d %s", f.GetFilter(), f.GetNodes(), f.GetDetail()))
			}
			for i, f := range c.filters {
				if i >= len(said) || !strings.HasPrefix(said[i], f) {
					t.Errorf("filters %q, want %q", said, c.filters)
				}
			}
			if m := why.GetNearMisses(); c.misses != "" && (len(m) == 0 || m[0].GetNode()+": "+m[0].GetMissing() != c.misses) {
				t.Errorf("near misses %v, want %q", m, c.misses)
			}
			for _, w := range c.want {
				if !slices.ContainsFunc(why.GetRemedies(), func(r string) bool { return strings.HasPrefix(r, w) }) {
					t.Errorf("remedies %q lack %q", why.GetRemedies(), w)
				}
			}
		})
	}
}

func TestReservedForAnother(t *testing.T) {
	view := store(t, host("a", 2), held("a", "i", nil, "a-0"),
		&fleetv1.Service{Meta: &fleetv1.Meta{Name: "big", Id: "b", Project: "default"}, Spec: &fleetv1.ServiceSpec{Pool: "p"}, Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning}}).View()
	x := NewIndex(view)
	big := Request{Service: "b", Version: "m@1", Pool: "p", Accelerator: gpus(2), Waited: true, Priority: 5}
	small := Request{Service: "s", Version: "m@1", Pool: "p", Accelerator: gpus(1)}
	if got := x.Plan([]Request{big, small}); got[0].Reservation == nil || got[1].Members != nil {
		t.Fatal(got)
	}
	why := x.Explain(&small)
	if why.GetSummary() != `0 of 1 node of pool "p" fit: 1 is reserved for another (service big)` || !slices.Contains(why.GetRemedies(), "it fits on a once service big no longer waits for it") {
		t.Error(why)
	}
	if why := x.Explain(&big); strings.Contains(why.GetSummary(), "reserved") { // its own reservation is not in the way
		t.Error(why)
	}
	if _, _, ok := x.Preempt(&small); ok {
		t.Error("what is kept may not be taken")
	}
	if len(x.kept) != 1 {
		t.Error("the reservation is gone")
	}
}

func TestExplanationsAreKept(t *testing.T) {
	view := store(t, host("a", 1)).View()
	x := NewIndex(view)
	one, two := Request{Service: "s", Pool: "p", Accelerator: gpus(1)}, Request{Service: "t", Pool: "p", Accelerator: gpus(2)}
	other := two
	other.Service, other.Accelerator = "u", gpus(2)
	first := x.Explain(&two)
	if x.Explain(&other) != first {
		t.Error("explained twice for one class")
	}
	x.Plan([]Request{one})
	if x.Explain(&two) == first {
		t.Error("an old explanation of a changed index")
	}
	x.Undo()
	if again := x.Explain(&two); !proto.Equal(again, first) {
		t.Errorf("%v, then %v", first, again)
	}
}

func TestSummariesAreShort(t *testing.T) {
	long := strings.Repeat("x", 64)
	objects := []proto.Message{}
	for i := range 40 {
		objects = append(objects, host(fmt.Sprintf("%s-%d", long, i), i%3, func(n *fleetv1.Node) {
			n.Spec.Cordoned = i%5 == 0
			n.Facts.Arch = pickAt(i, "amd64", "arm64")
			n.Facts.CpuMillis = int64(i * 100)
			n.Facts.MemoryBytes = int64(i) * gib
			n.Facts.Labels[long] = pickAt(i/2, long, "y")
			if len(n.Facts.Devices) > 0 {
				n.Facts.Devices[0].Health = fleetv1.Unhealthy
			}
		}))
	}
	r := Request{Pool: "p", Arch: "amd64", CPUMillis: 3500, MemoryBytes: 39 * gib, Accelerator: gpus(2), MountSources: []string{"/data"}, Rules: &fleetv1.PlacementRules{Required: map[string]string{long: long}}}
	why := NewIndex(store(t, objects...).View()).Explain(&r)
	if n := len(why.GetSummary()); n > maxSummary || n < 100 {
		t.Errorf("%d: %s", n, why.GetSummary())
	}
	if len(why.GetNearMisses()) != maxNearMisses {
		t.Error(why.GetNearMisses())
	}
}

func pickAt(i int, of ...string) string { return of[i%len(of)] }
