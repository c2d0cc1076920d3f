package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// fakeJobs is a scheduler's jobs and storage keys; what a job comes to is chosen by the first word of its name.
type fakeJobs struct {
	fleetv1.UnimplementedJobServiceServer
	fleetv1.UnimplementedStorageKeyServiceServer

	f    *fake
	mu   sync.Mutex
	jobs map[string]*fleetv1.Job
	keys []*fleetv1.StorageKey
}

func (f *fakeJobs) SubmitJob(_ context.Context, r *fleetv1.SubmitJobRequest) (*fleetv1.SubmitJobResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := r.GetJob().GetMeta().GetName()
	if err := f.begin(name, r.GetRequestId()); err != nil {
		return nil, err
	}
	j := proto.CloneOf(r.GetJob())
	j.Meta = made(j.GetMeta())
	s := j.GetSpec()
	s.ModelVersion, s.Instances = first(s.GetModelVersion(), "1.0.0"), max(s.GetInstances(), 1)
	s.MinInstances, s.BatchRows, s.RequestPath = max(s.GetMinInstances(), s.GetInstances()), max(s.GetBatchRows(), 1), first(s.GetRequestPath(), "/")
	s.ItemTimeoutSeconds, s.MaxConcurrency = max(s.GetItemTimeoutSeconds(), 40), max(s.GetMaxConcurrency(), 64)
	j.Desired = &fleetv1.JobDesired{State: fleetv1.DesiredRunning, Run: 1, StartTime: timestamppb.New(started)}
	j.Status = &fleetv1.JobStatus{State: fleetv1.JobDeploying}
	old := f.jobs[name]
	switch {
	case old != nil && old.GetSpec().GetInstances() == s.GetInstances():
		return &fleetv1.SubmitJobResponse{Job: old}, nil
	case old != nil:
		j.Meta.Generation++
	}
	if !r.GetDryRun() {
		f.jobs[name] = j
	}
	return &fleetv1.SubmitJobResponse{Job: j, Changed: true}, nil
}

func (f *fakeJobs) begin(name, requestID string) error {
	f.f.mu.Lock()
	defer f.f.mu.Unlock()
	return f.f.begin(name, requestID)
}

func (f *fakeJobs) job(name string) (*fleetv1.Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if j := f.jobs[name]; j != nil {
		return proto.CloneOf(j), nil
	}
	return nil, notFound("job", name)
}

// change changes a job's desired state.
func (f *fakeJobs) change(name, requestID string, set func(*fleetv1.Job)) (*fleetv1.Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(name, requestID); err != nil {
		return nil, err
	}
	j := f.jobs[name]
	if j == nil {
		return nil, notFound("job", name)
	}
	set(j)
	return proto.CloneOf(j), nil
}

func (f *fakeJobs) StartJob(_ context.Context, r *fleetv1.StartJobRequest) (*fleetv1.StartJobResponse, error) {
	j, err := f.change(r.GetName(), r.GetRequestId(), func(j *fleetv1.Job) { j.Desired.State = fleetv1.DesiredRunning; j.Desired.Run++ })
	return &fleetv1.StartJobResponse{Job: j}, err
}

func (f *fakeJobs) StopJob(_ context.Context, r *fleetv1.StopJobRequest) (*fleetv1.StopJobResponse, error) {
	j, err := f.change(r.GetName(), r.GetRequestId(), func(j *fleetv1.Job) { j.Desired.State = fleetv1.DesiredStopped })
	return &fleetv1.StopJobResponse{Job: j}, err
}

func (f *fakeJobs) RetryJob(_ context.Context, r *fleetv1.RetryJobRequest) (*fleetv1.RetryJobResponse, error) {
	j, err := f.change(r.GetName(), r.GetRequestId(), func(j *fleetv1.Job) { j.Desired.Run++; j.Desired.RetryRun = j.Desired.Run })
	return &fleetv1.RetryJobResponse{Job: j}, err
}

func (f *fakeJobs) DeleteJob(_ context.Context, r *fleetv1.DeleteJobRequest) (*fleetv1.DeleteJobResponse, error) {
	_, err := f.change(r.GetName(), r.GetRequestId(), func(j *fleetv1.Job) { j.Desired.State = fleetv1.DesiredDeleted })
	return &fleetv1.DeleteJobResponse{}, err
}

