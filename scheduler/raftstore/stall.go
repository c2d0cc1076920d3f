package raftstore

import (
	"fmt"
	"sync"
	"time"
)

// stallWatch finds writes that hang: a disk that doesn't answer leaves Raft's heartbeats running, and
// so a leader that can never commit. It counts by the monotonic clock.
type stallWatch struct {
	limit time.Duration
	fail  func(error)
	stop  chan struct{}
	done  chan struct{}

	mu    sync.Mutex
	since map[*byte]time.Time // start of each write under way
}

func newStallWatch(limit time.Duration, fail func(error)) *stallWatch {
	w := &stallWatch{
		limit: limit, fail: fail, stop: make(chan struct{}), done: make(chan struct{}), since: map[*byte]time.Time{},
	}
	go w.run()
	return w
}

// begin notes the start of a write; the answer notes its end.
func (w *stallWatch) begin() func() {
	key := new(byte)
	w.mu.Lock()
	w.since[key] = time.Now()
	w.mu.Unlock()
	return func() {
		w.mu.Lock()
		delete(w.since, key)
		w.mu.Unlock()
	}
}

func (w *stallWatch) run() {
	defer close(w.done)
	tick := time.NewTicker(w.limit / 4)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		now := time.Now()
		d := w.longest(now, now.Sub(last))
		if last = now; d > w.limit {
			w.fail(fmt.Errorf("a write to the Raft log hangs since %s: the disk doesn't answer", d.Round(time.Millisecond)))
			return
		}
	}
}

// longest is how long the oldest write under way takes. When this was not asked for far longer than it should be, the
// process was stopped and not the disk: then all writes begin anew.
func (w *stallWatch) longest(now time.Time, since time.Duration) (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, begun := range w.since {
		if since > w.limit/2 {
			w.since[key] = now
			continue
		}
		longest = max(longest, now.Sub(begun))
	}
	return longest
}

func (w *stallWatch) close() {
	close(w.stop)
	<-w.done
}
