// Package raftstore is the only importer of hashicorp/raft: it replicates the commands of scheduler/state over the
// schedulers and keeps them on disk.
//
//	Propose ─► raft ─► log (segments) ─► fsm ─► state.Store.ApplyAll ─► Result to the proposer
//	                                      └──► EventSink.Append (never blocks)
//
// # What callers can rely on
//
// A command that Propose answered for is on the disks of a majority and in this scheduler's store. When the answer
// was lost (leadership changed, the deadline passed, the process is closing) Propose returns ErrUnknown, never a
// failure that could be a success: send it again with the same request ID. A *NotLeaderError means that nothing
// was done, and so does ErrDiskFull. LeaderChanges says true only after a barrier: all that earlier leaders
// committed is in the store by then. ReadIndex makes the next View linearizable without writing to the log: commit
// index, proof that this scheduler leads, wait for the apply.
//
// Restore replaces the state on all schedulers, as Raft's own operation, at an index above all that was.
//
// # What is made safe in hashicorp/raft
//
// Three things that v1.7.3 does break what callers rely on. transport stands between it and the network, and prevents them.
//
// It handles heartbeats beside its own goroutine. One of a newer term changes the term of a leader that still takes
// proposals, and they become entries of a term that another scheduler leads: logs that have different entries of the
// same term, which nothing ever notices, and states that differ for good (hashicorp/raft issue 695, open). A leader that
// was stopped for seconds under load did so about once in 650 times. Here its own goroutine handles all heartbeats, so
// that the term doesn't change during an append. But that goroutine also waits for the disk and installs snapshots, and a
// leader that gets no answers meanwhile would step down: so a heartbeat that changes nothing, of the leader that is
// followed anyway, is answered beside it while it is busy.
//
// It takes a follower's whole log up to the leader's commit index for committed, even entries beyond those of the
// message, which may be another leader's. Here the commit index that arrives ends with the message's entries.
//
// VerifyLeader counts answers to messages that were sent before it was called, which a leader that was stopped finds
// waiting when it goes on, and answers of schedulers without a vote. The transport notes who has accepted which message
// in which term, and a read waits until a majority has accepted one that was sent after it began.
//
// # What is on disk, and how damage is found
//
// Below <data dir>/raft: lock, id, log/, snapshots/. Open holds a lock on the directory, and checks all of it
// before Raft sees any: the head of the log, every record's CRC32C, that no segment and no entry is missing, every
// snapshot to its end, that snapshot and log meet. Damage is a *CorruptError with the file's name and what to do;
// so is a log that is gone while the rest is there. The store never starts empty in place of something, and never
// forgets an acknowledged write or a vote. Changed bytes that nothing reads (padding, files that are no longer
// part of the log) are not damage.
//
// The log is a head, one sector that is overwritten in place (the scheduler's ID, term and vote, which segments
// there are), and segments: files of SegmentSize that are full of zeros before they are used, so that an append is
// one write and one fdatasync that changes no metadata, whatever the number of its entries. Deleting from either
// end appends a record, too; segments that hold nothing any more are removed. A file of zeros for the next segment
// is made ahead: when the disk is full, Propose answers ErrDiskFull while what is left of the last segment is kept
// for Raft's own entries, the leader goes on leading and answering reads, and all is well a second after there is
// room.
//
// Records go to the disk in any order, so an append that a crash cuts short leaves any part of itself. It was
// never acknowledged and is dropped. So that an acknowledged entry isn't taken for one, a mark follows each append
// once it is durable, without being waited for, and the head holds how far the log reached when it was last
// written: at each vote, new or removed segment, start and Close. What is wrong before a mark, or before what the
// head says, is damage. What can't be told from an append that was cut short is damage to the last append alone,
// when the process died between it and its mark, or the machine before the kernel had written the mark (some
// seconds); and that a disk has lost everything since the last write of the head. The head itself is old or new after a power failure,
// never torn: 512 bytes are one sector.
//
// After a write or an fdatasync has failed, nothing is known of what is on the disk: the log takes no more writes,
// and Failed says so. Opening it again writes once more what has no mark, since the kernel takes pages for clean
// whose writing has failed.
//
// Raft keeps a snapshot's index, term and members in a file without a checksum; we put them at the head of the
// snapshot's data too, sealed, and compare. An entry's data is framed with a version byte and CRC32C by the
// proposer, and checked again before it is applied: an entry that can't be read stops this scheduler (Failed),
// since going on would make it differ from the others. A leader applies a Write as it was proposed instead of
// decoding it again: the state keeps copies of its objects.
//
// A log of before, one bbolt file raft.db, is taken over when the store is opened, once.
//
// A write to the log that takes longer than StallLimit is reported by Failed too: with a hung disk a leader's
// heartbeats go on, and nothing else does.
//
// When a majority is lost for good, Recover makes a stopped scheduler the only voter. Writes that were
// acknowledged without it are lost; it tells first what is known, and changes nothing unless that is confirmed.
//
// A snapshot is written after the events of its entries are durable (EventSink.Flush); after a restart the entries
// since the snapshot are applied again, and their events are appended again.
//
// # Why this log
//
// Measured on one machine (two cores, ext4), 256-byte entries, 64 writers, fsync on, with one voter: raft-boltdb
// 30,287 writes per second (two fsyncs each batch), hashicorp/raft-wal v0.4.2 89,743, and 88,487 against 132,091
// with this log, taken one after the other; with three voters on one disk, raft-boltdb 8,193 and raft-wal 12,641.
// BenchmarkWrites measures this one, with and without our state machine. raft-wal is the most trusted one that is
// fast, and can't keep the promises above: it takes the first frame of the last segment that it can't read for the
// end of the log, so that one changed bit there silently forgets every acknowledged entry after it; it makes a
// last segment that is missing anew, empty; after a failed fsync it writes again as if nothing had been; and when
// the disk is full as a segment ends it takes no more entries until it is opened again. A check of its files
// before it opens them, and a wrapper for the rest, would be as much code as this log, and would have to follow
// its format. It also brings modules of etcd 3.3.
//
// # Dependencies
//
// hashicorp/raft: leader election and log replication, proven in Consul and Nomad. go.etcd.io/bbolt: the former
// log. hashicorp/go-hclog: the interface that Raft logs through; it ends in slog. google/uuid: the scheduler's ID.
package raftstore
