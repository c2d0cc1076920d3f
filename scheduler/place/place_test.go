package place

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

const gib = 1 << 30

// store makes a store with pool "p" of the nodes.
func store(t testing.TB, objects ...proto.Message) *state.Store {
	s := state.New()
	objects = append([]proto.Message{&fleetv1.Pool{Meta: &fleetv1.Meta{Name: "p", Id: "p"}, Spec: &fleetv1.PoolSpec{Selector: map[string]string{"pool": "p"}}}}, objects...)
	w := &fleetv1.Write{}
	for _, o := range objects {
		w.Mutations = append(w.Mutations, state.Put(0, o))
	}
	r, _ := s.Apply(1, &fleetv1.Command{Introduced: 1, Op: &fleetv1.Command_Write{Write: w}})
	if len(r.Rejections) > 0 {
		t.Fatal(r.Rejections)
	}
	return s
}

// host is a ready node of 8 cores, 16 GiB with so many devices; change may alter it.
func host(name string, devices int, change ...func(*fleetv1.Node)) *fleetv1.Node {
	n := &fleetv1.Node{Meta: &fleetv1.Meta{Name: name, Id: "id-" + name}, Spec: &fleetv1.NodeSpec{},
		Facts:  &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 8000, MemoryBytes: 16 * gib, DiskBytes: 100 * gib, Labels: map[string]string{"pool": "p"}, MountDirs: []string{"/data"}},
		Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady}}
	for i := range devices {
		n.Facts.Devices = append(n.Facts.Devices, &fleetv1.Device{Id: fmt.Sprintf("%s-%d", name, i), Index: int32(i), Vendor: "nvidia", Model: "H100-80GB", MemoryBytes: 80 * gib, Health: fleetv1.Healthy})
	}
	for _, f := range change {
		f(n)
	}
	return n
}

// shut cordons devices of a node.
func shut(ids ...string) func(*fleetv1.Node) {
	return func(n *fleetv1.Node) {
		for _, id := range ids {
			n.Spec.DeviceCordons = append(n.Spec.DeviceCordons, &fleetv1.DeviceCordon{DeviceId: id, Reason: "r"})
		}
	}
}

func gpus(n int32) *fleetv1.Accelerator {
	return &fleetv1.Accelerator{Vendor: "nvidia", Model: "H100*", Count: n}
}

