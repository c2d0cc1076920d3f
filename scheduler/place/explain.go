package place

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// filter removes nodes that cannot take a request. Filters are applied in order, and a node is counted
// by the first that removes it.
type filter struct {
	name string
	fits func(*node, *Request) bool
	// say describes the removed nodes, at least one, in a phrase that follows their number.
	say func(removed []*node, r *Request) string
}

// filters lists all of them: first what no waiting changes, last what frees itself.
func filters() []filter {
	return []filter{
		{"architecture", func(n *node, r *Request) bool { return r.runsOn(n.arch) }, func(ns []*node, r *Request) string {
			return fmt.Sprintf("%s another architecture (need %s, %s has %s)", verb(ns, "has", "have"), r.arches(), ns[0].name, ns[0].arch)
		}},
		{"mounts", func(n *node, r *Request) bool { return n.refused(r) == "" }, func(ns []*node, r *Request) string {
			return fmt.Sprintf("%s not allow the mount of %s", verb(ns, "does", "do"), ns[0].refused(r))
		}},
		{"accelerator", func(n *node, r *Request) bool { return n.count(n.topology.all, r) >= r.devices() }, func(ns []*node, r *Request) string {
			return fmt.Sprintf("%s not have the devices (need %s, %s)", verb(ns, "does", "do"), r.wanted(),
				most(ns, func(n *node) int64 { return int64(n.count(n.topology.all, r)) }, plain, "most"))
		}},
		{"labels", func(n *node, r *Request) bool { return r.allows(n) }, func(ns []*node, _ *Request) string {
			return verb(ns, "is", "are") + " not among those that the placement rules allow"
		}},
		{"cordoned", func(n *node, _ *Request) bool { return !n.cordoned }, func(ns []*node, _ *Request) string {
			return verb(ns, "is", "are") + " cordoned"
		}},
		{"unreachable", func(n *node, _ *Request) bool { return !n.unreachable }, func(ns []*node, _ *Request) string {
			return verb(ns, "is", "are") + " unreachable"
		}},
		{"host port", func(n *node, r *Request) bool { return r.HostPort == 0 || !slices.Contains(n.ports, r.HostPort) }, func(ns []*node, r *Request) string {
			return fmt.Sprintf("%s port %d taken", verb(ns, "has", "have"), r.HostPort)
		}},
		{"devices", func(n *node, r *Request) bool { return n.count(n.free, r) >= r.devices() }, func(ns []*node, r *Request) string {
			return fmt.Sprintf("%s free devices (need %s, %s%s)", verb(ns, "lacks", "lack"), r.wanted(),
				most(ns, func(n *node) int64 { return int64(n.count(n.free, r)) }, plain, "most free"), barred(ns, r))
		}},
		resource("CPU", cores, func(r *Request) int64 { return r.CPUMillis }, func(n *node) int64 { return n.cpu }),
		resource("memory", bytes, func(r *Request) int64 { return r.MemoryBytes }, func(n *node) int64 { return n.memory }),
		resource("disk", bytes, func(r *Request) int64 { return r.DiskBytes }, func(n *node) int64 { return n.disk }),
	}
}

// resource is the filter of one countable resource.
func resource(name string, format func(int64) string, need func(*Request) int64, free func(*node) int64) filter {
	return filter{name,
		func(n *node, r *Request) bool { return need(r) == 0 || free(n) >= need(r) },
		func(ns []*node, r *Request) string {
			return fmt.Sprintf("%s %s (need %s, %s)", verb(ns, "lacks", "lack"), name, format(need(r)), most(ns, free, format, "most free"))
		}}
}

// count is how many of the devices the request could use.
func (n *node) count(devices mask, r *Request) int {
	c := 0
	for i, k := range n.topology.kinds {
		if devices.has(i) && r.matches(k) {
			c++
		}
	}
	return c
}

func (r *Request) allows(n *node) bool {
	u := newRules(r)
	return u.allow(n)
}

// fits says whether every filter leaves the node over.
func fits(n *node, r *Request, fs []filter) bool {
	return !slices.ContainsFunc(fs, func(f filter) bool { return !f.fits(n, r) })
}

// Explain says why no node takes the request now, or not enough nodes for a gang. The answer is shared and
// must not be written to.
func (x *Index) Explain(r *Request) *fleetv1.Explanation {
	x.arrange()
	p := x.pool(r.Pool)
	if p == nil {
		return &fleetv1.Explanation{Summary: fmt.Sprintf("there is no pool %q", r.Pool)}
	}
	var nodes []*node
	for _, n := range x.slots {
		if p.has(n) {
			nodes = append(nodes, n)
		}
	}
	return &fleetv1.Explanation{Summary: explain(nodes, r), Nodes: int32(len(nodes)), Remedies: []string{x.remedy(nodes, r)}}
}

// barred counts the devices of the nodes that would suit but are given to nobody, by why; empty when there
// are none.
func barred(ns []*node, r *Request) string {
	counts := map[string]int{}
	for _, n := range ns {
		for i, k := range n.topology.kinds {
			if word := n.barred[n.ids[i]]; word != "" && r.matches(k) {
				counts[word]++
			}
		}
	}
	var phrases []string
	for _, word := range slices.Sorted(maps.Keys(counts)) {
		phrases = append(phrases, fmt.Sprintf("%d %s %s", counts[word], plural(counts[word], "device", "devices"), word))
	}
	if len(phrases) == 0 {
		return ""
	}
	return "; " + strings.Join(phrases, ", ")
}

// wanted names the devices, such as "8 × nvidia H100* with 80.0 GiB".
func (r *Request) wanted() string {
	a := r.Accelerator
	kind := strings.TrimSpace(a.GetVendor() + " " + a.GetModel())
	if kind == "" {
		kind = "device"
	}
	if a.GetMemoryMinBytes() > 0 {
		kind += " with " + bytes(a.GetMemoryMinBytes())
	}
	return fmt.Sprintf("%d × %s", a.GetCount(), kind)
}

// explain says why none of the nodes fits: per filter how many it removed and what was short.
func explain(nodes []*node, r *Request) string {
	if len(nodes) == 0 {
		return fmt.Sprintf("pool %q has no nodes", r.Pool)
	}
	left := slices.Clone(nodes)
	var phrases []string
	for _, f := range filters() {
		var kept, removed []*node
		for _, n := range left {
			if f.fits(n, r) {
				kept = append(kept, n)
			} else {
				removed = append(removed, n)
			}
		}
		if len(removed) > 0 {
			phrases = append(phrases, fmt.Sprintf("%d %s", len(removed), f.say(removed, r)))
		}
		left = kept
	}
	return fmt.Sprintf("0 of %d %s of pool %q fit: %s", len(nodes), plural(len(nodes), "node", "nodes"), r.Pool, strings.Join(phrases, ", "))
}

// most names the node that has the most of something, the first of equals.
func most(ns []*node, amount func(*node) int64, format func(int64) string, label string) string {
	best := ns[0]
	for _, n := range ns[1:] {
		if amount(n) > amount(best) {
			best = n
		}
	}
	return fmt.Sprintf("%s %s on %s", label, format(max(amount(best), 0)), best.name)
}

func verb(ns []*node, one, many string) string { return plural(len(ns), one, many) }

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func plain(v int64) string { return fmt.Sprint(v) }

// cores formats millicores.
func cores(millis int64) string {
	if millis == 1000 {
		return "1 core"
	}
	return fmt.Sprintf("%g cores", float64(millis)/1000)
}

// bytes formats a size with a binary unit.
func bytes(v int64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	f, unit := float64(v), "B"
	for _, u := range units {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", v)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}
