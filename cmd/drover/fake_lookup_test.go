package main

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// fakeLookup has a watch end with the service: one instance goes, then it is stopped.
type fakeLookup struct {
	fleetv1.UnimplementedLookupServiceServer
	f *fake
}

func (l fakeLookup) Watch(r *fleetv1.LookupServiceWatchRequest, stream grpc.ServerStreamingServer[fleetv1.LookupServiceWatchResponse]) error {
	all, err := l.f.ListEndpoints(stream.Context(), &fleetv1.ListEndpointsRequest{Name: r.GetService()})
	if err != nil {
		return err
	}
	fewer := &fleetv1.ListEndpointsResponse{Index: 10, MaxAgeSeconds: 3, Endpoints: all.GetEndpoints()[1:]}
	for _, m := range []*fleetv1.LookupServiceWatchResponse{{Answer: all}, {Staleness: &fleetv1.Staleness{Stale: true}}, {Answer: fewer}} {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return status.Errorf(codes.FailedPrecondition, "service %q is stopped", r.GetService())
}
