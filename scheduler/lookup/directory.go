package lookup

import (
	"hash/maphash"
	"maps"
)

// shards is in how many maps the entries are kept: a service that comes or goes has only its own two copied.
const shards = 256

// directory finds a service's entry by name and by ID. Once it is published it is never changed: changes are made
// to a copy.
type directory struct {
	seed    maphash.Seed
	entries [shards]map[key]*entry
	own     [shards]bool // the map is this copy's alone
}

func newDirectory() *directory { return &directory{seed: maphash.MakeSeed()} }

// copy shares every map with d until it is changed.
func (d *directory) copy() *directory { return &directory{seed: d.seed, entries: d.entries} }

func (d *directory) shard(k key) uint64 { return maphash.Comparable(d.seed, k) % shards }

// at is nil when there is none.
func (d *directory) at(k key) *entry { return d.entries[d.shard(k)][k] }

// set puts an entry in, or takes it out with nil.
func (d *directory) set(k key, e *entry) {
	i := d.shard(k)
	if !d.own[i] {
		if d.entries[i], d.own[i] = maps.Clone(d.entries[i]), true; d.entries[i] == nil {
			d.entries[i] = map[key]*entry{}
		}
	}
	if e == nil {
		delete(d.entries[i], k)
	} else {
		d.entries[i][k] = e
	}
}
