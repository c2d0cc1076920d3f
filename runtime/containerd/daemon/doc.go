// Package daemon runs a containerd of Drover's own, with root, state and socket in one data directory,
// for machines where none is set up: `drover dev`, the demonstration and the tests.
//
// Decisions:
//   - It runs in its own session and logs to a file: it outlives the program that started it, and
//     with it every container. The next Start on the same directory adopts it.
//   - A process is ours when the pid file names it and its command line names our configuration file; a
//     reused PID is never adopted, nor signalled.
//   - Plugins that Drover does not use (CRI, other snapshotters, tracing) are off: a start takes tens of
//     milliseconds and no port is opened.
//   - A crashed containerd is started again at once, then with growing pauses; containers keep running
//     under their shims meanwhile.
//   - A socket's path must fit in 108 bytes. Where the data directory's name is too long for that, the
//     socket is in /run/drover under a name made from the directory's hash, so that the next Start finds it.
//
// containerd's client is used to ask whether it answers; golang.org/x/sys/unix gives pidfds, which wait
// for a process that is not our child.
package daemon
