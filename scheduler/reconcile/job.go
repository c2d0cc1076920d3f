package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Work is what the job loop knows of the items of jobs beyond the store. The function given to OnProgress doesn't block.
type Work interface {
	// TasksFor is how many tasks a job has enough to do for; 0 while that isn't known.
	TasksFor(jobID string) int
	// Idle says that no task of the job has anything in hand that isn't in the ledger.
	Idle(jobID string) bool
	// Tidied says that what a complete job needs no more is removed, or was tried to be for long enough.
	Tidied(jobID string) bool
	// Trouble is one line about what keeps a job from going on; empty when nothing does.
	Trouble(jobID string) string
	// OnProgress calls f when one of these may have changed.
	OnProgress(f func(jobID string)) (cancel func())
}

// noWork is that of jobs whose items nobody runs.
type noWork struct{}

func (noWork) TasksFor(string) int            { return 0 }
func (noWork) Idle(string) bool               { return true }
func (noWork) Tidied(string) bool             { return true }
func (noWork) Trouble(string) string          { return "" }
func (noWork) OnProgress(func(string)) func() { return func() {} }

// Bounds of the job loop.
const (
	stopTimeout    = 2 * time.Minute  // until a job that is asked to stop is stopped by force
	reasonEvery    = 10 * time.Second // a reason alone isn't written more often
	defaultMinutes = 20               // JobSpec.timeout_minutes when it is unset
)

// jobLoop has each job's service be what the job needs, and the job's status tell how that goes. All but told is used by
// its one goroutine.
type jobLoop struct {
	proposer
	feed   state.Feed
	dirty  map[string]bool // IDs of jobs to look at
	later  agenda          // and when to look at others
	memory map[string]*jobMemory

	forget func()
	wake   chan struct{} // capacity 1
	mu     sync.Mutex
	told   map[string]bool // jobs whose work has moved on
}

// jobMemory is what the loop knows of a job besides the store.
type jobMemory struct {
	stopping time.Time // since when it winds down; zero when it doesn't
	reason   time.Time // when the reason was written last
	scaling
}

func newJobLoop(cfg Config) *jobLoop {
	l := &jobLoop{proposer: proposer{cfg}, feed: cfg.State.Subscribe(), dirty: map[string]bool{}, memory: map[string]*jobMemory{},
		wake: make(chan struct{}, 1), told: map[string]bool{}}
	l.forget = cfg.Work.OnProgress(l.onProgress)
	return l
}

func (l *jobLoop) end() {
	l.forget()
	l.feed.Close()
}

func (l *jobLoop) wakes() (feed, told <-chan struct{}) { return l.feed.Ready(), l.wake }

func (l *jobLoop) onProgress(job string) {
	l.mu.Lock()
	l.told[job] = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *jobLoop) step(ctx context.Context, now time.Time) (next time.Time) {
	l.collect(now)
	if state.RemovalsHeld(l.cfg.State.View()) {
		clear(l.dirty)
		return time.Time{}
	}
	w := &writing{proposer: l.proposer, ctx: ctx, what: "jobs not carried on",
		compute: func(id string) []*fleetv1.Write { return l.judge(l.cfg.State.View(), id, now) }}
	for id := range w.all(slices.Sorted(maps.Keys(l.dirty))) {
		l.later.at(id, now.Add(retryDelay))
	}
	clear(l.dirty)
	l.collect(now)
	if len(l.dirty) > 0 && ctx.Err() == nil {
		return now
	}
	return l.later.next()
}

