package events

import (
	"context"
	"errors"
	"fmt"
	"sync"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// watchLimit is how many events a watcher may be behind.
const watchLimit = 4096

type watcher struct {
	query Query
	wake  chan struct{}

	mu      sync.Mutex
	pending []*fleetv1.Event
	err     error
}

// offer never waits: a watcher that is too far behind ends.
func (w *watcher) offer(evs []*fleetv1.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	for _, e := range evs {
		if w.query.matches(e) {
			w.pending = append(w.pending, e)
		}
	}
	if len(w.pending) > watchLimit {
		w.pending, w.err = nil, ErrSlow
	}
	if len(w.pending) > 0 || w.err != nil {
		signal(w.wake)
	}
}

func (w *watcher) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	signal(w.wake)
}

func (w *watcher) take() ([]*fleetv1.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	evs := w.pending
	w.pending = nil
	if len(evs) > 0 && !errors.Is(w.err, ErrSlow) {
		signal(w.wake) // an error, if any, comes after what is there
		return evs, nil
	}
	return nil, w.err
}

// Watch hands emit the selected events so far, as List answers them, and then each new one, without gap
// and without repetition. It ends with ctx's error, emit's, ErrSlow or ErrClosed. emit is called by the
// caller's goroutine and may take its time, up to some thousand events.
func (s *Store) Watch(ctx context.Context, q Query, emit func([]*fleetv1.Event) error) error {
	w := &watcher{query: q, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("watch events: %w", ErrClosed)
	}
	s.watchers[w] = struct{}{}
	upTo := s.appended
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	}()
	if err := s.flush(ctx, upTo); err != nil {
		return fmt.Errorf("watch events: %w", err)
	}
	evs, err := s.file.list(ctx, q, upTo)
	for {
		if err != nil {
			return fmt.Errorf("watch events: %w", err)
		}
		if len(evs) > 0 {
			if err := emit(evs); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
			evs, err = w.take()
		}
	}
}
