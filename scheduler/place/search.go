package place

// search finds the best node for one member of a request, as the package's doc says.
type search struct {
	index   *Index
	request *Request
	class   *class

	cells   *bitset // only these; nil for all
	chosen  []taking
	avoided bool // nodes to avoid may be used
	tally   *tally
	taken   *bitset // places that may not be used
	image   *imaged // to prefer; nil for none
	choosy  bool    // may has to be asked
	best    candidate
}

// candidate is a node with what decides between nodes that leave the same hole.
type candidate struct {
	spare *spare // nil for no node
	slot  int32
	count int32 // instances of the group
	image bool
}

const (
	maxCandidates = 4 // that are compared, each of those with the image and of any
	maxTries      = 16
)

// find answers the slot of the best node, or -1 when none fits. A node to avoid is used only when any may be,
// and no other fits.
func (s *search) find(any bool) int {
	s.prepare()
	if n := s.preferred(); n >= 0 {
		return n
	}
	if n := s.scan(); n >= 0 || !any || len(s.request.Avoid) == 0 {
		return n
	}
	s.avoided = true
	return s.scan()
}

func (s *search) prepare() {
	shape := s.class.shape
	if shape.cells.cellOf != nil || shape.rules.apart {
		s.tally = shape.tally(s.index, s.class.group)
		s.taken = s.tally.taken
	}
	s.image = shape.image(s.index, s.request.Image)
	s.choosy = len(s.request.Avoid)+len(s.chosen)+len(s.index.kept) > 0
	s.best = candidate{}
}

// may says whether the node at a slot is not kept from the request.
func (s *search) may(slot int) bool {
	n := s.index.slots[slot]
	if !s.avoided && len(s.request.Avoid) > 0 && s.request.Avoid[n.name] {
		return false
	}
	for i := range s.chosen {
		if int(s.chosen[i].slot) == slot {
			return false
		}
	}
	for i := range s.index.kept {
		if k := &s.index.kept[i]; k.node == n && k.from(s.class.group, s.request.Priority) {
			s.index.keptOut = s.index.keptOut || k.group != s.class.group
			return false
		}
	}
	return true
}

// preferred answers the slot of the node that the request prefers, if it fits.
func (s *search) preferred() int {
	if s.request.Prefer == "" {
		return -1
	}
	n := s.index.nodes[s.request.Prefer]
	if n == nil {
		return -1
	}
	shape := s.class.shape
	at := shape.at(n)
	if at < 0 || shape.keys[at] == noKey || s.taken != nil && s.taken.has(at) {
		return -1
	}
	if c := shape.cells.of(at); s.cells != nil && !s.cells.has(c) || s.tally != nil && s.tally.exceeds(s.tally.key(c)) {
		return -1
	}
	s.avoided = true
	defer func() { s.avoided = false }()
	if !s.may(int(n.slot)) {
		return -1
	}
	return int(n.slot)
}

// scan goes through the cells from the best rank on, and in those through the holes from the smallest on.
func (s *search) scan() int {
	shape := s.class.shape
	if shape.cells.cellOf == nil {
		for k := shape.next(0); k != noKey; k = shape.next(k + 1) {
			if s.hole(shape.buckets[k], nil) {
				return int(s.best.slot)
			}
		}
		return -1
	}
	for i := range s.tally.ladder.rungs {
		rung := &s.tally.ladder.rungs[i]
		if s.tally.exceeds(rung.key) {
			continue
		}
		for k := shape.next(0); k != noKey; k = shape.next(k + 1) {
			if s.hole(shape.buckets[k], &rung.cells) {
				return int(s.best.slot)
			}
		}
	}
	return -1
}

// hole looks for the best of a bucket's places in the cells, nil for all; false when there is none.
func (s *search) hole(b *bucket, cells *bitset) bool {
	shape := s.class.shape
	if cells == nil {
		if s.image == nil || !s.withImage(b, nil) {
			s.among(b, 0, len(shape.places))
		}
		return s.best.spare != nil
	}
	m, n := common(cells, b.cells, s.cells, nil), len(shape.cells.list)
	if m.next(0, n) < 0 {
		return false
	}
	if s.image != nil && s.withImage(b, cells) {
		return true
	}
	m.around(0, n, s.start(n), func(c int) bool {
		cell := &shape.cells.list[c]
		s.among(b, int(cell.lo), int(cell.hi))
		return s.best.spare == nil
	})
	return s.best.spare != nil
}

// withImage compares places that have the image; true when one is the best of all.
func (s *search) withImage(b *bucket, cells *bitset) bool {
	shape, n := s.class.shape, len(s.class.shape.places)
	m := b.having(s.image, s.taken)
	tries, found := maxTries, 0
	m.around(0, n, s.start(n), func(at int) bool {
		c := shape.cells.of(at)
		if (cells == nil || cells.has(c)) && (s.cells == nil || s.cells.has(c)) && s.compare(at) {
			found++
		}
		tries--
		return tries > 0 && found < maxCandidates
	})
	return found > 0 && s.best.count == 0 && !s.best.spare.wary
}

// among compares a bucket's places of [lo, hi).
func (s *search) among(b *bucket, lo, hi int) {
	m := common(&b.nodes, nil, nil, s.taken)
	found := 0
	m.around(lo, hi, lo+s.start(hi-lo), func(at int) bool {
		if s.compare(at) {
			found++
		}
		return found < maxCandidates
	})
}

// start is where the search in n places begins: elsewhere for each group and each of its instances, so that
// services spread without looking at all nodes.
func (s *search) start(n int) int {
	return (s.class.group.offset + s.class.group.total) % max(n, 1)
}

// compare keeps a place when it is the best so far; false when it may not be used.
func (s *search) compare(at int) bool {
	slot := s.class.shape.slotOf(at)
	if s.choosy && !s.may(slot) {
		return false
	}
	c := candidate{spare: &s.index.spares[slot], slot: int32(slot), count: s.index.having(slot, s.class.group), image: s.image != nil && s.image.places.has(at)}
	if s.best.spare == nil || c.better(&s.best) {
		s.best = c
	}
	return true
}

func (c *candidate) better(o *candidate) bool {
	switch {
	case c.count != o.count:
		return c.count < o.count
	case c.image != o.image:
		return c.image
	case c.spare.wary != o.spare.wary:
		return o.spare.wary
	case c.spare.cpu != o.spare.cpu:
		return c.spare.cpu < o.spare.cpu
	}
	return c.slot < o.slot
}
