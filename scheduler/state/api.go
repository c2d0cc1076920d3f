package state

import (
	"context"
	"iter"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Key names one object: its kind and its store key. The key of a node, flavor, pool, token, join token, certificate,
// cluster, account, project and user is its name, of a key the access key; of an app and a job "project/name"; of a job's ledger the job's ID; of a storage key "project/scheme"; of a scheduler its ID; of a quota its project; of a service "project/name"; of a model "project/name@version"; of an instance its ID.
type Key struct{ Kind, Key string }

// Change is one object that an applied command touched. Before or After is nil when it was made or
// deleted. Both are shared and must not be written to.
type Change struct {
	Key           Key
	Before, After *fleetv1.Object
}

// ChangeSet is what one applied command did.
type ChangeSet struct {
	Index   uint64
	Changes []Change
}

// Rejection says which part of a Write or Plan was refused, and why. A Write has at most one, and then
// nothing of it was applied.
type Rejection struct {
	Part   int
	Reason RejectReason
	Detail string // one line for people
}

// RejectReason is why the store refused.
type RejectReason string

// Reasons.
const (
	RejectRevision    RejectReason = "revision"     // the object changed since it was read
	RejectExists      RejectReason = "exists"       // it must not exist, and does
	RejectNotFound    RejectReason = "not-found"    // it must exist, and doesn't
	RejectInUse       RejectReason = "in-use"       // a device is held, or an object is referred to
	RejectCapacity    RejectReason = "capacity"     // CPU, memory or disk of the node would be exceeded
	RejectUnfit       RejectReason = "unfit"        // the node or a device takes nothing new, or an instance can't be preempted
	RejectQuota       RejectReason = "quota"        // a limit of the project's quota would be exceeded
	RejectRequestBody RejectReason = "request-body" // the request ID was used for another request
	RejectInvalid     RejectReason = "invalid"      // the object can't be stored as it is: the proposer's mistake

	RejectUnknownCommand RejectReason = "unknown-command" // made by a newer version of the program
)

// Result is what applying a command did.
type Result struct {
	Index uint64
	// Repeated: the request ID had been applied before, at Index; nothing was done now.
	Repeated   bool
	Rejections []Rejection
}

// ReadView is a consistent, read-only picture of the store at one index. Everything it answers is
// shared and must not be written to: clone with proto.Clone first. Lists are ordered by key.
type ReadView interface {
	Index() uint64
	Cluster() *fleetv1.Cluster // nil before the bootstrap

	// Scheduler finds a member by its ID.
	Scheduler(id string) *fleetv1.Scheduler
	Schedulers() []*fleetv1.Scheduler

	Token(name string) *fleetv1.Token
	Tokens() []*fleetv1.Token
	TokenBySecret(sha256 []byte) *fleetv1.Token

	// Those called "default" exist always. They are not stored, and have no ID and no revision, unless somebody writes them.
	Account(name string) *fleetv1.Account
	Accounts() []*fleetv1.Account
	Project(name string) *fleetv1.Project
	Projects() []*fleetv1.Project
	User(name string) *fleetv1.User
	Users() []*fleetv1.User
	Key(access string) *fleetv1.Key
	Keys() []*fleetv1.Key
	App(project, name string) *fleetv1.App
	// AppAt finds an app by its store key.
	AppAt(key Key) *fleetv1.App
	// Apps with an empty project are everyone's.
	Apps(project string) []*fleetv1.App
	AppByKey(appKey string) *fleetv1.App
	AppByCode(sha256 []byte) *fleetv1.App

	JoinTokens() []*fleetv1.JoinToken
	// Certificate is the last one that a node or scheduler was given, or nil.
	Certificate(role, name string) *fleetv1.Certificate
	Certificates() []*fleetv1.Certificate

	// Request is the remembered request of this ID in a scope, else the one without a scope, or nil: the API answers a
	// repeated request from it before it looks at what the object's state allows. SameRequest says whether it counts.
	Request(scope, id string) *fleetv1.RequestRecord

	Node(nameOrID string) *fleetv1.Node
	Nodes() []*fleetv1.Node
	// Allocated sums what the instances placed on the node hold.
	Allocated(node string) Allocation
	// PoolNodes are the nodes that belong to the pool now: listed, or matched by its selector.
	PoolNodes(pool *fleetv1.Pool) []*fleetv1.Node
	// PoolMembers are the same nodes for who may need only the first of them.
	PoolMembers(pool *fleetv1.Pool) iter.Seq[*fleetv1.Node]
	// DeviceHolder is the instance that holds a device of a node, or nil.
	DeviceHolder(node, deviceID string) *fleetv1.Instance

	Flavor(name string) *fleetv1.Flavor
	Flavors() []*fleetv1.Flavor
	Pool(name string) *fleetv1.Pool
	Pools() []*fleetv1.Pool

	// Quota of a project; nil when it has none.
	Quota(project string) *fleetv1.Quota
	Quotas() []*fleetv1.Quota
	// ProjectUsage sums what the project's instances hold.
	ProjectUsage(project string) Usage

	// Model with an empty version is the latest one (by version number).
	Model(project, name, version string) *fleetv1.Model
	// Models with an empty name are all of the project's, with an empty project everyone's.
	Models(project, name string) []*fleetv1.Model

	// Service finds by name, or by ID.
	Service(project, nameOrID string) *fleetv1.Service
	ServiceByID(id string) *fleetv1.Service
	// Services with an empty project are everyone's.
	Services(project string) []*fleetv1.Service
	// OwnedServices is how many services the user has made.
	OwnedServices(user string) int

	// Job finds by name, or by ID.
	Job(project, nameOrID string) *fleetv1.Job
	JobByID(id string) *fleetv1.Job
	// Jobs with an empty project are everyone's.
	Jobs(project string) []*fleetv1.Job
	JobLedger(jobID string) *fleetv1.JobLedger
	StorageKey(project, scheme string) *fleetv1.StorageKey
	// StorageKeys with an empty project are everyone's.
	StorageKeys(project string) []*fleetv1.StorageKey

	// Instance finds by ID, or by name, which ends as the ID begins.
	Instance(idOrName string) *fleetv1.Instance
	Instances() []*fleetv1.Instance
	InstancesOfService(serviceID string) []*fleetv1.Instance
	// InstancesOfGang are ordered by rank.
	InstancesOfGang(id string) []*fleetv1.Instance
	InstancesOnNode(node string) []*fleetv1.Instance
}

// Allocation is what instances hold on a node.
type Allocation struct {
	CPUMillis, MemoryBytes, DiskBytes int64
	Devices, Instances                int64
}

// Feed receives the change sets of applied commands in order. It is owned by one goroutine.
type Feed interface {
	// Next waits for the next change sets and answers all that are pending. resync is true when the feed
	// fell behind, a snapshot was restored, or it is the first call: the caller must look at everything.
	// It ends with ctx's error.
	Next(ctx context.Context) (sets []ChangeSet, resync bool, err error)
	// Poll is Next without waiting: it may answer nothing.
	Poll() (sets []ChangeSet, resync bool, err error)
	// Ready receives when there may be something to Poll. Only the feed's owner receives from it.
	Ready() <-chan struct{}
	Close()
}
