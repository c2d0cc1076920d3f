package state

import (
	"cmp"
	"iter"
	"slices"
	"strconv"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// view answers ReadView from tables that no longer change (or, inside Apply, those that are being made).
type view struct{ t *tables }

var _ ReadView = view{}

// list collects what unwrap takes out of the objects whose keys begin with prefix.
func list[T any](objects *table[*fleetv1.Object], unwrap func(*fleetv1.Object) T, prefix string) []T {
	var out []T
	if prefix == "" {
		out = make([]T, 0, objects.Len())
	}
	objects.Ascend(prefix, func(key string, o *fleetv1.Object) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		out = append(out, unwrap(o))
		return true
	})
	return out
}

// get is nil when there is none.
func get[V any](t *table[V], key string) V {
	v, _ := t.Get(key)
	return v
}

func (v view) Index() uint64 { return v.t.index }

func (v view) Cluster() *fleetv1.Cluster {
	_, o, _ := v.t.cluster.Min()
	return o.GetCluster()
}

func (v view) Scheduler(id string) *fleetv1.Scheduler { return get(v.t.schedulers, id).GetScheduler() }

func (v view) Schedulers() []*fleetv1.Scheduler {
	return list(v.t.schedulers, (*fleetv1.Object).GetScheduler, "")
}

func (v view) Token(name string) *fleetv1.Token { return get(v.t.tokens, name).GetToken() }

func (v view) Tokens() []*fleetv1.Token { return list(v.t.tokens, (*fleetv1.Object).GetToken, "") }

func (v view) TokenBySecret(sha256 []byte) *fleetv1.Token {
	name, ok := v.t.tokenNames.Get(string(sha256))
	if !ok {
		return nil
	}
	return get(v.t.tokens, name).GetToken()
}

func (v view) JoinTokens() []*fleetv1.JoinToken {
	return list(v.t.joinTokens, (*fleetv1.Object).GetJoinToken, "")
}

func (v view) Certificate(role, name string) *fleetv1.Certificate {
	return get(v.t.certificates, CertificateKey(role, name).Key).GetCertificate()
}

func (v view) Certificates() []*fleetv1.Certificate {
	return list(v.t.certificates, (*fleetv1.Object).GetCertificate, "")
}

func (v view) Node(nameOrID string) *fleetv1.Node {
	if o, ok := v.t.nodes.Get(nameOrID); ok {
		return o.GetNode()
	}
	if name, ok := v.t.nodeNames.Get(nameOrID); ok {
		return get(v.t.nodes, name).GetNode()
	}
	return nil
}

func (v view) Nodes() []*fleetv1.Node { return list(v.t.nodes, (*fleetv1.Object).GetNode, "") }

func (v view) Allocated(node string) Allocation {
	if used := get(v.t.nodeUse, node); used != nil {
		return used.Allocation
	}
	return Allocation{}
}

func (v view) PoolNodes(pool *fleetv1.Pool) []*fleetv1.Node {
	return slices.Collect(v.PoolMembers(pool))
}

func (v view) PoolMembers(pool *fleetv1.Pool) iter.Seq[*fleetv1.Node] {
	return func(yield func(*fleetv1.Node) bool) {
		if names := pool.GetSpec().GetNodes(); len(names) > 0 {
			for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
				if n := get(v.t.nodes, name).GetNode(); n != nil && !yield(n) {
					return
				}
			}
			return
		}
		selector := pool.GetSpec().GetSelector()
		if len(selector) == 0 {
			return
		}
		v.t.nodes.Scan(func(_ string, o *fleetv1.Object) bool {
			return !HasLabels(o.GetNode().GetFacts().GetLabels(), selector) || yield(o.GetNode())
		})
	}
}

// HasLabels says whether labels has all that a selector asks for.
func HasLabels(labels, selector map[string]string) bool {
	for k, want := range selector {
		if got, ok := labels[k]; !ok || got != want {
			return false
		}
	}
	return true
}

func (v view) DeviceHolder(node, deviceID string) *fleetv1.Instance {
	if used := get(v.t.nodeUse, node); used != nil {
		return get(v.t.instances, used.holder(deviceID)).GetInstance()
	}
	return nil
}

func (v view) Quota(project string) *fleetv1.Quota { return get(v.t.quotas, project).GetQuota() }

func (v view) Quotas() []*fleetv1.Quota { return list(v.t.quotas, (*fleetv1.Object).GetQuota, "") }

func (v view) ProjectUsage(project string) Usage {
	if used := get(v.t.projectUse, project); used != nil {
		return used.Usage
	}
	return Usage{}
}

func (v view) Flavor(name string) *fleetv1.Flavor { return get(v.t.flavors, name).GetFlavor() }

