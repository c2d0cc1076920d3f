// Package scheduler is the server: it wires the parts and starts and stops the leader's loops.
//
//	New:  listen → raft (locks the data directory) → events → session hub, loops, look-up table, API
//	Run:  serve; keep together with the others (member, gossip); pass calls on (forward); while leading: bootstrap once, lead the sessions, run the loops
//	end:  resign → stop serving, with deadlines → close raft, then events
//
// Decisions:
//   - Ports are taken before the log is opened, so that a second scheduler on one machine fails at once and
//     touches nothing.
//   - The bootstrap writes the token files before it commits their hashes: after a crash in between, the
//     next start finds the files and commits the same secrets. The files are the only place where a secret
//     stands in the clear; a file that the operator has taken away is not made again.
//   - Serving starts before leadership is known. Until there is a leader calls are Unavailable, unless they ask for a
//     stale answer, and the health service says NOT_SERVING. It says SERVING on the leader and on who follows one closely.
//   - Leadership comes and goes any number of times: each has its own context, and the next begins when all that the one
//     before has started has ended. A scheduler whose clock a majority contradicts doesn't start its loops at all.
//   - A leader that is stopped in order hands over first. One that isn't is replaced by an election.
//   - Loops, sessions and API take the time from one clock, which doesn't follow jumps (scheduler/member).
//   - DNS is a listener of its own, without TLS, since nobody's resolver speaks it with a certificate; it is off by default.
//   - Listeners are TLS, on any address (package identity); without it (Config.Insecure) on loopback addresses alone.
//   - The CA is made when the first scheduler leads, not before: it comes with the log, in one write and encrypted, so
//     there is no state between to recover from. Raft needs no connection until then, and the other listeners refuse
//     handshakes until there is a certificate. A cluster from before TLS gets its CA in the same way.
//   - A new scheduler gets its certificate before Raft starts (Config.JoinFile), and the key file must be there: it
//     can't hold the state and be unable to sign. Whether it is then a member is decided elsewhere.
//   - A restore is done between two leaderships: loops, sessions and leases end, the state is replaced, and all begin
//     anew with what is there then. Nothing in them has to know that indexes and objects can jump.
//   - What callers can take is bounded (limits.go), and refused beyond that before anything is kept of it.
//   - Who has shown no valid credential can't make this scheduler grow (strangers.go): before a message is read, the call's
//     headers must name a caller who may be let in. A connection is known from its first such call on; behind one address
//     there may be thousands of agents, so only those that aren't known are counted. The limit of what comes for calls without
//     a credential is the connection's, since gRPC has one for the messages of all methods. What gRPC keeps of a call that
//     is refused so early, the timer of its deadline, is bounded too.
//   - The process must end when raftstore.Failed fires: Run returns that error without waiting for anything
//     that might need the disk.
//   - Metrics have a registry of their own. Labels take few values by construction: states, results and
//     codes; never names of objects.
//
// Dependencies: grpc with its health and reflection services, because generic tools speak them;
// prometheus/client_golang for the exposition format and its histograms; golang.org/x/time/rate, a token bucket.
package scheduler
