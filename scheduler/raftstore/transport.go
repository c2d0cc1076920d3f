package raftstore

import (
	"context"
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

	reads     atomic.Uint64            // how many have begun: the clock by which messages are told from earlier ones
	accepted  awaited                  // guards what follows
	term      uint64                   // of what is in confirmed
	confirmed map[raft.ServerID]uint64 // the value of reads when the newest message that a scheduler has accepted was sent
}

var _ raft.WithPreVote = (*transport)(nil) // Raft does without, and says so in its log alone

// newTransport runs until Close.
func newTransport(net *raft.NetworkTransport) *transport {
	t := &transport{NetworkTransport: net, rpcs: make(chan raft.RPC), stop: make(chan struct{})}
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			select {
			case rpc := <-net.Consumer():
				if m, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
					m.LeaderCommitIndex = min(m.LeaderCommitIndex, m.PrevLogEntry+uint64(len(m.Entries)))
				}
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
	default: // Raft's own goroutine is busy
	}
	if beat, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && t.follows(beat) {
		rpc.Respond(&raft.AppendEntriesResponse{Term: beat.Term, Success: true}, nil)
		return
	}
	t.pass(rpc)
}

// follows says whether a heartbeat is of the leader that is followed anyway. Raft has stored a newer term, and shows it,
// before it votes in it: what is answered by this is true.
func (t *transport) follows(beat *raft.AppendEntriesRequest) bool {
	r := t.raft.Load()
	if r == nil || r.State() != raft.Follower {
		return false
	}
	_, leader := r.LeaderWithID()
	return leader != "" && leader == raft.ServerID(beat.ID) && beat.Term == r.CurrentTerm()
}

// AppendEntries sends a leader's message: entries or a heartbeat.
func (t *transport) AppendEntries(
	id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse,
) error {
	sent := t.reads.Load()
	err := t.NetworkTransport.AppendEntries(id, target, args, resp)
	if err == nil && resp.Success {
		t.confirm(id, args.Term, sent)
	}
	return err
}

// AppendEntriesPipeline would send them without being asked here.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func (t *transport) confirm(id raft.ServerID, term, sent uint64) {
	t.accepted.Lock()
	defer t.accepted.Unlock()
	if term > t.term {
		t.term, t.confirmed = term, map[raft.ServerID]uint64{}
	}
	if term == t.term {
		t.confirmed[id] = max(t.confirmed[id], sent)
		t.accepted.changedLocked()
	}
}

// awaitMajority answers true when most of the servers with a vote, self among them, have accepted a message from self as
// the leader of the term that was sent after the read had begun, and false when ctx ends before.
func (t *transport) awaitMajority(ctx context.Context, self raft.ServerID, servers []raft.Server, term, read uint64) bool {
	return t.accepted.until(ctx, func() bool { return t.majorityLocked(self, servers, term, read) }) == nil
}

func (t *transport) majorityLocked(self raft.ServerID, servers []raft.Server, term, read uint64) bool {
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
