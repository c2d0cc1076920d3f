package reconcile

import (
	"fmt"

	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

// allowance is what quotas leave to projects during one plan. The store decides, but refuses only what lost a race.
type allowance struct {
	view state.ReadView
	used map[string]*state.Usage // by project, what is admitted included
}

// admit takes up to n logical instances of a wish from the allowance of its project, and says which limit keeps the
// rest out.
func (a *allowance) admit(w *wish, n int) (admitted int, excess string) {
	project := w.svc.GetMeta().GetProject()
	quota := a.view.Quota(project)
	if quota == nil {
		return n, ""
	}
	used := a.used[project]
	if used == nil {
		used = &state.Usage{}
		used.Add(a.view.ProjectUsage(project), 1)
		a.used[project] = used
	}
	for admitted < n {
		if e := state.Exceeded(quota.GetSpec(), *used, w.share); e != nil {
			return admitted, fmt.Sprintf("quota of project %s: %s", project, e)
		}
		used.Add(w.share, 1)
		admitted++
	}
	return admitted, ""
}

// charge counts an instance that was admitted as what the planner chose for it: which models of devices a pattern
// finds isn't known before. It answers the limit that this exceeds, and then counts it no more.
func (a *allowance) charge(w *wish, members []place.Member) (excess string) {
	project := w.svc.GetMeta().GetProject()
	used := a.used[project]
	if used == nil {
		return ""
	}
	used.Add(w.share, -1)
	share := state.Usage{CPUMillis: w.share.CPUMillis, MemoryBytes: w.share.MemoryBytes, Instances: w.share.Instances}
	for _, m := range members {
		for _, model := range m.DeviceModels {
			if share.Devices == nil {
				share.Devices = map[string]int64{}
			}
			share.Devices[model]++
		}
	}
	w.chosen = share
	if e := state.Exceeded(a.view.Quota(project).GetSpec(), *used, share); e != nil {
		return fmt.Sprintf("quota of project %s: %s", project, e)
	}
	used.Add(share, 1)
	return ""
}

// giveBack returns what was admitted and not placed.
func (a *allowance) giveBack(w *wish, n int) {
	if used := a.used[w.svc.GetMeta().GetProject()]; used != nil {
		used.Add(w.share, -int64(n))
	}
}

// shareOf is what one logical instance counts as. Devices that only the planner chooses the model of count as of a
// model that is called like the pattern: every limit on all that the pattern may match counts them.
func shareOf(r *place.Request) state.Usage {
	n := int64(max(1, r.Nodes))
	u := state.Usage{CPUMillis: n * r.CPUMillis, MemoryBytes: n * r.MemoryBytes, Instances: n}
	if r.Accelerator.GetCount() > 0 {
		u.Devices = map[string]int64{r.Accelerator.GetModel(): n * int64(r.Accelerator.GetCount())}
	}
	return u
}
