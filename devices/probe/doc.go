// Package probe keeps a vendor's library out of the agent: it is loaded by a child process, which answers
// for it over a socket. Libraries of drivers block for ever in the kernel, print to standard output, call
// exit and crash; whatever one of them does, the agent and the other vendors go on.
//
// Serve is the child's side: it runs any devices.Backend. New is the agent's: a devices.Backend that
// starts the child when it is first asked something, and again when it has ended.
//
// The two speak frames of JSON, each with its length before it (see frame.go), over file descriptor 3. The
// child inherits nothing else: its standard input is /dev/null, what it prints is logged line by line, up to
// a limit. It ends with its parent, because it reads the end of the socket and because the kernel kills it.
//
// A call that isn't answered within its deadline fails with devices.ErrUnresponsive, and the child is
// killed. Killing may not help, since a process within a driver can't be killed: it is waited for in the
// background, never by a caller, and as long as it is there no other is started. So a vendor has at most
// one stuck child. A child that has ended is started again after a pause that doubles, from a second to a
// minute; it starts over when a child has lived for a minute.
//
// A child whose library answers a discovery with an error is ended too, without a pause: a process can't get rid of
// the library that it has loaded, and after an upgrade of the driver that is the wrong one. The next call starts
// another with the library that is installed by then.
//
// A call of the child can't be taken back: when its caller's context is cancelled the answer is thrown
// away when it comes.
//
// Dependency: x/time/rate holds back a library that prints without end.
package probe
