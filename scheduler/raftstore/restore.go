package raftstore

import (
	"context"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// Restore replaces the state on every scheduler by a snapshot of scheduler/state, of so many bytes, which stands at
// the index. Only the leader can. When it returns without an error a majority has it on disk; commands that were
// under way have an unknown outcome. After an error the state may be the old or the new one: ask the store.
func (s *Store) Restore(ctx context.Context, index uint64, size int64, snapshot io.Reader) error {
	if !s.IsLeader() {
		return fmt.Errorf("restore: %w", s.mapped(raft.ErrNotLeader))
	}
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: index, Term: s.raft.CurrentTerm(), Size: size}
	if err := s.await(ctx, calling(func() error { return s.raft.Restore(meta, snapshot, enqueueTimeout(ctx)) })); err != nil {
		return fmt.Errorf("restore: %w", s.mapped(err))
	}
	return nil
}
