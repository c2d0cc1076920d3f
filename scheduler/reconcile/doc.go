// Package reconcile holds the leader's loops: they compare what is asked for with what is reported and
// propose the difference. Each works alike: the store's feed marks objects dirty, a pass looks at each dirty
// object from scratch, and proposes. Nothing is queued, and no view is kept while a proposal is under way.
// What a loop remembers between passes only delays or explains; a new leader does without it.
//
// # The service loop
//
// A pass has three steps, each on a fresh view. It settles instances whose fate is sealed: failed and lost
// ones, and those that are too many, are asked to stop, and reaped ones are deleted. It places what is
// missing, of all dirty services in one plan. And it writes the services' status with the events of each
// change. A write that lost a race is computed again.
//
// An instance is wanted when its service is to run and its version asks for it. It's lost when its node has
// been Unreachable for reschedule_after_seconds; then it's asked to stop, and stays so when the node comes
// back: its agent then ends it. Until then its capacity counts as taken. The node of a failed
// instance is avoided for an hour if another fits. An instance that holds a device which its node reports as
// failed counts as failed, even when its own report is late. The first replacement comes at once; when replacements
// fail as well, later ones wait 10 s doubling to 5 min, so that a broken image doesn't churn the fleet.
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
// A service that ends doesn't wait for a node that has been Unreachable for reschedule_after_seconds, at most
// 60 s: it becomes Stopped or is deleted, and says so in a StopFailed event. What it had there stays in the store,
// asked to stop and with its devices taken, until the node is back and has reaped it: no second holder, and a node
// that never comes back holds up nobody. On a reachable node a stop that takes 30 s longer than the instance's own
// withdrawal and grace is told as StopFailed once, and goes on. An instance that is Reclaiming has ended but for its
// devices: it is waited for, since it still holds them, and is never late, for its agent bounds that check.
//
// # The liveness loop
//
// It turns leases into node states: Unreachable when a lease has run out, Ready when it is back.
//
// Dependencies: google/uuid makes instance IDs.
package reconcile
