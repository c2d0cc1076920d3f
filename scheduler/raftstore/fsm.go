package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/drover-fleet/drover/scheduler/state"
)

// fsm feeds committed entries to the store and their events to the sink. Raft calls it from one goroutine,
// Persist excepted.
type fsm struct {
	st       *state.Store
	sink     EventSink
	progress progress
	fail     func(error)

	mu     sync.Mutex
	broken error // once set, nothing is applied any more
}

var errStopped = errors.New("the scheduler has stopped applying its log")

func (f *fsm) Apply(l *raft.Log) any {
	if err := f.stopped(); err != nil {
		return err
	}
	cmd, err := decodeFrame(l.Data)
	if err != nil {
		// Going on would make this scheduler differ from the others.
		return f.stop(fmt.Errorf("apply entry %d: %w", l.Index, err))
	}
	result, events := f.st.Apply(l.Index, cmd)
	if len(events) > 0 && f.sink != nil {
		f.sink.Append(l.Index, events)
	}
	f.progress.advance(l.Index)
	return result
}

func (f *fsm) stop(err error) error {
	f.mu.Lock()
	f.broken = fmt.Errorf("%w: %w", errStopped, err)
	f.mu.Unlock()
	f.fail(err)
	return f.broken
}

func (f *fsm) stopped() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.stopped(); err != nil {
		return nil, err
	}
	return &fsmSnapshot{snapshot: f.st.Snapshot(), sink: f.sink}, nil
}

func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	if err := f.st.Restore(r); err != nil {
		return err
	}
	f.progress.advance(f.st.View().Index())
	return nil
}

type fsmSnapshot struct {
	snapshot *state.Snapshot
	sink     EventSink
}

// Persist writes the snapshot. The log before it may be dropped afterwards, so the events that were made
// from that log must be durable first.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	err := s.write(sink)
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (s *fsmSnapshot) write(w io.Writer) error {
	if s.sink != nil {
		if err := s.sink.Flush(s.snapshot.Index()); err != nil {
			return fmt.Errorf("flush events before the snapshot: %w", err)
		}
	}
	_, err := s.snapshot.WriteTo(w)
	return err
}

func (s *fsmSnapshot) Release() {}

// progress is up to which index everything is applied, with a way to wait for it.
type progress struct {
	mu      sync.Mutex
	index   uint64
	changed chan struct{} // made by the first waiter, closed by the next advance
}

func (p *progress) advance(index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if index <= p.index {
		return
	}
	p.index = index
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

func (p *progress) wait(ctx context.Context, index uint64) error {
	for {
		p.mu.Lock()
		if p.index >= index {
			p.mu.Unlock()
			return nil
		}
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
