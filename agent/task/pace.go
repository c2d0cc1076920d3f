package task

import (
	"slices"
	"time"
)

const (
	// backOff is what is left of the limit after an overload.
	backOff = 0.7
	// worth is how much more must be done at a limit that grew by half or more to have been worth its latency.
	worth = 1.2
	// starts is how much more must be done in a round at twice the limit for it to be doubled again.
	starts = 1.2
	// bursts of answers are in a round, after the start: a model may work on many at once.
	bursts = 3
	// shortest is the latency below which a growth of it doesn't matter.
	shortest = 2 * time.Millisecond
)

// pace decides how many requests may be in flight: from 1 to most. At first the limit doubles with each round of so
// many answers, while that gets more done; then it grows by an eighth in each longer round in which all of it was used. It
// shrinks when the model says that it has too much to do, or when for two rounds answers take twice as long as the best and
// no more of them come: one such round is what other work on the node makes. It isn't safe for concurrent use.
type pace struct {
	most     int
	limit    int
	starting bool

	// The present round.
	began      time.Time
	took       []time.Duration
	overloaded bool
	full       bool // the limit was reached
	settling   int  // answers to come of what began before the limit was lowered

	rate float64       // of the last round
	best time.Duration // lowest median of a round
	last time.Duration // median of the round for which the limit was lowered; 0 when it wasn't, or not for that
	slow bool          // so was the round before, but the limit wasn't lowered yet
	// What was done at lower limits: each is at least half above the one before.
	marks [2]mark
}

// mark is how many answers a second came at a limit.
type mark struct {
	limit int
	rate  float64
}

func newPace(most int) *pace { return &pace{most: max(most, 1), limit: 1, starting: true} }

// used says that so many requests are in flight.
func (p *pace) used(inFlight int) { p.full = p.full || inFlight >= p.limit }

// answered takes in how long a request took, and whether its answer said that there is too much to do.
func (p *pace) answered(now time.Time, took time.Duration, overloaded bool) {
	if p.settling > 0 {
		p.settling--
		p.began, p.full = now, false
		return
	}
	if p.began.IsZero() {
		p.began = now.Add(-took)
	}
	p.took = append(p.took, took)
	p.overloaded = p.overloaded || overloaded
	if size := p.limit; len(p.took) < size || !p.starting && !p.overloaded && len(p.took) < bursts*size {
		return
	}
	slices.Sort(p.took)
	median := p.took[len(p.took)/2]
	rate := float64(len(p.took)) / max(now.Sub(p.began), time.Microsecond).Seconds()
	full, tooMuch := p.full, p.overloaded
	p.began, p.took, p.overloaded, p.full = now, p.took[:0], false, false
	if tooMuch {
		p.lower(0)
	} else {
		p.judge(median, rate, full)
	}
	p.rate = rate
}

// judge ends a round without an overload.
func (p *pace) judge(median time.Duration, rate float64, full bool) {
	if p.last > 0 && median > p.last*9/10 { // fewer at a time take as long: it's the items that take longer now
		p.best = median
	}
	p.last = 0
	if p.best == 0 || median < p.best {
		p.best = median
	}
	if p.marks[1].limit == 0 || p.limit > p.marks[1].limit*3/2 {
		p.marks[0], p.marks[1] = p.marks[1], mark{p.limit, rate}
	}
	worse := median > 2*max(p.best, shortest)
	again := p.slow
	p.slow = worse && rate < p.marks[0].rate*worth
	switch {
	case p.slow && again:
		p.lower(median)
	case p.slow:
	case worse && p.marks[0].limit > 0: // that was worth it
		p.best = median / 2
	case !full || p.limit >= p.most:
	case p.starting && rate >= p.rate*starts:
		p.limit = min(2*p.limit, p.most)
	default:
		p.starting = false
		p.limit = min(p.limit+max(1, p.limit/8), p.most)
	}
}

// lower gives up part of the limit. median is what is to become better, 0 when that isn't latency.
func (p *pace) lower(median time.Duration) {
	p.last, p.settling, p.starting, p.slow, p.marks[1].limit = median, p.limit-1, false, false, 0
	p.limit = max(1, min(p.limit-1, int(float64(p.limit)*backOff)))
}