// progressAt is 1,000 items of which so many have ended, 3 of them failed when the job's name begins with "spotty" and no run
// has retried them.
func progressAt(j *fleetv1.Job, n int64) *fleetv1.JobProgress {
	p := &fleetv1.JobProgress{Items: 1000, Listed: true, Successful: n, Left: 1000 - n, InputBytes: 3 << 20, OutputBytes: 1 << 10}
	if n <= 250 {
		p.Rate, p.LeftSeconds, p.InHand = 12.5, (1000-n)/12, min(64, 1000-n)
	}
	if strings.HasPrefix(j.GetMeta().GetName(), "spotty") && j.GetDesired().GetRetryRun() == 0 && n > 3 {
		p.Successful, p.Failed = n-3, 3
	}
	return p
}

// tasksOf are two tasks, of which the second has lost its instance, and an instance that has just come.
func tasksOf(j *fleetv1.Job) ([]*fleetv1.JobTask, []*fleetv1.Instance) {
	instance := func(n int, observed *fleetv1.InstanceObserved) *fleetv1.Instance {
		return &fleetv1.Instance{Meta: &fleetv1.Meta{Name: fmt.Sprintf("job.%s-%d", j.GetMeta().GetName(), n)}, Spec: &fleetv1.InstanceSpec{Node: "dev-1"}, Observed: observed}
	}
	at := instance(1, &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Ready: true})
	return []*fleetv1.JobTask{
		{Task: "a", Instance: at.GetMeta().GetName(), Node: "dev-1", State: fleetv1.InstanceRunning, Progress: &fleetv1.TaskProgress{
			Successful: 240, Failed: 3, Retries: 1, InFlight: 7, Concurrency: 8, Rate: 12.5, MedianMillis: 80.4, SlowestMillis: 2500,
			Slow:    []*fleetv1.TaskItem{{Source: "s3://b/in/slow.csv", Millis: 2500}, {Source: "s3://b/in/slower.csv", Millis: 150_000}},
			Failing: []*fleetv1.TaskItem{{Source: "s3://b/in/bad.csv", Message: "row 3 has 4 columns:\n5 are needed"}},
			Trouble: "the storage answers 503",
		}},
		{Task: "b", Node: "dev-2"},
	}, []*fleetv1.Instance{at, instance(2, &fleetv1.InstanceObserved{State: fleetv1.InstancePulling})}
}

func (f *fakeJobs) GetJob(_ context.Context, r *fleetv1.GetJobRequest) (*fleetv1.GetJobResponse, error) {
	j, err := f.job(r.GetName())
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.GetJobResponse{Job: j, Progress: progressAt(j, 250)}
	switch j.GetStatus().GetState() {
	case fleetv1.JobCompleted:
		resp.Progress = progressAt(j, 1000)
		for n := range 12 {
			resp.Progress.Manifests = append(resp.Progress.Manifests, fmt.Sprintf("%sinfer-result-a_%d.manifest", j.GetSpec().GetOutput(), n))
		}
	case fleetv1.JobDeploying:
		resp.Progress.Listed = false
		resp.Waiting = noRoom()
	default:
		resp.Tasks, resp.Instances = tasksOf(j)
	}
	return resp, nil
}

func (f *fakeJobs) ListJobs(ctx context.Context, r *fleetv1.ListJobsRequest) (*fleetv1.ListJobsResponse, error) {
	f.mu.Lock()
	var names []string
	for name, j := range f.jobs {
		if t := r.GetTags()["team"]; t == "" || t == j.GetMeta().GetTags()["team"] {
			names = append(names, name)
		}
	}
	f.mu.Unlock()
	slices.Sort(names)
	resp := &fleetv1.ListJobsResponse{}
	for _, name := range names {
		one, err := f.GetJob(ctx, &fleetv1.GetJobRequest{Name: name})
		if err != nil {
			return nil, err
		}
		resp.Jobs = append(resp.Jobs, &fleetv1.JobSummary{Job: one.GetJob(), Progress: one.GetProgress()})
	}
	return resp, nil
}

