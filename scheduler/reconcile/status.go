package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// statusStep computes a service's next status and what to tell about it.
type statusStep struct {
	*serviceLoop
	svc, next *fleetv1.Service
	c         *census
	m         *memory
	now       time.Time
	events    []*fleetv1.Event
	timedOut  []string // versions whose timeout has passed
}

// status are the writes (one, or none) that bring a service's status up to date, delete a service of which nothing is
// left, and stop one whose auto-stop time has come.
func (l *serviceLoop) status(seen *look, now time.Time) []*fleetv1.Write {
	view, svc, id := seen.view, seen.svc, seen.id
	if svc == nil {
		l.forget(id)
		return nil
	}
	s := &statusStep{serviceLoop: l, svc: svc, next: draft(svc), c: seen.census, m: l.remembered(id), now: now}
	if s.next.Status == nil {
		s.next.Status = &fleetv1.ServiceStatus{}
	}
	switch svc.GetDesired().GetState() {
	case fleetv1.DesiredDeleted:
		if s.c.left() == 0 {
			s.part()
			key := state.ServiceKey(svc.GetMeta().GetProject(), svc.GetMeta().GetName())
			return []*fleetv1.Write{{Mutations: []*fleetv1.Mutation{state.Delete(svc.GetMeta().GetRevision(), key)}, Events: s.events}}
		}
		s.become(fleetv1.ServiceDeleting, s.ending(view))
	case fleetv1.DesiredStopped:
		stopped := svc.GetStatus().GetState() == fleetv1.ServiceStopped
		if s.c.left() == 0 || stopped && s.c.left() == len(s.c.remove) {
			if !stopped {
				s.part()
			}
			s.become(fleetv1.ServiceStopped, s.partedReason())
		} else {
			s.become(fleetv1.ServiceStopping, s.ending(view))
		}
	default:
		s.running()
	}
	s.versions(view)
	s.autoStop()
	if proto.Equal(s.next.GetStatus(), svc.GetStatus()) && proto.Equal(s.next.GetDesired(), svc.GetDesired()) {
		return nil
	}
	return []*fleetv1.Write{{Mutations: []*fleetv1.Mutation{state.Put(svc.GetMeta().GetRevision(), s.next)}, Events: s.events}}
}

// draft is a copy of a service of which desired and status may be changed; the rest is the store's own.
func draft(svc *fleetv1.Service) *fleetv1.Service {
	next := &fleetv1.Service{Meta: svc.GetMeta(), Spec: svc.GetSpec(), Desired: proto.CloneOf(svc.GetDesired()), Status: proto.CloneOf(svc.GetStatus())}
	next.ProtoReflect().SetUnknown(svc.ProtoReflect().GetUnknown()) // of a newer version
	return next
}

func (s *statusStep) event(kind, reason, message string) {
	s.events = append(s.events, serviceEvent(s.svc, s.now, kind, reason, message))
}

// become sets state and reason, and tells of a change of state.
func (s *statusStep) become(to, reason string) {
	st := s.next.Status
	from := st.GetState()
	st.State, st.Reason = to, reason
	if from == to {
		return
	}
	st.StateTime = timestamppb.New(s.now)
	started := s.svc.GetDesired().GetStartTime().AsTime().After(s.svc.GetMeta().GetCreateTime().AsTime())
	first := st.GetRunningGeneration() == 0
	switch to {
	case fleetv1.ServiceDeploying:
		if from == "" {
			s.event(fleetv1.EventNormal, "DeploymentStarted", s.asked()+by(s.svc))
		} else {
			s.event(fleetv1.EventNormal, "Starting", s.asked()+by(s.svc))
		}
	case fleetv1.ServiceRunning:
		want, _ := s.c.counts()
		message := fmt.Sprintf("all %d instances are ready", want)
		if want == 1 {
			message = "its instance is ready"
		}
		if first && started {
			s.event(fleetv1.EventNormal, "Started", message)
		}
		s.event(fleetv1.EventNormal, "ServiceRunning", message)
	case fleetv1.ServiceAlarm:
		s.event(fleetv1.EventWarning, "ServiceAlarm", reason)
	case fleetv1.ServiceAbnormal:
		if len(s.timedOut) > 0 {
			s.event(fleetv1.EventAbnormal, "DeploymentTimedOut", reason)
		}
		if first && started {
			s.event(fleetv1.EventAbnormal, "StartFailed", reason)
		}
		s.event(fleetv1.EventAbnormal, "ServiceAbnormal", reason)
	case fleetv1.ServiceStopping, fleetv1.ServiceDeleting:
		s.event(fleetv1.EventNormal, to, reason+by(s.svc))
	case fleetv1.ServiceStopped:
		s.event(fleetv1.EventNormal, to, cmp.Or(reason, "every instance has ended"))
	}
}

