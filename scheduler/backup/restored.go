package backup

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/authority"
	"github.com/drover-fleet/drover/scheduler/state"
)

// TokenName is the name of the token with which a cluster was restored last.
const TokenName = "restore"

// KindScheduler is the kind of the objects that are left out of a restored state: the schedulers of the backup are not
// those of this cluster.
const KindScheduler = "scheduler"

// Restored makes the state of a backup that of the cluster here: at a higher index, with a higher restore epoch,
// and with the caller's token, if it has one, besides those of the backup: nobody is locked out. The backup's schedulers
// are: should they still run, their log would go on over this one's. It answers the epoch.
func Restored(st *state.Store, here state.ReadView, caller *fleetv1.Token, now time.Time) (epoch uint64, err error) {
	view := st.View()
	cluster := proto.CloneOf(view.Cluster())
	epoch = NextEpoch(now, cluster.GetRestoreEpoch(), here.Cluster().GetRestoreEpoch())
	cluster.RestoreEpoch = epoch
	members := func(id string) bool { return here.Scheduler(id) != nil }
	write := &fleetv1.Write{Mutations: authority.Retire(view, cluster, members, "restore", now)}
	write.Mutations = append(write.Mutations, state.Put(cluster.GetMeta().GetRevision(), cluster))
	if caller != nil && view.TokenBySecret(caller.GetSecretSha256()) == nil {
		token := proto.CloneOf(caller)
		token.Meta.Name = TokenName
		write.Mutations = append(write.Mutations, state.Put(TokenOf(view, TokenName).GetMeta().GetRevision(), token))
	}
	cmd := &fleetv1.Command{Time: timestamppb.New(now), Caller: "restore", Op: &fleetv1.Command_Write{Write: write}}
	cmd.Introduced = state.Introduced(cmd)
	if result, _ := st.Apply(max(view.Index(), here.Index())+1, cmd); len(result.Rejections) > 0 {
		return 0, fmt.Errorf("restore: %s", result.Rejections[0].Detail)
	}
	return epoch, nil
}

// NextEpoch is a restore epoch above those before it.
func NextEpoch(now time.Time, before ...uint64) uint64 {
	epoch := uint64(now.UnixMilli())
	for _, b := range before {
		epoch = max(epoch, b+1)
	}
	return epoch
}

// TokenOf is the token of this name, or nil.
func TokenOf(view state.ReadView, name string) *fleetv1.Token {
	for _, t := range view.Tokens() {
		if t.GetMeta().GetName() == name {
			return t
		}
	}
	return nil
}

// KeyIDs are the encryption keys that the object names, in fields called key_id, each once.
func KeyIDs(m proto.Message) []string {
	seen := map[string]bool{}
	var ids []string
	var look func(protoreflect.Message)
	look = func(m protoreflect.Message) {
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case f.IsMap():
			case f.IsList() && f.Message() != nil:
				for i := range v.List().Len() {
					look(v.List().Get(i).Message())
				}
			case f.IsList():
			case f.Message() != nil:
				look(v.Message())
			case f.Name() == "key_id" && f.Kind() == protoreflect.StringKind && !seen[v.String()]:
				seen[v.String()] = true
				ids = append(ids, v.String())
			}
			return true
		})
	}
	look(m.ProtoReflect())
	return ids
}
