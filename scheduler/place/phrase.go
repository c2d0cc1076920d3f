package place

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// filterName names a filter for people and scripts.
func filterName(h hurdle) string {
	return map[hurdle]string{inArch: "architecture", inMounts: "mounts", inKind: "accelerator", inProfile: "slice profile", inLabels: "labels", inNames: "pinned nodes",
		inDrain: "draining", inCordon: "cordoned", inReach: "unreachable", inHeld: "removals held", inPort: "host port", inDevices: "devices", inDomain: "link domain",
		inCPU: "CPU", inMemory: "memory", inDisk: "disk", inApart: "anti-affinity", inSpread: "spread", inKept: "reserved"}[h]
}

// tell describes the nodes that a filter removed, at least one, in a phrase that follows their number. The
// figures in parentheses are left out when it is to be short.
func (l *look) tell(h hurdle, ns []*node) (phrase, figures string) {
	r := l.request
	one := func(s, many string) string { return plural(len(ns), s, many) }
	short := func(of string, need int64, free func(*node) int64, format func(int64) string) (string, string) {
		return one("lacks ", "lack ") + of, "need " + format(need) + ", " + most(ns, free, format, "most free")
	}
	switch h {
	case inArch:
		return one("has", "have") + " another architecture", fmt.Sprintf("need %s, %s has %s", r.arches(), ns[0].name, ns[0].arch)
	case inMounts:
		return one("does", "do") + " not allow the mount of " + ns[0].refused(r), ""
	case inKind:
		return one("does", "do") + " not have the devices", fmt.Sprintf("need %s, %s", r.wanted(),
			most(ns, func(n *node) int64 { return int64(l.of(n).kin.count()) }, plain, "most"))
	case inProfile:
		return one("has its", "have their") + " devices cut otherwise", fmt.Sprintf("need %s, %s", r.wanted(),
			most(ns, func(n *node) int64 { return int64(l.of(n).fit.class.count()) }, plain, "most"))
	case inLabels:
		return one("has not", "have not") + " the labels " + strings.Join(l.rules.labels(), " and "), ""
	case inNames:
		return one("is", "are") + " not among the nodes that it is pinned to", fmt.Sprintf("%s only", several(slices.Sorted(maps.Keys(l.rules.names))))
	case inDrain:
		return one("is", "are") + " being drained", ""
	case inCordon:
		return one("is", "are") + " cordoned", ""
	case inReach:
		return one("is", "are") + " unreachable", ""
	case inHeld:
		return one("runs", "run") + " what isn't known since a restore", ""
	case inPort:
		return fmt.Sprintf("%s port %d taken", one("has", "have"), r.HostPort), ""
	case inDevices:
		return one("lacks", "lack") + " free devices", fmt.Sprintf("need %s, %s", r.wanted(),
			most(ns, func(n *node) int64 { return int64(n.free.and(l.of(n).fit.class).count()) }, plain, "most free")) + after("; ", l.barred(ns, l.shut))
	case inDomain:
		return fmt.Sprintf("%s %d free devices in one %s domain", one("lacks", "lack"), r.devices(), r.Accelerator.GetDomain()),
			most(ns, func(n *node) int64 { return int64(l.inDomain(n)) }, plain, "most")
	case inCPU:
		return short("CPU", r.CPUMillis, func(n *node) int64 { return n.cpu }, cores)
	case inMemory:
		return short("memory", r.MemoryBytes, func(n *node) int64 { return n.memory }, bytes)
	case inDisk:
		return short("disk", r.DiskBytes, func(n *node) int64 { return n.disk }, bytes)
	case inApart:
		return one("has", "have") + " an instance of the version already", ""
	case inSpread:
		return one("has", "have") + " enough of the version by the rules of spreading", l.spreads(ns[0])
	}
	return one("is", "are") + " reserved for another", l.reservers(ns)
}

// labels are what the rules require of a node, in order.
func (u *rules) labels() (out []string) {
	for _, k := range slices.Sorted(maps.Keys(u.required)) {
		out = append(out, k+"="+u.required[k])
	}
	for _, s := range u.spread {
		if s.GetRequired() {
			out = append(out, s.GetLabel())
		}
	}
	return out
}

// inDomain is how many free devices the domain of the node that has the most of them has.
func (l *look) inDomain(n *node) int {
	f, best := l.of(n).fit, 0
	avail := n.free.and(f.class)
	for _, d := range n.topology.domains {
		if d.by&f.by != 0 {
			best = max(best, avail.and(d.mask).count())
		}
	}
	return max(best, min(avail.count(), 1))
}