// by names who asked for what the service is to be.
func by(svc *fleetv1.Service) string {
	if c := svc.GetDesired().GetCaller(); c != "" {
		return ", asked for by " + c
	}
	return ""
}

// asked describes what the service is to consist of.
func (s *statusStep) asked() string {
	var parts []string
	for _, v := range s.svc.GetSpec().GetVersions() {
		parts = append(parts, fmt.Sprintf("%d × %s %s (%s)", v.GetInstances(), v.GetModel(), v.GetModelVersion(), v.GetFlavor()))
	}
	return strings.Join(parts, ", ")
}

// running is the status of a service that is to run.
func (s *statusStep) running() {
	st := s.next.Status
	if begins(s.svc) {
		st.DeployTime = s.svc.GetDesired().GetStartTime()
		if st.DeployTime == nil {
			st.DeployTime = timestamppb.New(s.now)
		}
		st.RunningGeneration, st.Restarted = 0, s.svc.GetDesired().GetRestart()
		s.m.failures = map[string]*failures{}
		s.become(fleetv1.ServiceDeploying, "")
	}
	s.clocks()
	s.restarted()
	to, reason := s.assess(cmp.Or(s.m.gaveUp, s.trouble()))
	s.become(to, reason)
	if to == fleetv1.ServiceRunning && s.c.allReady() {
		st.RunningGeneration = s.svc.GetMeta().GetGeneration()
	}
}

// clocks brings the versions' clocks up to date, and finds those that have run out.
func (s *statusStep) clocks() {
	st := s.next.Status
	for _, v := range s.c.versions {
		c := s.m.clock(v.key)
		c.follow(st.GetDeployTime().AsTime(), s.svc.GetMeta().GetGeneration())
		pulling := slices.ContainsFunc(v.kept, func(m member) bool { return m.GetObserved().GetState() == fleetv1.InstancePulling })
		c.tick(s.now, !v.allReady() && v.missing() == 0, pulling)
		limit := time.Duration(v.spec.GetTimeoutMinutes()) * time.Minute
		if limit == 0 {
			limit = defaultDeadline
		}
		switch {
		case v.allReady():
			c.spent = 0
			if f := s.m.failures[v.key]; f != nil {
				f.rounds = 0
			}
		case c.spent >= limit:
			s.timedOut = append(s.timedOut, v.key)
		case !c.since.IsZero():
			s.wakeAt(s.svc.GetMeta().GetId(), s.now.Add(limit-c.spent))
		}
	}
}

// restarted notes that an ordered restart has been carried out.
func (s *statusStep) restarted() {
	if !restarting(s.next) {
		return
	}
	target := s.svc.GetDesired().GetRestart()
	begun, kept := false, 0
	for _, v := range s.c.versions {
		for _, m := range v.kept {
			kept++
			begun = begun || m.GetDesired().GetRestart() >= target
		}
	}
	for _, v := range s.c.versions {
		for _, m := range v.kept {
			if needsRestart(s.next, m, begun) || m.GetDesired().GetRestart() > m.GetObserved().GetRestarted() {
				return
			}
		}
	}
	if kept == 0 || s.c.allReady() {
		s.next.Status.Restarted = target
	}
}

