// Package jobs is the leader's side of batch jobs: it lists their input, leases items to tasks, commits what these have
// done, and has manifests written. Where the tasks run is package reconcile's affair, which makes a service of each job.
//
//	lister ──parts──►┐                        ┌──► ledger (Raft, through state.JobCommit)
//	                 ├─► run: one commit a second
//	tasks ◄─exchange─┴─► book: leases         └──► read back: what is committed ends its lease
//
// # Leases are worth nothing
//
// A book, what the leader knows of who has which items, lives in memory, and an exchange is level-triggered: a task says all
// that it has, and is told all that it should have. Nothing depends on it being right. Two tasks may have the same items,
// since an answer was lost, a task was thought dead, or another scheduler led: the ledger takes the chunk that comes first and
// refuses the other, whose pack nobody will read. So a book needs no log, and a new leader begins with an empty one. It
// leases nothing before every instance that is ready has called, or 15 s have passed, so that what tasks have in hand is
// not run twice; what they then name is theirs. What is packed needs its task no more, and is committed though that is
// gone. The tests let histories at random do their worst and count the lines.
//
// # Chunks
//
// A task has at most two chunks that run, so that one begins when the other ends. A chunk should take 4 s: the first has 8
// items, the next one up to 16 times as many or as few, by how long the last one took. Near the end chunks are small, at
// most what is left by twice the number of tasks. When nothing is free and a task has nothing, the slowest chunk is cut: its task
// is asked to end it earlier, says what it can still give up, and the rest is leased anew. A chunk lies within one part of the
// input, so that a task reads one index for it.
//
// # Commits
//
// A run commits once a second at most, everything in one entry: parts that the lister has written, chunks that are packed,
// manifests that are to be written and those that stand. Of a commit whose outcome is unknown the ledger tells: a chunk's
// attempt is in it, or the chunk is proposed again. A task's committed chunks become a manifest when they have 10,000 lines,
// when they have waited for a time that doubles from 5 s to 5 min, so that a job of hours has few small manifests and one of seconds
// is readable at once, and at the end. A manifest goes to the task whose it is, else to any: its content is
// given, so a second writer does no harm.
//
// # Packs
//
// Packs are removed when the ledger has every item in a manifest that stands, before package reconcile says that the job is
// Completed: so Completed means that it was done, and a new leader looks at no more than the jobs that it runs. Also those
// of chunks that were refused: what is listed goes by its name. It is listed before an empty commit and removed after it,
// for a leader that was deposed meanwhile might take what a retry has packed since. Storage that fails to do it for 2 min is
// left as it is.
//
// A task that doesn't find the pack of a committed chunk says so. The leader looks for itself, and for the part of the input
// that names the items, for a directory that isn't mounted has lost nothing; then a commit takes the chunk back, and its items
// are free. Its manifest, if it had one, keeps its number, and gets a version: what was written before counts
// as not written, and one that is left with nothing is written empty, for it may stand already. Only a task that was cut off since
// before that, with the results in memory, can bring such lines back. A pack that turns up again is nobody's.
//
// # Listing
//
// The input's names are written beside the output, 10,000 items in an object, and the ledger has a record of each. A lister
// holds one such part and 8 bytes of each name that it has given. Who takes over reads the names of the parts, and goes on behind the
// last key, or line of a manifest, that is in the ledger. Two that list at once write objects of different names; the
// ledger takes the part that begins where it ends, and the other lister begins again behind that. A line of a manifest that
// can't be read becomes an item that says so, and ends as FAILED: its line is accounted for like any other. An input
// that is refused or missing for 2 min, or has changed since it was half listed, fails the job; a storage that is
// away is waited for.
//
// Four inputs are listed at once, two of one project, and a job has 10,000,000 items at most: tenants share the leader's
// memory. What agents tell is cut to what their own program would send, before it is kept, logged or shown.
//
// # Retries
//
// A retry lists the FAILED items of the manifests that stand once more, as parts marked "again", under the names of before and
// without the ETags, for the input may have been put right. When all of them are in the ledger, their lines are taken out of those
// manifests, and only then the input counts as listed: so a job that is completed has one line for each item, and one that is
// interrupted here goes on from the ledger's position. Manifests that stand are else never rewritten; a task that was cut
// off from all schedulers since before the retry, and then writes a manifest of before, would bring such lines back.
//
// # Restores
//
// A ledger that was restored from a backup is older than its output: what was committed since is run again, and lies in
// manifests that the ledger doesn't have. These are removed before the next one is made, when all tasks have called and an operator
// has confirmed the restore. Not those of a job that was being retried: what its ledger doesn't know may be listed nowhere else.
//
// # Tasks
//
// A task is named by a number: the lowest that no living instance has, or the one that it had under an earlier leader.
// Manifests and directories of results carry it. An instance's certificate must be that of the node where it is placed.
//
// Dependencies: prometheus/client_golang shows the figures of jobs; grpc is the tasks' protocol; golang.org/x/sync/errgroup
// deletes several packs at once until one fails.
package jobs
