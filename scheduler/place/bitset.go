package place

import "math/bits"

// bitset is a set of small integers. A summary of its words that aren't empty lets a search skip the rest,
// 4096 members at a step.
type bitset struct {
	words, summary []uint64
}

func newBitset(n int) *bitset {
	b := bitsetOf(n)
	return &b
}

func bitsetOf(n int) bitset {
	words := (n + 63) / 64
	all := make([]uint64, words+(words+63)/64)
	return bitset{all[:words], all[words:]}
}

func (b *bitset) has(i int) bool { return b.words[i>>6]>>(i&63)&1 != 0 }

func (b *bitset) add(i int) {
	w := &b.words[i>>6]
	if *w == 0 {
		b.summary[i>>12] |= 1 << (i >> 6 & 63)
	}
	*w |= 1 << (i & 63)
}

func (b *bitset) remove(i int) {
	if b.words[i>>6] &^= 1 << (i & 63); b.words[i>>6] == 0 {
		b.summary[i>>12] &^= 1 << (i >> 6 & 63)
	}
}

func (b *bitset) put(i int, in bool) {
	if in {
		b.add(i)
	} else {
		b.remove(i)
	}
}

// meet is what several sets of one size have in common, without the members of not.
type meet struct {
	a, b, c *bitset
	not     *bitset // nil for none
	learn   bool    // b's summary is that of the meet, and is put right
}

// common is the meet of a and of those of the others that aren't nil.
func common(a, b, c, not *bitset) meet {
	if b == nil {
		b = a
	}
	if c == nil {
		c = a
	}
	return meet{a: a, b: b, c: c, not: not}
}

func (m *meet) word(w int) uint64 {
	v := m.a.words[w] & m.b.words[w] & m.c.words[w]
	if m.not != nil {
		v &^= m.not.words[w]
	}
	return v
}

// next is the lowest member that is from or above and below end, or -1.
func (m *meet) next(from, end int) int {
	if from >= end {
		return -1
	}
	w := from >> 6
	if v := m.word(w) >> (from & 63); v != 0 {
		return below(from+bits.TrailingZeros64(v), end)
	}
	w++
	for s, last := w>>6, (end-1)>>12; s <= last; s++ {
		v := m.a.summary[s] & m.b.summary[s] & m.c.summary[s]
		if s == w>>6 {
			v = v >> (w & 63) << (w & 63)
		}
		for ; v != 0; v &= v - 1 {
			i := s<<6 | bits.TrailingZeros64(v)
			if found := m.word(i); found != 0 {
				return below(i<<6|bits.TrailingZeros64(found), end)
			}
			if m.learn && m.a.words[i]&m.b.words[i] == 0 {
				m.b.summary[s] &^= v & -v
			}
		}
	}
	return -1
}

func below(i, end int) int {
	if i < end {
		return i
	}
	return -1
}

// around calls f with each member of [lo, hi), from start on and then from lo, until it answers false.
func (m *meet) around(lo, hi, start int, f func(int) bool) {
	for i := m.next(start, hi); i >= 0; i = m.next(i+1, hi) {
		if !f(i) {
			return
		}
	}
	for i := m.next(lo, start); i >= 0; i = m.next(i+1, start) {
		if !f(i) {
			return
		}
	}
}
