// Package reconcile holds the leader's loops: they compare what is asked for with what is reported and
// propose the difference. Each works alike: the store's feed marks objects dirty, a step looks at each dirty
// object from scratch, and proposes. Nothing is queued. What a loop remembers between steps only delays or
// explains; a new leader does without it.
//
// A loop waits for nothing but the Proposer, reads no clock but the time that Step is given (commands carry
// Config.Now), and makes no IDs but by Config.NewID. So Run drives a Term with goroutines and the wall clock, and
// a simulation with neither: equal histories give equal stores.
//
// # The service loop
//
// A pass has three steps. It settles instances whose fate is sealed: failed and lost ones, and those that are too
// many, are asked to stop, and reaped ones are deleted. It places what is missing anywhere, in one plan. And it
// writes the services' status with the events of each change. A census is taken of each service once in a pass,
// and again when something of it was written. Many services share a log entry; a write that lost a race is taken
// out of it and computed again. A census costs what a service has instances, so a service of more than 500 is not
// looked at again before 10 µs for each have passed: then the reports that came meanwhile are taken in together.
//
// An instance is wanted when its service is to run and its version asks for it. It's lost when its node has
// been Unreachable for its replace_after_seconds; then it's asked to stop, and stays so when the node comes
// back: its agent then ends it. Until then its capacity counts as taken. The node of a failed
// instance is avoided for an hour if another fits. An instance that holds a device which its node reports as
// failed counts as failed, even when its own report is late. The first replacement comes at once; when replacements
// fail as well, later ones wait 10 s doubling to 5 min, so that a broken image doesn't churn the fleet.
//
// # Fencing
//
// An instance with keep: false is stopped by its own agent when that has had no scheduler for replace_after (R), with the
// grace period G, and is lost only when that must have happened. Let the node be cut off at c. Its agent finds its
// session dead by c + 15 s, looks at the time each second, and kills and deletes within 5 s after the grace: all is over by
// c + 21 s + R + G, or by c + 24 s when it was restarted meanwhile. The leader found the node Unreachable after c: it had
// heard its last message at most a heartbeat before c, and a lease is at least two. It waits R + G + (R + G)/500
// + 30 s from when it saw that itself, by its own monotonic clock: times that other schedulers wrote down don't count, for
// their clocks may be off, and a new leader begins anew. Monotonic clocks that are slewed differ by 0.1 % at
// most. A leader that was deposed while it stood still may keep a session until the agent's pings find it dead: by then its
// successor has led for at most those 15 s. Reports in flight only make the leader later. What the
// bound can't cover is an agent that doesn't run while its containers do.
//
// # After a restore
//
// Until an operator has confirmed what nodes may remove, the service and drain loops place, stop and move nothing; the
// state of nodes and services is kept up. A new leadership begins with each restore.
//
// # Placing
//
// A wish is what a version lacks. All wishes stand in one line, by priority and then by how long they wait, and every
// plan takes the whole line: the planner keeps what it reserves for one from those behind it, and only within a
// plan. (Of a version that waits few instances are tried, more as long as all of them fit.) The line is planned when a
// wish is new or something may have become free. The index of free capacity lives as long as the leadership and is
// brought up to date from the feed. A plan is committed in entries of at most 1 MiB, and under Run the next one is
// made while the last is being committed.
//
// A wish that has waited for Config.ReserveAfter may have nodes reserved, one at a time in a pool; Turn says for
// how long others are kept out. waiting_since and the reservation stand in the service's status, from where a new
// leader takes them: nobody loses a place in line. Why a version waits is asked of the planner
// when it begins to wait and, ever more seldom, after that: to explain costs a look at every node.
//
// Quotas are looked at before planning, so that who may not be placed takes no room in the plan; who finds no node
// leaves its share to those behind it. Where a flavor leaves the model of its devices open, what the planner
// chose is counted before it is proposed: a version that may not have that waits, and counts as asking for it until
// others are tried after 30 s. The store refuses only what lost a race. When nothing happens nothing is written.
//
// Preemption has two steps. A wish with priority that fits nowhere asks the planner for victims; one part of a plan
// asks them all to stop, or none. Their nodes are a room: it is kept for the wish, which is placed when they have
// ended (a device has one holder), beside any reservation and from everybody of no more priority, so that no victim
// takes it again. Room for several instances of a version is made at once, one on a node; where spreading is required
// one after the other. A room in which nothing ends any more and that didn't help is given up, and each time the wish
// waits longer, up to an hour, before others are stopped for it again.
//
// # Gangs
//
// A version's instances may span several nodes each: a gang of one Instance object for each node, placed in one part.
// A gang counts as one instance, is ready when all of its members are, and is restarted, moved and stopped as a whole.
// When a member has failed, ended or is lost, the others are asked to stop and a new gang is placed.
//
// # Leaving and draining
//
// desired.leave asks for an instance to be replaced before it is stopped. The census counts it as missing, so that a
// replacement is placed beside it, and as serving, so that the service stays Running; it is stopped when enough of
// those that stay are ready, or at its deadline when it is preemptible. The drain loop sets it on what is on a
// draining node or holds a draining device, takes it back when the drain has been cancelled, and ends a drain (and
// leaves the cordon) when nothing is left: so its end is told once. Starting and cancelling a drain is the API's, and
// so are their events.
//
// # State of a service
//
// What a state depends on is desired.state, the instances, the previous state and whether this deployment
// has ever been Running (status.running_generation, which a start sets to 0).
//
//	to be deleted           Deleting, until no instance is left; then the service is deleted
//	to be stopped           Stopping, until no instance is left; then Stopped
//	all instances ready     Running
//	never yet Running       Deploying; Abnormal when an instance fails its health check or gives up, or a
//	                        version's timeout passes. It stays Abnormal until all are ready: the loop does
//	                        not give up on it.
//	was Running, some serve Alarm, until all are ready
//	was Running, none serve Alarm while an instance on a reachable node is still being recovered by its
//	                        agent; Abnormal when none is, and then until one is ready
//
// A service that is Running stays so while instances are new because it was scaled, or are down because a
// restart was ordered, unless they fail their health check or take longer than the version's timeout.
//
// A version's timeout runs while all of its instances are placed and not all are ready; not while one waits
// for a node, and not while a pull has moved on within the last minute. A new leader starts it again, as it
// does leases.
//
// A service that ends doesn't wait for a node that has been Unreachable for replace_after_seconds, at most
// 60 s: it becomes Stopped or is deleted, and says so in a StopFailed event. What it had there stays in the store,
// asked to stop and with its devices taken, until the node is back and has reaped it: no second holder, and a node
// that never comes back holds up nobody. On a reachable node a stop that takes 30 s longer than the instance's own
// withdrawal and grace is told as StopFailed once, and goes on. An instance that is Reclaiming has ended but for its
// devices: it is waited for, since it still holds them, and is never late, for its agent bounds that check.
//
// # Jobs
//
// A job's tasks are the instances of a service that the job loop makes, scales and deletes, named "job." and the job's name,
// which nobody can give to another. So gangs, priorities, quotas, preemption and drains are what they are for
// services, and a job is only what its ledger and its service say:
//
//	to run                    Deploying, until an instance is ready; then Running
//	every item in a manifest  Completed, whatever was asked for but a deletion
//	to be stopped or deleted, until nothing that tasks have begun is out of the ledger and its manifests are written, 2 min at
//	or the ledger has failed  most; then Stopped, deleted or Failed
//	its service is Abnormal   Failed, when the job's timeout has passed
//
// A run that has ended stays so until desired.run is raised; its service is deleted with the write that says so. How many
// tasks a job asks for lies between min_instances and instances: as many as have enough to do (Config.Work),
// changed each 30 s at most, for an instance costs its start. A job whose tasks have waited for a minute asks for what it has, and 5 min later for one more. When a job waits whose project has
// less than its share of the pool's job tasks, one of a project that has more gives up tasks, one each 10 s; that needs a
// min_instances below instances. What the loop remembers for this is lost with the leadership, and costs time alone.
//
// # The liveness loop
//
// It turns leases into node states: Unreachable when a lease has run out, Ready when it is back.
//
// Dependencies: google/uuid makes instance IDs.
package reconcile
