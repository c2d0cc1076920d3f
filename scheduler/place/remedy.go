package place

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// remedy is what would make a request fit.
type remedy struct {
	text string
	// What it consists of; all of it together makes the request fit.
	end     []*fleetv1.Instance // instances that have ended
	open    []*node             // that take instances again
	repair  map[*node]mask      // devices that are in order again
	instead *Request            // what fits instead, nil for the request itself
	unkeep  bool                // nothing is reserved for others
	add     int                 // nodes that have all of it free
}

// healer looks for remedies. The index stands in a supposition in which nothing is reserved for the request.
type healer struct {
	look    *look
	seen    *removed
	members int // that find a node
	class   *class
}

const (
	maxRemedies = 5
	maxOpened   = 256 // nodes
	maxFreed    = 64  // nodes on which it is compared whose end would do
)

// remedies answers what would help, the surest first; each was planned.
func (h *healer) remedies() []remedy {
	var out []remedy
	for _, find := range []func() *remedy{h.preempted, h.freed, h.fewerDevices, h.withoutDomain, h.fewerNodes, h.uncordoned, h.repaired, h.undrained, h.confirmed, h.returned,
		h.withoutApart, h.withoutSpread, h.withoutNames, h.withoutLabels, h.lessCPU, h.lessMemory, h.lessDisk, h.unreserved} {
		if one := find(); one != nil && !slices.ContainsFunc(out, func(o remedy) bool { return o.text == one.text }) {
			if out = append(out, *one); len(out) == maxRemedies {
				return out
			}
		}
	}
	if len(out) == 0 {
		out = append(out, h.added())
	}
	return out
}

// try answers where the request would go after the remedy.
func (h *healer) try(r *remedy) ([]string, bool) {
	s := h.look.index.suppose()
	defer s.undo()
	s.end(r.end...)
	for _, n := range r.open {
		s.open(n)
	}
	for n, devices := range r.repair {
		s.repair(n, devices)
	}
	if r.unkeep {
		s.unkeep(nil)
	}
	if r.instead != nil {
		return s.placeInstead(r.instead)
	}
	return s.place(h.look.request)
}

// preempted is that who has less priority is stopped, or that who has been stopped has ended.
func (h *healer) preempted() *remedy {
	r := h.look.request
	got, ok := h.look.index.preempt(r, maxFreed)
	if !ok || len(got.toll)+len(got.ending) == 0 {
		return nil
	}
	out := &remedy{end: slices.Concat(got.ending, got.toll)}
	on := several(got.nodes)
	if len(got.toll) == 0 {
		out.text = fmt.Sprintf("it fits on %s once %s, which %s stopping, %s ended", on, titles(got.ending), plural(len(got.ending), "is", "are"), plural(len(got.ending), "has", "have"))
	} else {
		out.text = fmt.Sprintf("it fits on %s once %s, of less priority, %s preempted", on, titles(got.toll), plural(len(got.toll), "is", "are")) + h.andEnded(got.ending)
	}
	return out
}

func (h *healer) andEnded(ending []*fleetv1.Instance) string {
	if len(ending) == 0 {
		return ""
	}
	return fmt.Sprintf(" and %s, which %s stopping, %s ended", titles(ending), plural(len(ending), "is", "are"), plural(len(ending), "has", "have"))
}

// freed is that somebody ends, as jobs do by themselves.
func (h *healer) freed() *remedy {
	r := h.look.request
	got, ok := h.look.index.clearing(r, func(*fleetv1.Instance) bool { return true }, 0, max(maxFreed, 2*r.members()))
	if !ok || len(got.toll) == 0 {
		return nil
	}
	out := &remedy{end: slices.Concat(got.ending, got.toll)}
	out.text = "it fits if "
	if jobs := jobsOf(got.toll); len(jobs) > 0 {
		out.text = fmt.Sprintf("it fits when %s%s %s: ", plural(len(jobs), "job ", "jobs "), several(jobs), plural(len(jobs), "ends", "end"))
	}
	out.text += fmt.Sprintf("%s on %s %s freed", holdings(got.toll), several(nodesOf(got.toll)), plural(len(got.toll), "is", "are")) + h.andEnded(got.ending)
	return out
}

