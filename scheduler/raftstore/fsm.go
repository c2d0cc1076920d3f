package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// fsm feeds committed entries to the store and their events to the sink. Raft calls it from one goroutine,
// Persist excepted.
type fsm struct {
	st       *state.Store
	sink     EventSink
	progress progress
	ahead    ahead
	fail     func(error)

	mu     sync.Mutex
	broken error // once set, nothing is applied any more
}

var errStopped = errors.New("the scheduler has stopped applying its log")

func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM: what was committed together is applied together.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	commands, err := make([]state.Indexed, 0, len(logs)), f.stopped()
	for i := 0; i < len(logs) && err == nil; i++ {
		if logs[i].Type != raft.LogCommand {
			continue
		}
		cmd := f.ahead.take(logs[i].Data)
		if cmd == nil {
			cmd, err = decodeFrame(logs[i].Data)
		}
		if v := cmd.GetIntroduced(); err == nil && v > state.CommandVersion {
			err = fmt.Errorf("it is of command version %d and this program knows %d: a newer one has written it, run that", v, state.CommandVersion)
		}
		if err != nil {
			// Going on would make this scheduler differ from the others.
			err = f.stop(fmt.Errorf("apply entry %d: %w", logs[i].Index, err))
			break
		}
		commands = append(commands, state.Indexed{Index: logs[i].Index, Command: cmd})
	}
	applied := f.st.ApplyAll(commands)
	next := 0
	for i, l := range logs {
		switch {
		case l.Type != raft.LogCommand:
		case next < len(applied):
			a := applied[next]
			if len(a.Events) > 0 && f.sink != nil {
				f.sink.Append(l.Index, a.Events)
			}
			answers[i] = a.Result
			next++
		default:
			answers[i] = err
		}
	}
	if n := len(commands); n > 0 {
		f.progress.advance(commands[n-1].Index)
	}
	return answers
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

// ahead holds commands by their entries while they are proposed, so that they need not be decoded where they were
// encoded.
type ahead struct {
	mu       sync.Mutex
	commands map[*byte]*fleetv1.Command // by the entry's first byte
}

// put does so until the answer is called.
func (a *ahead) put(entry []byte, cmd *fleetv1.Command) (forget func()) {
	if cmd.GetWrite() == nil { // the store would keep parts of it, and the proposer may, too
		return func() {}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.commands == nil {
		a.commands = map[*byte]*fleetv1.Command{}
	}
	a.commands[&entry[0]] = cmd
	return func() { a.take(entry) }
}

// take answers nil for an entry that isn't being proposed here.
func (a *ahead) take(entry []byte) *fleetv1.Command {
	if len(entry) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	cmd := a.commands[&entry[0]]
	delete(a.commands, &entry[0])
	return cmd
}

// progress is up to which index everything is applied, with a way to wait for it.
type progress struct {
	awaited
	index uint64
}

func (p *progress) advance(index uint64) {
	p.Lock()
	defer p.Unlock()
	if index > p.index {
		p.index = index
		p.changedLocked()
	}
}

func (p *progress) wait(ctx context.Context, index uint64) error {
	return p.until(ctx, func() bool { return p.index >= index })
}

// awaited is a lock, and a way to wait for what it guards.
type awaited struct {
	sync.Mutex
	changed chan struct{} // made by the first waiter, closed by the next change
}

// changedLocked wakes all that wait.
func (a *awaited) changedLocked() {
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
}

// until returns when ok does, which is asked with the lock held, at once and after each change.
func (a *awaited) until(ctx context.Context, ok func() bool) error {
	for {
		a.Lock()
		if ok() {
			a.Unlock()
			return nil
		}
		if a.changed == nil {
			a.changed = make(chan struct{})
		}
		changed := a.changed
		a.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
