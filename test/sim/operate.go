package sim

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/test/sim/trace"
)

// operate lets an event of the trace happen.
func (w *world) operate(e *trace.Event) {
	a := w.agents[e.Node%len(w.agents)]
	switch e.Kind {
	case trace.Deploy:
		w.deploy(e)
	case trace.Scale:
		w.scale(project(e), e.Service, e.Instances)
	case trace.Delete:
		w.remove(project(e), e.Service)
	case trace.Crash, trace.Partition:
		a.cut(e.Kind == trace.Crash, length(e.For))
	case trace.Fault:
		a.breakDevice(e.Device%devices, e.Evict, length(e.For))
	case trace.Cordon, trace.Drain:
		w.cordon(a.name, e)
	case trace.Quota:
		w.quota(e)
	case trace.Leader:
		w.lead(e.Restart)
	}
}

func project(e *trace.Event) string {
	if e.Project == "" {
		return fleetv1.Default
	}
	return e.Project
}

// deploy makes a service. Quotas aren't asked: what exceeds one waits, which admission would prevent.
func (w *world) deploy(e *trace.Event) {
	in := project(e)
	if w.store.View().Service(in, e.Service) != nil {
		return
	}
	write := &fleetv1.Write{}
	flavor, made := w.flavor(e.Shape)
	if made != nil {
		write.Mutations = append(write.Mutations, made)
	}
	model, made := w.model(in, len(w.jobs)+int(w.log.index))
	if made != nil {
		write.Mutations = append(write.Mutations, made)
	}
	version := &fleetv1.ServiceVersion{Model: model, ModelVersion: "0.0.1", Weight: 100, Flavor: flavor, Instances: int32(e.Instances),
		TimeoutMinutes: 20, Priority: int32(e.Shape.Priority), Preemptible: e.Shape.Preemptible, Nodes: int32(e.Shape.Nodes), Placement: rules(e.Shape)}
	grace := int32(30)
	svc := &fleetv1.Service{Meta: w.meta(in, e.Service),
		Spec:    &fleetv1.ServiceSpec{Pool: pool, Versions: []*fleetv1.ServiceVersion{version}, Network: fleetv1.NetworkBridge, GracePeriodSeconds: &grace},
		Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning, StartTime: timestamppb.New(w.now), Caller: "admin"}}
	write.Mutations = append(write.Mutations, state.Put(0, svc))
	if e.Run > 0 {
		w.jobs[svc.GetMeta().GetId()] = &job{left: length(math.Max(e.Run, 0.001)), project: in, name: e.Service}
	}
	w.write("admin", write)
}

func rules(s *trace.Shape) *fleetv1.PlacementRules {
	if s.Spread == "" && !s.AntiAffinity {
		return nil
	}
	r := &fleetv1.PlacementRules{AntiAffinity: s.AntiAffinity}
	if s.Spread != "" {
		r.Spread = []*fleetv1.SpreadRule{{Label: s.Spread, MaxSkew: int32(max(s.Skew, 1)), Required: s.Strict}}
	}
	return r
}

// change writes a service as the API does; nothing when there is none that is to run, or when f refuses.
func (w *world) change(in, name string, f func(*fleetv1.Service) bool) {
	old := w.store.View().Service(in, name)
	if old == nil || old.GetDesired().GetState() != fleetv1.DesiredRunning {
		return
	}
	svc := proto.CloneOf(old)
	if f(svc) {
		w.write("admin", &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), svc)}})
	}
}

// scale does what the API allows: not while the service is being deployed.
func (w *world) scale(in, name string, to int) {
	w.change(in, name, func(s *fleetv1.Service) bool {
		s.Spec.Versions[0].Instances = int32(to)
		s.Meta.Generation++
		return s.GetStatus() != nil && s.GetStatus().GetState() != fleetv1.ServiceDeploying
	})
}

func (w *world) remove(in, name string) {
	w.change(in, name, func(s *fleetv1.Service) bool {
		s.Desired.State = fleetv1.DesiredDeleted
		return true
	})
}

