package jobs

import (
	"strings"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/storage"
)

// mayHaveStrays says whether manifests may stand that the ledger doesn't have: those of what was committed after the backup
// from which the cluster was restored, and is run again. What a retry had done isn't run again: its manifests stay.
func mayHaveStrays(view state.ReadView, jobID string) bool {
	l := view.JobLedger(jobID)
	return view.Cluster().GetRestoreEpoch() > 0 && l.GetAgain() == 0 && !strings.HasPrefix(l.GetPosition(), fleetv1.PositionOfRetry)
}

// clears says that strays are to be removed now: when the tasks have given up the manifests of then, and an operator has
// confirmed the restore.
func (r *run) clears() bool {
	held := state.RemovalsHeld(r.cfg.State.View())
	r.mu.Lock()
	defer r.mu.Unlock()
	if held || !r.book.strays || !r.book.open || r.clearing {
		return false
	}
	r.clearing = true
	return true
}

// clear removes strays; no manifest is made before.
func (r *run) clear() {
	for retry := firstRetry; r.ctx.Err() == nil; retry = min(2*retry, lastRetry) {
		err := r.removeStrays()
		if err == nil {
			r.mu.Lock()
			r.book.strays = false
			r.mu.Unlock()
			r.setTrouble("")
			return
		}
		r.setTrouble("manifests of after the backup can't be removed: " + err.Error())
		r.pause(retry)
	}
}

func (r *run) removeStrays() error {
	r.mu.Lock()
	job := r.book.job
	r.mu.Unlock()
	store, err := r.cfg.Storage(job.GetMeta().GetProject())
	if err != nil {
		return err
	}
	defer store.Close()
	output, err := storage.ParseURL(job.GetSpec().GetOutput())
	if err != nil {
		return err
	}
	output = output.Folder()
	stand := map[string]storage.URL{}
	for after := ""; ; {
		folder := ""
		for o, err := range store.List(r.ctx, output, after) {
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(o.URL.Key, output.Key)
			if first, _, inside := strings.Cut(name, "/"); inside {
				folder = output.Key + first + "/\U0010FFFF" // behind all that is in it
				break
			}
			if batch.IsManifest(name) {
				stand[name] = o.URL
			}
		}
		if folder == "" || folder == after {
			break
		}
		after = folder
	}
	// Who can commit leads, and has applied all that was committed before: nobody has made a manifest that isn't known here.
	if _, err := r.propose(r.ctx, &fleetv1.JobCommit{JobId: r.id}); err != nil {
		return err
	}
	ledger := r.cfg.State.View().JobLedger(r.id)
	if ledger == nil {
		return nil // the job was deleted: its output stays
	}
	for _, t := range ledger.GetTasks() {
		for n := range t.GetManifests() {
			delete(stand, batch.ManifestName(t.GetTask(), n))
		}
	}
	for _, u := range stand {
		r.cfg.Logger.Warn("a manifest is removed whose items are run again since the cluster was restored", "job", r.id, "manifest", u.String())
		if err := store.Delete(r.ctx, u); err != nil {
			return err
		}
	}
	return nil
}
