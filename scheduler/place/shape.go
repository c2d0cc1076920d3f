package place

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"strconv"
)

// shape is what requests of one kind see of the index: which nodes they may use, which of these have room,
// and how large a hole they would leave. It is made when a request first needs it, reads the index's journal
// when it is used, and is dropped when it was not used for long.
type shape struct {
	key     string
	request Request // the first of its kind; what the kind does not depend on is not looked at
	rules   rules
	used    uint64
	dropped bool
	read    int // of the journal
	fits    []*fit

	// places are the nodes that could take the request if they were empty and in order: by cell, then by
	// name. The sets of the shape hold numbers of places.
	places  []*node
	place   []int32 // by slot; -1 for a node that is none; nil when places are slots
	slot    []int32 // by place; nil when places are slots
	keys    []key   // by place
	able    *bitset // places in order: open, and with enough usable devices
	buckets [numKeys]*bucket
	present [numKeys / 64]uint64 // buckets that are not empty
	cells   cells
	tallies map[*group]*tally
	images  map[string]*imaged
	withBit [32]uint64 // numbers of the images that have a bit
}

// bucket are the places where the request would leave a hole of one size.
type bucket struct {
	nodes  bitset
	n      int
	cells  *bitset  // that have any; nil when there is one
	hinted uint64   // numbers of the images that were looked for here
	hints  []bitset // by number of the image: its places, with a summary of those that are in the bucket
}

const (
	maxShapes  = 256
	maxTallies = 4096 // of a shape
)

// shape answers the request's shape, up to date.
func (x *Index) shape(r *Request, p *pool) *shape {
	key := shapeKey(r)
	s := x.shapes[string(key)]
	if s == nil {
		if len(x.shapes) >= maxShapes {
			x.drop(slices.MinFunc(slices.Collect(maps.Values(x.shapes)), func(a, b *shape) int { return cmp.Compare(a.used, b.used) }))
		}
		s = &shape{key: string(key), request: *r, rules: newRules(r)}
		x.shapes[s.key] = s
		s.build(x, p)
	}
	x.use(s, p)
	return s
}

// use brings the shape up to date and keeps it from being dropped soon.
func (x *Index) use(s *shape, p *pool) {
	x.clock++
	s.used = x.clock
	x.catchUp(s, p)
}

func (x *Index) drop(s *shape) {
	delete(x.shapes, s.key)
	s.dropped = true
	s.forgetTallies()
}

func (s *shape) forgetTallies() {
	for g := range s.tallies {
		if g != nil {
			g.tallies = slices.DeleteFunc(g.tallies, func(t *tally) bool { return t.shape == s })
		}
	}
	s.tallies = map[*group]*tally{}
}

// shapeKey is equal for requests that may use the same nodes and leave the same holes.
func shapeKey(r *Request) []byte {
	b := appendKey(make([]byte, 0, 128), r.Pool, r.Arch)
	a := r.Accelerator
	b = appendKey(b, a.GetVendor(), a.GetModel(), a.GetShare(), a.GetDomain())
	for _, v := range []int64{r.CPUMillis, r.MemoryBytes, r.DiskBytes, int64(r.HostPort), int64(a.GetCount()), a.GetMemoryMinBytes(),
		int64(min(r.members(), 2)), int64(len(r.ImageArches)), int64(len(r.MountSources))} {
		b = append(strconv.AppendInt(b, v, 36), ',')
	}
	b = appendKey(appendKey(b, r.ImageArches...), r.MountSources...)
	return appendRules(b, r.Rules)
}

// memberKey is shapeKey with the number of members, of which that knows only whether it is a gang's.
func memberKey(r *Request) []byte {
	return strconv.AppendInt(append(shapeKey(r), '#'), int64(r.members()), 10)
}

// build makes the shape from nothing.
func (s *shape) build(x *Index, p *pool) {
	s.forgetTallies()
	s.read = x.journal.end()
	s.buckets, s.present = [numKeys]*bucket{}, [numKeys / 64]uint64{}
	s.forgetImages()
	s.places = nil
	for _, n := range x.slots {
		if s.suits(n, p) {
			s.places = append(s.places, n)
		}
	}
	if o := x.alike(s); o != nil {
		s.places, s.place, s.slot, s.cells = o.places, o.place, o.slot, o.cells.emptied()
	} else {
		s.cells = newCells(s.places, &s.rules)
		s.number(x)
	}
	s.able = newBitset(len(s.places))
	s.keys = make([]key, len(s.places))
	for i := range s.places {
		s.keys[i] = noKey
		s.enable(i)
		s.move(x, i, s.measure(x, s.slotOf(i)))
	}
}

// alike is another shape with the same places in the same cells, nil when none is known. Shapes share what does
// not depend on what is free: the less memory they take, the more of it is in the processor's caches.
func (x *Index) alike(s *shape) *shape {
	for _, o := range x.shapes {
		if o != s && len(o.places) == len(s.places) && o.rules.racks == s.rules.racks &&
			string(appendRules(nil, o.request.Rules)) == string(appendRules(nil, s.request.Rules)) && !x.journal.made(o.read) &&
			!slices.ContainsFunc(s.places, func(n *node) bool { return o.at(n) < 0 }) {
			return o
		}
	}
	return nil
}

// number makes the way from slots to places, unless they are the same.
func (s *shape) number(x *Index) {
	s.place, s.slot = nil, nil
	if slices.Equal(s.places, x.slots) {
		return
	}
	s.place, s.slot = make([]int32, len(x.slots)), make([]int32, len(s.places))
	for i := range s.place {
		s.place[i] = -1
	}
	for i, n := range s.places {
		s.place[n.slot], s.slot[i] = int32(i), n.slot
	}
}

// suits says whether the node could take the request if it were empty and in order.
func (s *shape) suits(n *node, p *pool) bool {
	r := &s.request
	return p.has(n) && r.runsOn(n.arch) && s.rules.allow(n) && n.refused(r) == "" &&
		r.CPUMillis <= n.total.CPUMillis && r.MemoryBytes <= n.total.MemoryBytes && (r.DiskBytes == 0 || r.DiskBytes <= n.total.DiskBytes) &&
		s.fit(n.topology).hole(n.topology.all) != noKey
}

// fit is what the request finds in a topology.
func (s *shape) fit(t *topology) *fit {
	if t.id < len(s.fits) && s.fits[t.id] != nil {
		return s.fits[t.id]
	}
	for len(s.fits) <= t.id {
		s.fits = append(s.fits, nil)
	}
	s.fits[t.id] = newFit(t, &s.request)
	return s.fits[t.id]
}

// fitAt is what the request finds in the topology of the node of a slot.
func (s *shape) fitAt(x *Index, slot int) *fit {
	if kind := int(x.spares[slot].kind); kind < len(s.fits) && s.fits[kind] != nil {
		return s.fits[kind]
	}
	return s.fit(x.slots[slot].topology)
}

// catchUp reads what has changed since the shape was used last.
func (x *Index) catchUp(s *shape, p *pool) {
	if x.journal.end()-s.read > len(x.slots) {
		s.build(x, p)
		return
	}
	entries := x.journal.entries[s.read-x.journal.start:]
	if len(x.moves) < len(entries) {
		x.moves = make([]move, 2*len(entries))
	}
	n := 0
	for _, e := range entries {
		made := e < 0
		if made {
			e = ^e
		}
		at := s.placeOf(int(e))
		if made && !s.remake(x, p, at, x.slots[e]) {
			s.build(x, p)
			return
		}
		if at < 0 {
			continue
		}
		// No branch here depends on the key, so the processor waits for the memory of many nodes at a time.
		m, other := move{int32(at), s.measure(x, int(e))}, 0
		if s.keys[at] != m.to {
			other = 1
		}
		x.moves[n] = m
		n += other
	}
	for _, m := range x.moves[:n] {
		s.move(x, int(m.at), m.to)
	}
	s.read = x.journal.end()
}

// move is a place that belongs into another bucket now, or into none.
type move struct {
	at int32
	to key
}

// remake looks at what a node is now; false when the shape must be built anew.
func (s *shape) remake(x *Index, p *pool, at int, n *node) bool {
	if s.suits(n, p) != (at >= 0) {
		return false
	}
	if at < 0 {
		return true
	}
	s.enable(at)
	s.reimage(x, at, n)
	return s.cells.same(at, n, &s.rules)
}

// at is the place of a node, or -1.
func (s *shape) at(n *node) int { return s.placeOf(int(n.slot)) }

// placeOf is the place of a slot, or -1.
func (s *shape) placeOf(slot int) int {
	if s.place == nil {
		return slot
	}
	return int(s.place[slot])
}

// slotOf is the slot of a place.
func (s *shape) slotOf(at int) int {
	if s.slot == nil {
		return at
	}
	return int(s.slot[at])
}

// enable notes whether the node at a place could take the request if nothing ran on it.
func (s *shape) enable(at int) {
	n := s.places[at]
	if able := n.open && s.fit(n.topology).hole(n.usable) != noKey; able != s.able.has(at) {
		s.able.put(at, able)
		s.cells.play(at, able)
	}
}

// move puts a place into the bucket where it belongs now.
func (s *shape) move(x *Index, at int, now key) {
	was := s.keys[at]
	if was == now {
		return
	}
	s.keys[at] = now
	cell := s.cells.of(at)
	if was != noKey {
		s.cells.room[cell]--
		s.buckets[was].remove(at, cell, &s.cells)
		if s.buckets[was].n == 0 {
			s.present[was>>6] &^= 1 << (was & 63)
		}
	}
	if now != noKey {
		s.cells.room[cell]++
		if s.buckets[now] == nil {
			s.buckets[now] = newBucket(len(s.places), len(s.cells.list))
		}
		b := s.buckets[now]
		if b.add(at, cell); b.hinted != 0 {
			s.hint(b, at, x.imageBits[s.slotOf(at)])
		}
		s.present[now>>6] |= 1 << (now & 63)
	}
}

// measure ranks the hole that the request would leave now on the node of a slot.
func (s *shape) measure(x *Index, slot int) key {
	r, n := &s.request, &x.spares[slot]
	if !n.open || r.CPUMillis > n.cpu || r.MemoryBytes > n.memory || r.DiskBytes > n.disk || r.HostPort != 0 && slices.Contains(x.slots[slot].ports, r.HostPort) {
		return noKey
	}
	return s.fitAt(x, slot).hole(n.free)
}

// next is the smallest key from k on whose bucket is not empty; noKey when there is none.
func (s *shape) next(k key) key {
	for w := int(k) >> 6; w < len(s.present); w++ {
		v := s.present[w]
		if w == int(k)>>6 {
			v = v >> (k & 63) << (k & 63)
		}
		if v != 0 {
			return key(w<<6 | bits.TrailingZeros64(v))
		}
	}
	return noKey
}

func newBucket(places, cells int) *bucket {
	b := &bucket{nodes: bitsetOf(places)}
	if cells > 1 {
		b.cells = newBitset(cells)
	}
	return b
}

func (b *bucket) add(at, cell int) {
	b.nodes.add(at)
	b.n++
	if b.cells != nil {
		b.cells.add(cell)
	}
}

func (b *bucket) remove(at, cell int, of *cells) {
	b.nodes.remove(at)
	b.n--
	if b.cells == nil {
		return
	}
	m, c := common(&b.nodes, nil, nil, nil), &of.list[cell]
	if m.next(int(c.lo), int(c.hi)) < 0 {
		b.cells.remove(cell)
	}
}
