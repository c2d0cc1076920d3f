// Package logfile keeps what containers print: it writes, rotates, reads, follows and searches the
// log files of an instance.
//
// An instance has a directory, each of its attempts a directory in it named by the attempt's number,
// and each of those numbered segments:
//
//	<instance>/1/00000001.log  00000002.log
//	<instance>/2/00000001.log
//
// A line is "RFC3339Nano stream text". One writer appends to an attempt's highest segment and
// starts the next when it is full; the lowest are removed. Segments are never renamed, so a reader's place is
// (attempt, segment, offset) and stays valid while the writer goes on, and a segment is known to be
// finished as soon as a higher one exists.
//
// Decisions:
//   - Writing never syncs: logs are not worth a disk flush, and a container must not wait for one.
//   - A failed write takes back its half line (truncate), or starts the next write with a new
//     line where even that fails, so a full disk leaves no line that mixes two.
//   - A line that cannot be parsed is shown, not hidden: stream "corrupt", the time of the line before.
//     A last line without its end is not shown while its segment can still grow.
//   - Text that is not UTF-8 is repaired when read, because the API's strings must be valid.
//   - Followers sleep in inotify and look at the disk only when something changed, or every half second
//     where inotify is not to be had or the directory does not exist yet.
//   - A search ignores case: people look for "error" and mean ERROR too.
//
// golang.org/x/sys/unix gives inotify; a wrapper library would add its own goroutine and queue.
package logfile