func (v view) Flavors() []*fleetv1.Flavor { return list(v.t.flavors, (*fleetv1.Object).GetFlavor, "") }

func (v view) Pool(name string) *fleetv1.Pool { return get(v.t.pools, name).GetPool() }

func (v view) Pools() []*fleetv1.Pool { return list(v.t.pools, (*fleetv1.Object).GetPool, "") }

func (v view) Model(project, name, version string) *fleetv1.Model {
	if version != "" {
		return get(v.t.models, ModelKey(project, name, version).Key).GetModel()
	}
	models := v.Models(project, name)
	if name == "" || len(models) == 0 {
		return nil
	}
	return slices.MaxFunc(models, func(a, b *fleetv1.Model) int {
		return CompareVersions(a.GetSpec().GetVersion(), b.GetSpec().GetVersion())
	})
}

func (v view) Models(project, name string) []*fleetv1.Model {
	unwrap := (*fleetv1.Object).GetModel
	switch {
	case project == "" && name == "":
		return list(v.t.models, unwrap, "")
	case project == "":
		all := list(v.t.models, unwrap, "")
		return slices.DeleteFunc(all, func(m *fleetv1.Model) bool { return m.GetMeta().GetName() != name })
	case name == "":
		return list(v.t.models, unwrap, project+"/")
	}
	return list(v.t.models, unwrap, project+"/"+name+"@")
}

// CompareVersions orders "x.y.z" by number; parts that are no numbers compare as text, above numbers.
func CompareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, errX := strconv.ParseUint(as[i], 10, 64)
		y, errY := strconv.ParseUint(bs[i], 10, 64)
		c := cmp.Compare(x, y)
		switch {
		case errX != nil && errY != nil:
			c = cmp.Compare(as[i], bs[i])
		case errX != nil:
			c = 1
		case errY != nil:
			c = -1
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(as), len(bs))
}

func (v view) Service(project, nameOrID string) *fleetv1.Service {
	if o, ok := v.t.services.Get(ServiceKey(project, nameOrID).Key); ok {
		return o.GetService()
	}
	if s := v.ServiceByID(nameOrID); s.GetMeta().GetProject() == project {
		return s
	}
	return nil
}

func (v view) ServiceByID(id string) *fleetv1.Service {
	if key, ok := v.t.serviceKeys.Get(id); ok {
		return get(v.t.services, key).GetService()
	}
	return nil
}

func (v view) Services(project string) []*fleetv1.Service {
	return list(v.t.services, (*fleetv1.Object).GetService, inProject(project))
}

func (v view) OwnedServices(user string) int { return get(v.t.owned, user) }

// Instance looks for a name among the IDs that begin as the name ends.
func (v view) Instance(idOrName string) *fleetv1.Instance {
	if o, ok := v.t.instances.Get(idOrName); ok {
		return o.GetInstance()
	}
	begin := idOrName[strings.LastIndexByte(idOrName, '-')+1:]
	if begin == "" {
		return nil
	}
	var found *fleetv1.Instance
	v.t.instances.Ascend(begin, func(id string, o *fleetv1.Object) bool {
		if o.GetInstance().GetMeta().GetName() == idOrName {
			found = o.GetInstance()
		}
		return found == nil && strings.HasPrefix(id, begin)
	})
	return found
}

func (v view) Instances() []*fleetv1.Instance {
	return list(v.t.instances, (*fleetv1.Object).GetInstance, "")
}

func (v view) InstancesOfService(serviceID string) []*fleetv1.Instance {
	r := get(v.t.ofService, serviceID)
	if r == nil {
		return nil
	}
	return list(r.instances, (*fleetv1.Object).GetInstance, "")
}

func (v view) InstancesOfGang(id string) []*fleetv1.Instance {
	var out []*fleetv1.Instance
	for _, member := range get(v.t.gangs, id) {
		out = append(out, get(v.t.instances, member).GetInstance())
	}
	slices.SortFunc(out, func(a, b *fleetv1.Instance) int {
		return cmp.Or(cmp.Compare(a.GetSpec().GetGang().GetRank(), b.GetSpec().GetGang().GetRank()), cmp.Compare(a.GetMeta().GetId(), b.GetMeta().GetId()))
	})
	return out
}

func (v view) InstancesOnNode(node string) []*fleetv1.Instance {
	if used := get(v.t.nodeUse, node); used != nil {
		return slices.Clone(used.instances)
	}
	return nil
}

func (v view) Request(scope, id string) *fleetv1.RequestRecord {
	if r := get(v.t.requests, requestKey(scope, id)); r != nil {
		return r
	}
	return get(v.t.requests, requestKey("", id))
}
