package raftstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drover-fleet/drover/scheduler/state"
)

type member struct {
	*Store
	st  *state.Store
	cfg Config

	mute    atomic.Bool                   // it reaches none of the others, which reach it
	answers atomic.Pointer[chan struct{}] // answers to what it sends from now on come when this is closed
	hearing atomic.Pointer[chan struct{}] // what others send comes when this is closed
	sent    atomic.Int64                  // messages to the others
}

// mutable is the stream of a member.
type mutable struct {
	tcpStream
	m *member
}

func (s mutable) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	if s.m.mute.Load() {
		return nil, errors.New("mute")
	}
	c, err := s.tcpStream.Dial(addr, timeout)
	return &withheld{Conn: c, m: s.m}, err
}

func (s mutable) Accept() (net.Conn, error) {
	c, err := s.tcpStream.Accept()
	return &delayed{c, s.m}, err
}

// delayed is a connection from another, which may have to wait until it is heard.
type delayed struct {
	net.Conn
	m *member
}

func (c *delayed) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if until := c.m.hearing.Load(); until != nil {
		<-*until
	}
	return n, err
}

// withheld is a connection to another, whose answers wait.
type withheld struct {
	net.Conn
	m     *member
	until *chan struct{}
}

func (c *withheld) Write(b []byte) (int, error) {
	c.until = c.m.answers.Load()
	c.m.sent.Add(1)
	return c.Conn.Write(b)
}

func (c *withheld) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.until != nil {
		<-*c.until
	}
	return n, err
}

// newCluster makes three schedulers; the first bootstraps and lets the others join. They run an election when they hear
// nothing for timeout.
func newCluster(t *testing.T, timeout time.Duration) []*member {
	t.Helper()
	var members []*member
	for i := range 3 {
		cfg := testConfig(t.TempDir())
		cfg.Bootstrap = i == 0
		cfg.TrailingLogs = 5
		cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLease = timeout, timeout, busy*3/4
		if i == 0 {
			cfg.LeaderLease = timeout * 3 / 4 // not so for the others: a test may shorten their timeouts later, and not this
		}
		m := &member{}
		cfg.Stream = func(l net.Listener, _ string) (StreamLayer, error) { return mutable{tcpStream{l}, m}, nil }
		m.Store, m.st = mustOpen(t, cfg, nil)
		cfg.Addr = m.Addr()
		m.cfg = cfg
		members = append(members, m)
	}
	awaitLeader(t, members[0].Store)
	for _, m := range members[1:] {
		if err := members[0].AddVoter(testContext(t), m.ID(), m.Addr()); err != nil {
			t.Fatal(err)
		}
	}
	return members
}

// busy is slower than a scheduler alone: three elect on a machine that may be busy.
const busy = 400 * time.Millisecond

// leaderOf waits until one of the members leads.
func leaderOf(t *testing.T, members []*member) *member {
	t.Helper()
	ctx := testContext(t)
	led := make(chan *member, len(members))
	for _, m := range members {
		if m.IsLeader() {
			return m
		}
		go func() {
			for {
				select {
				case leads := <-m.LeaderChanges():
					if leads {
						led <- m
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	select {
	case m := <-led:
		return m
	case <-ctx.Done():
		t.Fatal("no leader")
		return nil
	}
}

// awaitFlavors waits by the store's own feed until it has n flavors.
func awaitFlavors(t *testing.T, st *state.Store, n int) {
	t.Helper()
	feed := st.Subscribe()
	defer feed.Close()
	ctx := testContext(t)
	for len(st.View().Flavors()) != n {
		if _, _, err := feed.Next(ctx); err != nil {
			t.Fatalf("%d flavors, want %d: %v", len(st.View().Flavors()), n, err)
		}
	}
}

func TestThreeSchedulersFailOver(t *testing.T) {
	members := newCluster(t, busy)
	first := leaderOf(t, members)
	for i := range 10 {
		propose(t, first.Store, fmt.Sprint("a", i))
	}
	var rest []*member
	for _, m := range members {
		awaitFlavors(t, m.st, 10)
		if m == first {
			continue
		}
		rest = append(rest, m)
		var notLeader *NotLeaderError
		if _, err := m.Propose(testContext(t), flavorCommand("no")); !errors.As(err, &notLeader) || notLeader.Leader != first.Addr() {
			t.Errorf("a follower answers %v, the leader is %s", err, first.Addr())
		}
		if id, addr := m.Leader(); id != first.ID() || addr != first.Addr() {
			t.Errorf("a follower takes %s at %s for the leader", id, addr)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := leaderOf(t, rest)
	if n := len(second.st.View().Flavors()); n != 10 {
		t.Fatalf("the new leader has %d writes of 10", n)
	}
	for i := range 20 {
		propose(t, second.Store, fmt.Sprint("b", i))
	}
	if err := second.ReadIndex(testContext(t)); err != nil {
		t.Fatal(err)
	}
	// The first one comes back behind the log's begin: it gets a snapshot, and what follows.
	if err := second.Snapshot(testContext(t)); err != nil {
		t.Fatal(err)
	}
	propose(t, second.Store, "last")
	_, st := mustOpen(t, first.cfg, nil)
	awaitFlavors(t, st, 31)
}

// Who is to take over gets no vote: another is elected, and that isn't called a success.
func TestATransferThatFails(t *testing.T) {
	members := newCluster(t, busy)
	first := leaderOf(t, members)
	propose(t, first.Store, "a")
	to := members[0]
	if to == first {
		to = members[1]
	}
	awaitFlavors(t, to.st, 1)
	to.mute.Store(true)
	if err := first.TransferLeadership(testContext(t), to.ID()); err == nil {
		t.Error("the leadership was transferred to one that can't have a vote")
	}
}

// With its followers gone a leader can't answer, and says that it doesn't know.
func TestWritesWithoutMajorityAreUnknown(t *testing.T) {
	members := newCluster(t, busy)
	leader := leaderOf(t, members)
	propose(t, leader.Store, "a")
	for _, m := range members {
		if m != leader {
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := leader.Propose(ctx, flavorCommand("b"))
	var notLeader *NotLeaderError
	if !errors.Is(err, ErrUnknown) && !errors.As(err, &notLeader) {
		t.Errorf("propose: %v", err)
	}
	if err := leader.ReadIndex(ctx); err == nil {
		t.Error("a leader without a majority answers linearizable reads")
	}
}
