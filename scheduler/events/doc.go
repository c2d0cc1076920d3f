// Package events keeps what happened: a bounded bbolt file (events.db, beside the Raft log) fed by the FSM,
// and in memory which of them name an object.
//
// Each scheduler makes the same events from the same log, so they are not replicated, and not part of
// snapshots: a scheduler that caught up by a snapshot lacks the events of the entries that it skipped. Events
// are never the truth about anything: a damaged file is moved aside as events.db.corrupt-TIME, that is
// logged as an error, and a new file is begun. A scheduler never fails to start, or stops, because of them.
//
// Append never waits for the disk. One goroutine writes what has gathered after WriteDelay, in one
// transaction, so that the log's fsyncs, which answers wait for, have the disk for themselves. Until then
// the events are in the Raft log: the FSM calls Flush before the log that they were made from may be dropped,
// and after a crash the log is applied again. Append skips an index that the file has, so nothing is kept
// twice. An index's events are written together or not at all. When the disk doesn't keep up, or fails, the
// oldest waiting events are dropped and counted.
//
// Bounds: MaxCount events; those of services and instances for a month, all others (nodes, models, …) for
// three. The file doesn't shrink; freed pages are used again. It belongs to one cluster: whoever removes the
// Raft log to begin a new one must remove it too, or low indexes are taken for a replay.
//
// List and Watch first write what is waiting, then read the file, so there is one order and no merging.
// A query by object uses the index by kind and name or ID; any other reads from the newest event backwards.
//
// The index is in memory, some 16 bytes for each name or ID in each event, and made anew from the file by Open, which
// reads all of it anyway. In the file it would be five entries for each event of an instance, in as many places: most
// pages of a tree of some megabytes were written anew ten times a second while instances started, for a fifth of
// the leader's time.
//
// Dependencies: go.etcd.io/bbolt keeps events and their index in one transactional file: a log file of our
// own would need recovery, an index and compaction.
package events
