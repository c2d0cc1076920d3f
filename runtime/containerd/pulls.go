package containerd

import (
	"context"
	"sync"

	"github.com/drover-fleet/drover/runtime"
)

// pulls lets one caller at a time fetch an image; all that want it see its progress. containerd's client
// would let them fetch side by side, and has them wait for each other's locks with long pauses.
type pulls struct {
	mu  sync.Mutex
	all map[string]*pull // by name of the image
}

type pull struct {
	turn    chan struct{} // holds an element while somebody fetches
	mu      sync.Mutex
	waiters map[*waiter]struct{}
}

type waiter struct{ progress func(runtime.Progress) }

// join waits for the caller's turn; leave ends it. progress, which may be nil, is called until then.
func (p *pulls) join(ctx context.Context, name string, progress func(runtime.Progress)) (tell func(runtime.Progress), leave func(), err error) {
	w := &waiter{progress}
	p.mu.Lock()
	one := p.all[name]
	if one == nil {
		one = &pull{turn: make(chan struct{}, 1), waiters: map[*waiter]struct{}{}}
		p.all[name] = one
	}
	one.mu.Lock()
	one.waiters[w] = struct{}{}
	one.mu.Unlock()
	p.mu.Unlock()
	forget := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		one.mu.Lock()
		defer one.mu.Unlock()
		if delete(one.waiters, w); len(one.waiters) == 0 {
			delete(p.all, name)
		}
	}
	select {
	case one.turn <- struct{}{}:
	case <-ctx.Done():
		forget()
		return nil, nil, ctx.Err()
	}
	return one.tell, func() {
		<-one.turn
		forget()
	}, nil
}

func (p *pull) tell(done runtime.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.waiters {
		if w.progress != nil {
			w.progress(done)
		}
	}
}
