package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

// maxPlannedPreemptions is for how many instances of a version a plan looks for others to stop.
const maxPlannedPreemptions = 32

// PlanService plans what DeployService would have placed next: of a service that exists, what it lacks. Of nodes that
// are equally good the deployment may choose others: which ones depends on the ID that a service gets then.
func (s *serviceServer) PlanService(ctx context.Context, req *fleetv1.PlanServiceRequest) (*fleetv1.PlanServiceResponse, error) {
	view, now := s.view(), s.cfg.Now()
	service, err := s.toPlan(ctx, view, req.GetService(), now)
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.PlanServiceResponse{}
	seen := func(i *fleetv1.Instance) string {
		if caller(ctx).May(fleetv1.RoleViewer, i.GetMeta().GetProject()) {
			return i.GetMeta().GetName()
		}
		return "an instance of another project"
	}
	s.planner.ask(func(sc *scene) {
		line := sc.waiting(service.GetMeta().GetId())
		var own []*waiter
		for i, version := range service.GetSpec().GetVersions() {
			w := newWaiter(sc, service, version, now)
			if w == nil {
				continue // it went meanwhile
			}
			w.order, w.count = i, max(0, int(version.GetInstances())-units(sc, service.GetMeta().GetId(), version))
			if st := versionStatus(service, version); st.GetWaitingSince() != nil {
				w.since = st.GetWaitingSince().AsTime()
				w.keep(st)
			}
			own = append(own, w)
		}
		line = append(line, own...)
		sc.plan(line)
		left := make([]int, len(own))
		for i, w := range own {
			for _, members := range w.placed {
				resp.Instances = append(resp.Instances, plannedInstance(w, members, nil))
			}
			left[i] = w.count - len(w.placed)
		}
		for i, w := range own {
			preempting := sc.preempt(w, left[i], line, seen)
			resp.Instances = append(resp.Instances, preempting...)
			if n := left[i] - len(preempting); n > 0 {
				resp.Waits = append(resp.Waits, &fleetv1.PlannedWait{Model: w.version.GetModel(), ModelVersion: w.version.GetModelVersion(),
					Instances: int32(n), Explanation: proto.CloneOf(sc.index.Explain(&w.request))})
			}
		}
	})
	return resp, nil
}

// toPlan is the service as it would stand once it is deployed, checked like a deployment.
func (s *serviceServer) toPlan(ctx context.Context, view state.ReadView, asked *fleetv1.Service, now time.Time) (*fleetv1.Service, error) {
	asked = proto.CloneOf(asked)
	if asked.GetSpec() == nil {
		return nil, invalid("service.spec", "is missing")
	}
	completeServiceSpec(asked.Spec)
	var v violations
	v.service("service", asked)
	if err := v.err(); err != nil {
		return nil, err
	}
	name := asked.GetMeta().GetName()
	after := &fleetv1.Service{Meta: newMeta(ctx, asked.GetMeta(), now), Spec: asked.GetSpec(),
		Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning, StartTime: timestamppb.New(now)}}
	after.Meta.Id = after.GetMeta().GetProject() + "/" + name // so that the same question has the same answer
	old := view.Service(after.GetMeta().GetProject(), name)
	if old.GetMeta().GetName() != name {
		old = nil
	}
	if old != nil {
		if effectiveState(old) == fleetv1.ServiceDeleting {
			return nil, refuse(codes.FailedPrecondition, "service %q is being deleted: plan it under another name, or when it is gone", name)
		}
		keepVersions(after.Spec, old.GetSpec())
		after.Meta, after.Status = proto.CloneOf(old.GetMeta()), old.GetStatus()
	}
	if _, err := inProject(view, after.GetMeta()); old == nil && err != nil {
		return nil, err
	}
	if err := s.admit(view, after); err != nil {
		return nil, err
	}
	if refusal := s.refused(old, after); refusal != nil {
		return nil, refusal
	}
	return after, nil
}

func plannedInstance(w *waiter, members []place.Member, preempts []string) *fleetv1.PlannedInstance {
	p := &fleetv1.PlannedInstance{Model: w.version.GetModel(), ModelVersion: w.version.GetModelVersion(), Preempts: preempts}
	for _, m := range members {
		p.Members = append(p.Members, &fleetv1.PlannedMember{Node: m.Node, DeviceIds: m.DeviceIDs})
	}
	return p
}

