package raftstore

import (
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// transport is Raft's, made safe: the package's doc says why.
type transport struct {
	*raft.NetworkTransport
	raft  atomic.Pointer[raft.Raft] // nil until it runs
	rpcs  chan raft.RPC             // to Raft's own goroutine
	stop  chan struct{}
	close func() error

	reads     atomic.Uint64 // how many have begun: the clock by which messages are told from earlier ones
	mu        sync.Mutex
	term      uint64                   // of what is in confirmed
	confirmed map[raft.ServerID]uint64 // reads, at the sending of the newest message that the scheduler took from its leader
}

// newTransport runs until Close.
func newTransport(net *raft.NetworkTransport) *transport {
	t := &transport{NetworkTransport: net, rpcs: make(chan raft.RPC), stop: make(chan struct{})}
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			select {
			case rpc := <-net.Consumer():
				t.pass(rpc)
			case <-t.stop:
				return
			}
		}
	})
	t.close = sync.OnceValue(func() error {
		close(t.stop)
		passing.Wait()
		return net.Close()
	})
	return t
}

func (t *transport) Close() error { return t.close() }

// Consumer is what Raft's own goroutine takes messages from.
func (t *transport) Consumer() <-chan raft.RPC { return t.rpcs }

func (t *transport) pass(rpc raft.RPC) {
	select {
	case t.rpcs <- rpc:
	case <-t.stop:
	}
}

// SetHeartbeatHandler is called by Raft with its own.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {
	t.NetworkTransport.SetHeartbeatHandler(t.heartbeat)
}

// heartbeat is called for each, by the goroutine that has read it.
func (t *transport) heartbeat(rpc raft.RPC) {
	select {
	case t.rpcs <- rpc:
		return
	default:
	}
	r := t.raft.Load()
	if r == nil || !follows(r, rpc.Command) {
		t.pass(rpc)
		return
	}
	rpc.Respond(&raft.AppendEntriesResponse{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, Term: r.CurrentTerm(), LastLog: r.LastIndex(), Success: true,
	}, nil)
}

// follows says whether a heartbeat is of the leader that is followed anyway.
func follows(r *raft.Raft, command any) bool {
	beat, ok := command.(*raft.AppendEntriesRequest)
	if !ok || r.State() != raft.Follower {
		return false
	}
	_, leader := r.LeaderWithID()
	return leader != "" && leader == raft.ServerID(beat.ID) && beat.Term == r.CurrentTerm()
}

// AppendEntries sends a leader's message: entries or a heartbeat.
func (t *transport) AppendEntries(
	id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse,
) error {
	args.LeaderCommitIndex = min(args.LeaderCommitIndex, args.PrevLogEntry+uint64(len(args.Entries)))
	sent := t.reads.Load()
	err := t.NetworkTransport.AppendEntries(id, target, args, resp)
	if err == nil && resp.Success {
		t.confirm(id, args.Term, sent)
	}
	return err
}

func (t *transport) confirm(id raft.ServerID, term, sent uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if term > t.term {
		t.term, t.confirmed = term, map[raft.ServerID]uint64{}
	}
	if term == t.term {
		t.confirmed[id] = max(t.confirmed[id], sent)
	}
}

// leads says whether a majority of the servers' votes, self among them, has taken a message from self as the leader of
// the term that was sent after the read began.
func (t *transport) leads(self raft.ServerID, servers []raft.Server, term, read uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	votes, agree := 0, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		votes++
		if s.ID == self || t.term == term && t.confirmed[s.ID] >= read {
			agree++
		}
	}
	return agree > votes/2
}
