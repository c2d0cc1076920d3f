package lookup

import (
	"context"
	"net/http"
	"strconv"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Headers of every answer.
const (
	headerStaleness = "Drover-Staleness" // seconds, or "unknown"
	headerStale     = "Drover-Stale"     // "true" above staleAfter
)

const (
	// staleAfter is the age from which an answer is marked.
	staleAfter = fleetv1.StaleAfterMillis * time.Millisecond
	// staleEvery is how often watches are told of an age that has crossed it.
	staleEvery = 250 * time.Millisecond
)

// freshness says whether answers are marked, until next is closed.
type freshness struct {
	stale bool
	next  chan struct{}
}

// followStaleness keeps freshness up to date until ctx ends.
func (t *Table) followStaleness(ctx context.Context) {
	tick := time.NewTicker(staleEvery)
	defer tick.Stop()
	for {
		last := t.freshness.Load()
		if stale := t.staleness().GetStale(); stale != last.stale {
			t.freshness.Store(&freshness{stale, make(chan struct{})})
			close(last.next)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (t *Table) staleness() *fleetv1.Staleness {
	age, known := t.cfg.Staleness()
	return &fleetv1.Staleness{Millis: age.Milliseconds(), Unknown: !known, Stale: !known || age > staleAfter}
}

// stamp says in the headers how old the answer may be, and refuses one that is too old for the caller.
func (t *Table) stamp(h http.Header, bound time.Duration) *refusal {
	age, known := t.cfg.Staleness()
	switch {
	case known && age == 0:
		h[headerStaleness] = t.fresh
		return nil
	case known:
		h[headerStaleness] = []string{strconv.FormatFloat(age.Seconds(), 'f', 3, 64)}
	default:
		h[headerStaleness] = []string{"unknown"}
	}
	if !known || age > staleAfter {
		h[headerStale] = []string{"true"}
	}
	return tooOld(age, known, bound)
}

// tooOld is nil when an answer of this age will do.
func tooOld(age time.Duration, known bool, bound time.Duration) *refusal {
	switch {
	case bound == 0 || known && age <= bound:
		return nil
	case !known:
		return refuse(http.StatusServiceUnavailable, "this scheduler has heard no leader since it started, and can't say how old its answer is; ask another one")
	}
	return refuse(http.StatusServiceUnavailable, "this scheduler has heard no leader for %.1f s, and at most %v was asked for; ask another one", age.Seconds(), bound)
}
