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
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		if d := w.longest(); d > w.limit {
			w.fail(fmt.Errorf("a write to the Raft log hangs since %s: the disk doesn't answer", d.Round(time.Millisecond)))
			return
		}
	}
}

func (w *stallWatch) longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var longest time.Duration
	for _, t := range w.since {
		longest = max(longest, time.Since(t))
	}
	return longest
}

func (w *stallWatch) close() {
	close(w.stop)
	<-w.done
}