// holdings names instances by their flavors: "2 gpu.h100.1 (instances a of service s and b of service s)".
func holdings(all []*fleetv1.Instance) string {
	count := map[string]int{}
	var flavors []string
	for _, i := range all {
		f := cmp.Or(i.GetSpec().GetFlavor(), "instance")
		if count[f]++; count[f] == 1 {
			flavors = append(flavors, f)
		}
	}
	slices.Sort(flavors)
	for i, f := range flavors {
		flavors[i] = fmt.Sprintf("%d %s", count[f], f)
	}
	return fmt.Sprintf("%s (%s %s)", several(flavors), plural(len(all), "instance", "instances"), titles(all))
}

func nodesOf(all []*fleetv1.Instance) (out []string) {
	for _, i := range all {
		out = append(out, i.GetSpec().GetNode())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// instead is a remedy if the changed request fits.
func (h *healer) instead(text string, change func(*Request)) *remedy {
	r := *h.look.request
	r.Accelerator, r.Rules = proto.CloneOf(r.Accelerator), proto.CloneOf(r.Rules)
	change(&r)
	out := &remedy{text: text, instead: &r}
	if _, ok := h.try(out); !ok {
		return nil
	}
	return out
}

// only counts the nodes that pass all filters but those, and answers whether they are enough with those that
// pass all.
func (h *healer) only(not hurdle) bool {
	n := 0
	for _, j := range h.seen.all {
		if j.not != 0 && j.not&^not == 0 {
			n++
		}
	}
	return n > 0 && n+len(h.seen.fit) >= h.look.request.members()
}

// reach is the most of something that as many nodes have as there are members, of those that pass all
// filters but the given ones; 0 when there are not enough.
func (h *healer) reach(not hurdle, amount func(*node) int64) int64 {
	want := h.look.request.members() - len(h.seen.fit)
	var all []int64
	for _, j := range h.seen.all {
		if j.not != 0 && j.not&^not == 0 {
			all = append(all, amount(j.node))
		}
	}
	if want < 1 || len(all) < want {
		return 0
	}
	slices.SortFunc(all, func(a, b int64) int { return cmp.Compare(b, a) })
	return max(all[want-1], 0)
}

func (h *healer) fewerDevices() *remedy {
	need := h.look.request.devices()
	n := h.reach(inDeviceWays, func(n *node) int64 {
		f := h.look.of(n).fit
		if f.by != 0 {
			return int64(h.look.inDomain(n))
		}
		return int64(n.free.and(f.class).count())
	})
	if n < 1 || int(n) >= need {
		return nil
	}
	return h.instead(fmt.Sprintf("it fits with %d %s instead of %d", n, plural(int(n), "device", "devices"), need), func(r *Request) { r.Accelerator.Count = int32(n) })
}

func (h *healer) withoutDomain() *remedy {
	domain := h.look.request.Accelerator.GetDomain()
	if demanded(domain) == 0 || !h.only(inDomain) {
		return nil
	}
	return h.instead("it fits without domain "+domain, func(r *Request) { r.Accelerator.Domain = "any" })
}

func (h *healer) fewerNodes() *remedy {
	if want := h.look.request.members(); h.members > 0 && h.members < want {
		return h.instead(fmt.Sprintf("it fits with %d %s instead of %d", h.members, plural(h.members, "node", "nodes"), want), func(r *Request) { r.Nodes = h.members })
	}
	return nil
}

func (h *healer) withoutApart() *remedy {
	if !h.only(inApart) {
		return nil
	}
	return h.instead("it fits without anti-affinity", func(r *Request) { r.Rules.AntiAffinity = false })
}

func (h *healer) withoutSpread() *remedy {
	labels := requiredSpread(&h.look.rules)
	if len(labels) == 0 || !h.only(inSpread|inLabels) && len(h.seen.fit) < h.look.request.members() {
		return nil
	}
	return h.instead("it fits if spreading over "+several(labels)+" is not required", func(r *Request) {
		for _, s := range r.Rules.GetSpread() {
			s.Required = false
		}
	})
}

func requiredSpread(u *rules) (labels []string) {
	for _, s := range u.spread {
		if s.GetRequired() {
			labels = append(labels, s.GetLabel())
		}
	}
	return labels
}

func (h *healer) withoutNames() *remedy {
	if !h.only(inNames) {
		return nil
	}
	return h.instead("it fits when it is not pinned to nodes", func(r *Request) { r.Rules.Nodes = nil })
}

func (h *healer) withoutLabels() *remedy {
	if len(h.look.rules.required) == 0 || !h.only(inLabels) {
		return nil
	}
	return h.instead("it fits without the required "+plural(len(h.look.rules.required), "label ", "labels ")+strings.Join((&rules{required: h.look.rules.required}).labels(), " and "),
		func(r *Request) { r.Rules.Required = nil })
}

// less is a remedy if less of one resource does.
func (h *healer) less(not hurdle, need int64, free func(*node) int64, format func(int64) string, what string, set func(*Request, int64)) *remedy {
	n := h.reach(not, free)
	if n < 1 || n >= need {
		return nil
	}
	return h.instead(fmt.Sprintf("it fits with %s%s instead of %s", format(n), what, format(need)), func(r *Request) { set(r, n) })
}

func (h *healer) lessCPU() *remedy {
	return h.less(inCPU, h.look.request.CPUMillis, func(n *node) int64 { return n.cpu }, cores, "", func(r *Request, v int64) { r.CPUMillis = v })
}

func (h *healer) lessMemory() *remedy {
	return h.less(inMemory, h.look.request.MemoryBytes, func(n *node) int64 { return n.memory }, bytes, " of memory", func(r *Request, v int64) { r.MemoryBytes = v })
}

func (h *healer) lessDisk() *remedy {
	return h.less(inDisk, h.look.request.DiskBytes, func(n *node) int64 { return n.disk }, bytes, " of disk", func(r *Request, v int64) { r.DiskBytes = v })
}

// opened is that nodes which pass all filters but one take instances again: as few of them as are used.
func (h *healer) opened(not hurdle, text func(names string, n int) string) *remedy {
	var closed []*node
	for _, j := range h.seen.all {
		if j.not == not && len(closed) < maxOpened {
			closed = append(closed, j.node)
		}
	}
	if len(closed) == 0 {
		return nil
	}
	if h.look.request.members() == 1 && len(closed) > 1 {
		closed = closed[:1]
	}
	nodes, ok := h.try(&remedy{open: closed})
	if !ok {
		return nil
	}
	used := slices.DeleteFunc(slices.Clone(closed), func(n *node) bool { return !slices.Contains(nodes, n.name) })
	if _, ok := h.try(&remedy{open: used}); !ok {
		used = closed // the others are needed as values of a label
	}
	var names []string
	for _, n := range used {
		names = append(names, n.name)
	}
	return &remedy{text: text(several(names), len(names)), open: used}
}

func (h *healer) uncordoned() *remedy {
	return h.opened(inCordon, func(names string, n int) string {
		return "uncordoning " + names + plural(n, " makes", " make") + " room"
	})
}

func (h *healer) undrained() *remedy {
	return h.opened(inDrain, func(names string, n int) string {
		return fmt.Sprintf("ending the %s of %s and uncordoning %s room", plural(n, "drain", "drains"), names, plural(n, "it makes", "them makes"))
	})
}

func (h *healer) returned() *remedy {
	return h.opened(inReach, func(names string, _ int) string { return "it waits for the return of " + names })
}

func (h *healer) confirmed() *remedy {
	return h.opened(inHeld, func(names string, _ int) string {
		return "`drover cluster restore --confirm` makes room on " + names
	})
}

// repaired is that devices of a node are in order again: cordoned ones first, and no more than needed.
func (h *healer) repaired() *remedy {
	if h.look.request.members() > 1 {
		return nil
	}
	for _, j := range h.seen.all {
		bad := j.node.topology.all.without(j.node.usable)
		if j.not == 0 || j.not&^(inDevices|inDomain) != 0 || bad.and(h.look.of(j.node).fit.class).empty() {
			continue
		}
		if one := h.repairedOn(j.node, bad.and(h.look.of(j.node).fit.class)); one != nil {
			return one
		}
	}
	return nil
}

func (h *healer) repairedOn(n *node, bad mask) *remedy {
	out := &remedy{repair: map[*node]mask{n: bad}}
	usable := n.usable.or(bad)
	if h.look.of(n).fit.hole(n.free.or(usable.without(n.usable).without(n.inUse(h.look.index)))) == noKey {
		return nil
	}
	if _, ok := h.try(out); !ok {
		return nil
	}
	var devices []int
	for left := bad; !left.empty(); left = left.without(one(left.first())) {
		devices = append(devices, left.first())
	}
	rank := func(d int) int { return compareBool(n.barred[n.ids[d]] == state.BarredCordoned, false) }
	slices.SortStableFunc(devices, func(a, b int) int { return cmp.Compare(rank(a), rank(b)) })
	for _, d := range devices {
		out.repair[n] = bad.without(one(d))
		if _, ok := h.try(out); ok {
			bad = bad.without(one(d))
		}
	}
	out.repair[n] = bad
	var names []string
	byHand := true // an operator can open them
	for left := bad; !left.empty(); left = left.without(one(left.first())) {
		names = append(names, n.ids[left.first()])
		byHand = byHand && n.barred[n.ids[left.first()]] == state.BarredCordoned
	}
	what := plural(len(names), "device ", "devices ") + several(names)
	if byHand {
		out.text = fmt.Sprintf("uncordoning %s of %s makes room", what, n.name)
	} else {
		why := h.look.barred([]*node{n}, func(*node) mask { return bad })
		out.text = fmt.Sprintf("it fits on %s when %s (%s) %s given out again", n.name, what, why, plural(len(names), "is", "are"))
	}
	return out
}

// unreserved is that others give up what is kept for them.
func (h *healer) unreserved() *remedy {
	if !h.only(inKept) {
		return nil
	}
	out := &remedy{unkeep: true}
	nodes, ok := h.try(out)
	if !ok {
		return nil
	}
	var ns []*node
	for _, name := range nodes {
		if n := h.look.index.nodes[name]; h.look.kept[n] != nil {
			ns = append(ns, n)
		}
	}
	if len(ns) == 0 {
		return nil
	}
	out.text = fmt.Sprintf("it fits on %s once %s no longer waits for it", several(nodes), h.look.reservers(ns))
	return out
}

// added is what is left when nothing else helps.
func (h *healer) added() remedy {
	l := h.look
	r := l.request
	n := max(r.members()-h.members, 1)
	has := []string{cores(r.CPUMillis), bytes(r.MemoryBytes) + " of memory"}
	if r.DiskBytes > 0 {
		has = append(has, bytes(r.DiskBytes)+" of disk")
	}
	if r.devices() > 0 {
		has = append(has, r.wanted())
		if r.devices() > 1 && demanded(r.Accelerator.GetDomain()) != 0 {
			has[len(has)-1] += " in one " + r.Accelerator.GetDomain() + " domain"
		}
	}
	if labels := l.rules.labels(); len(labels) > 0 {
		has = append(has, "the labels "+strings.Join(labels, " and "))
	}
	if l.rules.names != nil {
		has = append(has, "a name that it is pinned to")
	}
	return remedy{text: fmt.Sprintf("it fits when %d %s free that %s %s", n, plural(n, "node of the pool is", "nodes of the pool are"), plural(n, "has", "have"), several(has)), add: n}
}
