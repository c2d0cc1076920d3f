package events

import (
	"errors"
	"log/slog"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Options bound what is kept. Zero fields get the defaults of DefaultOptions.
type Options struct {
	Logger *slog.Logger
	// Events of services and their instances are kept for ServiceAge, all others for MaxAge.
	ServiceAge, MaxAge time.Duration
	// MaxCount events are kept on disk; the oldest go first.
	MaxCount int
	// WriteDelay gathers events into one write, so that the log beside has the disk for itself.
	WriteDelay time.Duration
	// PruneInterval is how often old events are looked for.
	PruneInterval time.Duration
	Now           func() time.Time
}

// DefaultOptions is what runs in production.
func DefaultOptions() Options {
	return Options{
		Logger:        slog.Default(),
		ServiceAge:    30 * 24 * time.Hour,
		MaxAge:        90 * 24 * time.Hour,
		MaxCount:      200_000,
		WriteDelay:    100 * time.Millisecond,
		PruneInterval: time.Hour,
		Now:           time.Now,
	}
}

func (o Options) withDefaults() Options {
	d := DefaultOptions()
	if o.Logger == nil {
		o.Logger = d.Logger
	}
	if o.Now == nil {
		o.Now = d.Now
	}
	if o.MaxCount == 0 {
		o.MaxCount = d.MaxCount
	}
	for _, f := range []struct{ have, want *time.Duration }{
		{&o.ServiceAge, &d.ServiceAge}, {&o.MaxAge, &d.MaxAge},
		{&o.WriteDelay, &d.WriteDelay}, {&o.PruneInterval, &d.PruneInterval},
	} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	return o
}

// Query selects events. The zero Query selects all.
type Query struct {
	// Kind of an object that the event names, with the object's name or ID; Kind without Name is every
	// object of the kind.
	Kind, Name string
	// Project of an object that the event names. Events of nodes and other objects of no project are
	// left out when it is set.
	Project string
	// Since leaves out events with an earlier time.
	Since time.Time
	// Limit is how many of the newest are answered; 0 means 1,000, which is also the most.
	Limit int
	// Problems leaves out events of type Normal.
	Problems bool
}

const maxLimit = 1000

func (q Query) limit() int {
	if q.Limit <= 0 || q.Limit > maxLimit {
		return maxLimit
	}
	return q.Limit
}

func (q Query) matches(e *fleetv1.Event) bool {
	if q.Problems && e.GetType() == fleetv1.EventNormal {
		return false
	}
	if !q.Since.IsZero() && e.GetTime().AsTime().Before(q.Since) {
		return false
	}
	if q.Kind == "" && q.Name == "" && q.Project == "" {
		return true
	}
	for _, o := range e.GetObjects() {
		if (q.Kind == "" || o.GetKind() == q.Kind) &&
			(q.Name == "" || o.GetName() == q.Name || o.GetId() == q.Name) &&
			(q.Project == "" || o.GetProject() == q.Project) {
			return true
		}
	}
	return false
}

// Errors of Watch.
var (
	ErrClosed = errors.New("event store is closed")
	ErrSlow   = errors.New("the watcher is too slow: events were dropped; watch again")
)
