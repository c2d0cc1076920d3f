package state

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-memdb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// view answers ReadView from a transaction, which is a snapshot (or, inside Apply, the write in progress).
type view struct{ txn *memdb.Txn }

var _ ReadView = view{}

// must drops an error that memdb gives for unknown tables and indexes alone.
func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("state: memdb: %v", err))
	}
	return v
}

func (v view) row(table, index, key string) any {
	return must(v.txn.First(table, index, key))
}

// object is nil when there is none.
func (v view) object(kind, index, key string) *fleetv1.Object {
	o, _ := v.row(kind, index, key).(*fleetv1.Object)
	return o
}

// list collects what unwrap takes out of the rows; no args means the whole table.
func list[T any](v view, unwrap func(*fleetv1.Object) T, kind, index string, args ...any) []T {
	it := must(v.txn.Get(kind, index, args...))
	var out []T
	for row := it.Next(); row != nil; row = it.Next() {
		out = append(out, unwrap(row.(*fleetv1.Object)))
	}
	return out
}

func (v view) Index() uint64 {
	if r, ok := v.row(tableRoot, indexID, "root").(*rootRow); ok {
		return r.index
	}
	return 0
}

func (v view) Cluster() *fleetv1.Cluster {
	o, _ := must(v.txn.First(fleetv1.KindCluster, indexID)).(*fleetv1.Object)
	return o.GetCluster()
}

func (v view) Tokens() []*fleetv1.Token {
	return list(v, (*fleetv1.Object).GetToken, fleetv1.KindToken, indexID)
}

func (v view) TokenBySecret(sha256 []byte) *fleetv1.Token {
	if len(sha256) == 0 {
		return nil
	}
	return v.object(fleetv1.KindToken, indexSecret, string(sha256)).GetToken()
}

func (v view) Node(nameOrID string) *fleetv1.Node {
	return v.either(fleetv1.KindNode, indexID, indexUID, nameOrID).GetNode()
}

func (v view) either(kind, index1, index2, key string) *fleetv1.Object {
	if o := v.object(kind, index1, key); o != nil {
		return o
	}
	return v.object(kind, index2, key)
}

func (v view) Nodes() []*fleetv1.Node {
	return list(v, (*fleetv1.Object).GetNode, fleetv1.KindNode, indexID)
}

func (v view) Allocated(node string) Allocation {
	if r, ok := v.row(tableUsage, indexID, node).(*usageRow); ok {
		return r.Allocation
	}
	return Allocation{}
}

func (v view) PoolNodes(pool *fleetv1.Pool) []*fleetv1.Node {
	var out []*fleetv1.Node
	if names := pool.GetSpec().GetNodes(); len(names) > 0 {
		names = slices.Compact(slices.Sorted(slices.Values(names)))
		for _, name := range names {
			if n := v.object(fleetv1.KindNode, indexID, name).GetNode(); n != nil {
				out = append(out, n)
			}
		}
		return out
	}
	selector := pool.GetSpec().GetSelector()
	if len(selector) == 0 {
		return nil
	}
	for _, n := range v.Nodes() {
		if hasLabels(n.GetFacts().GetLabels(), selector) {
			out = append(out, n)
		}
	}
	return out
}

func hasLabels(labels, selector map[string]string) bool {
	for k, want := range selector {
		if got, ok := labels[k]; !ok || got != want {
			return false
		}
	}
	return true
}

func (v view) DeviceHolder(node, deviceID string) *fleetv1.Instance {
	if r, ok := v.row(tableHeld, indexID, heldKey(node, deviceID)).(*heldRow); ok {
		return v.object(fleetv1.KindInstance, indexID, r.instance).GetInstance()
	}
	return nil
}

func (v view) Flavor(name string) *fleetv1.Flavor {
	return v.object(fleetv1.KindFlavor, indexID, name).GetFlavor()
}

func (v view) Flavors() []*fleetv1.Flavor {
	return list(v, (*fleetv1.Object).GetFlavor, fleetv1.KindFlavor, indexID)
}

func (v view) Pool(name string) *fleetv1.Pool {
	return v.object(fleetv1.KindPool, indexID, name).GetPool()
}

func (v view) Pools() []*fleetv1.Pool {
	return list(v, (*fleetv1.Object).GetPool, fleetv1.KindPool, indexID)
}

func (v view) Model(project, name, version string) *fleetv1.Model {
	if version != "" {
		return v.object(fleetv1.KindModel, indexID, ModelKey(project, name, version).Key).GetModel()
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
		return list(v, unwrap, fleetv1.KindModel, indexID)
	case project == "":
		all := list(v, unwrap, fleetv1.KindModel, indexID)
		return slices.DeleteFunc(all, func(m *fleetv1.Model) bool { return m.GetMeta().GetName() != name })
	case name == "":
		return list(v, unwrap, fleetv1.KindModel, indexID+"_prefix", project+"/")
	}
	return list(v, unwrap, fleetv1.KindModel, indexID+"_prefix", project+"/"+name+"@")
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
	if s := v.object(fleetv1.KindService, indexID, ServiceKey(project, nameOrID).Key).GetService(); s != nil {
		return s
	}
	if s := v.ServiceByID(nameOrID); s.GetMeta().GetProject() == project {
		return s
	}
	return nil
}

func (v view) ServiceByID(id string) *fleetv1.Service {
	return v.object(fleetv1.KindService, indexUID, id).GetService()
}

func (v view) Services(project string) []*fleetv1.Service {
	if project == "" {
		return list(v, (*fleetv1.Object).GetService, fleetv1.KindService, indexID)
	}
	return list(v, (*fleetv1.Object).GetService, fleetv1.KindService, indexID+"_prefix", project+"/")
}

func (v view) Instance(idOrName string) *fleetv1.Instance {
	return v.either(fleetv1.KindInstance, indexID, indexName, idOrName).GetInstance()
}

func (v view) Instances() []*fleetv1.Instance {
	return list(v, (*fleetv1.Object).GetInstance, fleetv1.KindInstance, indexID)
}

func (v view) InstancesOfService(serviceID string) []*fleetv1.Instance {
	return list(v, (*fleetv1.Object).GetInstance, fleetv1.KindInstance, indexService, serviceID)
}

func (v view) InstancesOnNode(node string) []*fleetv1.Instance {
	return list(v, (*fleetv1.Object).GetInstance, fleetv1.KindInstance, indexNode, node)
}

func (v view) Request(id string) *fleetv1.RequestRecord {
	r, _ := v.row(tableRequests, indexID, id).(*fleetv1.RequestRecord)
	return r
}
