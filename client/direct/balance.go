package direct

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// An endpoint that fails is left alone for firstEjection, twice as long each time that it fails again before it has
// answered a call, and at most lastEjection.
const (
	firstEjection = time.Second
	lastEjection  = time.Minute
)

// Outcome is what a call says of the endpoint that it went to.
type Outcome int

// Outcomes.
const (
	Abandoned Outcome = iota // the caller gave up: nothing is known
	Succeeded                // it answered
	Failed                   // it can't be reached, broke off, or says that it can't serve
)

// Balancer chooses the endpoint of each call: a version by its weight, and of two of its endpoints the one with fewer calls in
// flight. It is safe for concurrent use.
type Balancer struct {
	now  func() time.Time
	rand func(n int) int // in [0, n)

	mu       sync.Mutex
	targets  map[Endpoint]*target // by endpoint, the weight left out
	versions []*version           // those with a weight
	returns  time.Time            // when the next ejection ends; zero when there is none
}

// version is the endpoints that share a weight.
type version struct {
	model, name string
	weight      int
	all, live   []*target // live are those that aren't ejected
}

type target struct {
	endpoint Endpoint
	inFlight int
	ejected  time.Time // when it last was
	until    time.Time // when that ends; zero when it isn't
	times    int       // in a row
}

// NewBalancer makes a balancer without endpoints. Nil for the clock or the source of random numbers takes the usual one.
func NewBalancer(now func() time.Time, source func(n int) int) *Balancer {
	if now == nil {
		now = time.Now
	}
	if source == nil {
		source = rand.IntN
	}
	return &Balancer{now: now, rand: source}
}

// Update says which endpoints there are. What is known of those that stay is kept; those that have left are not chosen
// any more.
func (b *Balancer) Update(list []Endpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.targets
	b.targets, b.versions = make(map[Endpoint]*target, len(list)), nil
	for _, e := range list {
		k := key(e)
		if e.Weight <= 0 || b.targets[k] != nil {
			continue
		}
		t := old[k]
		if t == nil {
			t = &target{endpoint: e}
		}
		b.targets[k], t.endpoint = t, e
		v := b.versionLocked(e)
		v.all = append(v.all, t)
	}
	b.sortOutLocked(b.now())
}

func key(e Endpoint) Endpoint {
	e.Weight = 0
	return e
}

func (b *Balancer) versionLocked(e Endpoint) *version {
	for _, v := range b.versions {
		if v.model == e.Model && v.name == e.ModelVersion {
			return v
		}
	}
	v := &version{model: e.Model, name: e.ModelVersion, weight: e.Weight}
	b.versions = append(b.versions, v)
	return v
}

// sortOutLocked ends the ejections whose time has come, and all when nothing else would be left.
func (b *Balancer) sortOutLocked(now time.Time) {
	b.returns = time.Time{}
	any := false
	for _, v := range b.versions {
		v.live = v.live[:0]
		for _, t := range v.all {
			if !t.until.After(now) {
				t.until = time.Time{}
				v.live = append(v.live, t)
				any = true
			} else if b.returns.IsZero() || t.until.Before(b.returns) {
				b.returns = t.until
			}
		}
	}
	if !any {
		b.returns = time.Time{}
		for _, v := range b.versions {
			for _, t := range v.all {
				t.until, t.times = time.Time{}, 0
			}
			v.live = append(v.live, v.all...)
		}
	}
}

// Pick is a chosen endpoint.
type Pick struct {
	Endpoint Endpoint

	b     *Balancer
	t     *target
	began time.Time
}

// Pick chooses an endpoint that has not been tried, or answers false when there is none. The caller calls Done once, when the
// call has ended.
func (b *Balancer) Pick(tried ...Endpoint) (Pick, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if !b.returns.IsZero() && !b.returns.After(now) {
		b.sortOutLocked(now)
	}
	t := b.chooseLocked(tried, func(v *version) []*target { return v.live })
	if t == nil && len(tried) > 0 {
		t = b.chooseLocked(tried, func(v *version) []*target { return v.all })
	}
	if t == nil {
		return Pick{}, false
	}
	t.inFlight++
	return Pick{Endpoint: t.endpoint, b: b, t: t, began: now}, true
}

func (b *Balancer) chooseLocked(tried []Endpoint, of func(*version) []*target) *target {
	total := 0
	var room [4][]*target // enough for most services
	candidates := room[:0]
	for _, v := range b.versions {
		c := of(v)
		if len(tried) > 0 {
			c = slices.DeleteFunc(slices.Clone(c), func(t *target) bool { return slices.ContainsFunc(tried, t.is) })
		}
		candidates = append(candidates, c)
		if len(c) > 0 {
			total += v.weight
		}
	}
	if total == 0 {
		return nil
	}
	at := b.rand(total)
	for i, c := range candidates {
		if len(c) == 0 {
			continue
		}
		if at -= b.versions[i].weight; at < 0 {
			return b.lessLoadedLocked(c)
		}
	}
	return nil // not reached: at is less than the sum
}

func (t *target) is(e Endpoint) bool { return key(t.endpoint) == key(e) }

func (b *Balancer) lessLoadedLocked(c []*target) *target {
	if len(c) == 1 {
		return c[0]
	}
	i, j := b.rand(len(c)), b.rand(len(c)-1)
	if j >= i {
		j++
	}
	if c[j].inFlight < c[i].inFlight {
		return c[j]
	}
	return c[i]
}

// Done says how the call went.
func (p Pick) Done(o Outcome) {
	b, t := p.b, p.t
	b.mu.Lock()
	defer b.mu.Unlock()
	t.inFlight--
	if o == Abandoned || p.began.Before(t.ejected) { // of a call from before its ejection nothing new is learnt
		return
	}
	if o == Succeeded {
		t.times = 0
		if !t.until.IsZero() {
			t.until = time.Time{}
			b.sortOutLocked(b.now())
		}
		return
	}
	t.ejected = b.now()
	t.until = t.ejected.Add(min(lastEjection, firstEjection<<min(t.times, 10)))
	t.times++
	b.sortOutLocked(t.ejected)
}
