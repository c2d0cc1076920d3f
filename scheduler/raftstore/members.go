package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// electionWait is how long a scheduler that hands over waits to hear who leads: several elections.
const electionWait = 5 * time.Second

// barred is how long a scheduler that must not stand for election would wait before it does: in effect for ever.
const barred = 24 * time.Hour

// Members are the schedulers of the configuration that this one knows of.
func (s *Store) Members() []Member {
	id, _ := s.Leader()
	return s.members(id)
}

func (s *Store) members(leader string) []Member {
	f := s.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	servers := f.Configuration().Servers
	members := make([]Member, 0, len(servers))
	for _, m := range servers {
		members = append(members, Member{
			ID: string(m.ID), Addr: string(m.Address), Voter: m.Suffrage == raft.Voter, Leader: string(m.ID) == leader,
		})
	}
	return members
}

// Term is the present one.
func (s *Store) Term() uint64 { return s.raft.CurrentTerm() }

// AddVoter makes the scheduler with this ID and Raft address a voter, or gives a voter another address. Only the
// leader can.
func (s *Store) AddVoter(ctx context.Context, id, addr string) error {
	f := s.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(addr), 0, enqueueTimeout(ctx))
	if err := s.await(ctx, f); err != nil {
		return fmt.Errorf("add voter %s: %w", id, s.mapped(err))
	}
	return nil
}

// AddNonvoter makes the scheduler follow the log without a vote. One that is a member keeps its vote and gets the
// address. Only the leader can.
func (s *Store) AddNonvoter(ctx context.Context, id, addr string) error {
	f := s.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), 0, enqueueTimeout(ctx))
	if err := s.await(ctx, f); err != nil {
		return fmt.Errorf("add non-voter %s: %w", id, s.mapped(err))
	}
	return nil
}

// RemoveServer takes a scheduler out of the cluster. Only the leader can.
func (s *Store) RemoveServer(ctx context.Context, id string) error {
	f := s.raft.RemoveServer(raft.ServerID(id), 0, enqueueTimeout(ctx))
	if err := s.await(ctx, f); err != nil {
		return fmt.Errorf("remove scheduler %s: %w", id, s.mapped(err))
	}
	return nil
}

// TransferLeadership makes the voter with this ID the leader, which must be this scheduler's follower. An error means
// that this scheduler leads on, or that leadership was lost to another.
func (s *Store) TransferLeadership(ctx context.Context, id string) error {
	for _, m := range s.Members() {
		if m.ID != id {
			continue
		}
		if !m.Voter {
			return fmt.Errorf("transfer the leadership to %s: it has no vote", id)
		}
		err := s.await(ctx, s.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(m.Addr)))
		if errors.Is(err, raft.ErrNotLeader) {
			err = s.mapped(err)
		}
		if err == nil {
			err = s.awaitElected(ctx, id)
		}
		if err != nil {
			return fmt.Errorf("transfer the leadership to %s: %w", id, err)
		}
		return nil
	}
	return fmt.Errorf("transfer the leadership to %s: it is no member", id)
}

// awaitElected waits until the scheduler with this ID leads. Raft calls a transfer done when it no longer leads itself,
// which the other's mere candidacy is enough for.
func (s *Store) awaitElected(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, electionWait)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		switch leader, _ := s.Leader(); leader {
		case id:
			return nil
		case "":
		default:
			return fmt.Errorf("it stood for election and %s was elected", leader)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it stood for election, and nobody has been elected yet: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// BarFromStanding keeps this scheduler from standing for election, or lets it again. It votes all the same.
func (s *Store) BarFromStanding(bar bool) error {
	reload := s.raft.ReloadableConfig()
	reload.HeartbeatTimeout, reload.ElectionTimeout = s.cfg.HeartbeatTimeout, s.cfg.ElectionTimeout
	if bar {
		reload.HeartbeatTimeout, reload.ElectionTimeout = barred, barred
	}
	if err := s.raft.ReloadConfig(reload); err != nil {
		return fmt.Errorf("bar this scheduler from standing for election: %w", err)
	}
	return nil
}
