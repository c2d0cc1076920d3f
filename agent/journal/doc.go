// Package journal keeps what this node was told and has done, durably: <dir>/journal.db.
//
// It holds one Header (which cluster's assignment set, which generation), one Record for each instance,
// which devices are in quarantine, and when a scheduler was last connected. Everything is in memory as well: the file is read once, at Open, and written by one goroutine
// that gathers what waits into one transaction, so that many instances which move at once share an fsync.
//
// A journal that can't be trusted must never look empty, because an agent with an empty journal would
// take its own containers for strangers. Therefore: each value carries a CRC32C over its key and itself,
// the header counts the records, both of the database's meta pages must be whole (the database alone
// would fall back to the older one in silence), and a marker file beside the database says that it
// existed. Every doubt ends in ErrCorrupt, which names the file and what to do.
//
// Dependency: go.etcd.io/bbolt, an ordered, transactional file that survives power loss; a log of our own
// would need its own compaction and torn-write handling. Its panics and page faults become errors here.
package journal
