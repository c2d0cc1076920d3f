package member

import (
	"sync"
	"time"
)

// fresh knows as of when a follower's store holds all that the leader has acknowledged.
type fresh struct {
	mu      sync.Mutex
	asOf    time.Time // zero until a leader has been heard and caught up with
	index   uint64    // told at that time and not reached yet; 0 for none
	pending time.Time
}

// told takes in that the leader had acknowledged everything up to index, of which the store holds have.
func (f *fresh) told(now time.Time, index, have uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settleLocked(have)
	switch {
	case have >= index:
		f.asOf, f.index = now, 0
	case f.index == 0:
		f.index, f.pending = index, now
	}
}

func (f *fresh) settleLocked(have uint64) {
	if f.index != 0 && have >= f.index {
		f.asOf, f.index = f.pending, 0
	}
}

// since answers zero when it isn't known.
func (f *fresh) since(have uint64) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settleLocked(have)
	return f.asOf
}