// assess is the state of a service that is to run, as the package's doc has it. trouble is why an instance
// fails, or empty.
func (s *statusStep) assess(trouble string) (to, reason string) {
	st := s.next.Status
	want, ready := s.c.counts()
	reason = fmt.Sprintf("%d of %d instances are ready", ready, want)
	switch {
	case s.c.allReady():
		return fleetv1.ServiceRunning, ""
	case len(s.timedOut) > 0:
		reason += "; not within the timeout: " + strings.Join(s.timedOut, ", ")
	case trouble != "":
		reason += "; " + trouble
	case s.waits():
		reason += "; waiting for resources"
	}
	if st.GetRunningGeneration() == 0 {
		switch {
		case trouble != "" || len(s.timedOut) > 0:
			return fleetv1.ServiceAbnormal, reason
		case st.GetState() == fleetv1.ServiceAbnormal:
			return fleetv1.ServiceAbnormal, st.GetReason()
		}
		return fleetv1.ServiceDeploying, reason
	}
	if ready == 0 && (st.GetState() == fleetv1.ServiceAbnormal || s.m.gaveUp != "" || !s.recovering()) {
		return fleetv1.ServiceAbnormal, reason
	}
	if st.GetState() == fleetv1.ServiceRunning && len(s.timedOut) == 0 && s.excused() {
		return fleetv1.ServiceRunning, ""
	}
	return fleetv1.ServiceAlarm, reason
}

// recovering says whether some agent is still at work on an instance.
func (s *statusStep) recovering() bool {
	for _, v := range s.c.versions {
		if slices.ContainsFunc(v.kept, func(m member) bool { return m.reachable }) {
			return true
		}
	}
	return false
}

// excused says whether every instance that isn't ready has been made by scaling or is being restarted.
func (s *statusStep) excused() bool {
	scaled := s.next.Status.GetRunningGeneration() != s.svc.GetMeta().GetGeneration()
	restart := restarting(s.next)
	for _, v := range s.c.versions {
		if v.placed() < v.want {
			return false
		}
		for _, m := range v.kept {
			if m.ready {
				continue
			}
			o := m.GetObserved()
			isNew := scaled && o.GetAttempt() <= 1 && o.GetLastExit() == nil
			isOrdered := restart && m.GetDesired().GetRestart() == s.svc.GetDesired().GetRestart() &&
				(o.GetRestarted() < m.GetDesired().GetRestart() || o.GetState() != fleetv1.InstanceExited)
			if !m.reachable || o.GetHealth() == fleetv1.Unhealthy || !isNew && !isOrdered {
				return false
			}
		}
	}
	return true
}

// trouble names the first instance that fails or is lost, and how; empty when none does.
func (s *statusStep) trouble() string {
	ran := s.next.Status.GetRunningGeneration() != 0
	for _, v := range s.c.versions {
		for _, m := range v.kept {
			if m.ready {
				continue
			}
			o, what := m.GetObserved(), ""
			switch {
			case !m.reachable && ran:
				what = "is lost: the node is unreachable"
			case o.GetHealth() == fleetv1.Unhealthy:
				what = "fails its health check"
			case ran && o.GetLastExit() != nil && o.GetLastExit().GetReason() != "Stopped":
				what = fmt.Sprintf("ended: %s, code %d", o.GetLastExit().GetReason(), o.GetLastExit().GetCode())
			}
			if what != "" {
				return fmt.Sprintf("instance %s on %s %s", m.GetMeta().GetName(), m.GetSpec().GetNode(), what)
			}
		}
	}
	return ""
}

// waits says whether instances wait for nodes.
func (s *statusStep) waits() bool {
	return slices.ContainsFunc(s.c.versions, func(v *versionCensus) bool { return s.wishOf(s.svc, v).waits() })
}

