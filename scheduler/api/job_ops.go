package api

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// What may be asked of a job.
const (
	jobStart  operation = "start"
	jobStop   operation = "stop"
	jobRetry  operation = "retry"
	jobScale  operation = "change of instances"
	jobDelete operation = "delete"
)

// beingStopped is how a job is called that was asked to stop and whose items have not ended.
const beingStopped = "being stopped"

// jobOps is what may be done with a job in a state.
func jobOps(jobState string) []operation {
	switch jobState {
	case fleetv1.JobDeploying, fleetv1.JobRunning:
		return []operation{jobStop, jobScale, jobDelete}
	case beingStopped:
		return []operation{jobDelete}
	case fleetv1.JobCompleted:
		return []operation{jobRetry, jobDelete}
	case fleetv1.JobFailed, fleetv1.JobStopped:
		return []operation{jobStart, jobScale, jobDelete}
	}
	return nil
}

// jobState is the state that the job loop found, unless what was asked since then overrules it.
func jobState(j *fleetv1.Job) string {
	found := j.GetStatus().GetState()
	switch {
	case j.GetDesired().GetState() == fleetv1.DesiredDeleted:
		return "being deleted"
	case j.GetDesired().GetState() == fleetv1.DesiredStopped && !state.JobEnded(j):
		return beingStopped
	case found == "" || j.GetStatus().GetRun() != j.GetDesired().GetRun():
		return fleetv1.JobDeploying // the job loop has not seen the run yet
	}
	return found
}

// shownJob shows the state that follows from what was asked last.
func shownJob(j *fleetv1.Job) *fleetv1.Job {
	found, now := j.GetStatus().GetState(), jobState(j)
	if j == nil || now == found {
		return j
	}
	j = proto.CloneOf(j)
	if j.Status == nil {
		j.Status = &fleetv1.JobStatus{}
	}
	switch now {
	case fleetv1.JobDeploying:
		j.Status.State, j.Status.Reason = now, ""
	default: // no state of its own
		j.Status.State, j.Status.Reason = word(found, fleetv1.JobDeploying), "it is "+now
	}
	return j
}

// jobPermits refuses what the job's state forbids. verb is how the operation was called.
func jobPermits(j *fleetv1.Job, op operation, verb string) error {
	now := jobState(j)
	return permit("job", j.GetMeta().GetName(), now, op, verb, jobOps(now))
}

// change carries out an operation on one job: edit changes the copies that it gets, or refuses. The ledger is written
// when edit answers true.
func (s *jobServer) change(ctx context.Context, req request, in, name string,
	edit func(j *fleetv1.Job, l *fleetv1.JobLedger, now time.Time) (bool, error),
) (*fleetv1.Job, error) {
	in = project(ctx, in)
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		old, err := findJob(view, in, name)
		if err != nil {
			return nil, err
		}
		after, ledger := proto.CloneOf(old), proto.CloneOf(view.JobLedger(old.GetMeta().GetId()))
		if after.Desired == nil {
			after.Desired = &fleetv1.JobDesired{}
		}
		withLedger, err := edit(after, ledger, now)
		if err != nil {
			return nil, err
		}
		after.Desired.Caller = caller(ctx).Name
		write := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), after)}}
		if withLedger {
			write.Mutations = append(write.Mutations, state.Put(ledger.GetMeta().GetRevision(), ledger))
		}
		return write, nil
	})
	if err != nil {
		return nil, err
	}
	j, err := findJob(s.view(), in, name)
	if err != nil {
		return nil, err
	}
	return shownJob(j), nil
}

// run asks for another run.
func run(j *fleetv1.Job, now time.Time) {
	j.Desired.State, j.Desired.StartTime = fleetv1.DesiredRunning, timestamppb.New(now)
	j.Desired.Run++
}

func (s *jobServer) StartJob(ctx context.Context, req *fleetv1.StartJobRequest) (*fleetv1.StartJobResponse, error) {
	j, err := s.change(ctx, req, req.GetProject(), req.GetName(), func(j *fleetv1.Job, l *fleetv1.JobLedger, now time.Time) (bool, error) {
		if err := jobPermits(j, jobStart, "started"); err != nil {
			return false, err
		}
		run(j, now)
		if l.GetFailure() == "" {
			return false, nil
		}
		l.Failure = "" // what ended the last run may be put right
		return true, nil
	})
	return &fleetv1.StartJobResponse{Job: j}, err
}

func (s *jobServer) StopJob(ctx context.Context, req *fleetv1.StopJobRequest) (*fleetv1.StopJobResponse, error) {
	j, err := s.change(ctx, req, req.GetProject(), req.GetName(), func(j *fleetv1.Job, _ *fleetv1.JobLedger, _ time.Time) (bool, error) {
		if err := jobPermits(j, jobStop, "stopped"); err != nil {
			return false, err
		}
		j.Desired.State = fleetv1.DesiredStopped
		return false, nil
	})
	return &fleetv1.StopJobResponse{Job: j}, err
}

func (s *jobServer) RetryJob(ctx context.Context, req *fleetv1.RetryJobRequest) (*fleetv1.RetryJobResponse, error) {
	j, err := s.change(ctx, req, req.GetProject(), req.GetName(), func(j *fleetv1.Job, l *fleetv1.JobLedger, now time.Time) (bool, error) {
		if err := jobPermits(j, jobRetry, "retried"); err != nil {
			return false, err
		}
		if l.GetFailed() == 0 {
			return false, refuse(codes.FailedPrecondition, "job %q has no FAILED items: there is nothing to try again", j.GetMeta().GetName())
		}
		run(j, now)
		j.Desired.RetryRun = j.GetDesired().GetRun()
		l.Listed, l.Position, l.Failure = false, fleetv1.PositionOfRetry, ""
		return true, nil
	})
	return &fleetv1.RetryJobResponse{Job: j}, err
}

// DeleteJob asks for the deletion, whatever the job does; the job loop removes it when its instances are gone.
func (s *jobServer) DeleteJob(ctx context.Context, req *fleetv1.DeleteJobRequest) (*fleetv1.DeleteJobResponse, error) {
	in := project(ctx, req.GetProject())
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		old, err := findJob(view, in, req.GetName())
		if err != nil || old.GetDesired().GetState() == fleetv1.DesiredDeleted {
			return nil, err
		}
		after := proto.CloneOf(old)
		if after.Desired == nil {
			after.Desired = &fleetv1.JobDesired{}
		}
		after.Desired.State, after.Desired.Caller = fleetv1.DesiredDeleted, caller(ctx).Name
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), after)}}, nil
	})
	return &fleetv1.DeleteJobResponse{}, err
}
