package state

import (
	"encoding/binary"
	"slices"

	"github.com/tidwall/btree"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// objectKinds in the order in which snapshots hold them: what is referred to comes first.
func objectKinds() []string {
	return []string{
		fleetv1.KindCluster, fleetv1.KindToken, fleetv1.KindNode, fleetv1.KindFlavor, fleetv1.KindPool, fleetv1.KindQuota,
		fleetv1.KindModel, fleetv1.KindService, fleetv1.KindInstance, fleetv1.KindJoinToken, fleetv1.KindCertificate,
		fleetv1.KindScheduler, fleetv1.KindAccount, fleetv1.KindProject, fleetv1.KindUser, fleetv1.KindKey, fleetv1.KindApp,
		fleetv1.KindJob, fleetv1.KindJobLedger, fleetv1.KindStorageKey,
	}
}

// table holds the objects of one kind by their store key, or what else is found by a string.
type table[V any] = btree.Map[string, V]

// tables is all that is stored at one index. Once published it is never changed: a command changes a copy,
// which shares with it every branch of a tree that stays as it is.
type tables struct {
	index      uint64
	introduced uint32 // the newest Command.introduced that was applied
	writer     uint64 // of the command that they are being made by: no other has this number

	cluster, tokens, nodes, flavors, pools, quotas, models, services, instances *table[*fleetv1.Object]
	joinTokens, certificates, schedulers                                        *table[*fleetv1.Object]
	accounts, projects, users, keys, apps                                       *table[*fleetv1.Object]
	jobs, jobLedgers, storageKeys                                               *table[*fleetv1.Object]

	nodeNames   *table[string]   // by meta.id
	serviceKeys *table[string]   // by meta.id
	jobKeys     *table[string]   // by meta.id
	tokenNames  *table[string]   // by secret_sha256
	appKeys     *table[string]   // by app_key, and by the SHA-256 of each code
	ofService   *table[*roster]  // by the service's meta.id
	gangs       *table[[]string] // IDs of the instances, by the gang's

	nodeUse    *table[*nodeUse]
	projectUse *table[*projectUse]
	owned      *table[int] // how many services each user has made

	requests      *table[*fleetv1.RequestRecord] // by requestKey
	requestsByAge *table[*fleetv1.RequestRecord] // by time, then Raft index
}

// roster is the instances of one service by ID.
type roster struct {
	writer    uint64 // the command that made it: later ones change a copy
	instances *table[*fleetv1.Object]
}

// degree is half of how many entries a node of a tree has at most: small nodes are cheap to copy, large ones
// need less memory.
const degree = 16

func newTables() *tables {
	object := func() *table[*fleetv1.Object] { return btree.NewMap[string, *fleetv1.Object](degree) }
	name := func() *table[string] { return btree.NewMap[string, string](degree) }
	request := func() *table[*fleetv1.RequestRecord] {
		return btree.NewMap[string, *fleetv1.RequestRecord](degree)
	}
	return &tables{
		cluster: object(), tokens: object(), nodes: object(), flavors: object(), pools: object(), quotas: object(), models: object(),
		services: object(), instances: object(), joinTokens: object(), certificates: object(), schedulers: object(),
		accounts: object(), projects: object(), users: object(), keys: object(), apps: object(), appKeys: name(),
		jobs: object(), jobLedgers: object(), storageKeys: object(), jobKeys: name(),
		nodeNames: name(), serviceKeys: name(), tokenNames: name(),
		ofService: btree.NewMap[string, *roster](degree), gangs: btree.NewMap[string, []string](degree),
		nodeUse: btree.NewMap[string, *nodeUse](degree), projectUse: btree.NewMap[string, *projectUse](degree), owned: btree.NewMap[string, int](degree),
		requests: request(), requestsByAge: request(),
	}
}

// copy answers tables that may be changed. It is for the store's writer alone.
func (t *tables) copy() *tables {
	return &tables{
		index: t.index, introduced: t.introduced, writer: t.writer, cluster: t.cluster.Copy(), tokens: t.tokens.Copy(), nodes: t.nodes.Copy(), flavors: t.flavors.Copy(),
		pools: t.pools.Copy(), quotas: t.quotas.Copy(), models: t.models.Copy(), services: t.services.Copy(), instances: t.instances.Copy(),
		joinTokens: t.joinTokens.Copy(), certificates: t.certificates.Copy(), schedulers: t.schedulers.Copy(),
		accounts: t.accounts.Copy(), projects: t.projects.Copy(), users: t.users.Copy(), keys: t.keys.Copy(), apps: t.apps.Copy(), appKeys: t.appKeys.Copy(),
		jobs: t.jobs.Copy(), jobLedgers: t.jobLedgers.Copy(), storageKeys: t.storageKeys.Copy(), jobKeys: t.jobKeys.Copy(),
		nodeNames: t.nodeNames.Copy(), serviceKeys: t.serviceKeys.Copy(), tokenNames: t.tokenNames.Copy(), ofService: t.ofService.Copy(),
		gangs: t.gangs.Copy(), nodeUse: t.nodeUse.Copy(), projectUse: t.projectUse.Copy(), owned: t.owned.Copy(), requests: t.requests.Copy(), requestsByAge: t.requestsByAge.Copy(),
	}
}

// of is nil for an unknown kind.
func (t *tables) of(kind string) *table[*fleetv1.Object] {
	switch kind {
	case fleetv1.KindCluster:
		return t.cluster
	case fleetv1.KindToken:
		return t.tokens
	case fleetv1.KindNode:
		return t.nodes
	case fleetv1.KindFlavor:
		return t.flavors
	case fleetv1.KindPool:
		return t.pools
	case fleetv1.KindQuota:
		return t.quotas
	case fleetv1.KindModel:
		return t.models
	case fleetv1.KindService:
		return t.services
	case fleetv1.KindInstance:
		return t.instances
	case fleetv1.KindJoinToken:
		return t.joinTokens
	case fleetv1.KindCertificate:
		return t.certificates
	case fleetv1.KindScheduler:
		return t.schedulers
	case fleetv1.KindAccount:
		return t.accounts
	case fleetv1.KindProject:
		return t.projects
	case fleetv1.KindUser:
		return t.users
	case fleetv1.KindKey:
		return t.keys
	case fleetv1.KindApp:
		return t.apps
	case fleetv1.KindJob:
		return t.jobs
	case fleetv1.KindJobLedger:
		return t.jobLedgers
	case fleetv1.KindStorageKey:
		return t.storageKeys
	}
	return nil
}

// object is nil when there is none.
func (t *tables) object(key Key) *fleetv1.Object {
	objects := t.of(key.Kind)
	if objects == nil {
		return nil
	}
	o, _ := objects.Get(key.Key)
	return o
}

// set stores an object, or deletes it with nil, and answers the one before. What is found by other than its
// key follows.
func (t *tables) set(key Key, o *fleetv1.Object) (before *fleetv1.Object) {
	if o == nil {
		before, _ = t.of(key.Kind).Delete(key.Key)
	} else {
		before, _ = t.of(key.Kind).Set(key.Key, o)
	}
	switch key.Kind {
	case fleetv1.KindNode:
		refer(t.nodeNames, key.Key, before.GetNode().GetMeta().GetId(), o.GetNode().GetMeta().GetId())
	case fleetv1.KindService:
		refer(t.serviceKeys, key.Key, before.GetService().GetMeta().GetId(), o.GetService().GetMeta().GetId())
		t.setOwner(before.GetService(), o.GetService())
	case fleetv1.KindToken:
		refer(t.tokenNames, key.Key, string(before.GetToken().GetSecretSha256()), string(o.GetToken().GetSecretSha256()))
	case fleetv1.KindJob:
		refer(t.jobKeys, key.Key, before.GetJob().GetMeta().GetId(), o.GetJob().GetMeta().GetId())
	case fleetv1.KindApp:
		t.referApp(key.Key, before.GetApp(), o.GetApp())
	case fleetv1.KindInstance:
		from, to := before.GetInstance().GetSpec().GetServiceId(), o.GetInstance().GetSpec().GetServiceId()
		if before != nil && (o == nil || from != to) {
			if r := t.roster(from); r.instances.Len() > 1 {
				r.instances.Delete(key.Key)
			} else {
				t.ofService.Delete(from)
			}
		}
		if o != nil {
			t.roster(to).instances.Set(o.GetInstance().GetMeta().GetId(), o)
		}
		t.setGang(key.Key, before.GetInstance().GetSpec().GetGang().GetId(), o.GetInstance().GetSpec().GetGang().GetId())
	}
	return before
}

// roster answers what the command in progress may change.
func (t *tables) roster(service string) *roster {
	r := get(t.ofService, service)
	if r != nil && r.writer == t.writer {
		return r
	}
	mine := &roster{writer: t.writer}
	if r != nil {
		mine.instances = r.instances.Copy()
	} else {
		mine.instances = btree.NewMap[string, *fleetv1.Object](degree)
	}
	t.ofService.Set(service, mine)
	return mine
}

// setOwner counts the services of users; those of jobs are the jobs' affair.
func (t *tables) setOwner(before, after *fleetv1.Service) {
	if before.GetSpec().GetJobId() != "" || after.GetSpec().GetJobId() != "" {
		return
	}
	from, to := before.GetMeta().GetCreatedBy(), after.GetMeta().GetCreatedBy()
	if before != nil && after != nil && from == to {
		return
	}
	if n := get(t.owned, from); before != nil && n > 1 {
		t.owned.Set(from, n-1)
	} else if before != nil {
		t.owned.Delete(from)
	}
	if after != nil {
		t.owned.Set(to, get(t.owned, to)+1)
	}
}

func (t *tables) setGang(instance, from, to string) {
	if from == to {
		return
	}
	if members := slices.DeleteFunc(slices.Clone(get(t.gangs, from)), func(id string) bool { return id == instance }); len(members) > 0 {
		t.gangs.Set(from, members)
	} else {
		t.gangs.Delete(from)
	}
	if to != "" {
		t.gangs.Set(to, append(slices.Clone(get(t.gangs, to)), instance))
	}
}

// refer keeps up a second way to find the object of a key; an empty one is none.
func refer(keys *table[string], key, before, after string) {
	if before == after {
		return
	}
	if owner, _ := keys.Get(before); before != "" && owner == key {
		keys.Delete(before)
	}
	if after != "" {
		keys.Set(after, key)
	}
}

// requestKey is that of a request ID in a scope: no scope has a zero byte.
func requestKey(scope, id string) string { return id + "\x00" + scope }

// requestAge sorts requests by time, those of one time by Raft index.
func requestAge(r *fleetv1.RequestRecord) string {
	b := make([]byte, 0, 20)
	b = binary.BigEndian.AppendUint64(b, uint64(r.GetTime().GetSeconds())^1<<63)
	b = binary.BigEndian.AppendUint32(b, uint32(r.GetTime().GetNanos()))
	return string(binary.BigEndian.AppendUint64(b, r.GetIndex()))
}
