package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// maxEvents is the most that one call lists, and how many it lists when no limit is given.
const maxEvents = 1000

type eventServer struct {
	*API
	fleetv1.UnimplementedEventServiceServer
}

func (s *eventServer) ListEvents(ctx context.Context, req *fleetv1.ListEventsRequest) (*fleetv1.ListEventsResponse, error) {
	filter, err := eventFilter(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	found, err := s.cfg.Events.List(ctx, filter)
	return &fleetv1.ListEventsResponse{Events: found}, err
}

func (s *eventServer) WatchEvents(req *fleetv1.WatchEventsRequest, stream grpc.ServerStreamingServer[fleetv1.WatchEventsResponse]) error {
	filter, err := eventFilter(stream.Context(), req.GetFilter())
	if err != nil {
		return err
	}
	return s.cfg.Events.Watch(stream.Context(), filter, func(more []*fleetv1.Event) error {
		return stream.Send(&fleetv1.WatchEventsResponse{Events: more})
	})
}

// eventFilter checks and completes a filter. Who may not look everywhere sees the events of a project that he may look
// into.
func eventFilter(ctx context.Context, f *fleetv1.EventFilter) (*fleetv1.EventFilter, error) {
	if f = proto.CloneOf(f); f == nil {
		f = &fleetv1.EventFilter{}
	}
	var v violations
	if f.GetKind() != "" {
		v.oneOf("filter.kind", f.GetKind(), fleetv1.KindNode, fleetv1.KindDevice, fleetv1.KindFlavor, fleetv1.KindPool,
			fleetv1.KindModel, fleetv1.KindService, fleetv1.KindJob, fleetv1.KindInstance, fleetv1.KindScheduler)
	} else if f.GetName() != "" {
		v.add("filter.kind", "is missing: a name alone does not say what is meant")
	}
	v.between("filter.limit", int64(f.GetLimit()), 0, maxEvents)
	fillInt(&f.Limit, maxEvents)
	everywhere := caller(ctx).Everywhere()
	switch f.GetKind() {
	case "": // everything, whatever its project, unless one is named
		if !everywhere {
			f.Project = project(ctx, f.GetProject())
		}
	case fleetv1.KindModel, fleetv1.KindService, fleetv1.KindJob, fleetv1.KindInstance:
		f.Project = project(ctx, f.GetProject())
	default:
		if !everywhere && v.err() == nil {
			return f, refuse(codes.PermissionDenied, "filter.kind: events of a %s belong to no project: they need the role %q", f.GetKind(), fleetv1.RoleOperator)
		}
		f.Project = "" // the others belong to no project
	}
	return f, v.err()
}
