package auth

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// UseStep is how much newer the last use of a credential must be than what is stored of it to be written.
const UseStep = time.Hour

// Uses are the changes that store when credentials were last used, at most limit of them, and forgets credentials that
// have changed.
func (a *Authenticator) Uses(limit int) []*fleetv1.Mutation {
	view, last := a.cfg.View(), map[state.Key]int64{}
	a.seen.Range(func(of, value any) bool {
		s := value.(*seen)
		now := current(view, s.key)
		if now == nil || now != of {
			a.seen.Delete(of)
		}
		if now != nil {
			last[s.key] = max(last[s.key], s.used.Load())
		}
		return true
	})
	var out []*fleetv1.Mutation
	for key, used := range last {
		if m := usedAt(current(view, key), time.Unix(used, 0)); m != nil && len(out) < limit {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *fleetv1.Mutation) int {
		x, y := state.KeyOf(a.GetPut()), state.KeyOf(b.GetPut())
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Key, y.Key))
	})
	return out
}

// current is the stored object of a credential, or nil.
func current(view state.ReadView, key state.Key) proto.Message {
	switch key.Kind {
	case fleetv1.KindToken:
		if t := view.Token(key.Key); t != nil {
			return t
		}
	case fleetv1.KindKey:
		if k := view.Key(key.Key); k != nil {
			return k
		}
	case fleetv1.KindApp:
		if app := view.AppAt(key); app != nil {
			return app
		}
	}
	return nil
}

// usedAt stores a use that is a step newer than the one that is stored; nil when it isn't.
func usedAt(of proto.Message, at time.Time) *fleetv1.Mutation {
	credential, ok := of.(interface {
		GetMeta() *fleetv1.Meta
		GetLastUsedTime() *timestamppb.Timestamp
	})
	if !ok || at.Before(credential.GetLastUsedTime().AsTime().Add(UseStep)) {
		return nil
	}
	after := proto.Clone(of)
	switch m := after.(type) {
	case *fleetv1.Token:
		m.LastUsedTime = timestamppb.New(at)
	case *fleetv1.Key:
		m.LastUsedTime = timestamppb.New(at)
	case *fleetv1.App:
		m.LastUsedTime = timestamppb.New(at)
	}
	return state.Put(credential.GetMeta().GetRevision(), after)
}
