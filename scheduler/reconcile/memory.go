package reconcile

import (
	"time"
)

// memory is what the service loop remembers of a service: it only delays or explains.
type memory struct {
	wishes   map[string]*wish // version → what it lacks
	clocks   map[string]*clock
	failures map[string]*failures
	stopping map[string]time.Time // instance → when it was first seen to be stopping with the service
	// gaveUp is why an instance gave up; empty again when the status has taken it in.
	gaveUp string

	looked    time.Time // when its instances were last counted
	instances int       // how many there were
}

func (m *memory) clock(version string) *clock {
	c := m.clocks[version]
	if c == nil {
		c = &clock{}
		m.clocks[version] = c
	}
	return c
}

// failed notes that an instance of the version, made at the time made, gave up on the node.
func (m *memory) failed(version, node string, made, now time.Time) {
	f := m.failures[version]
	if f == nil {
		f = &failures{nodes: map[string]time.Time{}}
		m.failures[version] = f
	}
	f.note(node, made, now)
}

// failures are the instances of a version that gave up lately.
type failures struct {
	nodes  map[string]time.Time // node → last time
	rounds int                  // without the version having been ready meanwhile
	last   time.Time
}

const (
	avoidFor        = time.Hour
	firstHold       = 10 * time.Second
	longestHold     = 5 * time.Minute
	pullStall       = time.Minute
	defaultDeadline = 20 * time.Minute

	// What costs what there is of something is not done again at once when there is much of it.
	many         = 500
	pauseForEach = 10 * time.Microsecond
	longestPause = 500 * time.Millisecond

	maxChanges = 256 // that the index has not heard of: they keep old objects in memory
)

// pauseAfter is how long nothing is done again that costs what there is of n.
func pauseAfter(n int) time.Duration {
	if n < many {
		return 0
	}
	return min(longestPause, time.Duration(n)*pauseForEach)
}

// note counts a round when the instance was made after the last failure: those that fail side by side have
// one cause.
func (f *failures) note(node string, made, now time.Time) {
	if f.rounds == 0 || !made.Before(f.last) {
		f.rounds++
	}
	f.nodes[node], f.last = now, now
}

// until is when the next replacement may be placed: the first at once, later ones after 10 s doubling to
// 5 min.
func (f *failures) until() time.Time {
	if f == nil || f.rounds < 2 {
		return time.Time{}
	}
	hold := firstHold
	for range min(f.rounds-2, 8) {
		hold *= 2
	}
	return f.last.Add(min(hold, longestHold))
}

// avoid is the set of nodes on which the version failed lately.
func (f *failures) avoid(now time.Time) map[string]bool {
	if f == nil {
		return nil
	}
	nodes := map[string]bool{}
	for node, at := range f.nodes {
		if now.Sub(at) < avoidFor {
			nodes[node] = true
		}
	}
	return nodes
}

// clock measures how long a version has been on its way to being ready.
type clock struct {
	deployment time.Time // status.deploy_time that it measures
	generation uint64    // of the service
	spent      time.Duration
	since      time.Time // running since then; zero while it stands
	pulled     time.Time // when a pull last moved on
}

// follow makes the clock measure this deployment from 0 when it measured another.
func (c *clock) follow(deployment time.Time, generation uint64) {
	if !c.deployment.Equal(deployment) || c.generation != generation {
		*c = clock{deployment: deployment, generation: generation, pulled: c.pulled}
	}
}

// tick brings the clock up to date: it runs on from now, or stands. What passed while a pull was moving
// on doesn't count.
func (c *clock) tick(now time.Time, runs, pulling bool) {
	if !c.since.IsZero() && (!pulling || now.Sub(c.pulled) > pullStall) {
		c.spent += now.Sub(c.since)
	}
	c.since = time.Time{}
	if runs {
		c.since = now
	}
}

// progress notes that a pull has moved on.
func (c *clock) progress(now time.Time) {
	stalled := now.Sub(c.pulled) > pullStall
	if c.since.IsZero() {
		c.pulled = now
		return
	}
	if stalled {
		c.spent += now.Sub(c.since)
	}
	c.since, c.pulled = now, now
}