func TestExplanations(t *testing.T) {
	cordon := func(n *fleetv1.Node) { n.Spec.Cordoned = true }
	away := func(n *fleetv1.Node) { n.Status.State = fleetv1.NodeUnreachable }
	strange := func(n *fleetv1.Node) {
		n.Facts.Hold = &fleetv1.NodeHold{RestoreEpoch: 9, Strangers: []*fleetv1.Stranger{{InstanceId: "s"}}}
	}
	held := func(n *fleetv1.Node) { n.Facts.Hold = &fleetv1.NodeHold{RestoreEpoch: 9} }
	arm := func(n *fleetv1.Node) { n.Facts.Arch = "arm64" }
	sick := func(n *fleetv1.Node) { n.Facts.Devices[0].Health = fleetv1.Unhealthy }
	sliced := func(n *fleetv1.Node) {
		n.Facts.Devices = append(n.Facts.Devices, &fleetv1.Device{Id: "slice", Vendor: "nvidia", Model: "slice", ParentId: "a-1", Profile: "1g.10gb", Health: fleetv1.Healthy})
	}
	taken := &fleetv1.Instance{Meta: &fleetv1.Meta{Id: "i"}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
		Spec: &fleetv1.InstanceSpec{Node: "a", ServiceId: "x", Network: fleetv1.NetworkHost, Api: &fleetv1.ModelAPI{Port: 80, FixedPort: true}}}
	for _, c := range []struct {
		name    string
		objects []proto.Message
		request Request
		want    string // empty when it fits
		never   bool
	}{
		{"no nodes", nil, Request{}, `pool "p" has no nodes`, false},
		{"fits", []proto.Message{host("a", 0)}, Request{CPUMillis: 8000, MemoryBytes: 16 * gib, DiskBytes: 100 * gib, MountSources: []string{"/data/x"}}, "", false},
		{"memory", []proto.Message{host("a", 0), host("b", 0, func(n *fleetv1.Node) { n.Facts.ReservedMemoryBytes = gib }), host("c", 0, cordon)}, Request{MemoryBytes: 20 * gib},
			`0 of 3 nodes of pool "p" fit: 1 is cordoned, 2 lack memory (need 20.0 GiB, most free 16.0 GiB on a)`, true},
		{"cpu", []proto.Message{host("a", 0)}, Request{CPUMillis: 8500}, `0 of 1 node of pool "p" fit: 1 lacks CPU (need 8.5 cores, most free 8 cores on a)`, true},
		{"disk", []proto.Message{host("a", 0)}, Request{DiskBytes: 101 * gib}, `0 of 1 node of pool "p" fit: 1 lacks disk (need 101.0 GiB, most free 100.0 GiB on a)`, true},
		{"away", []proto.Message{host("a", 0, away), host("b", 0, cordon)}, Request{}, `0 of 2 nodes of pool "p" fit: 1 is cordoned, 1 is unreachable`, false},
		{"strangers", []proto.Message{host("a", 0, strange)}, Request{}, `0 of 1 node of pool "p" fit: 1 runs what isn't known since a restore`, false},
		{"removals held, but nothing to remove", []proto.Message{host("a", 0, held)}, Request{}, "", false},
		{"arch", []proto.Message{host("a", 0, arm)}, Request{ImageArches: []string{"amd64"}}, `0 of 1 node of pool "p" fit: 1 has another architecture (need amd64, a has arm64)`, true},
		{"arch of flavor", []proto.Message{host("a", 0)}, Request{Arch: "amd64", ImageArches: []string{"arm64"}},
			`0 of 1 node of pool "p" fit: 1 has another architecture (need amd64 by the flavor but arm64 by the image, a has amd64)`, true},
		{"mount", []proto.Message{host("a", 0)}, Request{MountSources: []string{"/data/../etc"}}, `0 of 1 node of pool "p" fit: 1 does not allow the mount of /data/../etc`, true},
		{"mount beside", []proto.Message{host("a", 0)}, Request{MountSources: []string{"/database"}}, `0 of 1 node of pool "p" fit: 1 does not allow the mount of /database`, true},
		{"port", []proto.Message{host("a", 0), taken}, Request{HostPort: 80}, `0 of 1 node of pool "p" fit: 1 has port 80 taken`, false},
		{"kind of device", []proto.Message{host("a", 2)}, Request{Accelerator: &fleetv1.Accelerator{Vendor: "ascend", Count: 1}},
			`0 of 1 node of pool "p" fit: 1 does not have the devices (need 1 × ascend, most 0 on a)`, true},
		{"device memory", []proto.Message{host("a", 2)}, Request{Accelerator: &fleetv1.Accelerator{Count: 1, MemoryMinBytes: 81 * gib}},
			`0 of 1 node of pool "p" fit: 1 does not have the devices (need 1 × device with 81.0 GiB, most 0 on a)`, true},
		{"sick device", []proto.Message{host("a", 2, sick), host("b", 1)}, Request{Accelerator: gpus(2)},
			`0 of 2 nodes of pool "p" fit: 1 does not have the devices (need 2 × nvidia H100*, most 1 on b), 1 lacks free devices (need 2 × nvidia H100*, most free 1 on a; 1 device unhealthy)`, false},
		{"barred devices", []proto.Message{host("a", 8, shut("a-0", "a-1"), func(n *fleetv1.Node) {
			d := n.Facts.Devices
			d[2].Quarantined, d[2].Health, d[2].Action = true, fleetv1.Unhealthy, fleetv1.ActionDrain
			d[3].Health, d[3].Action = fleetv1.Unhealthy, fleetv1.ActionResetNeeded
			d[4].Health = fleetv1.Unresponsive
			d[5].Action = fleetv1.ActionObserve // is used
			d[6].Vendor = "ascend"              // isn't asked for
			d[7].Action = fleetv1.ActionDrain
		}), host("b", 8, shut("b-0"), cordon), host("c", 6, shut("c-5"))}, Request{Accelerator: gpus(6)},
			`0 of 3 nodes of pool "p" fit: 1 is cordoned, 2 lack free devices (need 6 × nvidia H100*, most free 5 on c; 3 devices cordoned, ` +
				`1 device healthy (drain), 1 device quarantined, 1 device unhealthy (reset-needed), 1 device unresponsive)`, false},
		{"cordoned whole", []proto.Message{host("a", 2, sliced, shut("a-1"))}, Request{Accelerator: &fleetv1.Accelerator{Model: "slice", Count: 1, Share: "1g.10gb"}},
			`0 of 1 node of pool "p" fit: 1 lacks free devices (need 1 × slice 1g.10gb, most free 0 on a; 1 device cordoned)`, false},
		{"cut device", []proto.Message{host("a", 2, sliced)}, Request{Accelerator: gpus(2)},
			`0 of 1 node of pool "p" fit: 1 does not have the devices (need 2 × nvidia H100*, most 1 on a)`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			view := store(t, c.objects...).View()
			c.request.Pool = "p"
			x := NewIndex(view)
			if got := x.Plan([]Request{c.request})[0]; (got.Members == nil) != (c.want != "") {
				t.Errorf("got %+v", got)
			}
			if got := x.Explain(&c.request).GetSummary(); c.want != "" && got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if _, never := new(Possible).NeverFits(view, c.request); never != c.never {
				t.Errorf("never fits: %v", never)
			}
		})
	}
}

