package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// waitFlags are the flags of every command that takes time.
type waitFlags struct {
	wait    bool
	timeout time.Duration
}

func (w *waitFlags) register(cmd *cobra.Command, what string) {
	w.registerFor(cmd, what, time.Hour)
}

// registerFor is register with another limit for what may take long; 0 is none.
func (w *waitFlags) registerFor(cmd *cobra.Command, what string, limit time.Duration) {
	cmd.Flags().BoolVar(&w.wait, "wait", false, "wait for "+what+", showing the progress")
	cmd.Flags().DurationVar(&w.timeout, "wait-timeout", limit, "how long --wait waits at most; 0 for as long as it takes")
}

// bound ends a context when it was waited long enough.
func (w *waitFlags) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if w.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, w.timeout, errWaitTimeout)
}

// goal is what a wait waits for. It looks at a service as it is now: done, or an error when it can't be
// reached any more.
type goal struct {
	name  string
	check func(s *fleetv1.Service) (done bool, err error)
}

// The service's status lags behind what was asked, so that a goal never takes a state for an answer that
// it may have had before: numbers of instances and restarts are compared, and times of deployment.
var (
	running = goal{"run", func(s *fleetv1.Service) (bool, error) {
		st := s.GetStatus()
		if s.GetDesired().GetState() != fleetv1.DesiredRunning {
			return false, fmt.Errorf("it was asked to be %s meanwhile", s.GetDesired().GetState())
		}
		current := !st.GetDeployTime().AsTime().Before(s.GetDesired().GetStartTime().AsTime())
		switch st.GetState() {
		case fleetv1.ServiceAbnormal:
			if current {
				return false, fmt.Errorf("%s: %s", st.GetState(), first(st.GetReason(), "no reason given"))
			}
		case fleetv1.ServiceRunning:
			return current && allReady(s) && st.GetRestarted() >= s.GetDesired().GetRestart(), nil
		}
		return false, nil
	}}
	stopped = goal{"stop", func(s *fleetv1.Service) (bool, error) {
		if s.GetDesired().GetState() == fleetv1.DesiredRunning {
			return false, errors.New("it was started again meanwhile")
		}
		return s.GetStatus().GetState() == fleetv1.ServiceStopped, nil
	}}
	gone = goal{"go", func(*fleetv1.Service) (bool, error) { return false, nil }}
)

func allReady(s *fleetv1.Service) bool {
	status := s.GetStatus().GetVersions()
	if len(status) != len(s.GetSpec().GetVersions()) {
		return false
	}
	for i, v := range s.GetSpec().GetVersions() {
		if status[i].GetDesired() != v.GetInstances() || status[i].GetReady() < v.GetInstances() {
			return false
		}
	}
	return true
}

// waitService watches the service until the goal is reached or can't be any more.
func (a *app) waitService(ctx context.Context, cl *client.Client, s *fleetv1.Service, g goal, w waitFlags) error {
	show := a.newProgress("service/" + s.GetMeta().GetName())
	defer show.end()
	last := ""
	done, err := a.await(ctx, show.name, "drover service show "+s.GetMeta().GetName(), w, &last, func(ctx context.Context) (bool, error) {
		return watchUntil(ctx, cl, s, g, func(r *fleetv1.WatchServiceResponse) {
			last = stateText(r.GetService().GetStatus())
			show.update(r)
		})
	})
	if done {
		show.finish(g.name == gone.name)
	}
	return err
}

// stateText is a state with its reason.
func stateText(st interface {
	GetState() string
	GetReason() string
}) string {
	if st.GetReason() == "" || st.GetState() == "" {
		return st.GetState()
	}
	return st.GetState() + ": " + st.GetReason()
}

// await calls watch until it is done or fails for good: a scheduler that is away is waited for. show is the command that
// tells later what became of it, last what watch has seen last.
func (a *app) await(ctx context.Context, name, show string, w waitFlags, last *string, watch func(context.Context) (bool, error)) (bool, error) {
	ctx, cancel := w.bound(ctx)
	defer cancel()
	for {
		done, err := watch(ctx)
		switch {
		case done:
			return true, nil
		case errors.Is(context.Cause(ctx), errWaitTimeout) || status.Code(err) == codes.DeadlineExceeded: // gRPC may see it first
			return false, about(name, fmt.Errorf("still %s after %s (--wait-timeout); it goes on without us: see `%s`",
				first(*last, "nothing known"), duration(w.timeout), show))
		case ctx.Err() != nil:
			return false, about(name, fmt.Errorf("no longer waited for; it goes on without us: see `%s`", show))
		case status.Code(err) != codes.Unavailable:
			return false, about(name, err)
		}
		if err := pause(ctx, time.Second); err != nil {
			continue
		}
	}
}

var errWaitTimeout = errors.New("waited long enough")

// pause waits between two attempts to reach a scheduler that is away.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchUntil reads one watch stream until the goal is reached or the stream ends.
func watchUntil(ctx context.Context, cl *client.Client, s *fleetv1.Service, g goal, seen func(*fleetv1.WatchServiceResponse)) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := cl.Services.WatchService(ctx, &fleetv1.WatchServiceRequest{Project: s.GetMeta().GetProject(), Name: s.GetMeta().GetName()})
	return readWatch(stream, err, g.name == gone.name, func(r *fleetv1.WatchServiceResponse) (bool, error) {
		seen(r)
		if id := s.GetMeta().GetId(); g.name == gone.name && id != "" && r.GetService().GetMeta().GetId() != id {
			return true, nil
		}
		return g.check(r.GetService())
	})
}

// readWatch hands what a watch sends to look, until that is done or sees that it never will be, or the stream ends. An object
// that is gone is what toGo waits for.
func readWatch[R any](stream grpc.ServerStreamingClient[R], err error, toGo bool, look func(*R) (bool, error)) (bool, error) {
	for err == nil {
		var r *R
		if r, err = stream.Recv(); err != nil {
			break
		}
		if done, impossible := look(r); done || impossible != nil {
			return done, impossible
		}
	}
	if status.Code(err) == codes.NotFound {
		if toGo {
			return true, nil
		}
		return false, errors.New("was deleted meanwhile")
	}
	if errors.Is(err, io.EOF) {
		return false, status.Error(codes.Unavailable, "the scheduler ended the watch")
	}
	return false, err
}