// collect marks the jobs that have changed, or whose time has come.
func (l *jobLoop) collect(now time.Time) {
	sets, resync, err := l.feed.Poll()
	if err != nil {
		l.cfg.Logger.Error("the store's changes are not heard of", "error", err)
	}
	if resync || slices.ContainsFunc(sets, confirms) {
		view := l.cfg.State.View()
		for _, job := range view.Jobs("") {
			l.dirty[job.GetMeta().GetId()] = true
		}
		for _, svc := range view.Services("") {
			l.dirty[svc.GetSpec().GetJobId()] = true
		}
	}
	for _, set := range sets {
		for _, c := range set.Changes {
			for _, o := range []*fleetv1.Object{c.Before, c.After} {
				l.dirty[o.GetJob().GetMeta().GetId()] = true
				l.dirty[o.GetJobLedger().GetMeta().GetId()] = true
				l.dirty[o.GetService().GetSpec().GetJobId()] = true
			}
		}
	}
	l.mu.Lock()
	maps.Copy(l.dirty, l.told)
	clear(l.told)
	l.mu.Unlock()
	l.later.due(now, func(id string) { l.dirty[id] = true })
	delete(l.dirty, "")
}

// jobStep computes what is to become of one job.
type jobStep struct {
	*jobLoop
	view      state.ReadView
	job, next *fleetv1.Job
	ledger    *fleetv1.JobLedger
	svc       *fleetv1.Service // nil when there is none
	m         *jobMemory
	now       time.Time
	mutations []*fleetv1.Mutation
	events    []*fleetv1.Event
}

// judge is the write that brings a job and its service on; none when nothing is to be done.
func (l *jobLoop) judge(view state.ReadView, id string, now time.Time) []*fleetv1.Write {
	job := view.JobByID(id)
	if job == nil {
		return l.orphan(view, id)
	}
	if l.memory[id] == nil {
		l.memory[id] = &jobMemory{}
	}
	s := &jobStep{jobLoop: l, view: view, job: job, next: proto.CloneOf(job), ledger: view.JobLedger(id), m: l.memory[id], now: now,
		svc: view.Service(job.GetMeta().GetProject(), serviceName(job))}
	if s.next.Status == nil {
		s.next.Status = &fleetv1.JobStatus{}
	}
	if s.ledger == nil || s.svc != nil && s.svc.GetSpec().GetJobId() != id {
		s.svc = nil
	}
	if gone := s.run(); !gone && s.changed() {
		s.mutations = append(s.mutations, state.Put(job.GetMeta().GetRevision(), s.next))
	}
	return []*fleetv1.Write{{Mutations: s.mutations, Events: s.events}}
}

// serviceName is that of a job's service: no service of a user's has a "." in its name.
func serviceName(job *fleetv1.Job) string {
	return fleetv1.JobServicePrefix + job.GetMeta().GetName()
}

// orphan removes the service of a job that is gone, which only a restore leaves.
func (l *jobLoop) orphan(view state.ReadView, id string) []*fleetv1.Write {
	delete(l.memory, id)
	l.later.drop(id)
	w := &fleetv1.Write{}
	for _, svc := range view.Services("") {
		if svc.GetSpec().GetJobId() == id {
			w.Mutations = append(w.Mutations, deleteService(svc)...)
		}
	}
	return []*fleetv1.Write{w}
}

// deleteService asks for a service to be deleted, unless that has been asked for.
func deleteService(svc *fleetv1.Service) []*fleetv1.Mutation {
	if svc == nil || svc.GetDesired().GetState() == fleetv1.DesiredDeleted {
		return nil
	}
	next := proto.CloneOf(svc)
	next.Desired.State, next.Desired.Caller = fleetv1.DesiredDeleted, "scheduler"
	return []*fleetv1.Mutation{state.Put(svc.GetMeta().GetRevision(), next)}
}

// changed says whether the job is to be written: a reason alone only now and then.
func (s *jobStep) changed() bool {
	if proto.Equal(s.next, s.job) {
		return false
	}
	same := proto.CloneOf(s.next)
	if same.GetStatus().GetState() == s.job.GetStatus().GetState() {
		same.Status.Reason = s.job.GetStatus().GetReason()
	}
	if len(s.mutations) == 0 && proto.Equal(same, s.job) {
		if at := s.m.reason.Add(reasonEvery); s.now.Before(at) {
			s.later.at(s.id(), at)
			return false
		}
	}
	s.m.reason = s.now
	return true
}

func (s *jobStep) id() string { return s.job.GetMeta().GetId() }

