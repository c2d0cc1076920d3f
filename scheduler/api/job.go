package api

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

type jobServer struct {
	*API
	fleetv1.UnimplementedJobServiceServer
}

func (s *jobServer) SubmitJob(ctx context.Context, req *fleetv1.SubmitJobRequest) (*fleetv1.SubmitJobResponse, error) {
	asked := proto.CloneOf(req.GetJob())
	if asked.GetSpec() == nil {
		return nil, invalid("job.spec", "is missing")
	}
	completeJobSpec(asked.Spec)
	var v violations
	v.job("job", asked)
	if err := v.err(); err != nil {
		return nil, err
	}
	sub := &submission{jobServer: s, asked: asked, in: project(ctx, asked.GetMeta().GetProject()), changed: true}
	defer sub.leave()
	if req.GetDryRun() {
		return sub.dryRun(ctx)
	}
	if err := s.mutate(ctx, req, sub.plan); err != nil {
		return nil, err
	}
	job, err := findJob(s.view(), sub.in, asked.GetMeta().GetName())
	if err != nil {
		return nil, err
	}
	return &fleetv1.SubmitJobResponse{Job: shownJob(job), Changed: sub.changed}, nil
}

// submission is one SubmitJob call.
type submission struct {
	*jobServer
	asked *fleetv1.Job
	in    string

	changed bool         // false when the job stood as asked
	after   *fleetv1.Job // as it is to stand when it changes
	looked  bool         // at its storage
	found   error        // there
	place   *fleetv1.Job // kept in submitted
}

// dryRun answers what plan would write.
func (s *submission) dryRun(ctx context.Context) (*fleetv1.SubmitJobResponse, error) {
	if err := s.cfg.Log.ReadIndex(ctx); err != nil {
		return nil, err
	}
	if _, err := s.plan(ctx, s.view(), s.cfg.Now()); err != nil {
		return nil, err
	}
	if s.changed {
		return &fleetv1.SubmitJobResponse{Job: shownJob(s.after), Changed: true}, nil
	}
	job, err := findJob(s.view(), s.in, s.asked.GetMeta().GetName())
	return &fleetv1.SubmitJobResponse{Job: shownJob(job)}, err
}

func (s *submission) plan(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
	name := s.asked.GetMeta().GetName()
	if old := view.Job(s.in, name); old != nil && old.GetMeta().GetName() == name {
		return s.again(ctx, view, old)
	}
	after := &fleetv1.Job{
		Meta: newMeta(ctx, s.asked.GetMeta(), now), Spec: proto.CloneOf(s.asked.GetSpec()),
		Desired: &fleetv1.JobDesired{State: fleetv1.DesiredRunning, Run: 1, StartTime: timestamppb.New(now), Caller: caller(ctx).Name},
		Status:  &fleetv1.JobStatus{},
	}
	needs, err := inProject(view, after.GetMeta())
	if err != nil {
		return nil, err
	}
	if err := s.admitJob(view, after); err != nil {
		return nil, err
	}
	if !s.looked { // not for a request that was carried out before
		s.looked, s.found = true, s.inspect(ctx, after)
	}
	if s.found != nil {
		return nil, s.found
	}
	if err := s.take(after); err != nil {
		return nil, err
	}
	s.after, s.changed = after, true
	ledger := &fleetv1.JobLedger{Meta: &fleetv1.Meta{Name: name, Id: after.GetMeta().GetId(), Project: s.in, Account: after.GetMeta().GetAccount(),
		CreateTime: after.GetMeta().GetCreateTime(), CreatedBy: after.GetMeta().GetCreatedBy()}}
	spec := after.GetSpec()
	return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, after), state.Put(0, ledger)}, Needs: needs,
		Events: []*fleetv1.Event{jobEvent(after, "JobSubmitted", fmt.Sprintf("%s submitted it: %s %s runs %s, up to %d %s, results go to %s",
			caller(ctx).Name, spec.GetModel(), spec.GetModelVersion(), spec.GetInput(), spec.GetInstances(), plural(int(spec.GetInstances()), "task", "tasks"), spec.GetOutput()))}}, nil
}