// preempt answers those of left instances that are placed when others of less priority are stopped, as the service
// loop does. line has been planned; name is what the caller may be told of who is stopped.
func (s *scene) preempt(w *waiter, left int, line []*waiter, name func(*fleetv1.Instance) string) []*fleetv1.PlannedInstance {
	var out []*fleetv1.PlannedInstance
	for range min(left, maxPlannedPreemptions) {
		victims := s.victims(&w.request)
		if len(victims) == 0 {
			break
		}
		for _, other := range line { // the index is about to forget what was planned
			for _, members := range other.placed {
				s.add(other, members)
			}
			other.placed = nil
		}
		var names []string
		for _, v := range victims {
			names = append(names, name(v))
			s.end(v)
		}
		s.settle()
		answer := s.index.Plan([]place.Request{w.request})[0]
		if len(answer.Members) == 0 {
			break
		}
		slices.Sort(names)
		out = append(out, plannedInstance(w, answer.Members, names))
		s.add(w, answer.Members)
		s.settle()
	}
	return out
}

// victims are the instances that would be stopped for the request.
func (s *scene) victims(r *place.Request) []*fleetv1.Instance {
	if r.Priority <= 0 {
		return nil
	}
	_, ids, ok := s.index.Preempt(r)
	if !ok {
		return nil
	}
	var all []*fleetv1.Instance
	for _, id := range ids {
		if i := s.Instance(id); i != nil {
			all = append(all, i)
		}
	}
	return all
}

// explained adds to the service that is answered why instances of it wait.
func (a *API) explained(service *fleetv1.Service) *fleetv1.Service {
	if service.GetDesired().GetState() != fleetv1.DesiredRunning ||
		!slices.ContainsFunc(service.GetStatus().GetVersions(), func(st *fleetv1.ServiceVersionStatus) bool { return st.GetWaitingReason() != "" }) {
		return service
	}
	service, now := proto.CloneOf(service), a.cfg.Now()
	a.planner.ask(func(sc *scene) {
		line := sc.waiting(service.GetMeta().GetId())
		for _, version := range service.GetSpec().GetVersions() {
			st := versionStatus(service, version)
			if st.GetWaitingReason() == "" {
				continue
			}
			if st.Explanation = quotaExplanation(sc, service, version); st.Explanation != nil {
				continue
			}
			since := now
			if t := st.GetWaitingSince(); t != nil {
				since = t.AsTime()
			}
			if w := newWaiter(sc, service, version, since); w != nil {
				st.Explanation = sc.explain(w, line)
			}
		}
	})
	return service
}

// explain says why one more instance does not fit now. What comes before it in the line takes, and keeps, what is free.
func (s *scene) explain(w *waiter, line []*waiter) *fleetv1.Explanation {
	var ahead []*waiter
	for _, other := range line {
		if inLine(other, w) < 0 {
			ahead = append(ahead, other)
		}
	}
	s.settle()
	s.plan(ahead)
	return proto.CloneOf(s.index.Explain(&w.request))
}

// quotaExplanation says that the project's quota keeps one more instance of the version out, or is nil.
func quotaExplanation(view state.ReadView, service *fleetv1.Service, version *fleetv1.ServiceVersion) *fleetv1.Explanation {
	project := service.GetMeta().GetProject()
	quota := view.Quota(project)
	if quota == nil {
		return nil
	}
	one := proto.CloneOf(version)
	one.Instances = 1
	share := asks(view, &fleetv1.Service{Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning},
		Spec: &fleetv1.ServiceSpec{Versions: []*fleetv1.ServiceVersion{one}}})
	excess := state.Exceeded(quota.GetSpec(), view.ProjectUsage(project), share)
	if excess == nil {
		return nil
	}
	return &fleetv1.Explanation{Summary: fmt.Sprintf("quota of project %s: %s", project, excess),
		Nodes:    int32(len(view.PoolNodes(view.Pool(service.GetSpec().GetPool())))),
		Remedies: []string{fmt.Sprintf("it fits when others of the project end, or when the limit of %s is raised", excess.Resource)}}
}
