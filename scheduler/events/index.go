package events

import (
	"hash/maphash"
	"sort"
	"sync"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// index finds the events of an object: each of its entries leads to the one before. It holds no pointers, so that
// the garbage collector has nothing to do with it. It may name events that have been deleted.
type index struct {
	seed maphash.Seed

	mu      sync.RWMutex
	entries []indexEntry      // in the order of their events
	base    uint64            // number of the first of entries
	newest  map[uint64]uint64 // number of the newest entry, by the hash of kind and name or ID
}

type indexEntry struct {
	eventKey
	back uint32 // by how much the number of the object's entry before is less; 0 when there is none
}

// trimLeast is how many entries may be out of date before they are given back.
const trimLeast = 1024

func newIndex() *index { return &index{seed: maphash.MakeSeed(), newest: map[uint64]uint64{}} }

// object is by what the index knows one: two objects may be the same to it.
func (x *index) object(kind, nameOrID string) uint64 {
	return maphash.Comparable(x.seed, [2]string{kind, nameOrID})
}

// add takes in an event that is newer than all before.
func (x *index) add(key eventKey, e *fleetv1.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, o := range e.GetObjects() {
		for _, name := range [...]string{o.GetId(), o.GetName()} {
			if name != "" {
				x.enter(x.object(o.GetKind(), name), key)
			}
		}
	}
}

func (x *index) enter(object uint64, key eventKey) {
	number := x.base + uint64(len(x.entries))
	n := indexEntry{eventKey: key}
	if last, ok := x.newest[object]; ok && last >= x.base {
		if x.entries[last-x.base].eventKey == key {
			return // the event names it twice
		}
		n.back = uint32(number - last)
	}
	x.entries, x.newest[object] = append(x.entries, n), number
}

// trim forgets the events before first, once they are many.
func (x *index) trim(first eventKey) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := sort.Search(len(x.entries), func(i int) bool { return !x.entries[i].before(first) })
	if old < trimLeast || old < len(x.entries)/2 {
		return
	}
	x.entries, x.base = append([]indexEntry(nil), x.entries[old:]...), x.base+uint64(old)
	for object, number := range x.newest {
		if number < x.base {
			delete(x.newest, object)
		}
	}
}

// of visits what may be the object's events, newest first, until visit says no.
func (x *index) of(kind, nameOrID string, visit func(eventKey) bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	number, ok := x.newest[x.object(kind, nameOrID)]
	for ok && number >= x.base {
		e := x.entries[number-x.base]
		if !visit(e.eventKey) || e.back == 0 {
			return
		}
		number -= uint64(e.back)
	}
}
