// Package state is the cluster's one picture: typed tables in memory, changed by nothing but the
// commands of the Raft log, watched by the leader's loops and read by everyone.
//
//	Apply(index, command) → Result, events      one goroutine: the FSM
//	View() → ReadView                           a picture that never changes
//	Subscribe() → Feed                          what changed since, in order
//	Snapshot, Restore                           the whole as a stream of records
//
// # Determinism
//
// The log's commands and their order are all that a store is made of: Apply reads no clock, draws no
// random number, and lets nothing depend on the order of a Go map. The proposer has put in every time and
// ID. Equal logs give byte-identical snapshots; a test replays random logs to hold us to it.
//
// # What a command may do
//
// A Write puts and deletes objects, all or none, each guarded by the revision that the proposer saw. It
// can't leave a dangling reference: a service needs its pool, flavors and models, and what is in use
// can't be deleted. A Plan places instances part by part; a part is checked against the store as it is
// now and refused whole when it no longer fits: service, nodes, free capacity, devices that are free and not
// barred, the quota of the project. Its instances are whole gangs; what it preempts is as the
// planner saw it, preemptible, of less priority, and whole gangs too. Victims keep what they hold until they are
// reaped: nothing is placed in their room by the same part. A Report touches nothing but the observed part of
// instances that its node holds. A device never gets a second holder, whoever asks.
//
// A JobCommit changes one job's ledger: each chunk of items is applied or refused by itself, and refused when an item of it
// is committed already. That is the fence between two tasks that both believe they have the items. What it says is lost
// is committed no more, unless a manifest that stands has it; one that doesn't stand yet gets a new version, and only who has
// written that has written it.
//
// # One writer for each field
//
// A Node has three writers: the API (spec), the session (facts), the liveness loop (status). Each reads
// the node, changes its own part, and writes the whole with the revision it read; when another was faster
// the write is refused with RejectRevision, and the writer reads again. So no update is lost, and no merge
// rules are needed. Only status.assignment_generation is the store's own: it is the index of the last
// change of what the node should run (an instance of it made, deleted, or its spec or desired changed), and
// a Write can't change it. Because that raises the node's revision as well, writers of nodes must be ready
// to try again. Fields that are filled in on reads are cleared before an object is stored.
//
// What is observed of an instance is its agent's to say, with one exception: who writes that a node is back takes
// away the readiness that its instances had (Unconfirmed).
//
// A device is barred, given to nobody new, while it or the device that it is cut from is cordoned, while it is
// quarantined, or while its node reports it as not healthy or to be drained or worse. One function says so for
// the planner, which explains with it, and for the check of the plan, so that the two can't differ. Who holds the device
// keeps it.
//
// An instance holds its CPU, memory, disk and devices from its placement until it is observed as Reaped or
// deleted; also while it is Reclaiming, when its container is gone and its devices may still be in use.
// What nodes and projects give away is kept in tables of their own, so that Allocated, DeviceHolder,
// InstancesOnNode, ProjectUsage and OwnedServices cost one look-up. The models of an instance's devices are written down
// when it is placed: quotas count by them even when a device is gone.
//
// A quota limits what instances hold, not what services ask for: a part is refused whose instances would
// exceed a limit with what the project's instances hold already. It takes nothing away: below what is
// held, it only keeps more from being placed.
//
// A node that runs what it isn't assigned (it says so after a restore) takes nothing new before that is gone.
//
// An instance's events are kept once, by the sequence of the report that first carried them. Events of
// the node itself have no stored sequence: one that is sent again after a lost acknowledgement is kept twice.
//
// # Schedulers
//
// A Scheduler is a member of the cluster as it told of itself. Who votes is the Raft configuration's to say, not the
// store's: the object adds what Raft doesn't know, and is written before a member is added and deleted after it was
// removed.
//
// # Tenants
//
// An account, a project and a user called "default" exist always: views answer one where none is stored, so that a cluster
// that is older than tenants needs no migration. What belongs to a project or a user names it among the needs of its
// Write: the project can't go between the proposer's look and the apply. Puts don't check it by themselves, since the
// logs of older programs hold objects of projects that nobody has made. What a credential shows is an index, so that
// authentication costs a look-up.
//
// An app names its services and holds their IDs. IDs aren't used again, so the deletion of a service ends what binds apps to
// it without a write, and apps don't keep services from being deleted.
//
// # Request IDs
//
// The request ID of a command that had an effect is remembered for 24 hours (by the commands' times) and
// 100,000 of them at most. The same ID with the same digest answers with the first one's index; with
// another digest it is refused. An ID is its account's and project's (Command.request_scope): that of a stranger neither
// collides nor tells anything. One that an older program has remembered has no scope, and answers its own digest alone. A refused Write isn't remembered: it may be tried again.
//
// # Memory and speed
//
// A fleet has ten thousands of nodes and instances, so both were measured (bench_test.go). Objects that were
// decoded one by one repeat the same words, maps and messages; those of which many are alike are kept once.
// A changed object shares with the one before whatever stayed. The tables are B-trees that copy a branch when it is
// first changed by a command: against radix trees with an index for each way to find an instance, an instance costs
// a quarter of the memory, and to place one a sixth of the allocations.
//
// # Dependencies
//
// tidwall/btree: ordered trees of which a copy costs nothing: readers get a consistent picture without locks, and
// so does a snapshot. It replaces a copy-on-write tree of our own.
package state
