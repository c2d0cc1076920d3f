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
// Everything runs in its own network and mount namespaces, so neither the machine's rules nor its
// containers are touched or measured.
//
// Dependencies: containerd's client, libcni and the OCI types as in runtime/containerd, which the bare
// client must equal without using it.
package bench