// spreads says how the version is spread, where one more would be too many on the node.
func (l *look) spreads(n *node) string {
	var out []string
	for i, s := range l.rules.spread {
		if v := numberOf(l.tally.shape.cells.values[i], n, s.GetLabel()); s.GetRequired() && v >= 0 {
			out = append(out, fmt.Sprintf("%s=%s has %d, the least is %d, they may differ by %d", s.GetLabel(), n.labels[s.GetLabel()],
				l.tally.rules[i].by.of(v), l.tally.lowest(i), skew(s)))
		}
	}
	return strings.Join(out, "; ")
}

// reservers names the services for which the nodes are kept.
func (l *look) reservers(ns []*node) string {
	var names []string
	for _, n := range ns {
		id := l.kept[n].key.service
		name := id
		if s := l.index.view.ServiceByID(id); s != nil {
			name = s.GetMeta().GetName()
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return plural(len(names), "service ", "services ") + several(names)
}

// missing says what one node is short of, in the order of the filters.
func (l *look) missing(n *node, h hurdle) string {
	var parts []string
	r := l.request
	for ; h != 0; h &^= h.first() {
		f := h.first()
		switch f {
		case inDevices:
			parts = append(parts, fmt.Sprintf("%d of %d devices are free%s", n.free.and(l.of(n).fit.class).count(), r.devices(), after("; ", l.barred([]*node{n}, l.shut))))
		case inKind:
			parts = append(parts, fmt.Sprintf("it has %d of %d devices", l.of(n).kin.count(), r.devices()))
		case inProfile:
			parts = append(parts, fmt.Sprintf("%d of %d devices are cut as needed", l.of(n).fit.class.count(), r.devices()))
		case inDomain:
			parts = append(parts, fmt.Sprintf("%d of %d devices are free in one %s domain", l.inDomain(n), r.devices(), r.Accelerator.GetDomain()))
		case inCPU:
			parts = append(parts, fmt.Sprintf("%s of %s free", cores(max(n.cpu, 0)), cores(r.CPUMillis)))
		case inMemory:
			parts = append(parts, fmt.Sprintf("%s of %s memory free", bytes(max(n.memory, 0)), bytes(r.MemoryBytes)))
		case inDisk:
			parts = append(parts, fmt.Sprintf("%s of %s disk free", bytes(max(n.disk, 0)), bytes(r.DiskBytes)))
		default:
			phrase, figures := l.tell(f, []*node{n})
			if figures = inParentheses(figures); f == inArch {
				phrase, figures = "is "+n.arch+", not "+r.arches(), ""
			}
			parts = append(parts, "it "+phrase+figures)
		}
	}
	return strings.Join(parts, "; ")
}

// after puts something before s, unless it is empty.
func after(what, s string) string {
	if s == "" {
		return ""
	}
	return what + s
}

func inParentheses(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// wanted names the devices, such as "8 × nvidia H100* with 80.0 GiB".
func (r *Request) wanted() string {
	a := r.Accelerator
	kind := strings.TrimSpace(a.GetVendor() + " " + a.GetModel())
	if kind == "" {
		kind = "device"
	}
	if a.GetShare() != "" && a.GetShare() != "whole" {
		kind += " " + a.GetShare()
	}
	if a.GetMemoryMinBytes() > 0 {
		kind += " with " + bytes(a.GetMemoryMinBytes())
	}
	return fmt.Sprintf("%d × %s", a.GetCount(), kind)
}

// titles lists instances with their services, the first three of many.
func titles(all []*fleetv1.Instance) string {
	var names []string
	for _, i := range all {
		owner := "service " + cmp.Or(i.GetSpec().GetServiceName(), i.GetSpec().GetServiceId())
		if job := jobOf(i); job != "" {
			owner = "job " + job
		}
		names = append(names, i.GetMeta().GetName()+" of "+owner)
	}
	return several(names)
}

// jobOf is the name of the job whose task an instance is, or empty. The services of jobs are called after them.
func jobOf(i *fleetv1.Instance) string {
	if i.GetSpec().GetJobId() == "" {
		return ""
	}
	return cmp.Or(strings.TrimPrefix(i.GetSpec().GetServiceName(), fleetv1.JobServicePrefix), i.GetSpec().GetJobId())
}

// jobsOf names the jobs that the instances are of; none when one of them isn't of a job.
func jobsOf(all []*fleetv1.Instance) (jobs []string) {
	for _, i := range all {
		job := jobOf(i)
		if job == "" {
			return nil
		}
		jobs = append(jobs, job)
	}
	slices.Sort(jobs)
	return slices.Compact(jobs)
}

// several lists names, the first three of many.
func several(names []string) string {
	switch n := len(names); {
	case n > 4:
		return fmt.Sprintf("%s and %d others", strings.Join(names[:3], ", "), n-3)
	case n > 1:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
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
