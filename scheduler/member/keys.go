package member

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// rotate moves the gossip keys on by one step: the first key is made; a new one is used once every member accepts it;
// the old one is forgotten once every member uses the new one. Each step is worked out from the store and from what
// the members report, so that a new leader goes on where the one before stopped.
func (m *Members) rotate(ctx context.Context) error {
	if m.cfg.NewGossipKey == nil {
		return nil
	}
	cluster := m.cfg.State.View().Cluster()
	keys := cluster.GetGossipKeys()
	if len(keys) == 0 {
		k, err := m.cfg.NewGossipKey()
		if err != nil {
			return fmt.Errorf("make the gossip key: %w", err)
		}
		k.Primary = true
		return m.setKeys(ctx, cluster, []*fleetv1.GossipKey{k}, byItself())
	}
	if len(keys) == 1 {
		return nil
	}
	newest := keys[len(keys)-1]
	if newest.GetPrimary() {
		if m.lacking(func(held []string) bool { return len(held) > 0 && held[0] == newest.GetId() }) != "" {
			return nil
		}
		return m.setKeys(ctx, cluster, []*fleetv1.GossipKey{newest}, byItself())
	}
	if m.lacking(func(held []string) bool { return slices.Contains(held, newest.GetId()) }) != "" {
		return nil
	}
	var next []*fleetv1.GossipKey
	for _, k := range keys {
		k = proto.CloneOf(k)
		k.Primary = k.GetId() == newest.GetId()
		next = append(next, k)
	}
	return m.setKeys(ctx, cluster, next, byItself())
}

// lacking names the members that don't report what is wanted of their gossip keys, or "".
func (m *Members) lacking(wanted func(held []string) bool) string {
	now, seen := time.Now(), m.sightings()
	var names []string
	for _, r := range m.cfg.Raft.Members() {
		var held []string
		if r.ID != m.id {
			if s := seen[r.ID]; s.answer != nil && s.silent(now) < m.cfg.UnreachableAfter {
				held = s.answer.GetGossipKeys()
			}
		} else if g := m.gossip(); g != nil {
			held = g.Keys()
		}
		if !wanted(held) {
			names = append(names, m.name(r.ID))
		}
	}
	return strings.Join(names, ", ")
}

func (m *Members) setKeys(ctx context.Context, cluster *fleetv1.Cluster, keys []*fleetv1.GossipKey, as *fleetv1.Command) error {
	next := proto.CloneOf(cluster)
	next.GossipKeys = keys
	return m.writeAs(ctx, &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(cluster.GetMeta().GetRevision(), next)}}, as)
}
