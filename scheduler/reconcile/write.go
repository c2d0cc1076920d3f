package reconcile

import (
	"context"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Bounds of a log entry: bytes of what it carries, parts of a plan, and mutations of one service that stand or fall
// together, so that a lost race spoils little.
const (
	maxEntryBytes = 1 << 20
	maxEntryParts = 4096
	maxMutations  = 256
)

// writing commits the writes of many objects, many in one entry. What loses a race is computed again.
type writing struct {
	proposer
	ctx  context.Context
	what string // of a failure, for the log
	// compute answers the writes of one object, as it is now. Each stands or falls by itself.
	compute func(id string) []*fleetv1.Write
	// wrote hears of each object of which something was committed or refused; nil for nobody.
	wrote func(id string)

	failed map[string]bool
}

// job is one write on its way into an entry.
type job struct {
	id    string
	write *fleetv1.Write
	only  bool // of its object
	tries int
}

// all commits the writes of all objects. It answers those of which something could not be written.
func (w *writing) all(ids []string) (failed map[string]bool) {
	w.failed = map[string]bool{}
	var batch []*job
	size := 0
	for _, id := range ids {
		for _, j := range w.jobs(id, 0) {
			if batch, size = append(batch, j), size+proto.Size(j.write); size >= maxEntryBytes {
				w.commit(batch)
				batch, size = nil, 0
			}
		}
	}
	w.commit(batch)
	return w.failed
}

func (w *writing) jobs(id string, tries int) []*job {
	var jobs []*job
	writes := w.compute(id)
	for _, one := range writes {
		if len(one.GetMutations()) > 0 || len(one.GetEvents()) > 0 {
			jobs = append(jobs, &job{id: id, write: one, only: len(writes) == 1, tries: tries})
		}
	}
	return jobs
}

// commit commits the jobs in one entry, again without those that the store refuses.
func (w *writing) commit(batch []*job) {
	var refused []*job
	for len(batch) > 0 && w.ctx.Err() == nil {
		entry := &fleetv1.Write{}
		for _, j := range batch {
			entry.Mutations = append(entry.Mutations, j.write.GetMutations()...)
			entry.Events = append(entry.Events, j.write.GetEvents()...)
		}
		result, err := w.propose(w.ctx, &fleetv1.Command{Op: &fleetv1.Command_Write{Write: entry}})
		if err != nil && w.ctx.Err() == nil {
			w.cfg.Logger.Warn(w.what, "objects", len(batch), "for example", batch[0].id, "error", err)
		}
		if err == nil && len(result.Rejections) > 0 {
			r := result.Rejections[0]
			w.cfg.Logger.Debug("write refused", "reason", r.Reason, "detail", r.Detail)
			at := owner(batch, r.Part)
			refused = append(refused, batch[at])
			batch = append(batch[:at:at], batch[at+1:]...)
			continue
		}
		for _, j := range batch {
			w.done(j, err == nil)
		}
		break
	}
	for _, j := range refused {
		w.again(j)
	}
}

// again computes the write of an object anew, unless others of the object are on their way: then its owner looks
// at it again.
func (w *writing) again(j *job) {
	if w.done(j, j.only && j.tries+1 < writeTries); w.failed[j.id] {
		return
	}
	if next := w.jobs(j.id, j.tries+1); len(next) > 0 {
		w.commit(next)
	}
}

func (w *writing) done(j *job, ok bool) {
	if w.wrote != nil {
		w.wrote(j.id)
	}
	if !ok {
		w.failed[j.id] = true
	}
}

// owner is the place of the job that the mutation belongs to.
func owner(batch []*job, mutation int) int {
	for i, j := range batch {
		if mutation -= len(j.write.GetMutations()); mutation < 0 {
			return i
		}
	}
	return len(batch) - 1
}
