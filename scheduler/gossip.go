package scheduler

import (
	"context"
	"net"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/authority"
	"github.com/drover-fleet/drover/scheduler/gossip"
	"github.com/drover-fleet/drover/scheduler/member"
	"github.com/drover-fleet/drover/scheduler/state"
)

// gossipRetry is how often a gossip that could not be started, or could not take its keys, is tried again.
const gossipRetry = 5 * time.Second

// newGossipKey makes a key, encrypted under the first key of the key file.
func (s *Server) newGossipKey() (*fleetv1.GossipKey, error) {
	keys, err := s.cfg.keyFile().Read()
	if err != nil {
		return nil, err
	}
	key := gossip.NewKey()
	sealed, err := keys.Seal(key, authority.GossipKeyAbout)
	if err != nil {
		return nil, err
	}
	return &fleetv1.GossipKey{Id: gossip.KeyID(key), Sealed: sealed, CreateTime: timestamppb.New(s.clock.Now())}, nil
}

// gossipKeys are the cluster's, that of our own messages first.
func (s *Server) gossipKeys(cluster *fleetv1.Cluster) ([][]byte, error) {
	if len(cluster.GetGossipKeys()) == 0 {
		return nil, nil
	}
	keys, err := s.cfg.keyFile().Read()
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, k := range cluster.GetGossipKeys() {
		key, err := keys.Open(k.GetSealed(), authority.GossipKeyAbout)
		if err != nil {
			return nil, err
		}
		at := len(out)
		if k.GetPrimary() {
			at = 0
		}
		out = slices.Insert(out, at, key)
	}
	return out, nil
}

// hearsay is the gossip, once there is any.
func (s *Server) hearsay() member.Gossip {
	if g := s.gossip.Load(); g != nil {
		return g
	}
	return nil
}

// knownGossip are the gossip addresses of the schedulers in the store.
func (s *Server) knownGossip() []string {
	var all []string
	for _, other := range s.state.View().Schedulers() {
		all = append(all, other.GetGossipAddress())
	}
	return all
}

// startGossip listens for gossip.
func (s *Server) startGossip(cluster *fleetv1.Cluster, keys [][]byte) (*gossip.Gossip, error) {
	advertise := s.cfg.AdvertiseAddress
	if net.ParseIP(advertise) == nil {
		advertise = "" // memberlist takes addresses alone: it finds its own
	}
	return gossip.Start(gossip.Config{
		Addr: s.cfg.GossipAddr, Advertise: advertise, Label: cluster.GetMeta().GetId(), Self: s.self(), Keys: keys,
		CIDRs: s.cfg.GossipCIDRs, Known: s.knownGossip, Logger: s.log,
	})
}

// followGossip gossips from when the store holds a key that this scheduler can open, and keeps its keys up with the
// store's, until ctx ends.
func (s *Server) followGossip(ctx context.Context) {
	feed := s.state.Subscribe()
	defer feed.Close()
	retry := time.NewTicker(gossipRetry)
	defer retry.Stop()
	stop := func() {}
	defer func() { stop() }()
	running, failed := false, false
	var last *fleetv1.Cluster
	for {
		if cluster := s.state.View().Cluster(); cluster != last && !failed {
			if last != nil && cluster.GetMeta().GetId() != last.GetMeta().GetId() { // it was restored from a backup, and has another label
				stop()
				running, stop = false, func() {}
			}
			if err := s.takeGossipKeys(cluster); err != nil {
				failed = true // until it is time to try again: the store may change a thousand times a second
				s.log.Error("the schedulers' gossip can't be followed, trying again", "error", err)
			} else {
				last = cluster
			}
		}
		if g := s.gossip.Load(); g != nil && !running {
			running, stop = true, s.runGossip(ctx, g)
		}
		select {
		case <-ctx.Done():
			return
		case <-feed.Ready():
			sets, resync, err := feed.Poll()
			if err != nil {
				return // the feed is closed by nobody else: the store has gone
			}
			if g := s.gossip.Load(); g != nil && (resync || touches(sets, fleetv1.KindScheduler)) {
				g.Nudge()
			}
		case <-retry.C:
			failed = false
		}
	}
}

// touches says whether changes are of objects of a kind.
func touches(sets []state.ChangeSet, kind string) bool {
	for _, set := range sets {
		for _, c := range set.Changes {
			if c.Key.Kind == kind {
				return true
			}
		}
	}
	return false
}

// takeGossipKeys starts the gossip with the cluster's keys, or gives them to it.
func (s *Server) takeGossipKeys(cluster *fleetv1.Cluster) error {
	keys, err := s.gossipKeys(cluster)
	if err != nil || len(keys) == 0 {
		return err
	}
	if g := s.gossip.Load(); g != nil {
		return g.SetKeys(keys)
	}
	g, err := s.startGossip(cluster, keys)
	if err == nil {
		s.gossip.Store(g)
		s.log.Info("scheduler gossips", "address", g.Addr(), "cluster", cluster.GetMeta().GetId())
	}
	return err
}

// runGossip runs it until the answered function is called, which closes it.
func (s *Server) runGossip(ctx context.Context, g *gossip.Gossip) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		g.Run(ctx)
		close(done)
	}()
	return func() {
		cancel()
		<-done
		s.gossip.Store(nil)
		if err := g.Close(); err != nil {
			s.log.Warn("gossip did not end in order", "error", err)
		}
	}
}
