package session

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// leases knows which nodes have been heard of lately. Entries are in order of renewal; since every lease
// is equally long, the front one expires first.
type leases struct {
	duration time.Duration
	hooks    hooks
	wake     chan struct{} // capacity 1: the list was empty before

	mu      sync.RWMutex
	leading bool
	order   *list.List // of *lease, valid ones only
	nodes   map[string]*lease
}

// lease is one node's; its element is nil when it has expired.
type lease struct {
	node    string
	renewed time.Time // monotonic
	heard   time.Time // zero until the node sent something
	element *list.Element
}

func (l *leases) init(d time.Duration) {
	l.duration, l.wake = d, make(chan struct{}, 1)
	l.order, l.nodes = list.New(), map[string]*lease{}
}

// start begins a leadership in which each of the nodes has a full lease from now.
func (l *leases) start(nodes []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = true
	l.order, l.nodes = list.New(), map[string]*lease{}
	now := time.Now()
	for _, n := range nodes {
		e := &lease{node: n, renewed: now}
		e.element = l.order.PushBack(e)
		l.nodes[n] = e
	}
}

// stop ends the leadership.
func (l *leases) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = false
	l.order, l.nodes = list.New(), map[string]*lease{}
}

// renew gives the node a full lease from now and tells the hooks when it had none.
func (l *leases) renew(node string) {
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
	e.renewed, e.heard = now, now
	returned := e.element == nil
	if returned {
		e.element = l.order.PushBack(e)
	} else {
		l.order.MoveToBack(e.element)
	}
	l.mu.Unlock()
	if returned {
		select {
		case l.wake <- struct{}{}:
		default:
		}
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
		if left := l.duration - time.Since(e.renewed); left > 0 {
			return lost, left
		}
		l.order.Remove(front)
		e.element = nil
		lost = append(lost, e.node)
	}
	return lost, l.duration
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