// spec writes what the API writes of a node.
func (w *world) spec(node string, f func(*fleetv1.NodeSpec)) {
	old := w.store.View().Node(node)
	n := proto.CloneOf(old)
	f(n.Spec)
	w.write("admin", &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), n)}})
}

// cordon keeps a node free of anything new for a time, and drains it when that is asked for.
func (w *world) cordon(node string, e *trace.Event) {
	if w.store.View().Node(node).GetSpec().GetCordoned() {
		return
	}
	w.spec(node, func(s *fleetv1.NodeSpec) {
		s.Cordoned, s.CordonReason = true, e.Kind
		if e.Kind == trace.Drain {
			s.Drain = &fleetv1.Drain{Caller: "admin", Reason: "maintenance", StartTime: timestamppb.New(w.now)}
			if e.Deadline > 0 {
				s.Drain.Deadline = timestamppb.New(w.now.Add(length(e.Deadline)))
			}
		}
	})
	if e.Kind == trace.Drain {
		w.meter.r.Drains++
		w.heldToDeadline(node, length(e.Deadline))
	}
	if e.Cancel > 0 && e.Cancel < e.For {
		w.befall(length(e.Cancel), func() { w.spec(node, func(s *fleetv1.NodeSpec) { s.Drain = nil }) })
	}
	w.befall(length(e.For), func() {
		w.spec(node, func(s *fleetv1.NodeSpec) { s.Drain, s.Cordoned, s.CordonReason = nil, false, "" })
	})
}

// heldToDeadline checks that nothing preemptible is to run on the node a second after the deadline of its drain.
func (w *world) heldToDeadline(node string, deadline time.Duration) {
	if deadline <= 0 {
		return
	}
	start := w.store.View().Node(node).GetSpec().GetDrain().GetStartTime()
	w.after(deadline+time.Second, func() {
		view := w.store.View()
		if drain := view.Node(node).GetSpec().GetDrain(); drain == nil || !proto.Equal(drain.GetStartTime(), start) {
			return
		}
		for _, i := range view.InstancesOnNode(node) {
			if i.GetSpec().GetPreemptible() && i.GetDesired().GetState() == fleetv1.DesiredRunning {
				w.fault("instance %s on %s is preemptible, and is to run on after the deadline of the drain", i.GetMeta().GetName(), node)
			}
		}
	})
}

// quota sets or lifts a project's.
func (w *world) quota(e *trace.Event) {
	old := w.store.View().Quota(e.Project)
	if e.Devices == 0 && e.Instances == 0 {
		if old != nil {
			w.write("admin", &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Delete(old.GetMeta().GetRevision(), state.Key{Kind: fleetv1.KindQuota, Key: e.Project})}})
		}
		return
	}
	q := &fleetv1.Quota{Meta: w.meta("", e.Project), Spec: &fleetv1.QuotaSpec{}}
	if old != nil {
		q.Meta = proto.CloneOf(old.GetMeta())
	}
	if e.Devices > 0 {
		q.Spec.Devices = []*fleetv1.DeviceQuota{{Model: "*", Count: int64(e.Devices)}}
	}
	if e.Instances > 0 {
		n := int64(e.Instances)
		q.Spec.Instances = &n
	}
	w.write("admin", &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), q)}})
}

// job is a service that is deleted when it has run for long enough. What it has done isn't lost when it is
// interrupted.
type job struct {
	project, name string
	left          time.Duration
	since         time.Time // it runs since then; zero while it doesn't
	step          int
}

// follow starts and stops the job's clock.
func (j *job) follow(w *world, svc *fleetv1.Service) {
	runs := svc.GetStatus().GetState() == fleetv1.ServiceRunning
	switch {
	case runs && j.since.IsZero():
		j.since = w.now
		j.step++
		step := j.step
		w.befall(j.left, func() {
			if j.step == step {
				w.remove(j.project, j.name)
			}
		})
	case !runs && !j.since.IsZero():
		j.left -= w.now.Sub(j.since)
		j.since = time.Time{}
		j.step++
	}
}

// String describes the job for people.
func (j *job) String() string { return fmt.Sprintf("%s/%s, %s left", j.project, j.name, j.left) }
