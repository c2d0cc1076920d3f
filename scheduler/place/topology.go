package place

import (
	"cmp"
	"slices"
	"strconv"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// topology is how the devices of a node are made and linked. Nodes that are built alike share one. Devices
// are numbered by memory, model, index and ID, so that those with the least memory come first.
type topology struct {
	id     int // among the index's topologies
	kinds  []kind
	models []string // of the devices
	all    mask
	// domains hold two devices or more, small ones first; no two are the same.
	domains []domain
}

// kind is what a request can ask of a device.
type kind struct {
	vendor, model, profile string
	memory                 int64
}

// domain is a set of devices that are linked.
type domain struct {
	mask mask
	size int
	by   link
}

// link is a set of ways in which devices are linked.
type link uint8

const (
	byNUMA link = 1 << iota
	byPCIe
	byNVLink
	byHCCS
	byParent // slices of one device
)

// demanded is the way that Accelerator.domain names; 0 for any.
func demanded(domain string) link {
	switch domain {
	case "numa":
		return byNUMA
	case "pcie":
		return byPCIe
	case "nvlink":
		return byNVLink
	case "hccs":
		return byHCCS
	}
	return 0
}

// linkOf is the domain that a link between two devices makes; 0 for none.
func linkOf(kind string) link {
	switch kind {
	case "pix":
		return byPCIe
	case "nvlink":
		return byNVLink
	case "hccs", "hccs-sw", "sio", "ub":
		return byHCCS
	}
	return 0
}

// holdable answers the devices that an instance can hold, in their order in the topology: a device cut into
// slices is given out by them.
func holdable(all []*fleetv1.Device) []*fleetv1.Device {
	cut := map[string]bool{}
	for _, d := range all {
		if p := d.GetParentId(); p != "" {
			cut[p] = true
		}
	}
	out := make([]*fleetv1.Device, 0, len(all))
	for _, d := range all {
		if !cut[d.GetId()] {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b *fleetv1.Device) int {
		return cmp.Or(cmp.Compare(a.GetMemoryBytes(), b.GetMemoryBytes()), cmp.Compare(a.GetModel(), b.GetModel()),
			cmp.Compare(a.GetIndex(), b.GetIndex()), cmp.Compare(a.GetId(), b.GetId()))
	})
	return out[:min(len(out), maxDevices)]
}

// newTopology describes the devices of a node; given are those that holdable answers. It is made for every node when
// an index is, so it counts devices instead of naming them.
func newTopology(all, given []*fleetv1.Device) *topology {
	t := &topology{}
	number := make(map[string]int, len(all))
	for i, d := range all {
		number[d.GetId()] = i
	}
	sets := map[member]mask{}
	join := func(by link, of, i int) {
		m := member{by, of}
		sets[m] = sets[m].or(one(i))
	}
	joined := newUnions(all, number)
	for i, d := range given {
		t.all = t.all.or(one(i))
		t.models = append(t.models, d.GetModel())
		t.kinds = append(t.kinds, kind{d.GetVendor(), d.GetModel(), d.GetProfile(), d.GetMemoryBytes()})
		at := number[d.GetId()]
		if p, ok := number[d.GetParentId()]; ok {
			at = p // a slice is where its device is
			join(byParent, p, i)
		}
		if all[at].NumaNode != nil {
			join(byNUMA, int(all[at].GetNumaNode()), i)
		}
		for by, of := range joined {
			join(fabrics[by], of.first(at), i)
		}
	}
	for m, devices := range sets {
		if devices.count() < 2 {
			continue
		}
		if at := slices.IndexFunc(t.domains, func(d domain) bool { return d.mask == devices }); at >= 0 {
			t.domains[at].by |= m.by
		} else {
			t.domains = append(t.domains, domain{devices, devices.count(), m.by})
		}
	}
	slices.SortFunc(t.domains, func(a, b domain) int {
		return cmp.Or(cmp.Compare(a.size, b.size), slices.Compare(a.mask[:], b.mask[:]))
	})
	return t
}

// member names one set of linked devices: by the NUMA node, or by the first device.
type member struct {
	by link
	of int
}

// fabrics are the links that devices have with each other.
var fabrics = [...]link{byPCIe, byNVLink, byHCCS}

// union is which devices are joined with which, directly or through others: each leads to an earlier one, or to itself
// when it is the first. In nil nobody is joined.
type union []int

func (u union) first(i int) int {
	for u != nil && u[i] != i {
		i = u[i]
	}
	return i
}

// newUnions answers who is joined by each of the fabrics.
func newUnions(all []*fleetv1.Device, number map[string]int) (out [len(fabrics)]union) {
	for i, d := range all {
		for _, l := range d.GetLinks() {
			peer, known := number[l.GetPeer()]
			by := slices.Index(fabrics[:], linkOf(l.GetKind()))
			if !known || by < 0 {
				continue
			}
			if out[by] == nil {
				out[by] = make(union, len(all))
				for j := range out[by] {
					out[by][j] = j
				}
			}
			a, b := out[by].first(i), out[by].first(peer)
			out[by][max(a, b)] = min(a, b)
		}
	}
	return out
}

// key is equal for nodes that are built alike.
func (t *topology) key() string {
	var b []byte
	for _, k := range t.kinds {
		b = appendKey(b, k.vendor, k.model, k.profile)
		b = strconv.AppendInt(b, k.memory, 16)
	}
	for _, d := range t.domains {
		b = append(b, '/', byte('a'+d.by))
		b = strconv.AppendUint(b, d.mask[1], 16)
		b = append(b, '.')
		b = strconv.AppendUint(b, d.mask[0], 16)
	}
	return string(b)
}

// appendKey appends strings so that no two lists give the same key.
func appendKey(b []byte, parts ...string) []byte {
	for _, p := range parts {
		b = strconv.AppendInt(b, int64(len(p)), 10)
		b = append(append(b, ':'), p...)
	}
	return b
}

// fit is what one kind of request finds in a topology.
type fit struct {
	topology *topology
	class    mask // the devices that suit
	need     int
	by       link     // the link that all must have; 0 for any
	table    []choice // by the set of free devices
}

// choice is what a request takes, and the hole that it leaves.
type choice struct {
	key     key
	devices uint8
}

// key ranks the hole that a request would leave, small ones first: free devices of the node, then of the
// link domain. noKey means that it does not fit.
type key int16

const (
	noKey    key = -1
	maxLeft      = 15 // larger holes are alike
	numKeys      = (maxLeft + 1) * (maxLeft + 1)
	tableMax     = 8 // devices up to which choices are kept for every set of free ones
)

func newFit(t *topology, r *Request) *fit {
	f := &fit{topology: t, need: r.devices()}
	for i, k := range t.kinds {
		if r.matches(k) {
			f.class = f.class.or(one(i))
		}
	}
	if f.need > 1 { // one device is a domain by itself
		f.by = demanded(r.Accelerator.GetDomain())
	}
	return f
}

// hole ranks the hole that a request leaves where so many devices are free.
func (f *fit) hole(free mask) key {
	if t := f.choices(); t != nil {
		return t[free[0]].key
	}
	return f.rank(free)
}

// choices are what the request would take of each set of free devices; nil where there are too many sets.
func (f *fit) choices() []choice {
	if f.table != nil || len(f.topology.kinds) > tableMax {
		return f.table
	}
	f.table = make([]choice, 1<<len(f.topology.kinds))
	for i := range f.table {
		free := mask{uint64(i)}
		if f.table[i].key = f.rank(free); f.table[i].key != noKey {
			f.table[i].devices = uint8(f.pick(free)[0])
		}
	}
	return f.table
}

func (f *fit) rank(free mask) key {
	d, ok := f.domain(free)
	if !ok {
		return noKey
	}
	left, inside := free.count()-f.need, free.and(d).count()-f.need
	return key(min(left, maxLeft)*(maxLeft+1) + min(inside, maxLeft))
}

// domain is the one with the fewest free devices that holds the request, the whole node included unless a
// link is demanded; false when none does.
func (f *fit) domain(free mask) (mask, bool) {
	avail := free.and(f.class)
	if avail.count() < f.need {
		return mask{}, false
	}
	best, least := f.topology.all, free.count()
	if f.by != 0 {
		least = maxDevices + 1
	}
	for _, d := range f.topology.domains {
		if f.by != 0 && d.by&f.by == 0 || avail.and(d.mask).count() < f.need {
			continue
		}
		if n := free.and(d.mask).count(); n < least {
			best, least = d.mask, n
		}
	}
	return best, least <= maxDevices
}

// choose picks the devices for the request, which must fit. Those that are better left alone are taken
// last.
func (f *fit) choose(free, last mask) mask {
	if sound := free.without(last); sound != free && f.hole(sound) != noKey {
		free = sound
	}
	if t := f.choices(); t != nil {
		return mask{uint64(t[free[0]].devices)}
	}
	return f.pick(free)
}

// pick takes devices from the smallest hole, and inside it from the smallest again.
func (f *fit) pick(free mask) mask {
	within, _ := f.domain(free)
	avail, need := free.and(f.class).and(within), f.need
	var got mask
	for need > 0 {
		least, most := mask{}, mask{} // the smallest that holds the rest, the fullest that does not
		for _, d := range f.topology.domains {
			in := avail.and(d.mask)
			n := in.count()
			switch {
			case in == avail || n == 0:
			case n >= need && (least.empty() || n < least.count()):
				least = in
			case n < need && n > most.count():
				most = in
			}
		}
		if !least.empty() {
			avail = least
			continue
		}
		if most.empty() || avail.count() == need {
			most = avail.lowest(need)
		}
		got, avail, need = got.or(most), avail.without(most), need-most.count()
	}
	return got
}
