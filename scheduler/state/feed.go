package state

import (
	"context"
	"errors"
	"sync"
)

// feedLimit is how many change sets a feed keeps for a slow reader before it asks for a resync.
const feedLimit = 4096

// ErrFeedClosed is what Next and Poll answer after Close.
var ErrFeedClosed = errors.New("state: feed closed")

// feeds hands change sets to every subscriber. Publishing never waits for one.
type feeds struct {
	mu  sync.Mutex
	all map[*feed]struct{}
}

type feed struct {
	owner *feeds
	wake  chan struct{} // holds one token when there is something to take

	mu     sync.Mutex
	sets   []ChangeSet
	resync bool
	closed bool
}

func (f *feeds) subscribe() *feed {
	n := &feed{owner: f, wake: make(chan struct{}, 1), resync: true}
	n.wake <- struct{}{}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = map[*feed]struct{}{}
	}
	f.all[n] = struct{}{}
	return n
}

func (f *feeds) publish(set ChangeSet) {
	f.each(func(n *feed) {
		switch {
		case n.resync: // everything will be looked at anyway
		case len(n.sets) == feedLimit:
			n.sets, n.resync = nil, true
		default:
			n.sets = append(n.sets, set)
		}
	})
}

// Feeds is how many feeds are open, and how many change sets wait in the longest of them.
func (s *Store) Feeds() (open, longest int) {
	s.feeds.mu.Lock()
	defer s.feeds.mu.Unlock()
	for n := range s.feeds.all {
		n.mu.Lock()
		longest = max(longest, len(n.sets))
		n.mu.Unlock()
	}
	return len(s.feeds.all), longest
}

func (f *feeds) resyncAll() {
	f.each(func(n *feed) { n.sets, n.resync = nil, true })
}

func (f *feeds) each(do func(*feed)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := range f.all {
		n.mu.Lock()
		do(n)
		n.mu.Unlock()
		n.signal()
	}
}

func (n *feed) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *feed) Next(ctx context.Context) ([]ChangeSet, bool, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-n.wake:
		}
		if sets, resync, err := n.Poll(); err != nil || resync || len(sets) > 0 {
			return sets, resync, err
		}
	}
}

func (n *feed) Ready() <-chan struct{} { return n.wake }

func (n *feed) Poll() ([]ChangeSet, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	sets, resync := n.sets, n.resync
	n.sets, n.resync = nil, false
	if n.closed {
		n.signal()
		return nil, false, ErrFeedClosed
	}
	return sets, resync, nil
}

func (n *feed) Close() {
	n.owner.mu.Lock()
	delete(n.owner.all, n)
	n.owner.mu.Unlock()
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.signal()
}
