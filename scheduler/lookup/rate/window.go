package rate

import "time"

const (
	slotTime = 3 * time.Second
	slots    = int(time.Minute/slotTime) + 1 // a minute, and the slot that is under way
)

// window counts what happened within the last minute, and for up to a slot longer. Its methods are told the present slot,
// which never goes back.
type window struct {
	newest int64
	counts [slots]uint32 // that of a slot at its number modulo slots
}

func (w *window) at(slot int64) *uint32 { return &w.counts[slot%int64(slots)] }

// advance forgets what is over.
func (w *window) advance(slot int64) {
	if slot-w.newest >= int64(slots) {
		w.newest, w.counts = slot, [slots]uint32{}
	}
	for w.newest < slot {
		w.newest++
		*w.at(w.newest) = 0
	}
}

func (w *window) add(slot int64, n uint32) {
	w.advance(slot)
	*w.at(slot) += n
}

// takeBack takes from the newest first.
func (w *window) takeBack(slot int64, n uint32) {
	w.advance(slot)
	for age := range int64(slots) {
		c := w.at(slot + int64(slots) - age)
		back := min(n, *c)
		*c, n = *c-back, n-back
	}
}

func (w *window) sum(slot int64) (n uint32) {
	w.advance(slot)
	for _, c := range w.counts {
		n += c
	}
	return n
}

// ages are the counts, that of the present slot first, without zeros at the end.
func (w *window) ages(slot int64) []uint32 {
	w.advance(slot)
	var all []uint32
	for age := range int64(slots) {
		all = append(all, *w.at(slot + int64(slots) - age))
	}
	for len(all) > 0 && all[len(all)-1] == 0 {
		all = all[:len(all)-1]
	}
	return all
}

// set replaces the counts by those of another scheduler; raise takes the larger ones.
func (w *window) set(slot int64, ages []uint32) {
	w.newest, w.counts = slot, [slots]uint32{}
	w.raise(slot, ages)
}

func (w *window) raise(slot int64, ages []uint32) {
	w.advance(slot)
	for age, n := range ages[:min(len(ages), slots)] {
		c := w.at(slot + int64(slots-age))
		*c = max(*c, n)
	}
}

// frees is how long it takes until fewer than limit are left, counted from the beginning of the present slot.
func (w *window) frees(slot int64, limit uint32) time.Duration {
	left := w.sum(slot)
	for age := int64(slots) - 1; age >= 0; age-- {
		if left -= *w.at(slot + int64(slots) - age); left < limit {
			return time.Duration(int64(slots)-age) * slotTime
		}
	}
	return time.Duration(slots) * slotTime
}
