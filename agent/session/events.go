package session

import (
	"sync"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// nodeEvents keeps what is to be told about the node. Sequences are times, so that they grow over restarts.
type nodeEvents struct {
	mu      sync.Mutex
	waiting []*fleetv1.ReportedEvent
	some    chan struct{}
}

func (e *nodeEvents) add(kind, reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now().UnixNano()
	e.waiting = append(e.waiting, &fleetv1.ReportedEvent{Sequence: uint64(now), TimeUnixNano: now, Type: kind, Reason: reason, Message: message})
	if n := len(e.waiting); n > 100 {
		e.waiting = e.waiting[n-100:]
	}
	select {
	case e.some <- struct{}{}:
	default:
	}
}

// again makes a new session send what the last one did not get acknowledged.
func (e *nodeEvents) again() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) > 0 {
		select {
		case e.some <- struct{}{}:
		default:
		}
	}
}

// all answers what waits, and the sequence to drop up to when it is acknowledged.
func (e *nodeEvents) all() (events []*fleetv1.ReportedEvent, last uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.waiting); n > 0 {
		last = e.waiting[n-1].GetSequence()
	}
	return append(events, e.waiting...), last
}

func (e *nodeEvents) drop(last uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.waiting) > 0 && e.waiting[0].GetSequence() <= last {
		e.waiting = e.waiting[1:]
	}
}
