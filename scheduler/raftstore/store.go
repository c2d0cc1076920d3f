package raftstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// How long the store waits for what should take milliseconds.
const (
	closeTimeout   = 10 * time.Second
	barrierTimeout = 30 * time.Second
	verifyTimeout  = 10 * time.Second
)

// maxAppendEntries is how many entries go to the disk, and to another scheduler, in one write. One that places a thousand
// instances has a megabyte.
const maxAppendEntries = 128

// Store is one scheduler's part of the Raft cluster. All methods may be called by anyone at any time.
type Store struct {
	cfg   Config
	id    string
	lock  *os.File
	logs  *logStore
	trans *transport
	raft  *raft.Raft
	fsm   *fsm
	stall *stallWatch

	ledTerm  atomic.Uint64 // the term in which this scheduler leads and has applied what came before; 0 is none
	leaderCh chan bool
	failed   chan error
	failing  sync.Once
	ending   chan struct{} // closed by the first fail
	stop     chan struct{}
	watching sync.WaitGroup // the goroutines of Open
	calls    sync.WaitGroup // goroutines that wait for Raft's answers
	closing  sync.Once
	closed   error
}

// Open locks the data directory, checks everything stored there, and joins the cluster. st must be
// empty; it is written by the store alone from now on. sink may be nil.
func Open(cfg Config, st *state.Store, sink EventSink) (_ *Store, err error) {
	cfg = cfg.withDefaults()
	dir := filepath.Join(cfg.DataDir, "raft")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open raft store: %w", err)
	}
	s := newStore(cfg, st, sink)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open raft store: %w", err), s.release())
		}
	}()
	if s.lock, err = lockDir(cfg.DataDir, dir); err != nil {
		return nil, err
	}
	snapshots, err := s.openFiles(dir)
	if err != nil {
		return nil, err
	}
	if err := s.start(snapshots); err != nil {
		return nil, err
	}
	return s, nil
}

func newStore(cfg Config, st *state.Store, sink EventSink) *Store {
	s := &Store{
		cfg: cfg, leaderCh: make(chan bool), failed: make(chan error, 1), ending: make(chan struct{}), stop: make(chan struct{}),
	}
	s.fsm = &fsm{st: st, sink: sink, fail: s.fail}
	s.stall = newStallWatch(cfg.StallLimit, s.fail)
	return s
}

// start runs Raft on the opened files.
func (s *Store) start(snapshots raft.SnapshotStore) error {
	logger := &hlogger{to: s.cfg.Logger.With("part", "raft")}
	l, err := net.Listen("tcp", s.cfg.Addr)
	if err != nil {
		return err
	}
	var stream StreamLayer = tcpStream{l}
	if s.cfg.Stream != nil {
		if stream, err = s.cfg.Stream(l, s.id); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	s.trans = newTransport(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: raftStream{stream, s.cfg.Advertise}, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: 10 * time.Second, Logger: logger,
	}))
	conf := s.raftConfig()
	notify := make(chan bool, 16)
	conf.NotifyCh = notify
	if s.cfg.Bootstrap {
		if err := s.bootstrap(conf, snapshots); err != nil {
			return err
		}
	}
	if s.raft, err = raft.NewRaft(conf, s.fsm, s.logs, s.logs, snapshots, s.trans); err != nil {
		return err
	}
	s.trans.raft.Store(s.raft)
	s.watching.Go(func() { s.followLeadership(notify) })
	return s.hurryAlone()
}

func (s *Store) raftConfig() *raft.Config {
	conf := raft.DefaultConfig()
	conf.ProtocolVersion = 3
	conf.LocalID = raft.ServerID(s.id)
	conf.HeartbeatTimeout, conf.ElectionTimeout = s.cfg.HeartbeatTimeout, s.cfg.ElectionTimeout
	conf.LeaderLeaseTimeout = s.cfg.LeaderLease
	conf.SnapshotInterval, conf.SnapshotThreshold = s.cfg.SnapshotInterval, s.cfg.SnapshotThreshold
	conf.TrailingLogs = s.cfg.TrailingLogs
	conf.MaxAppendEntries = maxAppendEntries
	conf.NoLegacyTelemetry = true
	conf.Logger = &hlogger{to: s.cfg.Logger.With("part", "raft")}
	return conf
}

// hurryAlone makes the only voter stand for election at once instead of listening for another leader first. Raft
// looks at its timer again when the timeout gets shorter, and only then.
func (s *Store) hurryAlone() error {
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	if servers := f.Configuration().Servers; len(servers) != 1 || servers[0].ID != raft.ServerID(s.id) {
		return nil
	}
	reload := s.raft.ReloadableConfig()
	reload.HeartbeatTimeout -= time.Millisecond
	return s.raft.ReloadConfig(reload)
}

func (s *Store) bootstrap(conf *raft.Config, snapshots raft.SnapshotStore) error {
	exists, err := raft.HasExistingState(s.logs, s.logs, snapshots)
	if err != nil || exists {
		return err
	}
	self := raft.Server{Suffrage: raft.Voter, ID: conf.LocalID, Address: s.trans.LocalAddr()}
	return raft.BootstrapCluster(conf, s.logs, s.logs, snapshots, s.trans, raft.Configuration{Servers: []raft.Server{self}})
}

// fail reports that the process must end, and has Raft stop; only the first report is kept.
func (s *Store) fail(err error) {
	s.cfg.Logger.Error("the Raft store has failed: this scheduler must stop", "error", err)
	s.failing.Do(func() {
		s.failed <- err
		close(s.ending)
	})
}

// Failed answers once when this scheduler can't go on: its disk hangs or fails, or an entry can't be applied. It takes no
// part in elections any more. The process should exit at once, without waiting for Close.
func (s *Store) Failed() <-chan error { return s.failed }

// followLeadership announces leadership after everything committed before it has been applied.
func (s *Store) followLeadership(notify <-chan bool) {
	var pending chan bool // s.leaderCh while there is something to announce
	var value bool
	ending := s.ending
	for {
		select {
		case <-s.stop:
			return
		case <-ending: // Raft panics when a vote can't be written
			ending = nil
			s.raft.Shutdown()
			s.ledTerm.Store(0)
			pending, value = s.leaderCh, false
		case leads := <-notify:
			term := uint64(0)
			if leads {
				if term = s.caughtUp(); term == 0 {
					continue // lost again, which comes next
				}
			}
			s.ledTerm.Store(term)
			pending, value = s.leaderCh, leads
		case pending <- value:
			pending = nil
		}
	}
}

// caughtUp waits for a barrier for as long as this scheduler leads, and answers the term of both, or 0.
func (s *Store) caughtUp() uint64 {
	for s.raft.State() == raft.Leader {
		term := s.raft.CurrentTerm()
		if s.barrier() == nil && s.raft.CurrentTerm() == term {
			return term
		}
		select {
		case <-s.stop:
			return 0
		case <-time.After(min(s.cfg.HeartbeatTimeout, time.Second)):
		}
	}
	return 0
}

// barrier waits until everything committed so far is applied here.
func (s *Store) barrier() error {
	f := s.raft.Barrier(barrierTimeout)
	if err := f.Error(); err != nil {
		return err
	}
	if i, ok := f.(raft.IndexFuture); ok {
		s.fsm.progress.advance(i.Index())
	}
	return nil
}

// Close leaves without telling the others, and unlocks the data directory.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.ledTerm.Store(0)
		s.closed = s.release()
	})
	return s.closed
}

// release undoes as much of Open as was done.
func (s *Store) release() error {
	close(s.stop)
	var errs []error
	if s.raft != nil {
		done := make(chan error, 1)
		go func() { // ends when Raft's last write does
			err := s.raft.Shutdown().Error()
			s.watching.Wait()
			s.calls.Wait()
			done <- err
		}()
		select {
		case err := <-done:
			errs = append(errs, err)
		case <-time.After(closeTimeout):
			// Closing its files under Raft's feet would be worse than leaving them to the end of the process.
			return fmt.Errorf("close raft store: Raft didn't stop within %s", closeTimeout)
		}
	}
	s.stall.close()
	if s.trans != nil {
		s.trans.CloseStreams() // Close leaves the pooled connections open
		errs = append(errs, s.trans.Close())
	}
	if s.logs != nil {
		errs = append(errs, s.logs.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Propose commits the command and answers what applying it did. ErrUnknown: it may still be applied;
// *NotLeaderError and ErrDiskFull: it wasn't and won't be. cmd must not be changed meanwhile, and not after ErrUnknown
// either: it may be applied as it is.
func (s *Store) Propose(ctx context.Context, cmd *fleetv1.Command) (state.Result, error) {
	if err := ctx.Err(); err != nil {
		return state.Result{}, fmt.Errorf("propose: %w", err)
	}
	if s.IsLeader() && s.logs.spare.full.Load() {
		return state.Result{}, fmt.Errorf("propose: %w", ErrDiskFull)
	}
	data, err := encodeFrame(cmd)
	if err != nil {
		return state.Result{}, fmt.Errorf("propose: %w", err)
	}
	defer s.fsm.ahead.put(data, cmd)()
	f := s.raft.Apply(data, enqueueTimeout(ctx))
	if err := s.await(ctx, f); err != nil {
		return state.Result{}, fmt.Errorf("propose: %w", s.mapped(err))
	}
	switch r := f.Response().(type) {
	case state.Result:
		return r, nil
	case error:
		return state.Result{}, fmt.Errorf("propose: %w: %w", ErrUnknown, r)
	}
	return state.Result{}, fmt.Errorf("propose: %w", ErrUnknown)
}

// enqueueTimeout is how long a call may wait for Raft to take it.
func enqueueTimeout(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return max(time.Until(deadline), time.Millisecond)
	}
	return barrierTimeout
}

// calling makes a call something to await.
type calling func() error

func (c calling) Error() error { return c() }

// await waits for a future, which itself can't be given up.
func (s *Store) await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	s.calls.Go(func() { done <- f.Error() })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

// mapped says what Raft's errors mean to a caller.
func (s *Store) mapped(err error) error {
	switch {
	case errors.Is(err, ErrUnknown), errors.Is(err, ErrDiskFull): // a leader writes to its own log first
		return err
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		_, addr := s.Leader()
		if addr == s.Addr() { // Raft hasn't noticed yet
			addr = ""
		}
		return &NotLeaderError{Leader: addr}
	case errors.Is(err, raft.ErrRaftShutdown) && s.isClosed():
		return fmt.Errorf("%w: %w: %w", ErrUnknown, ErrClosed, err)
	}
	// ErrLeadershipLost, ErrAbortedByRestore, ErrRaftShutdown, ErrEnqueueTimeout, and what we don't know.
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

func (s *Store) isClosed() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}