func (s *jobStep) tell(kind, reason, message string) {
	meta := s.job.GetMeta()
	s.events = append(s.events, &fleetv1.Event{Time: timestamppb.New(s.now), Type: kind, Reason: reason, Message: message,
		Objects: []*fleetv1.ObjectRef{{Kind: fleetv1.KindJob, Id: meta.GetId(), Name: meta.GetName(), Project: meta.GetProject()}}})
}

// run decides by what the job is asked to be. It answers that the job is gone.
func (s *jobStep) run() (gone bool) {
	desired := s.job.GetDesired().GetState()
	if desired == fleetv1.DesiredDeleted && (state.JobEnded(s.job) || s.woundDown()) {
		s.mutations = append(s.mutations, deleteService(s.svc)...)
		if s.svc != nil {
			return false
		}
		meta := s.job.GetMeta()
		s.mutations = append(s.mutations, state.Delete(meta.GetRevision(), state.JobKey(meta.GetProject(), meta.GetName())))
		if s.ledger != nil {
			s.mutations = append(s.mutations, state.Delete(s.ledger.GetMeta().GetRevision(), state.JobLedgerKey(s.id())))
		}
		s.tell(fleetv1.EventNormal, "JobDeleted", "its output stays")
		return true
	}
	if state.JobEnded(s.job) {
		s.mutations = append(s.mutations, deleteService(s.svc)...)
		return false
	}
	st := s.next.Status
	if st.GetState() == "" || st.GetRun() != s.job.GetDesired().GetRun() {
		*s.m = jobMemory{}
		s.next.Status = &fleetv1.JobStatus{State: fleetv1.JobDeploying, StateTime: timestamppb.New(s.now), StartTime: timestamppb.New(s.now), Run: s.job.GetDesired().GetRun()}
	}
	switch failure := s.ledger.GetFailure(); {
	case state.JobComplete(s.ledger) && desired != fleetv1.DesiredDeleted:
		if s.cfg.Work.Tidied(s.id()) {
			s.over(fleetv1.JobCompleted, "")
		} else if trouble := s.cfg.Work.Trouble(s.id()); trouble != "" {
			s.next.Status.Reason = trouble
		}
	case desired == fleetv1.DesiredRunning && failure == "":
		s.m.stopping = time.Time{}
		s.deploy()
	case !s.woundDown():
		s.next.Status.Reason = "the items that have begun are being ended"
		if failure != "" {
			s.next.Status.Reason = failure
		}
	case failure != "" && desired == fleetv1.DesiredRunning:
		s.over(fleetv1.JobFailed, failure)
	default:
		s.over(fleetv1.JobStopped, "")
	}
	return false
}

// woundDown says that what tasks had begun is in manifests, or that it has been waited for long enough: then those
// items are run again some day.
func (s *jobStep) woundDown() bool {
	if s.m.stopping.IsZero() {
		s.m.stopping = s.now
	}
	if s.svc == nil || s.svc.GetDesired().GetState() == fleetv1.DesiredDeleted || readyTasks(s.svc) == 0 {
		return true
	}
	if s.cfg.Work.Idle(s.id()) { // what tasks had in hand is in the ledger of now, if not yet in that of this step
		if l := s.cfg.State.View().JobLedger(s.id()); len(l.GetUnsealed())+len(l.GetSealed()) == 0 {
			return true
		}
	}
	deadline := s.m.stopping.Add(stopTimeout)
	s.later.at(s.id(), deadline)
	return !s.now.Before(deadline)
}

// over ends the run.
func (s *jobStep) over(to, reason string) {
	st := s.next.Status
	st.State, st.Reason, st.StateTime, st.EndTime, st.ServiceId, st.Tasks = to, reason, timestamppb.New(s.now), timestamppb.New(s.now), "", 0
	s.mutations = append(s.mutations, deleteService(s.svc)...)
	l := s.ledger
	items := l.GetItems() - l.GetAgain()
	totals := fmt.Sprintf("%s: %d successful, %d failed", count(int(items), "item", "items"), l.GetSuccessful(), l.GetFailed())
	if left := items - l.GetSuccessful() - l.GetFailed(); left > 0 {
		totals += fmt.Sprintf(", %d left", left)
	}
	totals += ", after " + s.now.Sub(st.GetStartTime().AsTime()).Round(time.Second).String()
	switch to {
	case fleetv1.JobCompleted:
		s.tell(fleetv1.EventNormal, "JobCompleted", totals)
	case fleetv1.JobFailed:
		s.tell(fleetv1.EventAbnormal, "JobFailed", reason+"; "+totals)
	default:
		by := s.job.GetDesired().GetCaller()
		if by != "" {
			by = " by " + by
		}
		s.tell(fleetv1.EventNormal, "JobStopped", "stopped"+by+"; "+totals)
	}
}

