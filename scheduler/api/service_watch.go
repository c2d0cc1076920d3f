package api

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// WatchService ends with NotFound when the service is gone.
func (s *serviceServer) WatchService(req *fleetv1.WatchServiceRequest, stream grpc.ServerStreamingServer[fleetv1.WatchServiceResponse]) error {
	in := project(stream.Context(), req.GetProject())
	service, err := findService(s.view(), in, req.GetName())
	if err != nil {
		return err
	}
	id := service.GetMeta().GetId()
	w := &watch{wake: make(chan struct{}, 1), concerns: func(o *fleetv1.Object) bool {
		return o.GetService().GetMeta().GetId() == id || o.GetInstance().GetSpec().GetServiceId() == id
	}}
	feed := s.cfg.Store.Subscribe()
	defer feed.Close()
	defer s.cfg.Sessions.OnPull(w.pulled)()

	ctx, cancel := context.WithCancel(stream.Context())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	reading.Go(func() { w.follow(ctx, feed) })

	var last *fleetv1.WatchServiceResponse
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.wake:
		}
		now := s.watched(id)
		if now == nil {
			return refuse(codes.NotFound, "service %q is gone", req.GetName())
		}
		w.remember(now.GetInstances())
		if last != nil && proto.Equal(now, last) {
			continue
		}
		if err := stream.Send(now); err != nil {
			return err
		}
		last = now
	}
}

// watched is what a watcher is sent, or nil when the service is gone.
func (s *serviceServer) watched(id string) *fleetv1.WatchServiceResponse {
	view := s.view()
	service := view.ServiceByID(id)
	if service == nil {
		return nil
	}
	resp := &fleetv1.WatchServiceResponse{Service: shownService(service), Instances: view.InstancesOfService(id)}
	for _, i := range resp.GetInstances() {
		if p := s.cfg.Sessions.Pull(i.GetMeta().GetId()); p != nil {
			resp.Pulls = append(resp.Pulls, p)
		}
	}
	return resp
}

// watch tells one call that watches when to look again.
type watch struct {
	concerns  func(*fleetv1.Object) bool
	wake      chan struct{} // holds one token when there is something to look at
	instances atomic.Pointer[map[string]bool]
}

func (w *watch) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// follow signals changes that concern the call until ctx ends or the feed is closed.
func (w *watch) follow(ctx context.Context, feed state.Feed) {
	for {
		sets, resync, err := feed.Next(ctx)
		if err != nil {
			return
		}
		if resync || w.concerned(sets) {
			w.signal()
		}
	}
}

func (w *watch) concerned(sets []state.ChangeSet) bool {
	for _, set := range sets {
		for _, c := range set.Changes {
			for _, o := range []*fleetv1.Object{c.Before, c.After} {
				if w.concerns(o) {
					return true
				}
			}
		}
	}
	return false
}

func (w *watch) remember(instances []*fleetv1.Instance) {
	ids := make(map[string]bool, len(instances))
	for _, i := range instances {
		ids[i.GetMeta().GetId()] = true
	}
	w.instances.Store(&ids)
}

// pulled is called for every pull of the cluster and must be quick.
func (w *watch) pulled(instance string) {
	if ids := w.instances.Load(); ids != nil && (*ids)[instance] {
		w.signal()
	}
}