// WatchJob plays what a job goes through.
func (f *fakeJobs) WatchJob(r *fleetv1.WatchJobRequest, stream grpc.ServerStreamingServer[fleetv1.WatchJobResponse]) error {
	j, err := f.job(r.GetName())
	if err != nil {
		return err
	}
	send := func(state, reason string, n int64) error {
		j.Status = &fleetv1.JobStatus{State: state, Reason: reason, Run: j.GetDesired().GetRun()}
		if n == 0 { // as it was: about the run before
			j.Status.Run--
		}
		f.mu.Lock()
		f.jobs[r.GetName()] = proto.CloneOf(j)
		f.mu.Unlock()
		resp := &fleetv1.WatchJobResponse{Job: j, Progress: progressAt(j, n)}
		switch state {
		case fleetv1.JobRunning:
			resp.Tasks, resp.Instances = tasksOf(j)
		case fleetv1.JobDeploying:
			resp.Progress.Listed, resp.Waiting = false, &fleetv1.Explanation{Summary: "no room"}
		}
		return stream.Send(resp)
	}
	type step struct {
		state, reason string
		done          int64
	}
	steps := []step{{first(j.GetStatus().GetState(), fleetv1.JobDeploying), "", 0}, {fleetv1.JobRunning, "", 50}, {fleetv1.JobRunning, "", 240}, {fleetv1.JobRunning, "", 250}}
	fault, _, _ := strings.Cut(r.GetName(), "-")
	switch {
	case j.GetDesired().GetState() == fleetv1.DesiredDeleted:
		f.mu.Lock()
		delete(f.jobs, r.GetName())
		f.mu.Unlock()
		return notFound("job", r.GetName())
	case j.GetDesired().GetState() == fleetv1.DesiredStopped:
		steps = []step{{fleetv1.JobRunning, "its items end", 250}, {fleetv1.JobStopped, "", 260}}
	case fault == "failing":
		steps = append(steps, step{fleetv1.JobFailed, "s3://b/in/x.csv is gone", 260})
	case fault == "halted":
		steps = append(steps, step{fleetv1.JobStopped, "", 260})
	case fault != "endless":
		steps = append(steps, step{fleetv1.JobCompleted, "", 1000})
	}
	for _, s := range steps {
		if err := send(s.state, s.reason, s.done); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (f *fakeJobs) ListJobErrors(r *fleetv1.ListJobErrorsRequest, stream grpc.ServerStreamingServer[fleetv1.ListJobErrorsResponse]) error {
	j, err := f.job(r.GetName())
	if err != nil {
		return err
	}
	for n := range progressAt(j, 1000).GetFailed() {
		if r.GetLimit() > 0 && n >= int64(r.GetLimit()) {
			break
		}
		if err := stream.Send(&fleetv1.ListJobErrorsResponse{Errors: []*fleetv1.JobError{
			{Source: fmt.Sprintf("s3://b/in/%d.csv", n), Message: "the model answered 400:\nno such column", Task: "a"}}}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeJobs) GetJobMapping(_ context.Context, r *fleetv1.GetJobMappingRequest) (*fleetv1.GetJobMappingResponse, error) {
	if r.GetModel() != "iris" {
		return nil, notFound("model", r.GetModel())
	}
	return &fleetv1.GetJobMappingResponse{Mapping: fmt.Sprintf("{\"type\": \"number\", \"index\": 0, \"at\": %q, \"of\": %q}\n", r.GetRequestPath(), r.GetModelVersion())}, nil
}

func (f *fakeJobs) SetStorageKey(_ context.Context, r *fleetv1.SetStorageKeyRequest) (*fleetv1.SetStorageKeyResponse, error) {
	if r.GetSecretKey() != "s3cr3t" {
		return nil, status.Errorf(codes.InvalidArgument, "secret_key: has %d characters", len(r.GetSecretKey()))
	}
	m := made(&fleetv1.Meta{Name: r.GetScheme()})
	m.UpdateTime = timestamppb.New(started.Add(time.Minute))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = append(f.keys, &fleetv1.StorageKey{Meta: m, AccessKey: r.GetAccessKey()})
	return &fleetv1.SetStorageKeyResponse{Key: f.keys[len(f.keys)-1]}, nil
}

func (f *fakeJobs) ListStorageKeys(context.Context, *fleetv1.ListStorageKeysRequest) (*fleetv1.ListStorageKeysResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &fleetv1.ListStorageKeysResponse{Keys: slices.Clone(f.keys)}, nil
}

func (f *fakeJobs) DeleteStorageKey(_ context.Context, r *fleetv1.DeleteStorageKeyRequest) (*fleetv1.DeleteStorageKeyResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := len(f.keys)
	f.keys = slices.DeleteFunc(f.keys, func(k *fleetv1.StorageKey) bool { return k.GetMeta().GetName() == r.GetScheme() })
	if len(f.keys) == before {
		return nil, status.Errorf(codes.NotFound, "the project has no key for %s://", r.GetScheme())
	}
	return &fleetv1.DeleteStorageKeyResponse{}, nil
}