// deploy has the service run, and tells how it gets on.
func (s *jobStep) deploy() {
	st := s.next.Status
	switch {
	case s.svc == nil:
		st.Tasks = s.tasks()
		svc := s.service(st.GetTasks())
		st.ServiceId = svc.GetMeta().GetId()
		s.mutations = append(s.mutations, state.Put(0, svc))
		return
	case s.svc.GetDesired().GetState() == fleetv1.DesiredDeleted:
		st.Reason = "waits for the tasks of its last run to end"
		return
	}
	if failed := s.abnormal(); failed != "" {
		s.over(fleetv1.JobFailed, failed)
		return
	}
	st.ServiceId = s.svc.GetMeta().GetId()
	if ready := readyTasks(s.svc); ready > 0 && st.GetState() != fleetv1.JobRunning {
		st.State, st.StateTime = fleetv1.JobRunning, timestamppb.New(s.now)
		s.tell(fleetv1.EventNormal, "JobStarted", count(int(ready), "task is", "tasks are")+fmt.Sprintf(" ready, of %d", s.svc.GetSpec().GetVersions()[0].GetInstances()))
	}
	s.scale()
	st.Reason = s.cfg.Work.Trouble(s.id())
	for _, v := range s.svc.GetStatus().GetVersions() {
		if st.Reason == "" && v.GetWaitingReason() != "" {
			st.Reason = v.GetWaitingReason()
		}
	}
	if st.Reason == "" && (st.GetState() == fleetv1.JobDeploying || readyTasks(s.svc) == 0) {
		st.Reason = s.svc.GetStatus().GetReason()
	}
}

// readyTasks is how many instances of a job's service are ready.
func readyTasks(svc *fleetv1.Service) int32 {
	var n int32
	for _, v := range svc.GetStatus().GetVersions() {
		n += v.GetReady()
	}
	return n
}

// abnormal says why the job's instances will not come up, when they have had their time for that.
func (s *jobStep) abnormal() string {
	st := s.svc.GetStatus()
	if st.GetState() != fleetv1.ServiceAbnormal {
		return ""
	}
	minutes := s.job.GetSpec().GetTimeoutMinutes()
	if minutes == 0 {
		minutes = defaultMinutes
	}
	since := st.GetStateTime().AsTime()
	if began := st.GetDeployTime(); s.next.GetStatus().GetState() == fleetv1.JobDeploying && began != nil {
		since = began.AsTime()
	}
	if at := since.Add(time.Duration(minutes) * time.Minute); s.now.Before(at) {
		s.later.at(s.id(), at)
		return ""
	}
	return "its tasks don't come up: " + st.GetReason()
}

// service is the one that places the job's tasks.
func (s *jobStep) service(tasks int32) *fleetv1.Service {
	meta, spec := s.job.GetMeta(), s.job.GetSpec()
	version := state.VersionOfJob(spec)
	version.Instances = tasks
	return &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: serviceName(s.job), Id: s.cfg.NewID(), Account: meta.GetAccount(), Project: meta.GetProject(), Generation: 1,
			CreateTime: timestamppb.New(s.now), CreatedBy: meta.GetCreatedBy()},
		Spec: &fleetv1.ServiceSpec{Pool: spec.GetPool(), Network: spec.GetNetwork(), JobId: s.id(), MaxInvalidInstances: 1,
			Versions: []*fleetv1.ServiceVersion{version}},
		Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning, StartTime: timestamppb.New(s.now), Caller: "scheduler"},
	}
}
