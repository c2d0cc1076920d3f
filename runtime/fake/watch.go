package fake

import (
	"context"
	"sync"

	"github.com/drover-fleet/drover/runtime"
)

// watcher queues events without bound, for the sender holds the Runtime's lock and must not wait.
type watcher struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	queue  []runtime.Event
	some   chan struct{} // holds a token while the queue may have something
}

func (w *watcher) add(ev runtime.Event) {
	w.mu.Lock()
	w.queue = append(w.queue, ev)
	w.mu.Unlock()
	select {
	case w.some <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []runtime.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue
	w.queue = nil
	return q
}

// Watch implements runtime.Runtime: everything that happens after it returned is seen.
func (r *Runtime) Watch(ctx context.Context) <-chan runtime.Event {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{cancel: cancel, some: make(chan struct{}, 1)}
	r.mu.Lock()
	r.watchers[w] = struct{}{}
	if r.closed {
		cancel()
	}
	r.mu.Unlock()
	out := make(chan runtime.Event)
	go func() {
		defer close(out)
		defer cancel()
		defer func() {
			r.mu.Lock()
			delete(r.watchers, w)
			r.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.some:
			}
			for _, ev := range w.take() {
				select {
				case out <- ev:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

func (r *Runtime) tellLocked(ev runtime.Event) {
	if r.unavailable { // who watches a runtime that is away learns of it by the resync
		return
	}
	for w := range r.watchers {
		w.add(ev)
	}
}
