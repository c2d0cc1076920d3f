// Package bench measures Drover as a whole on one machine and prints the figures as a table: `make bench`.
// What is measured is never asserted: a figure that misses its goal says so in the table and fails nothing;
// only work that isn't done (a service that doesn't run, an answer that is wrong) does. The packages' own
// benchmarks are Go's: `go test -bench . ./scheduler/lookup`.
//
// The figures are taken from real processes (test/machine): a scheduler, an agent, a private containerd. Speeds
// stand beside a bare program that does the same work on the same machine in the same run, turn by
// turn, and are compared as ratios: a ratio says the same on another machine, a time doesn't.
//
//   - A deployment is measured from the answer of DeployService until the instance is ready in what WatchService sends,
//     which is committed state. Beside it stands a client that makes the same calls of the same containerd one
//     after the other: snapshot, network namespace, CNI's bridge and portmap plugins, container, task with
//     Drover's logger, start, first good probe of the container's address and of the host port. It is
//     generous to that client: its OCI specification is made in advance, it journals nothing, holds no lease, writes no
//     masquerading or isolating rules, and probes each millisecond.
//   - Look-ups are made over 64 connections by a load generator that hardly parses, so that the servers' share
//     of the two processes' time is as large as it can be. The bare server is net/http with a handler that writes
//     the same bytes under the same headers, in a process of its own.
//   - Processor time is the kernel's account of the process, memory is what it holds resident.
//   - Processes per container are the processes in the mount namespace of the measurement, which has one
//     of its own, before and after, without shims and loggers.
//
// Those of devices stand in a report of their own, against a C stand-in for NVIDIA's library with eight GPUs, whose calls
// cost nothing: what is measured is ours. A round of samples goes through a real `drover device-probe`. The time of a
// failure is taken from before the stand-in, or the kernel's log, is told of an XID until the first answer of the look-up
// without the instance, which a client asks for again and again over HTTP. The stand-in looks for
// what it is told each 5 ms, which is in the figure; a new agent forgets failed devices, and so is started when they run out.
//
// Those of placement are taken from a real scheduler process with its log on the disk, and simulated agents: each a
// connection and a session of its own, over loopback, from the measuring process. They beat as often as they are told to
// and send samples of 8 devices each 5 s, as real ones do, and report what they are assigned as running at once. So the
// scheduler shares the machine's processors with ten thousand agents; what the leader itself used for one instance stands
// beside the rates. An instance counts as placed when its node has been sent it. Memory without transport is that of a
// scheduler that was started with nobody connected, 10 s later; a stream is the difference that connecting makes.
// Leases are an hour there, so that nodes without agents stay. They speak plain text on loopback, which schedulers that join
// each other don't: the logs of three are given three voters before they start. The planner alone runs its own benchmarks, on one core, by processor time.
// First-fit is the bare program of what test/sim/quality measures.
//
// Those of the log are taken by scheduler/raftstore's own benchmark: writers that each wait for the answer to one write of
// 256 bytes before they send the next, and all voters in one process with their logs on one disk, fsync on. The bare
// program is hashicorp/raft with the same log and the same settings, whose state machine does nothing and whose entries are
// made of nothing; a write of ours is encoded, applied to the state, and answered with what it did. With few writers the disk
// decides, with many the processor, which is why its time for a write, that of all voters, stands beside the rates.
//
// Those of several schedulers are taken with TLS and the default cadence, all on this machine. Simulated agents have
// certificates there, which they joined for, and look for a leader with an agent's pauses. A silent node sends nothing from one
// moment on and keeps its connection open, as after a loss of power; its time ends with the first answer of each of
// the three schedulers' look-ups without its endpoint, which are asked each 5 ms. What clients keep an answer for (max_age) comes on
// top. For a failover the leader is killed, and a client that knows all three tries the same write at one after
// the other, 10 ms apart, until one acknowledges it; look-ups go on at the survivors. After a storm all agents that were
// connected have a session again, and the peak is that since the kill. The memory of a stream with TLS is the difference that
// connecting makes to a scheduler that was started with the nodes in its state. With ten thousand agents in the measuring
// process and three schedulers on few cores the processors decide; elections meanwhile are counted. Snapshots are
// the state's alone, written into memory and read from there.
//
// Those of the client library are taken from this process, with instances that are processes of their own (the bare server)
// and a stand-in for the scheduler, whose watch the library follows. What is added to a call is the difference to a plain
// http.Transport of the median calls of a round, both one call of the only instance after the other on a connection that is kept. An instance that is
// killed closes its connections whatever is in flight; the look-up has it 200 ms later, together with the one that came for it.
//
// Those of look-ups are taken with simulated agents, whose reports change so many endpoints a second: of another service than
// is asked for while look-ups are timed, so that all answers are equally long, and of the watched one with watches. The
// memory of a watch is the difference that opening ten thousand makes, 20 s later. A change counts from before the agent sends
// its report, so that the log's share is in it, until the last client has read the answer; the clients share the processors.
// A stream of grpc-go alone has a goroutine whose stack takes 8 KiB, of which no handler can rid it.
//
// Everything of the first two runs in its own network and mount namespaces, so neither the machine's rules nor its
// containers are touched or measured.
//
// Dependencies: containerd's client, libcni and the OCI types as in runtime/containerd, which the bare
// client must equal without using it; go-containerregistry serves the image that placed services name.
package bench
