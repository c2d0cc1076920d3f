package session

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// leases knows which nodes have been heard of lately. Entries are in order of renewal; since every lease
// is equally long, the front one expires first. Those that a leadership begins with are in front although they last a
// little longer: a node that falls silent while others are still being greeted is found out after that.
type leases struct {
	hooks hooks
	wake  chan struct{} // capacity 1: the first lease may expire earlier than was thought

	mu      sync.RWMutex
	leading bool
	length  time.Duration         // of every lease: the longest of told
	told    map[time.Duration]int // how many nodes with a valid lease may go by each length
	order   *list.List            // of *lease, valid ones only
	nodes   map[string]*lease
}

// lease is one node's; its element is nil when it has expired.
type lease struct {
	node     string
	told     time.Duration // the longest that its agent may go by
	promised *pace         // which it was told last; nil when it was told by an earlier leader
	renewed  time.Time     // monotonic
	heard    time.Time     // zero until the node sent something
	element  *list.Element
}

func (l *leases) init() {
	l.wake = make(chan struct{}, 1)
	l.clearLocked()
}

func (l *leases) clearLocked() {
	l.order, l.nodes, l.told, l.length = list.New(), map[string]*lease{}, map[time.Duration]int{}, 0
}

// greetTime is what each of the agents that call a new leader at once takes of it: a handshake, a greeting, and often
// another scheduler that was asked before.
const greetTime = 2 * time.Millisecond

// start begins a leadership in which each of the nodes has a full lease, from when all can have been greeted. Their
// agents may go by one of the length told.
func (l *leases) start(nodes []string, told time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = true
	l.clearLocked()
	greeted := time.Now().Add(time.Duration(len(nodes)) * greetTime)
	for _, n := range nodes {
		e := &lease{node: n, renewed: greeted, told: told}
		e.element = l.order.PushBack(e)
		l.nodes[n] = e
	}
	l.countLocked(told, len(nodes))
}

// countLocked notes that n nodes more, or less, may go by a length.
func (l *leases) countLocked(length time.Duration, n int) {
	if l.told[length] += n; l.told[length] == 0 {
		delete(l.told, length)
	}
	last := l.length
	l.length = 0
	for told := range l.told {
		l.length = max(l.length, told)
	}
	if l.length < last {
		l.wakeRun()
	}
}

func (l *leases) wakeRun() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// setLocked notes the longest lease that the agent of a node may go by.
func (l *leases) setLocked(e *lease, told time.Duration) {
	if e.told == told {
		return
	}
	if e.element != nil {
		l.countLocked(told, 1)
		l.countLocked(e.told, -1)
	}
	e.told = told
}

// promise notes that the agent of a node with a lease is about to be told of a pace.
func (l *leases) promise(node string, p *pace) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.nodes[node]; e != nil {
		l.promiseLocked(e, p)
	}
}

func (l *leases) promiseLocked(e *lease, p *pace) {
	e.promised = p
	l.setLocked(e, max(e.told, p.lease))
}

// confirm notes that the agent of a node goes by the pace of this number.
func (l *leases) confirm(node string, number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.nodes[node]; e != nil && e.promised != nil && e.promised.number == number {
		l.setLocked(e, e.promised.lease)
	}
}

// count is how many nodes have a lease.
func (l *leases) count() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.order.Len()
}

// stop ends the leadership.
func (l *leases) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = false
	l.clearLocked()
}

// renew gives the node a full lease from now and tells the hooks when it had none. With a pace its agent is about to
// be told of that; it must be there for the first lease, which would else be none.
func (l *leases) renew(node string, p *pace) {
	l.mu.Lock()
	if !l.leading {
		l.mu.Unlock()
		return
	}
	now := time.Now()
	e := l.nodes[node]
	if e == nil {
		e = &lease{node: node}
		l.nodes[node] = e
	}
	if p != nil {
		l.promiseLocked(e, p)
	}
	e.renewed, e.heard = now, now
	returned := e.element == nil
	if returned {
		e.element = l.order.PushBack(e)
		l.countLocked(e.told, 1)
	} else {
		l.order.MoveToBack(e.element)
	}
	l.mu.Unlock()
	if returned {
		l.wakeRun()
		l.hooks.call(node)
	}
}

func (l *leases) valid(node string) (valid, leading bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	e := l.nodes[node]
	return e != nil && e.element != nil, l.leading
}

func (l *leases) lastHeard(node string) time.Time {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if e := l.nodes[node]; e != nil {
		return e.heard
	}
	return time.Time{}
}

// run expires leases until ctx ends.
func (l *leases) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-l.wake:
		}
		lost, next := l.expire()
		for _, node := range lost {
			l.hooks.call(node)
		}
		timer.Reset(next)
	}
}

// expire takes the leases that have run out, and says when the next one will.
func (l *leases) expire() (lost []string, next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for front := l.order.Front(); front != nil; front = l.order.Front() {
		e := front.Value.(*lease)
		if left := l.length - time.Since(e.renewed); left > 0 {
			return lost, left
		}
		l.order.Remove(front)
		e.element = nil
		l.countLocked(e.told, -1)
		lost = append(lost, e.node)
	}
	return lost, time.Hour // until there is a lease
}

// hooks are functions to be called with a name when something happens to it.
type hooks struct {
	mu   sync.RWMutex
	next int
	fs   map[int]func(string)
}

func (h *hooks) add(f func(string)) (cancel func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fs == nil {
		h.fs = map[int]func(string){}
	}
	id := h.next
	h.next++
	h.fs[id] = f
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.fs, id)
	}
}

func (h *hooks) call(name string) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, f := range h.fs {
		f(name)
	}
}
