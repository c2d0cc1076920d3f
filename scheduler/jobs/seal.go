package jobs

import (
	"maps"
	"slices"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Bounds of manifests and commits.
const (
	manifestLines = 10_000
	firstPause    = 5 * time.Second // a committed chunk waits for its manifest so long at first
	lastPause     = 5 * time.Minute
	mostChunks    = 2000 // of a commit
	mostWriting   = 4    // manifests that a task is told of at once
)

// commit is what there is to be committed now beside what the lister has; nil for nothing.
func (b *book) commit(now time.Time) *fleetv1.JobCommit {
	c := &fleetv1.JobCommit{JobId: b.job.GetMeta().GetId()}
	runs := false
	for _, l := range b.leases {
		if runs = runs || !l.packed; l.packed && len(c.Chunks) < mostChunks {
			c.Chunks = append(c.Chunks, l.Chunk)
		}
	}
	for id, version := range b.written {
		c.Written = append(c.Written, &fleetv1.Manifest{Task: id.task, Number: id.number, Version: version})
	}
	for _, attempt := range slices.Sorted(maps.Keys(b.missing)) {
		if b.missing[attempt] {
			c.Lost = append(c.Lost, attempt)
		}
	}
	if len(c.GetLost()) == 0 { // else when it's known what there is still
		c.Seal = b.seals(c.GetChunks(), runs, now)
	}
	slices.SortFunc(c.Written, func(x, y *fleetv1.Manifest) int {
		if x.GetTask() != y.GetTask() {
			return compareTasks(x.GetTask(), y.GetTask())
		}
		return int(x.GetNumber() - y.GetNumber())
	})
	if len(c.GetChunks())+len(c.GetSeal())+len(c.GetWritten())+len(c.GetLost()) == 0 {
		return nil
	}
	return c
}

// seals are the tasks whose unsealed chunks, with those that are being committed, should become a manifest: those that
// are many, those that have waited, and at the end all.
func (b *book) seals(chunks []*fleetv1.Chunk, runs bool, now time.Time) []string {
	if b.strays {
		return nil
	}
	lines := map[string]int64{}
	var fresh int64
	for _, c := range b.ledger.GetUnsealed() {
		lines[c.GetTask()] += c.GetTo() - c.GetFrom()
	}
	for _, c := range chunks {
		lines[c.GetTask()] += c.GetTo() - c.GetFrom()
		fresh += c.GetTo() - c.GetFrom()
	}
	all := b.ledger.GetListed() && b.left() == fresh || b.stopping() && !runs
	waited := false
	var out []string
	for task, n := range lines {
		old := !b.oldest[task].IsZero() && now.Sub(b.oldest[task]) >= b.pause
		if all || n >= manifestLines || old {
			out = append(out, task)
		}
		waited = waited || old
	}
	if waited && !all {
		b.pause = min(2*b.pause, lastPause)
	}
	slices.SortFunc(out, compareTasks)
	return out
}

// compareTasks orders names of tasks, which are numbers.
func compareTasks(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	if a < b {
		return -1
	}
	return 1
}

// refused ends the leases of what was proposed and isn't in the ledger: somebody else was faster.
func (b *book) refused(c *fleetv1.JobCommit) {
	proposed := map[string]bool{}
	for _, chunk := range c.GetChunks() {
		proposed[chunk.GetAttempt()] = true
	}
	for _, l := range slices.Clone(b.leases) {
		if proposed[l.GetAttempt()] {
			b.drop(l)
		}
	}
}

// age notes since when tasks have something in no manifest.
func (b *book) age(now time.Time) {
	unsealed := map[string]bool{}
	for _, c := range b.ledger.GetUnsealed() {
		unsealed[c.GetTask()] = true
	}
	for task := range b.oldest {
		if !unsealed[task] {
			delete(b.oldest, task)
		}
	}
	for task := range unsealed {
		if b.oldest[task].IsZero() {
			b.oldest[task] = now
		}
	}
}

// assign tells tasks which manifests to write: each its own, and others those of tasks that are gone. Who was told stays
// the one while it lives, so that nobody begins anew.
func (b *book) assign() {
	if len(b.ledger.GetSealed()) == 0 && len(b.writers) == 0 {
		return
	}
	byTask := map[string]*holder{}
	var line []*holder
	for _, h := range b.holders {
		if h.manifests = nil; !h.leaving {
			byTask[h.task], line = h, append(line, h)
		}
	}
	slices.SortFunc(line, func(x, y *holder) int { return compareTasks(x.task, y.task) })
	writers, next := map[manifestID]*holder{}, 0
	for _, m := range b.ledger.GetSealed() {
		h := b.writers[idOf(m)]
		if h == nil || b.holders[h.instance] != h || h.leaving {
			if h = byTask[m.GetTask()]; h == nil && len(line) > 0 {
				h = line[next%len(line)]
				next++
			}
		}
		if h != nil && len(h.manifests) < mostWriting {
			h.manifests, writers[idOf(m)] = append(h.manifests, m), h
		}
	}
	b.writers = writers
}
