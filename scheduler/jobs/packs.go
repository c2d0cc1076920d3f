package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/storage"
)

// Bounds of looking after packs.
const (
	lookEvery  = 10 * time.Second // for those that tasks don't find
	tidyTime   = 2 * time.Minute  // for which a storage may fail to remove them
	mostPacks  = 10_000           // that are listed before they are removed
	mostDelete = 16               // are removed at once
)

// beside opens the storage of the job, and answers where what belongs to it lies.
func (r *run) beside() (Storage, storage.URL, error) {
	r.mu.Lock()
	job := r.book.job
	r.mu.Unlock()
	dir, err := storage.ParseURL(directoryOf(job))
	if err != nil {
		return nil, dir, err
	}
	store, err := r.cfg.Storage(job.GetMeta().GetProject())
	return store, dir, err
}

// pause waits after something failed; false when the run has ended.
func (r *run) pause(d time.Duration) bool {
	select {
	case <-r.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// looks answers the chunks whose packs tasks don't find, when it's time to look for these.
func (r *run) looks() (missing []*fleetv1.Chunk) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.looking || !r.looked.IsZero() && time.Since(r.looked) < lookEvery {
		return nil
	}
	for attempt, gone := range r.book.missing {
		if !gone {
			missing = append(missing, r.book.chunks[attempt])
			delete(r.book.missing, attempt) // who doesn't find it says so again
		}
	}
	if r.looking = len(missing) > 0; r.looking {
		r.looked = time.Now()
	}
	return missing
}

// look finds out which packs are gone. A task that doesn't find one may not see the directory.
func (r *run) look(missing []*fleetv1.Chunk) {
	gone, err := r.goneOf(missing)
	if err != nil && r.ctx.Err() == nil {
		r.cfg.Logger.Warn("it isn't known yet whether packs that tasks don't find are gone", "job", r.id, "error", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looking = false
	for _, c := range gone {
		if r.book.chunks[c.GetAttempt()] != nil {
			r.cfg.Logger.Warn("a pack is gone: its items are run again", "job", r.id, "pack", batch.PackName(c.GetFrom(), c.GetAttempt()), "items", c.GetTo()-c.GetFrom())
			r.book.missing[c.GetAttempt()] = true
		}
	}
	r.wake()
}

// goneOf are those chunks whose packs aren't there, though the parts of the input are that name their items: a directory that
// isn't mounted has neither.
func (r *run) goneOf(missing []*fleetv1.Chunk) (gone []*fleetv1.Chunk, err error) {
	store, dir, err := r.beside()
	if err != nil {
		return nil, err
	}
	defer store.Close()
	r.mu.Lock()
	parts := r.book.ledger.GetParts()
	r.mu.Unlock()
	there := map[string]bool{}
	for _, c := range missing {
		u, err := dir.Join(batch.PackName(c.GetFrom(), c.GetAttempt()))
		if err != nil {
			return gone, err
		}
		if _, err := store.Stat(r.ctx, u); err == nil {
			continue
		} else if !errors.Is(err, storage.ErrNotFound) {
			return gone, err
		}
		for _, part := range parts {
			if part.GetFrom() >= c.GetTo() || part.GetFrom()+part.GetItems() <= c.GetFrom() || there[part.GetObject()] {
				continue
			}
			if _, err := readPart(r.ctx, store, dir, part); err != nil {
				return gone, err
			}
			there[part.GetObject()] = true
		}
		gone = append(gone, c)
	}
	return gone, nil
}

// lostEvents tell of chunks whose packs are gone. The caller holds the lock.
func (r *run) lostEvents(lost []string, now time.Time) []*fleetv1.Event {
	if len(lost) == 0 {
		return nil
	}
	var items int64
	for _, attempt := range lost {
		items += r.book.chunks[attempt].GetTo() - r.book.chunks[attempt].GetFrom()
	}
	meta := r.book.job.GetMeta()
	return []*fleetv1.Event{{Time: timestampOf(now), Type: fleetv1.EventAbnormal, Reason: "JobResultsLost",
		Message: fmt.Sprintf("items that are run again, for their results are gone from %s: %d", batch.OwnFolder, items),
		Objects: []*fleetv1.ObjectRef{{Kind: fleetv1.KindJob, Id: meta.GetId(), Name: meta.GetName(), Project: meta.GetProject()}}}}
}

// tidies says that packs are to be removed now: when every item is in a manifest that stands, and an operator has confirmed the
// restore if there was one.
func (r *run) tidies() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.learn() || !state.JobComplete(r.book.ledger) {
		r.tidied = false
		return false
	}
	if r.tidying || r.tidied || state.RemovalsHeld(r.cfg.State.View()) {
		return false
	}
	r.tidying = true
	return true
}

// tidy removes the packs of a complete job. A storage that lets nobody remove anything doesn't keep the job from completing.
func (r *run) tidy() {
	err := r.removePacks()
	began := time.Now()
	for retry := firstRetry; err != nil && r.ctx.Err() == nil && time.Since(began) < tidyTime; retry = min(2*retry, lastRetry) {
		r.setTrouble("packs that nobody needs can't be removed: " + err.Error())
		if r.pause(min(retry, tidyTime-time.Since(began))) {
			err = r.removePacks()
		}
	}
	if err != nil && r.ctx.Err() == nil {
		r.cfg.Logger.Warn("packs that nobody needs stay beside the output: they can't be removed", "job", r.id, "error", err)
	}
	r.mu.Lock()
	r.tidying, r.tidied = false, r.ctx.Err() == nil
	r.mu.Unlock()
	r.setTrouble("")
}

// errIncomplete: the job has been retried, or is gone.
var errIncomplete = errors.New("the job isn't complete any more")

// removePacks removes the packs that are there. What a retry under another leader has packed isn't among them: those were
// found before a commit after which the job was complete.
func (r *run) removePacks() error {
	store, dir, err := r.beside()
	if err != nil {
		return err
	}
	defer store.Close()
	for after := ""; ; {
		var packs []storage.URL
		for o, err := range store.List(r.ctx, dir, after) {
			if err != nil {
				return err
			}
			if after = o.URL.Key; batch.IsPack(strings.TrimPrefix(o.URL.Key, dir.Key)) {
				packs = append(packs, o.URL)
			}
			if len(packs) == mostPacks {
				break
			}
		}
		if len(packs) == 0 {
			return nil
		}
		if _, err := r.propose(r.ctx, &fleetv1.JobCommit{JobId: r.id}); err != nil {
			return err
		}
		if !state.JobComplete(r.cfg.State.View().JobLedger(r.id)) {
			return errIncomplete
		}
		if err := deleteAll(r.ctx, store, packs); err != nil {
			return err
		}
	}
}

// deleteAll deletes objects, and answers the first error.
func deleteAll(ctx context.Context, store Storage, objects []storage.URL) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(mostDelete)
	for _, u := range objects {
		g.Go(func() error { return store.Delete(ctx, u) })
	}
	return g.Wait()
}
