package api

import (
	"sync"

	"google.golang.org/grpc/codes"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// admission keeps calls at the same time from taking what is left of a quota twice.
type admission struct {
	mu      sync.Mutex
	pending map[string]*fleetv1.Service // by ID: as they will stand when their write is applied
}

// services are all of the project that stand or will stand.
func (q *admission) services(view state.ReadView, project string) []*fleetv1.Service {
	all := view.Services(project)
	coming := make([]*fleetv1.Service, 0, len(q.pending))
	for _, s := range q.pending {
		if s.GetMeta().GetProject() == project {
			coming = append(coming, s)
		}
	}
	for _, s := range all {
		if q.pending[s.GetMeta().GetId()] == nil {
			coming = append(coming, s)
		}
	}
	return coming
}

// seat is a place within the quotas that one call keeps until it ends.
type seat struct {
	*API
	service *fleetv1.Service
}

// take admits the service as it is to stand, and leaves the place that the call had before. old is how it
// stands, nil when it is new.
func (p *seat) take(old, after *fleetv1.Service) error {
	p.leave()
	refusal := p.admit(old, after)
	if refusal == nil {
		return nil
	}
	refusal.event = serviceEvent(after, "QuotaExceeded", refusal.Msg)
	refusal.event.Type = fleetv1.EventWarning
	if old == nil {
		refusal.event.Objects[0].Id = "" // it was never made
	}
	return refusal
}

// admit takes the place, or says which quota refuses it.
func (p *seat) admit(old, after *fleetv1.Service) *Error {
	p.admission.mu.Lock()
	defer p.admission.mu.Unlock()
	if refusal := p.refusedLocked(old, after); refusal != nil {
		return refusal
	}
	p.admission.pending[after.GetMeta().GetId()] = after
	p.service = after
	return nil
}

// refused says which quota refuses the service now, and takes no place.
func (a *API) refused(old, after *fleetv1.Service) *Error {
	a.admission.mu.Lock()
	defer a.admission.mu.Unlock()
	return a.refusedLocked(old, after)
}

// refusedLocked looks at the store as it is now: what was applied since the call's own view has left its place
// already.
func (a *API) refusedLocked(old, after *fleetv1.Service) *Error {
	view := a.view()
	quota := view.Quota(after.GetMeta().GetProject()).GetSpec()
	if user := after.GetMeta().GetCreatedBy(); old == nil && a.admission.owned(view, user) >= a.cfg.MaxServicesPerUser {
		return refuse(codes.ResourceExhausted, "%s has %d real-time services already, which is the quota: delete one first",
			user, a.cfg.MaxServicesPerUser)
	}
	if quota == nil {
		return nil
	}
	if e := exceeded(view, quota, a.admission.services(view, after.GetMeta().GetProject()), old, after); e != nil {
		return refuse(codes.ResourceExhausted,
			"quota of project %q would be exceeded: %s: %s of %s are taken by services and jobs that are to run, %s more are asked for",
			after.GetMeta().GetProject(), e.Resource, e.Used, e.Limit, e.More)
	}
	return nil
}

// leave gives the place back: the write is applied, or never will be.
func (p *seat) leave() {
	if p.service == nil {
		return
	}
	q, id := &p.admission, p.service.GetMeta().GetId()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending[id] == p.service {
		delete(q.pending, id)
	}
	p.service = nil
}

// owned is how many services the user has, those included that stand once their write is applied.
func (q *admission) owned(view state.ReadView, user string) int {
	n := view.OwnedServices(user)
	for id, s := range q.pending {
		if s.GetMeta().GetCreatedBy() == user && view.ServiceByID(id) == nil {
			n++
		}
	}
	return n
}

// exceeded is the limit of the quota that all services of the project would exceed together, by what they ask for at
// most. A service that asks for no more than it did is never refused.
func exceeded(view state.ReadView, quota *fleetv1.QuotaSpec, all []*fleetv1.Service, old, after *fleetv1.Service) *state.Excess {
	used, more := asks(view, old), asks(view, after)
	more.Add(used, -1)
	for _, s := range all {
		if s.GetMeta().GetId() != after.GetMeta().GetId() {
			used.Add(asks(view, s), 1)
		}
	}
	return state.Exceeded(quota, used, more)
}

// asks sums what a service's instances may hold. Its devices are counted by what its flavors ask for: those of a
// glob count against a limit that surely holds for them; the store counts what they turn out to be.
func asks(view state.ReadView, s *fleetv1.Service) (sum state.Usage) {
	if s.GetDesired().GetState() != fleetv1.DesiredRunning {
		return sum
	}
	for _, v := range s.GetSpec().GetVersions() {
		f := view.Flavor(v.GetFlavor()).GetSpec()
		one := state.Usage{CPUMillis: f.GetCpuMillis(), MemoryBytes: f.GetMemoryBytes(), Instances: 1}
		if a := f.GetAccelerator(); a.GetCount() > 0 {
			one.Devices = map[string]int64{a.GetModel(): int64(a.GetCount())}
		}
		sum.Add(one, int64(v.GetInstances())*int64(max(v.GetNodes(), 1)))
	}
	return sum
}
