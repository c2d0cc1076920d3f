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
	read, term := s.trans.reads.Add(1), s.ledTerm.Load()
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
	if err := s.await(ctx, calling(s.barrier)); err != nil {
		return fmt.Errorf("read index: %w", s.mapped(err))
	}
	return nil
}

// verify returns when it is certain that this scheduler led in the term after the read had begun. VerifyLeader has every
// other scheduler asked at once; its own answer may come of earlier messages, or of schedulers without a vote.
func (s *Store) verify(ctx context.Context, term, read uint64) error {
	for term != 0 && s.ledTerm.Load() == term && s.raft.CurrentTerm() == term {
		if err := s.await(ctx, calling(func() error { return s.raft.VerifyLeader().Error() })); err != nil {
			return err
		}
		f := s.raft.GetConfiguration()
		if err := f.Error(); err != nil {
			return err
		}
		round, cancel := context.WithTimeout(ctx, s.cfg.HeartbeatTimeout/10) // of Raft's heartbeats
		confirmed := s.trans.awaitMajority(round, raft.ServerID(s.id), f.Configuration().Servers, term, read)
		cancel()
		if confirmed {
			return nil
		}
	}
	return raft.ErrNotLeader
}
