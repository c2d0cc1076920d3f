package raftstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// ID is the UUID of this scheduler, made with its data directory.
func (s *Store) ID() string { return s.id }

// Addr is the address at which other schedulers reach this one.
func (s *Store) Addr() string { return string(s.trans.LocalAddr()) }

// IsLeader says that this scheduler leads, as far as it knows, and has applied everything that came before.
func (s *Store) IsLeader() bool { return s.ledTerm.Load() != 0 }

// LeaderChanges has one reader. true means: this scheduler leads now and has applied everything that came
// before. true after true is a new leadership: what is between was too short to be told. A reader that is
// slow gets the latest value.
func (s *Store) LeaderChanges() <-chan bool { return s.leaderCh }

// Leader is the ID and Raft address of the leader, empty when unknown.
func (s *Store) Leader() (id, addr string) {
	a, i := s.raft.LeaderWithID()
	return string(i), string(a)
}

// Member is one scheduler of the cluster.
type Member struct {
	ID, Addr string
	Voter    bool
	Leader   bool
}

// Status is what a scheduler knows of its cluster.
type Status struct {
	ID                 string
	State              string // "Leader", "Follower", "Candidate", "Shutdown"
	Term               uint64
	LeaderID           string
	LeaderAddr         string
	CommitIndex        uint64
	AppliedIndex       uint64 // of the last command in the store
	LastSnapshotIndex  uint64
	LastContact        time.Time // with the leader; zero on the leader itself and before the first contact
	Members            []Member
	FirstIndex, LogEnd uint64
}

// Status answers from memory.
func (s *Store) Status() Status {
	st := Status{ID: s.id, CommitIndex: s.raft.CommitIndex(), AppliedIndex: s.fsm.st.View().Index()}
	var now raft.RaftState
	for { // until state and leader are of one term
		st.Term = s.raft.CurrentTerm()
		now = s.raft.State()
		st.LeaderID, st.LeaderAddr = s.Leader()
		if s.raft.CurrentTerm() == st.Term {
			break
		}
	}
	st.State = now.String()
	if now != raft.Leader {
		st.LastContact = s.raft.LastContact()
		if st.LeaderID == s.id { // Raft is about to notice
			st.LeaderID, st.LeaderAddr = "", ""
		}
	}
	b := s.logs.bounds()
	st.FirstIndex, st.LogEnd = b.First, b.Last
	if _, err := fmt.Sscan(s.raft.Stats()["last_snapshot_index"], &st.LastSnapshotIndex); err != nil {
		st.LastSnapshotIndex = 0
	}
	st.Members = s.members(st.LeaderID)
	return st
}

// Snapshot makes a snapshot now; without anything new it does nothing.
func (s *Store) Snapshot(ctx context.Context) error {
	err := s.await(ctx, s.raft.Snapshot())
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

// tcpStream is plain TCP, for loopback.
type tcpStream struct{ net.Listener }

func (tcpStream) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

// raftStream turns a StreamLayer into Raft's.
type raftStream struct {
	StreamLayer
	advertise string
}

func (r raftStream) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return r.StreamLayer.Dial(string(addr), timeout)
}

func (r raftStream) Addr() net.Addr {
	if r.advertise != "" {
		return advertised(r.advertise)
	}
	return r.StreamLayer.Addr()
}

// advertised is an address that need not be resolvable here.
type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }
