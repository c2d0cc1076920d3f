package member

import (
	"slices"
	"sync"
	"time"
)

// jump is by how much the wall clock may part from the monotonic one between two looks without having jumped.
const jump = time.Second

// Clock is the wall clock without its jumps. Its methods may be called from any goroutine.
type Clock struct {
	wall func() time.Time

	mu     sync.Mutex
	at     time.Time // of the last look, on the monotonic clock
	shown  time.Time // then
	jumped bool      // the wall clock is elsewhere
}

// NewClock makes a clock that shows what wall does until that jumps.
func NewClock(wall func() time.Time) *Clock {
	return &Clock{wall: wall, at: time.Now(), shown: wall().Round(0)}
}

// Wall is what the wall clock shows.
func (c *Clock) Wall() time.Time { return c.wall() }

// Now is the time. It follows the wall clock as long as that keeps pace.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, wall := time.Now(), c.wall().Round(0)
	expected := c.shown.Add(at.Sub(c.at))
	c.jumped = wall.Sub(expected).Abs() > jump
	c.at, c.shown = at, wall
	if c.jumped {
		c.shown = expected
	}
	return c.shown
}

// Jumped says that the wall clock shows another time than Now, and by how much it is ahead.
func (c *Clock) Jumped() (by time.Duration, jumped bool) {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall().Sub(now), c.jumped
}

// Accept makes Now show what the wall clock does.
func (c *Clock) Accept() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.shown, c.jumped = time.Now(), c.wall().Round(0), false
}

// verdict is what a comparison of clocks comes to.
type verdict int

const (
	clockUnknown   verdict = iota // no majority keeps one time
	clockInLine                   // a majority keeps ours
	clockOutOfLine                // a majority keeps another one
)

// judge compares this scheduler's clock with those of the other voters, of which offsets says how far each that
// answered is ahead of it. voters counts all. by is how far this clock is ahead of the majority's.
func judge(offsets []time.Duration, voters int, limit time.Duration) (v verdict, by time.Duration) {
	majority := voters/2 + 1
	agree := 1
	for _, o := range offsets {
		if o.Abs() <= limit {
			agree++
		}
	}
	if agree >= majority {
		return clockInLine, 0
	}
	sorted := slices.Sorted(slices.Values(offsets))
	for i := 0; i+majority <= len(sorted); i++ {
		if group := sorted[i : i+majority]; group[majority-1]-group[0] <= limit {
			return clockOutOfLine, -group[majority/2]
		}
	}
	return clockUnknown, 0
}
