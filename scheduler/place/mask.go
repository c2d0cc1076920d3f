package place

import "math/bits"

// maxDevices is how many devices of a node can be given out: those of higher rank stay unused.
const maxDevices = 128

// mask is a set of a node's devices, by their place in its topology.
type mask [2]uint64

func (m mask) has(i int) bool      { return m[i>>6]>>(i&63)&1 != 0 }
func (m mask) and(o mask) mask     { return mask{m[0] & o[0], m[1] & o[1]} }
func (m mask) or(o mask) mask      { return mask{m[0] | o[0], m[1] | o[1]} }
func (m mask) without(o mask) mask { return mask{m[0] &^ o[0], m[1] &^ o[1]} }
func (m mask) count() int          { return bits.OnesCount64(m[0]) + bits.OnesCount64(m[1]) }
func (m mask) empty() bool         { return m[0]|m[1] == 0 }

// first is the lowest device, which must exist.
func (m mask) first() int {
	if m[0] != 0 {
		return bits.TrailingZeros64(m[0])
	}
	return 64 + bits.TrailingZeros64(m[1])
}

// last is the highest device, which must exist.
func (m mask) last() int {
	if m[1] != 0 {
		return 127 - bits.LeadingZeros64(m[1])
	}
	return 63 - bits.LeadingZeros64(m[0])
}

// lowest are the n lowest devices.
func (m mask) lowest(n int) mask {
	var out mask
	for ; n > 0 && out != m; n-- {
		out = out.or(one(m.without(out).first()))
	}
	return out
}

// one is the set of one device.
func one(i int) (m mask) {
	m[i>>6] = 1 << (i & 63)
	return m
}
