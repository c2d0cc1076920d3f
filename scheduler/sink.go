package scheduler

import (
	"errors"
	"sync"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/events"
)

// lateSink keeps events until their store is there. The log is opened first, because its lock guards the
// whole data directory, and applies what it holds at once.
type lateSink struct {
	mu      sync.Mutex
	store   *events.Store
	waiting []batch
}

type batch struct {
	index  uint64
	events []*fleetv1.Event
}

// Append implements raftstore.EventSink.
func (l *lateSink) Append(index uint64, evs []*fleetv1.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.store == nil {
		l.waiting = append(l.waiting, batch{index, evs})
		return
	}
	l.store.Append(index, evs)
}

// Flush implements raftstore.EventSink.
func (l *lateSink) Flush(index uint64) error {
	l.mu.Lock()
	store := l.store
	l.mu.Unlock()
	if store == nil {
		return errors.New("flush events: their store is not open yet")
	}
	return store.Flush(index)
}

func (l *lateSink) use(store *events.Store) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.store = store
	for _, b := range l.waiting {
		store.Append(b.index, b.events)
	}
	l.waiting = nil
}
