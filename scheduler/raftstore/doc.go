// Package raftstore is the only importer of hashicorp/raft: it replicates the commands of scheduler/state
// over the schedulers and keeps them on disk.
//
//	Propose ─► raft ─► log (raft.db) ─► fsm ─► state.Store.Apply ─► Result to the proposer
//	                                      └──► EventSink.Append (never blocks)
//
// # What callers can rely on
//
// A command that Propose answered for is on the disks of a majority and in this scheduler's store. When the
// answer was lost (leadership changed, the deadline passed, the process is closing) Propose returns
// ErrUnknown, never a failure that could be a success: send it again with the same request ID. A
// *NotLeaderError means that nothing was done. LeaderChanges says true only after a barrier: all that earlier
// leaders committed is in the store by then. ReadIndex makes the next View linearizable without writing to
// the log: commit index, VerifyLeader, wait for the apply.
//
// # What is on disk, and how damage is found
//
// Below <data dir>/raft: lock, id, raft.db, snapshots/. Open holds a lock on the directory, and checks all of
// it before Raft sees any: the structure of raft.db (scheduler/boltfile), the CRC32C of every entry, that no
// entry is missing, the stable values (term, vote), every snapshot to its end, that snapshot and log meet.
// Damage is a *CorruptError with the file's name and what to do; so is a log that is gone while the rest is
// there. The store never starts empty in place of something, and never forgets an acknowledged write or a
// vote. Changed bytes that nothing reads (free pages, padding) are not damage.
//
// raft.db is a bbolt file that we write ourselves rather than through raft-boltdb: its values have no
// checksums, so a changed vote, term or entry, or entries lost from a page, would go unnoticed. Here each
// value has its CRC32C, and one record, rewritten in the same transaction (no further fsync), holds the first and
// last index and all stable values. Raft keeps a snapshot's index, term and members in a file without a
// checksum; we put them at the head of the snapshot's data too, sealed, and compare. An entry's data is framed
// with a version byte and CRC32C by the proposer, and checked again before it is applied: an entry that can't
// be read stops this scheduler (Failed), since going on would make it differ from the others.
//
// A write to the log that takes longer than StallLimit is reported by Failed too: with a hung disk a
// leader's heartbeats go on, and nothing else does.
//
// A snapshot is written after the events of its entries are durable (EventSink.Flush); after a restart the
// entries since the snapshot are applied again, and their events are appended again.
//
// # Dependencies
//
// hashicorp/raft: leader election and log replication, proven in Consul and Nomad. go.etcd.io/bbolt: one
// durable, transactional file for the log. hashicorp/go-hclog: the interface that Raft logs through; it ends
// in slog. google/uuid: the scheduler's ID.
package raftstore
