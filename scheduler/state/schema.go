package state

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/go-memdb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Tables beside the one for each kind of object.
const (
	tableRoot     = "root"     // one row: the index
	tableRequests = "requests" // request IDs of the last 24 hours
	tableUsage    = "usage"    // what instances hold, by node
	tableHeld     = "held"     // which instance holds a device
)

// Indexes beside "id", the store key.
const (
	indexID      = "id"
	indexUID     = "uid"     // meta.id of nodes and services
	indexName    = "name"    // meta.name of instances
	indexService = "service" // spec.service_id of instances
	indexNode    = "node"    // spec.node of instances
	indexSecret  = "secret"  // secret_sha256 of tokens
	indexAge     = "age"     // of requests: time, then Raft index
)

// objectKinds in the order in which snapshots hold them: what is referred to comes first.
func objectKinds() []string {
	return []string{
		fleetv1.KindCluster, fleetv1.KindToken, fleetv1.KindNode, fleetv1.KindFlavor, fleetv1.KindPool,
		fleetv1.KindModel, fleetv1.KindService, fleetv1.KindInstance,
	}
}

type rootRow struct {
	index    uint64 // of the last applied command
	requests int    // rows of the requests table
}

type usageRow struct {
	node string
	Allocation
}

type heldRow struct{ key, instance string }

func heldKey(node, device string) string { return node + "\x00" + device }

// field indexes rows of type T by a string; an empty one leaves the row out.
type field[T any] func(T) string

func (f field[T]) FromObject(row any) (bool, []byte, error) {
	t, ok := row.(T)
	if !ok {
		return false, nil, fmt.Errorf("row is a %T", row)
	}
	s := f(t)
	if s == "" {
		return false, nil, nil
	}
	return true, terminated(s), nil
}

func (f field[T]) FromArgs(args ...any) ([]byte, error) { return terminated(args[0].(string)), nil }

func (f field[T]) PrefixFromArgs(args ...any) ([]byte, error) { return []byte(args[0].(string)), nil }

// terminated keeps one key from being a prefix of another, which the radix trees need. The slice has no
// spare capacity: memdb appends to it.
func terminated(s string) []byte {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return b
}

func index[T any](name string, unique, optional bool, f func(T) string) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, Unique: unique, AllowMissing: optional, Indexer: field[T](f)}
}

func table(name string, indexes ...*memdb.IndexSchema) *memdb.TableSchema {
	t := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{}}
	for _, i := range indexes {
		t.Indexes[i.Name] = i
	}
	return t
}

func schema() *memdb.DBSchema {
	s := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}
	add := func(t *memdb.TableSchema) { s.Tables[t.Name] = t }
	key := func(o *fleetv1.Object) string { return KeyOf(o).Key }
	uid := func(o *fleetv1.Object) string { return metaOf(o).GetId() }
	for _, kind := range objectKinds() {
		add(table(kind, index(indexID, true, false, key)))
	}
	for _, kind := range []string{fleetv1.KindNode, fleetv1.KindService} { // found by ID as well
		s.Tables[kind].Indexes[indexUID] = index(indexUID, false, true, uid)
	}
	tokens := s.Tables[fleetv1.KindToken].Indexes
	tokens[indexSecret] = index(indexSecret, false, true, func(o *fleetv1.Object) string {
		return string(o.GetToken().GetSecretSha256())
	})
	instances := s.Tables[fleetv1.KindInstance].Indexes
	instances[indexName] = index(indexName, false, true, func(o *fleetv1.Object) string {
		return o.GetInstance().GetMeta().GetName()
	})
	instances[indexService] = index(indexService, false, true, func(o *fleetv1.Object) string {
		return o.GetInstance().GetSpec().GetServiceId()
	})
	instances[indexNode] = index(indexNode, false, true, func(o *fleetv1.Object) string {
		return o.GetInstance().GetSpec().GetNode()
	})
	add(table(tableRoot, index(indexID, true, false, func(*rootRow) string { return "root" })))
	add(table(tableUsage, index(indexID, true, false, func(r *usageRow) string { return r.node })))
	add(table(tableHeld, index(indexID, true, false, func(r *heldRow) string { return r.key })))
	add(table(tableRequests,
		index(indexID, true, false, func(r *fleetv1.RequestRecord) string { return r.GetId() }),
		index(indexAge, false, false, requestAge)))
	return s
}

// requestAge sorts requests by time, those of one time by Raft index.
func requestAge(r *fleetv1.RequestRecord) string {
	b := make([]byte, 0, 20)
	b = binary.BigEndian.AppendUint64(b, uint64(r.GetTime().GetSeconds())^1<<63)
	b = binary.BigEndian.AppendUint32(b, uint32(r.GetTime().GetNanos()))
	return string(binary.BigEndian.AppendUint64(b, r.GetIndex()))
}

func newDB() *memdb.MemDB {
	db, err := memdb.NewMemDB(schema())
	if err != nil {
		panic(fmt.Sprintf("state: schema: %v", err)) // a mistake in this file, found by every test
	}
	return db
}