// versions fills the counts, and tells of instances that wait.
func (s *statusStep) versions(view state.ReadView) {
	st := s.next.Status
	st.Versions = nil
	if len(s.c.versions) == 0 { // stopping or stopped
		placed := map[string]int32{}
		for _, inst := range view.InstancesOfService(s.svc.GetMeta().GetId()) {
			placed[versionKey(inst.GetSpec().GetModel(), inst.GetSpec().GetModelVersion())]++
		}
		for _, v := range s.svc.GetSpec().GetVersions() {
			st.Versions = append(st.Versions, &fleetv1.ServiceVersionStatus{Model: v.GetModel(), ModelVersion: v.GetModelVersion(),
				Placed: placed[versionKey(v.GetModel(), v.GetModelVersion())]})
		}
		return
	}
	for _, v := range s.c.versions {
		one := &fleetv1.ServiceVersionStatus{Model: v.spec.GetModel(), ModelVersion: v.spec.GetModelVersion(),
			Desired: int32(v.want), Placed: int32(v.placed()), Ready: int32(v.ready)}
		st.Versions = append(st.Versions, one)
		if w := s.wishOf(s.svc, v); w.waits() {
			one.WaitingReason, one.WaitingSince, one.Reservation = w.reason, timestamppb.New(w.since), w.reservation
			s.tell(v, w)
		}
	}
}

// tell tells why instances wait: when they begin to, and when the cause has become another one.
func (s *statusStep) tell(v *versionCensus, w *wish) {
	old := statusOf(s.svc, v.key)
	if old.GetWaitingReason() != "" && (old.GetWaitingReason() == w.reason || s.now.Sub(w.told) < tellAgain) {
		return
	}
	w.told = s.now
	message := fmt.Sprintf("%d of %d instances of %s %s wait: %s", v.missing(), v.want, v.spec.GetModel(), v.spec.GetModelVersion(), w.reason)
	if w.remedy != "" {
		message += "; " + w.remedy
	}
	s.event(fleetv1.EventWarning, "WaitingForResources", message)
}

// statusOf is what is stored of a version's status, or nil.
func statusOf(svc *fleetv1.Service, key string) *fleetv1.ServiceVersionStatus {
	for _, v := range svc.GetStatus().GetVersions() {
		if versionKey(v.GetModel(), v.GetModelVersion()) == key {
			return v
		}
	}
	return nil
}

// autoStop keeps the auto-stop time, and asks the service to stop when it has come.
func (s *statusStep) autoStop() {
	st, hours := s.next.Status, s.svc.GetSpec().GetAutoStopHours()
	if s.svc.GetDesired().GetState() != fleetv1.DesiredRunning {
		st.AutoStopTime = nil
		return
	}
	if hours == 0 {
		if st.GetAutoStopTime() != nil {
			st.AutoStopTime = nil
			s.event(fleetv1.EventNormal, "AutoStopOff", "the service runs until it is stopped")
		}
		return
	}
	start := s.svc.GetDesired().GetStartTime()
	if start == nil {
		start = st.GetDeployTime()
	}
	at := start.AsTime().Add(time.Duration(hours) * time.Hour)
	if !st.GetAutoStopTime().AsTime().Equal(at) || st.GetAutoStopTime() == nil {
		st.AutoStopTime = timestamppb.New(at)
		s.event(fleetv1.EventNormal, "AutoStopOn", fmt.Sprintf("the service will be stopped at %s, %d h after its start", at.UTC().Format(time.RFC3339), hours))
	}
	if s.now.Before(at) {
		s.wakeAt(s.svc.GetMeta().GetId(), at)
		return
	}
	s.next.Desired.State, s.next.Desired.Caller = fleetv1.DesiredStopped, "scheduler"
	s.event(fleetv1.EventNormal, "AutoStopExpired", fmt.Sprintf("%d h have passed since the service was started", hours))
}