func TestRemedies(t *testing.T) {
	cordon := func(n *fleetv1.Node) { n.Spec.Cordoned = true }
	away := func(n *fleetv1.Node) { n.Status.State = fleetv1.NodeUnreachable }
	on := func(node, name string, cpu int64, devices ...string) *fleetv1.Instance {
		return &fleetv1.Instance{Meta: &fleetv1.Meta{Id: name, Name: name}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
			Spec: &fleetv1.InstanceSpec{Node: node, ServiceId: "x", CpuMillis: cpu, DeviceIds: devices}}
	}
	task := func(job, node, name string, cpu int64) *fleetv1.Instance {
		i := on(node, name, cpu)
		i.Spec.JobId, i.Spec.ServiceName, i.Spec.Flavor = job+"-id", "job."+job, "cpu.4"
		return i
	}
	port := on("a", "web-1", 10)
	port.Spec.Network, port.Spec.Api = fleetv1.NetworkHost, &fleetv1.ModelAPI{Port: 80, FixedPort: true}
	for _, c := range []struct {
		name    string
		objects []proto.Message
		request Request
		want    string
	}{
		{"no nodes", nil, Request{CPUMillis: 2000, MemoryBytes: gib}, "it fits when 1 node of the pool is free that has 2 cores and 1.0 GiB of memory"},
		{"too big", []proto.Message{host("a", 0), on("a", "s-1", 8000)}, Request{CPUMillis: 9000, MemoryBytes: gib}, "it fits when 1 node of the pool is free that has 9 cores and 1.0 GiB of memory"},
		{"biggest first", []proto.Message{host("a", 0), on("a", "s-1", 1000), on("a", "s-2", 5000)}, Request{CPUMillis: 7000}, "it fits if 1 instance (instance s-2 of service x) on a is freed|it fits with 2 cores instead of 7 cores"},
		{"fewest", []proto.Message{host("a", 0), host("b", 0), on("a", "s-1", 4000), on("a", "s-2", 4000), on("b", "s-3", 8000)}, Request{CPUMillis: 8000},
			"it fits if 1 instance (instance s-3 of service x) on b is freed"},
		{"devices", []proto.Message{host("a", 1), on("a", "s-1", 8000), on("a", "s-2", 10, "a-0")}, Request{Accelerator: gpus(1)}, "it fits if 1 instance (instance s-2 of service x) on a is freed"},
		{"job", []proto.Message{host("a", 0), task("score", "a", "t-1", 4000), task("score", "a", "t-2", 4000)}, Request{CPUMillis: 8000},
			"it fits when job score ends: 2 cpu.4 (instances t-1 of job score and t-2 of job score) on a are freed"},
		{"jobs", []proto.Message{host("a", 0), task("score", "a", "t-1", 4000), task("label", "a", "t-2", 4000)}, Request{CPUMillis: 8000},
			"it fits when jobs label and score end: 2 cpu.4 (instances t-1 of job score and t-2 of job label) on a are freed"},
		{"job and service", []proto.Message{host("a", 0), task("score", "a", "t-1", 4000), on("a", "s-1", 4000)}, Request{CPUMillis: 8000},
			"it fits if 1 cpu.4 and 1 instance (instances s-1 of service x and t-1 of job score) on a are freed"},
		{"port", []proto.Message{host("a", 0), port}, Request{HostPort: 80}, "it fits if 1 instance (instance web-1 of service x) on a is freed"},
		{"sick device", []proto.Message{host("a", 1, func(n *fleetv1.Node) { n.Facts.Devices[0].Health = fleetv1.Unhealthy })}, Request{Accelerator: gpus(1)},
			"it fits on a when device a-0 (1 device unhealthy) is given out again"},
		{"cordoned devices", []proto.Message{host("a", 2, shut("a-0", "a-1")), host("b", 1)}, Request{Accelerator: gpus(2)},
			"it fits with 1 device instead of 2|uncordoning devices a-0 and a-1 of a makes room"},
		{"cordoned and held devices", []proto.Message{host("a", 2, shut("a-0", "a-1")), on("a", "s-1", 1, "a-1")}, Request{CPUMillis: 1000, MemoryBytes: gib, Accelerator: gpus(2)},
			"it fits when 1 node of the pool is free that has 1 core, 1.0 GiB of memory and 2 × nvidia H100*"},
		{"whose end gives back a cordoned device", []proto.Message{host("a", 2, shut("a-1")), on("a", "s-1", 1, "a-1"), on("a", "s-2", 1, "a-0")},
			Request{Accelerator: gpus(1)}, "it fits if 1 instance (instance s-2 of service x) on a is freed"},
		{"cordoned", []proto.Message{host("a", 0, away), host("b", 0, cordon)}, Request{}, "uncordoning b makes room|it waits for the return of a"},
		{"away", []proto.Message{host("a", 0, away)}, Request{}, "it waits for the return of a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.request.Pool = "p"
			if got := NewIndex(store(t, c.objects...).View()).Explain(&c.request).GetRemedies(); strings.Join(got, "|") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestUnknownPoolWaits(t *testing.T) {
	view := store(t).View()
	if got := NewIndex(view).Explain(&Request{Pool: "q"}); got.GetSummary() != `there is no pool "q"` {
		t.Errorf("%+v", got)
	}
	if _, never := new(Possible).NeverFits(view, Request{Pool: "q"}); never {
		t.Error("never")
	}
}

func TestRanking(t *testing.T) {
	for _, c := range []struct {
		name     string
		nodes    []proto.Message
		requests []Request
		want     string
	}{
		{"whole nodes stay free", []proto.Message{host("a", 8), host("b", 4)}, []Request{{Accelerator: gpus(2)}, {Accelerator: gpus(2)}, {Accelerator: gpus(8)}}, "b b a"},
		{"no device, no accelerator host", []proto.Message{host("a", 8), host("b", 0)}, []Request{{}, {}}, "b b"},
		{"spread", []proto.Message{host("a", 0), host("b", 0), host("c", 0)}, []Request{{Service: "s"}, {Service: "s"}, {Service: "s"}, {Service: "s"}}, "a b c a"},
		{"avoided last", []proto.Message{host("a", 1), host("b", 8)}, []Request{{Accelerator: gpus(1), Avoid: map[string]bool{"a": true}}}, "b"},
		{"avoided when nothing else fits", []proto.Message{host("a", 1)}, []Request{{Accelerator: gpus(1), Avoid: map[string]bool{"a": true}}}, "a"},
		{"a fixed port once per node", []proto.Message{host("a", 0), host("b", 0)}, []Request{{HostPort: 80}, {HostPort: 80}, {HostPort: 80}}, "a b -"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range c.requests {
				c.requests[i].Pool = "p"
			}
			var got []string
			for _, p := range NewIndex(store(t, c.nodes...).View()).Plan(c.requests) {
				node := "-"
				if len(p.Members) > 0 {
					node = p.Members[0].Node
				}
				got = append(got, node)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
		})
	}
}

func TestNewRequest(t *testing.T) {
	spec := &fleetv1.ServiceSpec{Pool: "p", Network: fleetv1.NetworkHost}
	v := &fleetv1.ServiceVersion{Mounts: []*fleetv1.Mount{{Source: "/data/a"}}}
	flavor := &fleetv1.Flavor{Spec: &fleetv1.FlavorSpec{CpuMillis: 1, MemoryBytes: 2, DiskBytes: 3, Arch: "arm64", Accelerator: &fleetv1.Accelerator{Count: 2}}}
	model := &fleetv1.Model{Spec: &fleetv1.ModelSpec{Accelerator: "ascend", Api: &fleetv1.ModelAPI{Port: 99, FixedPort: true}}, Status: &fleetv1.ModelStatus{Arches: []string{"arm64"}}}
	got := NewRequest("s", spec, v, flavor, model)
	want := Request{Service: "s", Version: "@", Pool: "p", CPUMillis: 1, MemoryBytes: 2, DiskBytes: 3, Arch: "arm64", ImageArches: []string{"arm64"}, MountSources: []string{"/data/a"}, HostPort: 99}
	if !proto.Equal(got.Accelerator, &fleetv1.Accelerator{Vendor: "ascend", Count: 2}) {
		t.Errorf("accelerator %v", got.Accelerator)
	}
	got.Accelerator = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
