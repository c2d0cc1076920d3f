package place

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// where names what Plan answers: nodes of a gang joined by "+", "-" for what waits.
func where(placed []Placement) string {
	var out []string
	for _, p := range placed {
		var nodes []string
		for _, m := range p.Members {
			nodes = append(nodes, m.Node)
		}
		out = append(out, strings.Join(nodes, "+"))
		if nodes == nil {
			out[len(out)-1] = "-"
		}
	}
	return strings.Join(out, " ")
}

func label(labels ...string) func(*fleetv1.Node) {
	return func(n *fleetv1.Node) {
		for i := 0; i < len(labels); i += 2 {
			n.Facts.Labels[labels[i]] = labels[i+1]
		}
	}
}

func image(digest string) func(*fleetv1.Node) {
	return func(n *fleetv1.Node) { n.Facts.ImageDigests = []string{digest} }
}

func repeat(n int, r Request) []Request { return slices.Repeat([]Request{r}, n) }

func TestPreferences(t *testing.T) {
	racks := func() []proto.Message {
		return []proto.Message{host("a", 4, label("rack", "1")), host("b", 4, label("rack", "1")), host("c", 4, label("rack", "2")), host("d", 4)}
	}
	observed := func(n *fleetv1.Node) { n.Facts.Devices[0].Action = "observe" }
	spread := func(skew int32, required bool) *fleetv1.PlacementRules {
		return &fleetv1.PlacementRules{Spread: []*fleetv1.SpreadRule{{Label: "rack", MaxSkew: skew, Required: required}}}
	}
	for _, c := range []struct {
		name     string
		nodes    []proto.Message
		requests []Request
		want     string
	}{
		{"the node that is asked for", racks(), []Request{{Prefer: "c"}, {Prefer: "nowhere"}}, "c a"},
		{"the node that is asked for is full", racks(), repeat(2, Request{Prefer: "c", Accelerator: gpus(4)}), "c a"},
		{"image", []proto.Message{host("a", 2), host("b", 2, image("i")), host("c", 2)}, []Request{{Image: "i"}, {Image: "j"}}, "b a"},
		{"image after own instances", []proto.Message{host("a", 2), host("b", 2, image("i"))}, repeat(3, Request{Image: "i"}), "b a b"},
		{"hole before image", []proto.Message{host("a", 1), host("b", 2, image("i"))}, []Request{{Image: "i", Accelerator: gpus(1)}}, "a"},
		{"preferred labels by weight", []proto.Message{host("a", 1, label("disk", "ssd")), host("b", 1, label("zone", "z")), host("c", 0)},
			repeat(3, Request{Accelerator: gpus(1), Rules: &fleetv1.PlacementRules{Preferred: []*fleetv1.PreferredLabel{{Label: "disk", Value: "ssd", Weight: 1}, {Label: "zone", Value: "z", Weight: 2}}}}), "b a -"},
		{"labels before holes", []proto.Message{host("a", 1), host("b", 8, label("disk", "ssd"))},
			[]Request{{Accelerator: gpus(1), Rules: &fleetv1.PlacementRules{Preferred: []*fleetv1.PreferredLabel{{Label: "disk", Value: "ssd"}}}}}, "b"},
		{"required spread waits", racks(), repeat(5, Request{Accelerator: gpus(4), Rules: spread(1, true)}), "a c b - -"},
		{"spread as near as possible", racks(), repeat(5, Request{Accelerator: gpus(4), Rules: spread(1, false)}), "c a b d -"},
		{"anti-affinity", racks(), repeat(5, Request{Rules: &fleetv1.PlacementRules{AntiAffinity: true}}), "a b c d -"},
		{"pinned", racks(), repeat(2, Request{Accelerator: gpus(4), Rules: &fleetv1.PlacementRules{Nodes: []string{"c", "x"}}}), "c -"},
		{"required label", racks(), repeat(2, Request{Accelerator: gpus(4), Rules: &fleetv1.PlacementRules{Required: map[string]string{"rack": "2"}}}), "c -"},
		{"a gang in one rack", racks(), []Request{{Nodes: 2, Accelerator: gpus(4)}, {Nodes: 2, Accelerator: gpus(4)}, {Accelerator: gpus(1)}}, "a+b d+c -"},
		{"a gang in the rack with the fewest nodes to spare", append(racks(), host("e", 4, label("rack", "2")), host("f", 4, label("rack", "1"))),
			[]Request{{Nodes: 2, Accelerator: gpus(4)}}, "c+e"},
		{"a gang is whole or absent", racks(), []Request{{Nodes: 5}, {Nodes: 4}}, "- d+a+b+c"},
		{"a gang avoids nodes, another rack before", racks(), []Request{{Nodes: 2, Avoid: map[string]bool{"a": true}}}, "b+c"},
		{"trouble comes last", []proto.Message{host("a", 2, observed), host("b", 2)}, repeat(3, Request{Accelerator: gpus(2), Service: "s"}), "b a -"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range c.requests {
				c.requests[i].Pool = "p"
			}
			x := NewIndex(store(t, c.nodes...).View())
			if got := where(x.Plan(c.requests)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// server links eight devices in pairs on PCIe switches, four to a NUMA node.
func server(n *fleetv1.Node) {
	for i, d := range n.Facts.Devices {
		numa := int32(i / 4)
		d.NumaNode = &numa
		d.Links = []*fleetv1.DeviceLink{{Peer: fmt.Sprintf("%s-%d", n.Meta.Name, i^1), Kind: "pix"}}
	}
}

func sliced(n *fleetv1.Node) {
	for i := range 4 {
		n.Facts.Devices = append(n.Facts.Devices, &fleetv1.Device{Id: fmt.Sprintf("%s-%d-%d", n.Meta.Name, i%2, i), Vendor: "nvidia", Model: "H100-80GB",
			MemoryBytes: 10 * gib, Health: fleetv1.Healthy, ParentId: fmt.Sprintf("%s-%d", n.Meta.Name, i%2), Profile: "1g.10gb"})
	}
}

func TestDevicesInside(t *testing.T) {
	in := func(domain string, n int32) Request {
		r := Request{Pool: "p", Accelerator: gpus(n)}
		r.Accelerator.Domain = domain
		return r
	}
	slice := func(n int32, domain string) Request {
		return Request{Pool: "p", Accelerator: &fleetv1.Accelerator{Count: n, Share: "1g.10gb", Domain: domain}}
	}
	cordon := func(id string) func(*fleetv1.Node) {
		return func(n *fleetv1.Node) { n.Spec.DeviceCordons = []*fleetv1.DeviceCordon{{DeviceId: id}} }
	}
	for _, c := range []struct {
		name     string
		node     *fleetv1.Node
		requests []Request
		want     string // devices of each request
	}{
		{"pairs stay whole", host("a", 8, server), []Request{in("", 1), in("", 2), in("", 1), in("", 4)}, "0 23 1 4567"},
		{"the broken NUMA node first", host("a", 8, server), []Request{in("", 1), in("", 3), in("", 4)}, "0 123 4567"},
		{"one NUMA node", host("a", 8, server), []Request{in("numa", 3), in("numa", 2), in("numa", 3), in("", 3)}, "012 45 - 367"},
		{"one switch", host("a", 8, server), []Request{in("pcie", 1), in("pcie", 2), in("pcie", 3)}, "0 23 -"},
		{"links that are not there", host("a", 8, server), []Request{in("nvlink", 2), in("nvlink", 1)}, "- 0"},
		{"slices of one device first", host("a", 3, sliced), []Request{slice(1, ""), slice(2, ""), slice(1, ""), {Pool: "p", Accelerator: gpus(1)}}, "0-0 1-11-3 0-2 2"},
		{"slices are linked as their devices", host("a", 2, server, sliced), []Request{slice(4, "pcie")}, "0-00-21-11-3"},
		{"cordoned device", host("a", 2, cordon("a-0")), repeat(2, in("", 1)), "1 -"},
		{"cordoned device and its slices", host("a", 2, sliced, cordon("a-0")), []Request{slice(3, ""), slice(2, "")}, "- 1-11-3"},
		{"quarantined", host("a", 2, func(n *fleetv1.Node) { n.Facts.Devices[0].Quarantined = true }), repeat(2, in("", 1)), "1 -"},
		{"to be left", host("a", 2, func(n *fleetv1.Node) { n.Facts.Devices[0].Action = "drain" }), repeat(2, in("", 1)), "1 -"},
		{"trouble comes last", host("a", 2, func(n *fleetv1.Node) { n.Facts.Devices[0].Action = "observe" }), repeat(2, in("", 1)), "1 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, p := range NewIndex(store(t, c.node).View()).Plan(c.requests) {
				ids := "-"
				if len(p.Members) > 0 {
					ids = strings.ReplaceAll(strings.Join(p.Members[0].DeviceIDs, ""), "a-", "")
				}
				got = append(got, ids)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
		})
	}
}

// TestManyDevices gives out all that a node may have.
func TestManyDevices(t *testing.T) {
	x := NewIndex(store(t, host("a", 130)).View())
	placed := x.Plan(repeat(130, Request{Pool: "p", Accelerator: gpus(1)}))
	seen := map[string]bool{}
	for _, p := range placed {
		for _, m := range p.Members {
			seen[m.DeviceIDs[0]] = true
		}
	}
	if len(seen) != maxDevices {
		t.Errorf("%d of %d devices were given out", len(seen), maxDevices)
	}
}

// TestReservations has a request for four devices wait where small ones come and go.
func TestReservations(t *testing.T) {
	big := Request{Pool: "p", Service: "big", Accelerator: gpus(4), Waited: true}
	small := Request{Pool: "p", Service: "small", Accelerator: gpus(1)}
	on := func(node string, devices ...string) *fleetv1.Instance {
		return &fleetv1.Instance{Meta: &fleetv1.Meta{Id: "on-" + node, Name: "on-" + node}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
			Spec: &fleetv1.InstanceSpec{Node: node, ServiceId: "x", DeviceIds: devices}}
	}
	fleet := func() []proto.Message {
		return []proto.Message{host("a", 4), host("b", 4), host("c", 2), on("a", "a-0", "a-1"), on("b", "b-0")}
	}
	with := func(r Request, change func(*Request)) Request {
		change(&r)
		return r
	}
	stopping := on("a", "a-0", "a-1")
	stopping.Desired.State = fleetv1.DesiredStopped
	for _, c := range []struct {
		name     string
		objects  []proto.Message
		requests []Request
		want     string
		nodes    string // reserved
	}{
		{"the closest node is kept", fleet(), append([]Request{big}, repeat(5, small)...), "- a a c c -", "b"},
		{"not before it has waited", fleet(), append([]Request{with(big, func(r *Request) { r.Waited = false })}, repeat(3, small)...), "- a a c", ""},
		{"more priority takes it", fleet(), []Request{big, with(small, func(r *Request) { r.Prefer, r.Priority = "b", 1 })}, "- b", "b"},
		{"no more priority does not", fleet(), []Request{with(big, func(r *Request) { r.Priority = 1 }), with(small, func(r *Request) { r.Prefer, r.Priority = "b", 1 })}, "- a", "b"},
		{"equals stay where they were", []proto.Message{host("a", 4), host("b", 4), on("a", "a-0"), on("b", "b-0")},
			[]Request{with(big, func(r *Request) { r.Reserved = []string{"b"} })}, "-", "b"},
		{"fewer devices to wait for is better", fleet(), []Request{with(big, func(r *Request) { r.Reserved = []string{"a"} })}, "-", "b"},
		{"a node that is being cleared is better still", []proto.Message{host("a", 4), host("b", 4), stopping, on("b", "b-0")}, []Request{with(big, func(r *Request) { r.Reserved = []string{"a"} })}, "-", "a"},
		{"one for each version", fleet(), append(repeat(2, big), repeat(4, small)...), "- - a a c c", "b"},
		{"not where it never fits", fleet(), []Request{with(big, func(r *Request) { r.Accelerator = gpus(5) }), small}, "- a", ""},
		{"a gang keeps a node for each member", fleet(), append([]Request{with(big, func(r *Request) { r.Nodes = 2 })}, repeat(3, small)...), "- c c -", "a,b"},
		{"a device that does not work is not waited for", []proto.Message{host("a", 4, func(n *fleetv1.Node) { n.Facts.Devices[3].Health = fleetv1.Lost }), host("b", 4), on("b", "b-0", "b-1", "b-2")},
			[]Request{big}, "-", "b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := NewIndex(store(t, c.objects...).View())
			placed := x.Plan(c.requests)
			if got := where(placed); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if got := strings.Join(placed[0].Reservation.GetNodes(), ","); got != c.nodes {
				t.Errorf("reserved %q, want %q (%v)", got, c.nodes, placed[0].Reservation)
			}
			x.Undo()
			if got := x.Plan([]Request{with(small, func(r *Request) { r.Prefer = "b" })}); c.nodes != "" && where(got) != "b" {
				t.Errorf("the reservation outlives its plan: %s", where(got))
			}
		})
	}
}

// TestReservationsAreBounded has more waiting services than a pool bears reservations.
func TestReservationsAreBounded(t *testing.T) {
	var objects []proto.Message
	for i := range 40 {
		n := host(fmt.Sprintf("n%02d", i), 2)
		objects = append(objects, n, &fleetv1.Instance{Meta: &fleetv1.Meta{Id: fmt.Sprint("i", i), Name: fmt.Sprint("i", i)}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
			Spec: &fleetv1.InstanceSpec{Node: n.Meta.Name, ServiceId: "x", DeviceIds: []string{n.Meta.Name + "-0"}}})
	}
	var requests []Request
	for i := range 20 {
		requests = append(requests, Request{Pool: "p", Service: fmt.Sprint("s", i), Accelerator: gpus(2), Waited: true})
	}
	kept := map[string]bool{}
	for _, p := range NewIndex(store(t, objects...).View()).Plan(requests) {
		for _, n := range p.Reservation.GetNodes() {
			kept[n] = true
		}
	}
	if len(kept) != 1 {
		t.Errorf("%d nodes are kept, want 1", len(kept))
	}
}
