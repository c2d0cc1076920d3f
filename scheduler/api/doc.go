// Package api answers the operator's gRPC services, one file per noun.
//
// A mutation is: validate the request → look at one view of the store → work out the resulting objects →
// propose them with the revisions that they were worked out from. When an object changed meanwhile the whole
// is done again, a bounded number of times. That the write commits proves that this scheduler led, so nobody asks
// before; what would be answered without a write (a refusal, or that all stands as asked) is worked out again
// once the store has all that was committed before. Nothing is written before all checks have passed, so a refused request changes nothing; the one
// exception is the event that tells of an exceeded quota.
//
// Decisions:
//   - Specs are completed with their defaults when they are admitted. What is stored says all of it, so a
//     later change of a default never changes what runs.
//   - A request ID is looked up before the object's state is judged: a repeated "stop" finds the service
//     stopping, and must be answered like the first one. Without a request ID a call has no such
//     protection; the scheduler makes none up, since the caller could not repeat it.
//   - Creating what stands already as asked is no error and no write, so `drover apply` can be repeated.
//     Anything immutable that differs is refused with the fields that differ.
//   - Errors are *Error values inside and become gRPC statuses in one place (errors.go), with the
//     violated fields as google.rpc.BadRequest. An unknown outcome is codes.Unknown: the write may have
//     happened, and sending it again with its request ID is safe. No other error has that code.
//   - Reads are answered from this scheduler's store. Which scheduler is asked, and that reads which may not be stale wait
//     for the read index first, is scheduler/forward's.
//   - Questions about placement (where a service would go, why an instance waits, what a drain would do) are put to
//     the planner on the caller's own time, with an index of its own beside the service loop's: it follows the store
//     while it is asked and is dropped a minute later. What else waits in line is planned first, so that nobody is
//     promised what is kept for others. Changes that are only supposed, such as a drained node, are laid over the view
//     (scene) and taken back; nothing of it is written.
//   - A drain is written into the spec of its node and carried out by the drain loop. Opening a node ends its drain.
//   - A project's quota is held against what all its services that are to run ask for at most, so that a service is
//     refused when it is deployed rather than left waiting; what a flavor leaves open (any device, or a glob) counts
//     only where it surely does, and the store counts again what instances really get. Calls at the same time see each
//     other's places (admission). A service that asks for no more than before is never refused, whatever the quota.
//   - Who may call what in which project is auth's to say, before a request comes here. Here, what names no project (lists of
//     pools, quotas, projects, events) is cut down to what the caller may see, and another account's pool is absent.
//   - A new object belongs to its project's account, whoever makes it, and its write needs the project: it can't be
//     made while the project is being deleted. A user's tokens and keys go with him; the last token of an admin stays.
//   - The API writes spec and desired. The state that it shows is the one that the service loop found last,
//     unless what was asked since then overrules it (effectiveState): nobody should see "Running" after
//     his stop was accepted.
//   - A job is checked wholly before it is made: against the model's apis, and by a look at its input and into its output, so
//     that what can't go well is refused at once. What others do to the storage afterwards is the job's affair. No two
//     jobs may write into one folder, whose jobs they are: their results would have the same names.
//   - A quota that holds a job's least number of tasks is enough for it: it waits for what others hold, as jobs do, and is
//     refused only where it could never run. Nor may a running job be changed in anything but its numbers of tasks.
//   - The service that places a job's instances is its job's affair: no call lists it, finds it or changes it. Its instances
//     are seen like others.
//   - How far a job has got is in the leader's memory, and in its ledger what of that is committed: who isn't the leader, or
//     has just become it, shows the latter.
//   - The service loop and the job loop tell of starts, stops and deletions when they set about them. The API emits only the
//     events that nobody else knows of: JobSubmitted, Scaled, QuotaExceeded, NodeCordoned, NodeUncordoned, DeviceCordoned,
//     DeviceUncordoned.
//   - A device's cordon is kept in the spec of its node, by ID, so that it outlives the device's absence: one that no
//     node lists any more can still be uncordoned. A slice is cordoned with the device that it is cut from; to
//     uncordon it alone then is refused, rather than to say "done" of a slice that stays closed.
//   - Removals after a restore are confirmed as the operator has seen them: the list that was shown is sent back, and a node
//     that by now would remove more is left out. Each node is confirmed by itself, so that one that returns later
//     holds what it runs.
//
// Dependencies: grpc for statuses and streams, genproto's errdetails because BadRequest is the form in
// which generic clients show field errors, google/uuid for object IDs.
package api
