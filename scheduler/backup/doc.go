// Package backup writes and reads backup files of a cluster's state.
//
//	"DROVERB1" · header · pieces of the state's snapshot · trailer
//
// Each part is a BackupRecord with its length before it as a varint. The trailer holds the SHA-256 of everything
// before it, and nothing follows it: a file that is cut short, changed, or has something appended is damaged, and
// Read says so before its reader has made anything of it, if he waits for the end. The snapshot is in its own form
// (scheduler/state), which is checked as well.
//
// A backup is the state alone, at one index: cluster, tokens (as hashes), nodes, flavors, pools, quotas, models,
// services, instances, remembered request IDs. Events are not part of it: they are a bounded record of what
// happened, each scheduler keeps its own, and nothing is decided by them. Keys that encrypt secrets in the state are
// not in it either; the header names them.
//
// # The restore epoch
//
// A restored state has a restore epoch that is above that of the backup and of the cluster it is restored into, and
// above all that any agent has seen: milliseconds since 1970 at the time of the restore. The backup's own plus one
// would not do: when the same backup is restored twice, agents have seen that already, and would take the second
// restore's sets for current ones. If the clock of the scheduler is behind that of an earlier restore, agents and
// schedulers refuse each other, which removes nothing; with the clock set right it is restored again.
//
// The backup's schedulers are others than this cluster's and have certificates of the same CA. They are revoked in the
// restored state: Raft has no epoch, and one of them that still led at this one's address would overwrite what was
// restored.
package backup
