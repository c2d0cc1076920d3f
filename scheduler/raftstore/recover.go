package raftstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/drover-fleet/drover/scheduler/state"
)

// Recovery is what is known when a scheduler shall go on alone.
type Recovery struct {
	ID, Addr string // of this scheduler
	// Members are those of the last configuration known here. Every write that was acknowledged without this scheduler, by a majority of the others,
	// is lost: those after LastIndex, whose number nobody knows. What is up to LastIndex is kept, also what was never
	// acknowledged.
	Members             []Member
	LastIndex, LastTerm uint64 // of the last entry or snapshot here
	SnapshotIndex       uint64 // 0 when there is no snapshot
}

// Recover makes this scheduler, which must not run, the only voter of its cluster, for when a majority is lost for good. It
// checks everything that is stored as Open does, tells confirm what is known, and changes nothing unless that answers nil. The former
// members must never start again with their data: they would go on as the cluster that they were. st
// must be empty; sink gets the events of the log, as from Open, and may be nil.
func Recover(cfg Config, st *state.Store, sink EventSink, confirm func(Recovery) error) (err error) {
	cfg = cfg.withDefaults()
	dir := filepath.Join(cfg.DataDir, "raft")
	defer func() {
		if err != nil {
			err = fmt.Errorf("recover: %w", err)
		}
	}()
	if _, err := os.Stat(filepath.Join(dir, fileID)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s holds no state of a scheduler: is it the right data directory?", cfg.DataDir)
	} else if err != nil {
		return err
	}
	s := newStore(cfg, st, sink)
	defer func() { err = errors.Join(err, s.release()) }()
	if s.lock, err = lockDir(cfg.DataDir, dir); err != nil {
		return err
	}
	snapshots, err := s.openFiles(dir)
	if err != nil {
		return err
	}
	r, err := s.known(snapshots)
	if err != nil {
		return err
	}
	if err := confirm(r); err != nil {
		return err
	}
	alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(r.ID), Address: raft.ServerAddress(r.Addr)}}}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(r.Addr)) // it encodes addresses
	if err := raft.RecoverCluster(s.raftConfig(), s.fsm, s.logs, s.logs, snapshots, trans, alone); err != nil {
		return err
	}
	select {
	case err := <-s.failed:
		return err
	default:
		return nil
	}
}

// known looks at the log and the newest snapshot.
func (s *Store) known(snapshots raft.SnapshotStore) (Recovery, error) {
	r := Recovery{ID: s.id, Addr: s.cfg.Advertise}
	if r.Addr == "" {
		r.Addr = s.cfg.Addr
	}
	var members raft.Configuration
	metas, err := snapshots.List()
	if err != nil {
		return Recovery{}, err
	}
	if len(metas) > 0 {
		r.SnapshotIndex, members = metas[0].Index, metas[0].Configuration
		r.LastIndex, r.LastTerm = metas[0].Index, metas[0].Term
	}
	for b, i := s.logs.bounds(), s.logs.bounds().Last; i != 0 && i >= b.First; i-- {
		var l raft.Log
		if err := s.logs.GetLog(i, &l); err != nil {
			return Recovery{}, err
		}
		if i == b.Last {
			r.LastIndex, r.LastTerm = max(r.LastIndex, l.Index), max(r.LastTerm, l.Term)
		}
		if l.Type == raft.LogConfiguration {
			members = raft.DecodeConfiguration(l.Data)
			break
		}
	}
	for _, m := range members.Servers {
		r.Members = append(r.Members, Member{ID: string(m.ID), Addr: string(m.Address), Voter: m.Suffrage == raft.Voter})
	}
	return r, nil
}
