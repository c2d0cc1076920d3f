package api

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// WatchJob ends with NotFound when the job is gone. Why instances wait is worked out again when the service that places
// them has changed: progress comes more often.
func (s *jobServer) WatchJob(req *fleetv1.WatchJobRequest, stream grpc.ServerStreamingServer[fleetv1.WatchJobResponse]) error {
	in := project(stream.Context(), req.GetProject())
	j, err := findJob(s.view(), in, req.GetName())
	if err != nil {
		return err
	}
	id := j.GetMeta().GetId()
	w := &watch{wake: make(chan struct{}, 1), concerns: func(o *fleetv1.Object) bool {
		return o.GetJob().GetMeta().GetId() == id || o.GetJobLedger().GetMeta().GetId() == id ||
			o.GetService().GetSpec().GetJobId() == id || o.GetInstance().GetSpec().GetJobId() == id
	}}
	feed := s.cfg.Store.Subscribe()
	defer feed.Close()
	if s.cfg.Jobs != nil {
		defer s.cfg.Jobs.OnProgress(func(job string) {
			if job == id {
				w.signal()
			}
		})()
	}
	ctx, cancel := context.WithCancel(stream.Context())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	reading.Go(func() { w.follow(ctx, feed) })

	var last *fleetv1.WatchJobResponse
	var explained uint64 // revision of the service
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.wake:
		}
		view := s.view()
		if j = view.JobByID(id); j == nil {
			return refuse(codes.NotFound, "job %q is gone", req.GetName())
		}
		now := s.picture(view, j)
		if r := serviceOf(view, j).GetMeta().GetRevision(); r != explained {
			now.Waiting, explained = s.waiting(view, j), r
		} else {
			now.Waiting = last.GetWaiting()
		}
		if last != nil && proto.Equal(now, last) {
			continue
		}
		if err := stream.Send(now); err != nil {
			return err
		}
		last = now
	}
}

// picture is what is to be seen of a job but for why its instances wait.
func (s *jobServer) picture(view state.ReadView, j *fleetv1.Job) *fleetv1.WatchJobResponse {
	out := &fleetv1.WatchJobResponse{Job: shownJob(j)}
	out.Progress, out.Tasks = s.progress(view, j)
	if service := serviceOf(view, j); service != nil {
		out.Instances = view.InstancesOfService(service.GetMeta().GetId())
	}
	return out
}

// serviceOf is the service that places the job's instances, or nil.
func serviceOf(view state.ReadView, j *fleetv1.Job) *fleetv1.Service {
	if s := view.ServiceByID(j.GetStatus().GetServiceId()); s.GetSpec().GetJobId() == j.GetMeta().GetId() {
		return s
	}
	return nil
}

// waiting says why instances of the job wait for a node; nil when none does.
func (s *jobServer) waiting(view state.ReadView, j *fleetv1.Job) *fleetv1.Explanation {
	service := serviceOf(view, j)
	if service == nil {
		return nil
	}
	for _, st := range s.explained(service).GetStatus().GetVersions() {
		if e := st.GetExplanation(); e != nil {
			return e
		}
	}
	return nil
}

// progress is what the leader's memory says, or else the job's ledger.
func (s *jobServer) progress(view state.ReadView, j *fleetv1.Job) (*fleetv1.JobProgress, []*fleetv1.JobTask) {
	if s.cfg.Jobs != nil {
		if p, tasks := s.cfg.Jobs.Progress(j.GetMeta().GetId()); p != nil {
			return p, tasks
		}
	}
	l := view.JobLedger(j.GetMeta().GetId())
	p := &fleetv1.JobProgress{
		Items: l.GetItems() - l.GetAgain(), Listed: l.GetListed(), Successful: l.GetSuccessful(), Failed: l.GetFailed(), Left: l.GetItems(),
		InputBytes: l.GetInputBytes(), OutputBytes: l.GetOutputBytes(),
	}
	for _, r := range l.GetCommitted() {
		p.Left -= r.GetTo() - r.GetFrom()
	}
	for _, m := range manifestsOf(l) {
		p.Manifests = append(p.Manifests, batch.ManifestName(m.GetTask(), m.GetNumber()))
	}
	return p, nil
}
