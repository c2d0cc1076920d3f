package raftstore

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// stranger is a transport of a scheduler that isn't there.
func stranger(t *testing.T) *transport {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newTransport(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: raftStream{tcpStream{l}, ""}, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: 10 * time.Second,
	}))
	t.Cleanup(func() {
		s.CloseStreams()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// heartbeat is one of a leader of this ID.
func heartbeat(id raft.ServerID, term uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte("127.0.0.1:1")}, Term: term,
	}
}

// A leader hears of a newer one by a heartbeat, and is asked to write the moment after: it writes nothing under the newer
// one's term.
func TestNobodyWritesUnderAnothersTerm(t *testing.T) {
	members := newCluster(t, 30*time.Second)
	leader := members[0]
	propose(t, leader.Store, "a")
	for _, m := range members[1:] { // then Raft's own goroutine waits for something to do
		awaitFlavors(t, m.st, 1)
	}
	newer := leader.Term() + 1
	var resp raft.AppendEntriesResponse
	if err := stranger(t).AppendEntries(raft.ServerID(leader.ID()), raft.ServerAddress(leader.Addr()), heartbeat("newer", newer), &resp); err != nil || !resp.Success {
		t.Fatalf("the newer leader is not followed: %+v, %v", &resp, err)
	}
	if _, err := leader.Propose(testContext(t), flavorCommand("b")); err == nil {
		t.Error("a leader of before has written")
	}
	b := leader.logs.bounds()
	for i := b.First; i <= b.Last; i++ {
		var l raft.Log
		if err := leader.logs.GetLog(i, &l); err != nil {
			t.Fatal(err)
		}
		if l.Term >= newer {
			t.Errorf("entry %d is of term %d, whose leader has sent none", i, l.Term)
		}
	}
}

// A follower that waits for its disk goes on answering its leader's heartbeats, and nobody else's.
func TestHeartbeatsAreAnsweredBesideTheDisk(t *testing.T) {
	members := newCluster(t, 30*time.Second)
	leader, follower := members[0], members[1]
	propose(t, leader.Store, "a")
	awaitFlavors(t, follower.st, 1)
	follower.logs.writing.Lock()
	defer follower.logs.writing.Unlock()
	propose(t, leader.Store, "b")                                            // the third scheduler is enough
	for ctx := testContext(t); follower.stall.longest(time.Now(), 0) == 0; { // Raft's own goroutine waits for the lock
		if err := ctx.Err(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	from, to := stranger(t), raft.ServerID(follower.ID())
	var resp raft.AppendEntriesResponse
	if err := from.AppendEntries(to, raft.ServerAddress(follower.Addr()), heartbeat(raft.ServerID(leader.ID()), leader.Term()), &resp); err != nil || !resp.Success {
		t.Errorf("the leader's heartbeat: %+v, %v", &resp, err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		var resp raft.AppendEntriesResponse
		if err := from.AppendEntries(to, raft.ServerAddress(follower.Addr()), heartbeat("newer", leader.Term()+1), &resp); err == nil && follower.Term() != leader.Term()+1 {
			t.Error("another leader's heartbeat was answered before its term was taken")
		}
	}()
	select {
	case <-answered:
		t.Error("another leader's heartbeat was answered without the disk")
	case <-time.After(100 * time.Millisecond):
	}
	t.Cleanup(func() { <-answered })
}

// A message's commit index is never beyond the entries that its receiver has the leader's word for.
func TestCommitIndexEndsWithTheMessage(t *testing.T) {
	from, to := stranger(t), stranger(t)
	got := make(chan uint64, 1)
	go func() {
		rpc := <-to.Consumer()
		got <- rpc.Command.(*raft.AppendEntriesRequest).LeaderCommitIndex
		rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
	}()
	args := heartbeat("leader", 3)
	args.PrevLogEntry, args.PrevLogTerm, args.Entries, args.LeaderCommitIndex = 9, 3, []*raft.Log{{Index: 10, Term: 3}}, 12
	if err := from.AppendEntries("to", to.LocalAddr(), args, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	if commit := <-got; commit != 10 {
		t.Errorf("a message up to entry 10 says that %d is committed", commit)
	}
}

// What proves to a read that this scheduler leads.
func TestMajority(t *testing.T) {
	const term, read = 4, 7
	voters := func(ids ...raft.ServerID) (out []raft.Server) {
		for _, id := range ids {
			out = append(out, raft.Server{ID: id})
		}
		return out
	}
	confirmed := func(ids ...raft.ServerID) map[raft.ServerID]uint64 {
		out := map[raft.ServerID]uint64{}
		for _, id := range ids {
			out[id] = read
		}
		return out
	}
	three := voters("self", "a", "b")
	for name, c := range map[string]struct {
		servers   []raft.Server
		term      uint64
		confirmed map[raft.ServerID]uint64
		want      bool
	}{
		"alone":                       {voters("self"), 0, nil, true},
		"nobody":                      {three, term, nil, false},
		"one of two":                  {three, term, confirmed("b"), true},
		"one of two, in another term": {three, term - 1, confirmed("b"), false},
		"one of two, to an older one": {three, term, map[raft.ServerID]uint64{"b": read - 1}, false},
		"one of four":                 {voters("self", "a", "b", "c", "d"), term, confirmed("d"), false},
		"two of four":                 {voters("self", "a", "b", "c", "d"), term, confirmed("a", "d"), true},
		"one that has no vote":        {append(voters("self", "a", "b"), raft.Server{ID: "c", Suffrage: raft.Nonvoter}), term, confirmed("c"), false},
		"one that is no member":       {three, term, confirmed("c"), false},
		"one, and self is no member":  {voters("a", "b"), term, confirmed("a"), false},
		"all, and self is no member":  {voters("a", "b"), term, confirmed("a", "b"), true},
		"one of one":                  {voters("self", "a"), term, confirmed("a"), true},
		"none of one":                 {voters("self", "a"), term, nil, false},
	} {
		tr := &transport{term: c.term, confirmed: c.confirmed}
		if got := tr.majorityLocked("self", c.servers, term, read); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}
