package raftstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// ReadIndex returns when the store shows everything that was committed when it was called: a View taken
// afterwards is linearizable. It works on the leader alone and costs no log entry.
func (s *Store) ReadIndex(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	read, term := s.trans.reads.Add(1), s.leads.Load()
	commit := s.raft.CommitIndex()
	if err := s.verify(ctx, term, read); err != nil {
		if errors.Is(err, raft.ErrLeadershipLost) {
			err = raft.ErrNotLeader // a read has no outcome that could be unknown
		}
		return fmt.Errorf("read index: %w", s.mapped(err))
	}
	short, cancelShort := context.WithTimeout(ctx, s.cfg.HeartbeatTimeout)
	defer cancelShort()
	err := s.fsm.progress.wait(short, commit)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("read index: %w", ctx.Err())
	}
	// The last entry is one that Raft keeps to itself: a barrier tells that all before it are applied.
	if err := s.await(ctx, barrierFuture{s}); err != nil {
		return fmt.Errorf("read index: %w", s.mapped(err))
	}
	return nil
}

// verify has the others asked, until it is certain that this scheduler led in the term after the read had begun. Each
// time uses up at least one answer to an earlier message, and of these there are at most two for each other scheduler.
func (s *Store) verify(ctx context.Context, term, read uint64) error {
	for term != 0 && s.raft.CurrentTerm() == term {
		if err := s.await(ctx, s.raft.VerifyLeader()); err != nil {
			return err
		}
		f := s.raft.GetConfiguration()
		if err := f.Error(); err != nil {
			return err
		}
		if s.trans.leads(raft.ServerID(s.id), f.Configuration().Servers, term, read) {
			return nil
		}
	}
	return raft.ErrNotLeader
}

// barrierFuture makes barrier something to await.
type barrierFuture struct{ s *Store }

func (b barrierFuture) Error() error { return b.s.barrier() }
