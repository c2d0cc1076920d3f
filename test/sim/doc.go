// Package sim simulates a fleet: the scheduler's own state, planner, loops and assignment code, driven by one
// goroutine below gRPC and Raft, with a virtual clock and simulated agents.
//
//	trace ──► operations ──► commands ──► log ──► state.Store ──► feed ──► agents, jobs, ledger
//	                            ▲                                             │
//	                reconcile.Term.Step, session.Assignments  ◄───────────────┘ reports
//
// A queue holds what will happen, ordered by time. When something has happened the loops are stepped until they
// have nothing more to do, and time jumps to what comes next. Nothing reads a clock, nothing runs beside it, and
// IDs come from the seed, so that equal Configs give equal logs, byte for byte. Every command is encoded, written to
// the log, and decoded again before it is applied, as a follower would see it.
//
// # What is left out
//
// Steady heartbeats: a node has its lease unless it is cut off. Progress within a pull. The API's checks: what
// exceeds a quota waits, which admission would have refused, and that is what the loops are to cope with. Raft:
// an entry is committed at once. The goroutines that drive the loops in production have tests of their own.
//
// # Agents
//
// An agent takes the assignment set that session.Assignments computes, 5 ms after it has changed, and reports on a
// grid of 100 ms. An image that isn't on the node takes 40 s (log-normal, sigma 0.6), a start 4 s (sigma 0.5). A
// stop takes the withdrawal, then 2 s (exponential, at most the grace period), then 1 s until the devices are found
// free, or 20 s one time in a hundred. A container ends by itself once in 30 days (exponential); one in five of
// those can't be restarted. Which images a node has is told at most once a minute. A crashed host finds nothing
// running when it is back, and starts the next attempts.
//
// # Chaos
//
// Config.Chaos adds what a trace doesn't hold. An entry may be its leader's last: its proposer hears nothing, and every
// other time it was not committed. What the leader proposes after that is refused; another one takes over, whose clock
// is off by something else, every other time after a restart from its snapshot. Agents then tell everything again, and
// operators repeat what they asked for under its request ID until they know the outcome. A crashed host may come
// back without its journal.
//
// # What is checked
//
// A ledger follows every change, shares no code with what it checks, and looks at each entry:
//
//   - no device has two holders
//   - nothing is placed on a node or device that is cordoned, drained, unhealthy or unreachable
//   - no more than a node's CPU and memory, or a project's quota, is given away
//   - a gang is placed by one entry, on nodes of its own, with every rank; and whenever the loops rest, it is to run
//     as a whole or not at all
//   - strict spreading and anti-affinity are kept by what is placed
//   - only preemptible instances of less priority are preempted
//   - the store doesn't refuse what the planner has just planned from the same state
//   - an operator's request takes effect once, however often it is sent
//   - no container starts on a device that another one of its node still works on
//
// From time to time, and at the end, everything is checked: the ledger, the store's sums and its instances agree;
// and no instance waits for which a plain search of all nodes finds room, unless a reservation, a quota or the pause
// after failures keeps it from it. When the trace has ended a fixed point must be reached, at which nothing changes,
// for a new leader neither. In the end the log is replayed, and must give the same snapshot.
//
// # Sizes
//
// The tests run 200 nodes for half a day, and 24 nodes with chaos for an hour with each of three seeds; make soak runs
// more seeds for longer (-sim.soak, -sim.hours). The large run (make sim) is behind -sim.nodes, and may read a trace from a file
// (-sim.trace, -sim.jobs) or write the one that it made (-sim.write).
//
// What is in here for figures: Queue and Fragment in test/sim/quality compare the planner with first-fit and with
// an exhaustive optimum.
package sim
