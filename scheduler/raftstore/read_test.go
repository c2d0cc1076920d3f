package raftstore

import (
	"context"
	"sync"
	"testing"
	"time"
)

// A leader is stopped while answers of the others are on their way, another is elected and writes, and the first goes on:
// these answers don't count for a read that begins then, which would be stale.
func TestAnswersFromBeforeAReadDontCount(t *testing.T) {
	members := newCluster(t, 30*time.Second)
	stopped, others := members[0], members[1:]
	propose(t, stopped.Store, "a")
	before, after := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(before) })
	hear := sync.OnceFunc(func() { close(after) })
	t.Cleanup(func() { goOn(); hear() })
	stopped.answers.Store(&before) // it is silent from now on, for its messages wait for answers
	stopped.hearing.Store(&after)
	for _, m := range others {
		reload := m.raft.ReloadableConfig()
		reload.HeartbeatTimeout, reload.ElectionTimeout = busy, busy
		if err := m.raft.ReloadConfig(reload); err != nil {
			t.Fatal(err)
		}
	}
	propose(t, leaderOf(t, others).Store, "b")
	if !stopped.IsLeader() {
		t.Fatal("the first leader has noticed")
	}

	stopped.answers.Store(&after)
	ctx, sent, read := testContext(t), stopped.sent.Load(), make(chan error, 1)
	go func() { read <- stopped.ReadIndex(ctx) }()
	asked, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for stopped.sent.Load() == sent && asked.Err() == nil { // a heartbeat may be under way, which it waits for
		time.Sleep(time.Millisecond)
	}
	goOn()
	select {
	case err := <-read:
		if err == nil {
			t.Error("a read was answered without asking the others")
		}
		return // it has asked, and been told, before it was stopped for good
	case <-time.After(100 * time.Millisecond):
	}
	hear()
	if err := <-read; err == nil && len(stopped.st.View().Flavors()) < 2 {
		t.Error("a read was stale")
	}
}
