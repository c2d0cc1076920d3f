package member

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// keyring is a gossip that takes over the keys of its scheduler's store, unless it is stuck. It hears nobody.
type keyring struct {
	st    *state.Store
	stuck *atomic.Bool

	mu   sync.Mutex
	held []string
}

func (k *keyring) Keys() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stuck.Load() {
		return k.held
	}
	k.held = nil
	for _, key := range k.st.View().Cluster().GetGossipKeys() {
		at := len(k.held)
		if key.GetPrimary() {
			at = 0
		}
		k.held = slices.Insert(k.held, at, key.GetId())
	}
	return k.held
}

func (k *keyring) Heard(string) (*fleetv1.Scheduler, bool) { return nil, false }
func (k *keyring) All() []*fleetv1.Scheduler               { return nil }

func TestRotateGossipKey(t *testing.T) {
	var made atomic.Int64
	var stuck [3]atomic.Bool
	all := three(t, func(i int, c *Config) {
		ring := &keyring{st: c.State.(*state.Store), stuck: &stuck[i]}
		c.Gossip = func() Gossip { return ring }
		c.NewGossipKey = func() (*fleetv1.GossipKey, error) {
			return &fleetv1.GossipKey{Id: fmt.Sprint("k", made.Add(1))}, nil
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	all[0].await("the first key", func() bool { return len(all[0].st.View().Cluster().GetGossipKeys()) == 1 })

	// No step is taken that a member hasn't followed: at no time does one use a key that another doesn't accept.
	feed := all[0].st.Subscribe()
	defer feed.Close()
	if _, _, err := feed.Poll(); err != nil { // the first answer is that everything is new
		t.Fatal(err)
	}
	stuck[2].Store(true)
	short, cancelShort := context.WithTimeout(ctx, 10*all[0].cfg.ProbeInterval)
	defer cancelShort()
	if _, err := all[0].RotateKey(short, byAdmin()); status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("with a member that doesn't take the key over: %v", err)
	}
	if keys := all[0].st.View().Cluster().GetGossipKeys(); len(keys) != 2 || !keys[0].GetPrimary() || keys[1].GetPrimary() {
		t.Fatalf("the keys are %v", keys)
	}
	all[0].await("waiting for s3 alone", func() bool { return all[0].waitedFor("k2") == label(all[2].cfg.Self) })
	stuck[2].Store(false)
	id, err := all[0].RotateKey(ctx, byAdmin())
	if err != nil || id != "k2" || made.Load() != 2 {
		t.Fatalf("key %s, %v; %d were made", id, err, made.Load())
	}
	var words []string
	for len(words) == 0 || words[len(words)-1] != "k2*" {
		sets, _, err := feed.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, set := range sets {
			for _, c := range set.Changes {
				if keys := c.After.GetCluster().GetGossipKeys(); c.Key.Kind == fleetv1.KindCluster {
					words = append(words, spelled(keys))
				}
			}
		}
	}
	if want := []string{"k1*k2", "k1k2*", "k2*"}; !slices.Equal(words, want) {
		t.Errorf("the steps were %v, want %v", words, want)
	}
}

func spelled(keys []*fleetv1.GossipKey) (s string) {
	for _, k := range keys {
		s += k.GetId()
		if k.GetPrimary() {
			s += "*"
		}
	}
	return s
}
