package fleetv1

// The words of the API. Enumerations are strings in the wire format so that JSON, YAML, tables and
// SPEC.md spell them the same way.

// States of a service (SPEC §3).
const (
	ServiceDeploying = "Deploying"
	ServiceRunning   = "Running"
	ServiceAlarm     = "Alarm"
	ServiceAbnormal  = "Abnormal"
	ServiceStopping  = "Stopping"
	ServiceStopped   = "Stopped"
	ServiceDeleting  = "Deleting"
)

// Desired states of services and instances.
const (
	DesiredRunning = "running"
	DesiredStopped = "stopped"
	DesiredDeleted = "deleted"
)

// Why an instance is to leave (Leave.cause).
const (
	LeaveDrain  = "drain"
	LeaveDefrag = "defrag"
)

// Observed states of an instance, in the order in which an attempt goes through them.
const (
	InstanceAccepted   = "Accepted"
	InstancePulling    = "Pulling"
	InstancePreparing  = "Preparing"
	InstanceStarting   = "Starting"
	InstanceRunning    = "Running"
	InstanceDraining   = "Draining"
	InstanceStopping   = "Stopping"
	InstanceReclaiming = "Reclaiming"
	InstanceExited     = "Exited"
	InstanceFailed     = "Failed"
	InstanceReaped     = "Reaped"
)

// States of a model version (SPEC §2).
const (
	ModelImporting = "Importing"
	ModelNormal    = "Normal"
	ModelAbnormal  = "Abnormal"
)

// States of a node.
const (
	NodeReady       = "Ready"
	NodeUnreachable = "Unreachable"
)

// Health of an instance and of a device.
const (
	Healthy      = "Healthy"
	Unhealthy    = "Unhealthy"
	Unresponsive = "Unresponsive"
	Lost         = "Lost"
)

// What a device's health asks for (docs/device-health.md), the mildest first; empty is nothing.
const (
	ActionObserve      = "observe"
	ActionDrain        = "drain"
	ActionEvict        = "evict"
	ActionResetNeeded  = "reset-needed"
	ActionRebootNeeded = "reboot-needed"
)

// States of a device.
const (
	DeviceFree        = "free"
	DeviceAllocated   = "allocated"
	DeviceReclaiming  = "reclaiming"
	DeviceQuarantined = "quarantined"
)

// Types of events (SPEC §1).
const (
	EventNormal   = "Normal"
	EventWarning  = "Warning"
	EventAbnormal = "Abnormal"
)

// Kinds of pools.
const (
	PoolPublic    = "public"
	PoolDedicated = "dedicated"
)

// Networks of an instance.
const (
	NetworkBridge = "bridge"
	NetworkHost   = "host"
)

// Roles of tokens (all but "scheduler"), of keys and external callers (all but "agent" and "scheduler"), of apps
// ("lookup") and of certificates ("agent", "scheduler").
const (
	RoleAdmin     = "admin"
	RoleOperator  = "operator"
	RoleDeployer  = "deployer"
	RoleViewer    = "viewer"
	RoleLookup    = "lookup"
	RoleAgent     = "agent"
	RoleScheduler = "scheduler"
)

// Default is the account, the project and the user that exist always.
const Default = "default"

// Kinds of objects, as in ObjectRef.Kind.
const (
	KindCluster  = "cluster"
	KindToken    = "token"
	KindNode     = "node"
	KindDevice   = "device"
	KindFlavor   = "flavor"
	KindPool     = "pool"
	KindModel    = "model"
	KindService  = "service"
	KindInstance = "instance"
	KindQuota    = "quota"

	KindJoinToken   = "join-token"
	KindCertificate = "certificate"
	KindScheduler   = "scheduler"

	KindAccount = "account"
	KindProject = "project"
	KindUser    = "user"
	KindKey     = "key"
	KindApp     = "app"

	KindJob        = "job"
	KindJobLedger  = "job-ledger"
	KindStorageKey = "storage-key"
)

// JobStatus.state. JobDesired.state is one of the Desired values.
const (
	JobDeploying = "Deploying"
	JobRunning   = "Running"
	JobCompleted = "Completed"
	JobFailed    = "Failed"
	JobStopped   = "Stopped"
)

// JobServicePrefix and the name of a job are the name of the service that places its instances.
const JobServicePrefix = "job."

// PositionOfRetry is the JobLedger.position with which a retry begins: the leader lists the FAILED items of the manifests. What
// follows it there is how far that has got.
const PositionOfRetry = "retry"

// TaskChunk.state.
const (
	ChunkRunning    = "running"
	ChunkPacked     = "packed"
	ChunkPublishing = "publishing"
	ChunkPublished  = "published"
)

// Metadata of gRPC calls to schedulers, and its values.
const (
	// MetadataConsistency is what a caller asks of a read: ConsistencyLinearizable (the default) or ConsistencyStale.
	MetadataConsistency     = "drover-consistency"
	ConsistencyLinearizable = "linearizable"
	ConsistencyStale        = "stale"
	// MetadataMaxStale is the age in milliseconds beyond which a caller doesn't want a stale answer.
	MetadataMaxStale = "drover-max-stale-ms"
	// MetadataStaleness is in the headers of a stale answer: how old it may be, in milliseconds, or StalenessUnknown.
	MetadataStaleness = "drover-staleness-ms"
	StalenessUnknown  = "unknown"
)

// StaleAfterMillis is the age from which an answer is told to be stale.
const StaleAfterMillis = 2000
