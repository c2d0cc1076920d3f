package auth

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// UseStep is how much newer the last use of a credential must be than what is stored of it to be written.
const UseStep = time.Hour

// Uses are the last uses that are newer than what is stored by UseStep, at most limit of them. Credentials that have
// changed since they were shown are forgotten.
func (a *Authenticator) Uses(limit int) []*fleetv1.CredentialUse {
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
	var out []*fleetv1.CredentialUse
	for key, used := range last {
		if len(out) < limit && newer(current(view, key), time.Unix(used, 0)) {
			out = append(out, &fleetv1.CredentialUse{Kind: key.Kind, Key: key.Key, Time: timestamppb.New(time.Unix(used, 0))})
		}
	}
	return out
}

// StoreUses are the changes that store uses, as far as they are newer than what is stored by UseStep.
func StoreUses(view state.ReadView, uses []*fleetv1.CredentialUse) []*fleetv1.Mutation {
	var out []*fleetv1.Mutation
	done := map[state.Key]bool{}
	for _, u := range uses {
		key := state.Key{Kind: u.GetKind(), Key: u.GetKey()}
		of := current(view, key)
		if done[key] || of == nil || !newer(of, u.GetTime().AsTime()) {
			continue
		}
		done[key] = true
		after := proto.Clone(of)
		switch m := after.(type) {
		case *fleetv1.Token:
			m.LastUsedTime = u.GetTime()
		case *fleetv1.Key:
			m.LastUsedTime = u.GetTime()
		case *fleetv1.App:
			m.LastUsedTime = u.GetTime()
		}
		out = append(out, state.Put(of.GetMeta().GetRevision(), after))
	}
	return out
}

// stored is a token, key or app.
type stored interface {
	proto.Message
	GetMeta() *fleetv1.Meta
	GetLastUsedTime() *timestamppb.Timestamp
}

// newer says that a use is newer than the one that is stored by UseStep.
func newer(of stored, at time.Time) bool {
	return !at.Before(of.GetLastUsedTime().AsTime().Add(UseStep))
}

// current is the stored object of a credential, or nil.
func current(view state.ReadView, key state.Key) stored {
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