// again is plan for a job that exists: the numbers of its tasks may change, and nothing else.
func (s *submission) again(ctx context.Context, view state.ReadView, old *fleetv1.Job) (*fleetv1.Write, error) {
	name := old.GetMeta().GetName()
	if old.GetDesired().GetState() == fleetv1.DesiredDeleted {
		return nil, refuse(codes.FailedPrecondition, "job %q is being deleted: wait until it is gone, or choose another name", name)
	}
	spec, stands := proto.CloneOf(s.asked.GetSpec()), proto.CloneOf(old.GetSpec())
	completeJobSpec(stands) // it may be older than some field
	if spec.GetModelVersion() == "" && spec.GetModel() == stands.GetModel() {
		spec.ModelVersion = stands.GetModelVersion()
	}
	if spec.GetInputFormat() == "" { // what it is then depends on model and mapping, which are compared
		spec.InputFormat = stands.GetInputFormat()
	}
	same := proto.CloneOf(spec)
	same.Instances, same.MinInstances = stands.GetInstances(), stands.GetMinInstances()
	diff := differences("spec", stands, same)
	diff = append(diff, differences("meta", &fleetv1.Meta{Tags: old.GetMeta().GetTags()}, &fleetv1.Meta{Tags: s.asked.GetMeta().GetTags()})...)
	if len(diff) > 0 {
		return nil, refuse(codes.FailedPrecondition, "job %q exists and differs in %s: only instances and min_instances of a job can be changed; choose another name, or delete it first",
			name, summary(diff))
	}
	if s.changed = !proto.Equal(spec, stands); !s.changed {
		return nil, nil
	}
	if err := jobPermits(old, jobScale, "changed"); err != nil {
		return nil, err
	}
	after := proto.CloneOf(old)
	after.Spec = spec
	after.Meta.Generation++
	if err := withinQuota(view, after); err != nil {
		return nil, err
	}
	s.after = after
	return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), after)},
		Events: []*fleetv1.Event{jobEvent(old, "Scaled", fmt.Sprintf("%s scaled it from %s to %s", caller(ctx).Name, tasksOf(stands), tasksOf(spec)))}}, nil
}

func tasksOf(s *fleetv1.JobSpec) string {
	return fmt.Sprintf("%d–%d tasks", s.GetMinInstances(), s.GetInstances())
}

// submitted keeps calls at the same time from making too many jobs, or two that write to one place.
type submitted struct {
	mu      sync.Mutex
	pending map[string]*fleetv1.Job // by ID: whose write is under way
}

// take checks a new job against all that exist or are being made, and is seen by others until leave.
func (s *submission) take(after *fleetv1.Job) error {
	s.leave()
	q := &s.submitted
	q.mu.Lock()
	defer q.mu.Unlock()
	view := s.view()
	all := view.Jobs("")
	for id, j := range q.pending {
		if view.JobByID(id) == nil {
			all = append(all, j)
		}
	}
	mine := 0
	for _, j := range all {
		here := j.GetMeta().GetProject() == s.in
		if here && j.GetMeta().GetName() == after.GetMeta().GetName() {
			continue // made meanwhile, which the write finds out
		}
		if here {
			mine++
		}
		theirs, out := j.GetSpec().GetOutput(), after.GetSpec().GetOutput()
		if !strings.HasPrefix(theirs, out) && !strings.HasPrefix(out, theirs) {
			continue
		}
		if !here {
			return unfit("job.spec.output", "%s is used by a job of another project: choose a folder of its own", out)
		}
		return unfit("job.spec.output", "%s is used by job %q, which writes to %s: choose a folder of its own", out, j.GetMeta().GetName(), theirs)
	}
	if mine >= s.cfg.MaxJobsPerProject {
		return refuse(codes.ResourceExhausted, "project %q has %d jobs already, which is the quota: delete some first; their output stays", s.in, mine)
	}
	q.pending[after.GetMeta().GetId()] = after
	s.place = after
	return nil
}

func (s *submission) leave() {
	if s.place == nil {
		return
	}
	s.submitted.mu.Lock()
	defer s.submitted.mu.Unlock()
	delete(s.submitted.pending, s.place.GetMeta().GetId())
	s.place = nil
}

func (s *jobServer) ListJobs(ctx context.Context, req *fleetv1.ListJobsRequest) (*fleetv1.ListJobsResponse, error) {
	resp, view := &fleetv1.ListJobsResponse{}, s.view()
	for _, j := range view.Jobs(project(ctx, req.GetProject())) {
		if hasTags(j.GetMeta().GetTags(), req.GetTags()) {
			progress, _ := s.progress(view, j)
			resp.Jobs = append(resp.Jobs, &fleetv1.JobSummary{Job: shownJob(j), Progress: progress})
		}
	}
	return resp, nil
}

func (s *jobServer) GetJob(ctx context.Context, req *fleetv1.GetJobRequest) (*fleetv1.GetJobResponse, error) {
	view := s.view()
	j, err := findJob(view, project(ctx, req.GetProject()), req.GetName())
	if err != nil {
		return nil, err
	}
	now := s.picture(view, j)
	return &fleetv1.GetJobResponse{Job: now.GetJob(), Progress: now.GetProgress(), Tasks: now.GetTasks(), Instances: now.GetInstances(),
		Waiting: s.waiting(view, j)}, nil
}

func findJob(view state.ReadView, project, name string) (*fleetv1.Job, error) {
	if name == "" {
		return nil, invalid("name", "is missing")
	}
	if j := view.Job(project, name); j != nil {
		return j, nil
	}
	return nil, missing("", "job", name, namesOf(view.Jobs(project)))
}

// jobEvent tells about a job.
func jobEvent(j *fleetv1.Job, reason, message string) *fleetv1.Event {
	return &fleetv1.Event{Type: fleetv1.EventNormal, Reason: reason, Message: message, Objects: []*fleetv1.ObjectRef{{
		Kind: fleetv1.KindJob, Id: j.GetMeta().GetId(), Name: j.GetMeta().GetName(), Project: j.GetMeta().GetProject()}}}
}
