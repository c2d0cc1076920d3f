package place

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/drover-fleet/drover/scheduler/state"
)

// hurdle is a set of filters, those that a node does not pass.
type hurdle uint32

// The filters, in the order in which they count a node: first what no waiting changes, last what frees
// itself.
const (
	inArch hurdle = 1 << iota
	inMounts
	inKind
	inProfile
	inLabels
	inNames
	inDrain
	inCordon
	inReach
	inHeld
	inPort
	inDevices
	inDomain
	inCPU
	inMemory
	inDisk
	inApart
	inSpread
	inKept

	inDeviceWays = inKind | inProfile | inDevices | inDomain
	inWay        = inArch | inMounts | inKind | inProfile | inLabels | inNames // that nothing on the node changes
)

// first is the filter that counts the node.
func (h hurdle) first() hurdle { return 1 << bits.TrailingZeros32(uint32(h)) }

// look is one request before the nodes of its pool.
type look struct {
	request *Request
	rules   rules
	fits    map[*topology]*finds
	drains  func(*node) bool // nil when none do
	tally   *tally           // nil when there is none
	index   *Index           // nil for nodes of no index
	group   *group
	kept    map[*node]*group // nodes that are kept from the request, and for whom
}

// finds is what the request finds in a topology.
type finds struct {
	fit   *fit
	kin   mask // of the vendor, model and memory, however it is cut
	never bool // too few even if all were free
}

func newLook(r *Request) *look {
	return &look{request: r, rules: newRules(r), fits: map[*topology]*finds{}}
}

// of is what the request finds on the node.
func (l *look) of(n *node) *finds {
	f := l.fits[n.topology]
	if f == nil {
		f = &finds{fit: newFit(n.topology, l.request)}
		for i, k := range n.topology.kinds {
			if l.request.kin(k) {
				f.kin = f.kin.or(one(i))
			}
		}
		f.never = f.fit.hole(n.topology.all) == noKey
		l.fits[n.topology] = f
	}
	return f
}

// kin says whether a device is of the vendor and model, though it may be cut otherwise. What is cut has the
// memory of its slices, so memory is looked at only when it is not.
func (r *Request) kin(k kind) bool {
	a := r.Accelerator
	if a.GetVendor() != "" && a.GetVendor() != k.vendor || k.profile == "" && k.memory < a.GetMemoryMinBytes() {
		return false
	}
	return r.isModel(k)
}

// hurdles are the filters that the node does not pass.
func (l *look) hurdles(n *node) (h hurdle) {
	r := l.request
	if !r.runsOn(n.arch) {
		h |= inArch
	}
	if len(r.MountSources) > 0 && n.refused(r) != "" {
		h |= inMounts
	}
	if l.rules.names != nil && !l.rules.names[n.name] {
		h |= inNames
	}
	if lacksLabels(&l.rules, n) {
		h |= inLabels
	}
	switch {
	case n.cordoned && l.drains != nil && l.drains(n):
		h |= inDrain
	case n.cordoned:
		h |= inCordon
	}
	if n.unreachable {
		h |= inReach
	}
	if n.holding {
		h |= inHeld
	}
	if r.HostPort != 0 && slices.Contains(n.ports, r.HostPort) {
		h |= inPort
	}
	if r.CPUMillis > n.cpu {
		h |= inCPU
	}
	if r.MemoryBytes > n.memory {
		h |= inMemory
	}
	if r.DiskBytes > n.disk {
		h |= inDisk
	}
	h |= l.deviceHurdle(n)
	if l.group != nil {
		h |= l.groupHurdles(n)
	}
	return h
}

// deviceHurdle is the first of those that concern devices.
func (l *look) deviceHurdle(n *node) hurdle {
	need := l.request.devices()
	if need == 0 {
		return 0
	}
	f := l.of(n)
	switch {
	case f.fit.hole(n.free) != noKey:
		return 0
	case f.kin.count() < need:
		return inKind
	case f.fit.class.count() < need:
		return inProfile
	case n.free.and(f.fit.class).count() < need && !f.never:
		return inDevices
	}
	return inDomain
}

// groupHurdles are those that depend on what else of the version runs, and on reservations.
func (l *look) groupHurdles(n *node) (h hurdle) {
	if l.rules.apart && n.having(l.group) > 0 {
		h |= inApart
	}
	if t := l.tally; t != nil {
		if at := t.shape.at(n); at >= 0 && t.exceeds(t.key(t.shape.cells.of(at))) {
			h |= inSpread
		}
	}
	if _, ok := l.kept[n]; ok {
		h |= inKept
	}
	return h
}

// lacksLabels says whether the node has not the labels that the rules require.
func lacksLabels(u *rules, n *node) bool {
	if !state.HasLabels(n.labels, u.required) {
		return true
	}
	for _, s := range u.spread {
		if _, ok := n.labels[s.GetLabel()]; s.GetRequired() && !ok {
			return true
		}
	}
	return false
}

// barred counts the devices of the class that are given to nobody, by why: "3 devices cordoned, 1 device
// quarantined".
func (l *look) barred(ns []*node, devices func(*node) mask) string {
	counts := map[string]int{}
	for _, n := range ns {
		for bad := devices(n); !bad.empty(); bad = bad.without(one(bad.first())) {
			counts[n.barred[n.ids[bad.first()]]]++
		}
	}
	var phrases []string
	for _, word := range slices.Sorted(maps.Keys(counts)) {
		phrases = append(phrases, fmt.Sprintf("%d %s %s", counts[word], plural(counts[word], "device", "devices"), word))
	}
	return strings.Join(phrases, ", ")
}

// shut are the devices of the node that the request could use, but that are given to nobody.
func (l *look) shut(n *node) mask { return l.of(n).fit.class.without(n.usable) }

// emptied is the node as if nothing ran on it, every device worked and it took instances.
func (n *node) emptied() *node {
	e := n.copied()
	e.open, e.cordoned, e.unreachable, e.holding = true, false, false, false
	e.cpu, e.memory, e.disk = n.total.CPUMillis, n.total.MemoryBytes, max(n.total.DiskBytes, 0)
	e.free, e.ports = n.topology.all, nil
	return e
}
