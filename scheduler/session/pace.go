package session

import (
	"context"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	// beatPerNode is how much of the interval between heartbeats each node takes: all together send 2,500 a second.
	beatPerNode = 400 * time.Microsecond
	// leaseBeats is how many intervals a lease has at least.
	leaseBeats = 3
	// paceEvery is how often the pace is thought over.
	paceEvery = 5 * time.Second
)

// pace is how often agents send and how long a lease is. It is never changed.
type pace struct {
	number           uint64 // in its leadership, from 1
	heartbeat, lease time.Duration
}

// paceOf is the pace for so many nodes; least is the one of few.
func paceOf(nodes int, least pace) pace {
	beat := max(least.heartbeat, time.Duration(nodes)*beatPerNode)
	return pace{number: 1, heartbeat: beat, lease: max(least.lease, leaseBeats*beat)}
}

// next is the pace when there are so many nodes now: another one only when the interval would be a fifth longer or
// shorter, since every agent has to be told.
func (p *pace) next(nodes int, least pace) *pace {
	want := paceOf(nodes, least)
	if 5*want.heartbeat <= 6*p.heartbeat && 5*want.heartbeat >= 4*p.heartbeat {
		return p
	}
	want.number = p.number + 1
	return &want
}

// inherited is the longest lease that an earlier leader of as many nodes may have told agents.
func (p *pace) inherited() time.Duration {
	return max(p.lease, leaseBeats*p.heartbeat*5/4)
}

func (p *pace) message() *fleetv1.SessionResponse {
	return &fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Pace{Pace: &fleetv1.Pace{
		Number: p.number, HeartbeatMillis: p.heartbeat.Milliseconds(), LeaseMillis: p.lease.Milliseconds()}}}
}

// keepPace has the pace follow the number of nodes until ctx ends.
func (h *Hub) keepPace(ctx context.Context) {
	ticker := time.NewTicker(paceEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		last := h.pace.Load()
		next := last.next(h.leases.count(), h.least)
		if next == last {
			continue
		}
		h.cfg.Logger.Info("agents are given another pace", "heartbeat_interval", next.heartbeat, "lease", next.lease)
		h.pace.Store(next)
		h.mu.Lock()
		for _, s := range h.sessions {
			s.paceChanged()
		}
		h.mu.Unlock()
	}
}
