// Package task runs the items of jobs in the instances of this node. A task is what one instance does of a job; a driver
// works on it for as long as the instance lives, whatever attempt its container is in.
//
// A driver tells the scheduler that leads all that it has in hand, about once a second and whenever something is done, and
// has in hand what the answer says. Nothing else is remembered: an agent that starts anew has nothing, and a leader that
// does learns from the tasks what is leased. The life of a chunk of items, of which each step may be repeated:
//
//   - running: its items are begun in the order of their numbers, results go into a spool.
//   - packed: one object beside the output holds what became of each item, with its result. Of a chunk that was cut,
//     by a stop, by the scheduler or because its results are large, it's the items before the first that hasn't ended.
//   - publishing: the scheduler has committed the chunk, so each result gets its final name. A chunk that it doesn't
//     commit, for another task was first, is given up: nothing of it was ever to be seen.
//   - published: until the scheduler has taken note.
//
// A manifest is written when all results that it lists have their names, from their packs where this driver hasn't
// done it itself. Its content follows from the packs, so that two who write the same write it alike. A pack that isn't there is
// told to the scheduler, which may have its items run again: then the manifest comes without them, as a later version, and is
// written again. Who has the results itself doesn't need the pack, and says nothing.
//
// Whose fault it is that a request fails decides what follows: the item's and the model's count against the item, each
// to the job's limit, with growing pauses. Nothing of the infrastructure counts: what the storage or the local
// disk refuses is tried until it succeeds, and told as the task's trouble. But an input that is gone, has changed or is
// too large fails its item, and after two minutes one that may not be read.
//
// When a connection breaks, it's waited for 2 s to hear that the container exited. What was in flight then is sent again
// one at a time, with nothing beside it, so that an item that kills the container has no company. One that did so
// more often than the model may be tried fails, and ends its chunk there: what is known is committed before the instance
// has exited too often and is given up.
//
// How many requests are in flight is found out (pace): a model says nothing of what it can take. Inputs are read ahead, by
// items that wait for their turn; those are given back when a chunk is cut. Turns are given in the order of the items.
// What is large goes through spools, and of answers above 1 MiB, which stay in memory, eight are taken in at a time.
//
// A job of small items on a fast model is limited by what each costs here. So requests are sent in one write, results are
// made in their place, and while there is a task the program collects garbage less often (Config.Busy). As many items
// are in hand as are done in a commit and a publication, or the container would wait for these.
//
// Spools are files without a name in the agent's data directory: they end with the process. Results reach the storage
// twice, in a pack and under their names: a store renames nothing, and nothing that isn't committed may have a name. The
// scheduler removes the packs: only it knows when nobody needs them.
//
// Requests go to the container's own address. A certificate is not checked, for none can be valid there, redirects aren't
// followed, and connections are kept.
//
// Dependencies: golang.org/x/sync/errgroup publishes several results at once.
package task
