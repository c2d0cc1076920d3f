package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// operation is a column of SPEC §3's table.
type operation string

const (
	opStart   operation = "start"
	opStop    operation = "stop"
	opRestart operation = "restart"
	opUpdate  operation = "scale" // the only kind of update that exists yet
	opDelete  operation = "delete"
)

// allowedOps is SPEC §3's table: what may be done in a state.
func allowedOps(serviceState string) []operation {
	switch serviceState {
	case fleetv1.ServiceDeploying:
		return []operation{opStop, opDelete}
	case fleetv1.ServiceRunning, fleetv1.ServiceAlarm:
		return []operation{opStop, opRestart, opUpdate, opDelete}
	case fleetv1.ServiceAbnormal:
		return []operation{opStart, opStop, opUpdate, opDelete}
	case fleetv1.ServiceStopping:
		return []operation{opDelete}
	case fleetv1.ServiceStopped:
		return []operation{opStart, opUpdate, opDelete}
	}
	return nil
}

// permitted refuses what the service's state forbids. verb is how the operation was called.
func permitted(s *fleetv1.Service, op operation, verb string) error {
	now := effectiveState(s)
	return permit("service", s.GetMeta().GetName(), now, op, verb, allowedOps(now))
}

// permit refuses an operation that isn't among those allowed in the state that an object is in now.
func permit(kind, name, now string, op operation, verb string, allowed []operation) error {
	if slices.Contains(allowed, op) {
		return nil
	}
	words := []string{"nothing"}
	if len(allowed) > 0 {
		words = nil
		for _, a := range allowed {
			words = append(words, string(a))
		}
	}
	return refuse(codes.FailedPrecondition, "%s %q is %s and can't be %s now; allowed: %s", kind, name, now, verb, strings.Join(words, ", "))
}

// change carries out an operation on one service: edit changes the copy that it gets, or
// refuses.
func (s *serviceServer) change(ctx context.Context, req request, in, name string,
	edit func(service *fleetv1.Service, now time.Time) error,
) (*fleetv1.Service, error) {
	in = project(ctx, in)
	place := seat{API: s.API}
	defer place.leave()
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		old, err := findService(view, in, name)
		if err != nil {
			return nil, err
		}
		after := proto.CloneOf(old)
		if after.Desired == nil {
			after.Desired = &fleetv1.ServiceDesired{}
		}
		if err := edit(after, now); err != nil {
			return nil, err
		}
		after.Desired.Caller = caller(ctx).Name
		if err := place.take(old, after); err != nil {
			return nil, err
		}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), after)}}, nil
	})
	if err != nil {
		return nil, err
	}
	service, err := findService(s.view(), in, name)
	if err != nil {
		return nil, err
	}
	return shownService(service), nil
}

func (s *serviceServer) StartService(ctx context.Context, req *fleetv1.StartServiceRequest) (*fleetv1.StartServiceResponse, error) {
	service, err := s.change(ctx, req, req.GetProject(), req.GetName(),
		func(service *fleetv1.Service, now time.Time) error {
			if err := permitted(service, opStart, "started"); err != nil {
				return err
			}
			service.Desired.State, service.Desired.StartTime = fleetv1.DesiredRunning, timestamppb.New(now)
			return nil
		})
	return &fleetv1.StartServiceResponse{Service: service}, err
}

func (s *serviceServer) StopService(ctx context.Context, req *fleetv1.StopServiceRequest) (*fleetv1.StopServiceResponse, error) {
	service, err := s.change(ctx, req, req.GetProject(), req.GetName(),
		func(service *fleetv1.Service, _ time.Time) error {
			if err := permitted(service, opStop, "stopped"); err != nil {
				return err
			}
			service.Desired.State = fleetv1.DesiredStopped
			return nil
		})
	return &fleetv1.StopServiceResponse{Service: service}, err
}

func (s *serviceServer) RestartService(ctx context.Context, req *fleetv1.RestartServiceRequest) (*fleetv1.RestartServiceResponse, error) {
	service, err := s.change(ctx, req, req.GetProject(), req.GetName(),
		func(service *fleetv1.Service, _ time.Time) error {
			if err := permitted(service, opRestart, "restarted"); err != nil {
				return err
			}
			service.Desired.Restart++
			return nil
		})
	return &fleetv1.RestartServiceResponse{Service: service}, err
}

// DeleteService asks for the deletion; the service loop removes the service when its instances are gone.
func (s *serviceServer) DeleteService(ctx context.Context, req *fleetv1.DeleteServiceRequest) (*fleetv1.DeleteServiceResponse, error) {
	in := project(ctx, req.GetProject())
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		old, err := findService(view, in, req.GetName())
		if err != nil || effectiveState(old) == fleetv1.ServiceDeleting {
			return nil, err
		}
		after := proto.CloneOf(old)
		if after.Desired == nil {
			after.Desired = &fleetv1.ServiceDesired{}
		}
		after.Desired.State, after.Desired.Caller = fleetv1.DesiredDeleted, caller(ctx).Name
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), after)}}, nil
	})
	return &fleetv1.DeleteServiceResponse{}, err
}

func (s *serviceServer) ScaleService(ctx context.Context, req *fleetv1.ScaleServiceRequest) (*fleetv1.ScaleServiceResponse, error) {
	var v violations
	v.between("instances", int64(req.GetInstances()), 1, maxInstances)
	if err := v.err(); err != nil {
		return nil, err
	}
	in, place := project(ctx, req.GetProject()), seat{API: s.API}
	defer place.leave()
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		old, err := findService(view, in, req.GetName())
		if err != nil {
			return nil, err
		}
		at, err := versionOf(old, req.GetModel(), req.GetModelVersion())
		if err != nil {
			return nil, err
		}
		if err := permitted(old, opUpdate, "scaled"); err != nil {
			return nil, err
		}
		spec := proto.CloneOf(old.GetSpec())
		spec.Versions[at].Instances = req.GetInstances()
		if proto.Equal(spec, old.GetSpec()) {
			return nil, nil
		}
		return scale(ctx, &place, old, spec)
	})
	if err != nil {
		return nil, err
	}
	service, err := findService(s.view(), in, req.GetName())
	if err != nil {
		return nil, err
	}
	return &fleetv1.ScaleServiceResponse{Service: shownService(service)}, nil
}

// versionOf finds the version that is meant: the only one when nothing is named.
func versionOf(s *fleetv1.Service, model, version string) (int, error) {
	found := -1
	for i, v := range s.GetSpec().GetVersions() {
		if (model == "" || model == v.GetModel()) && (version == "" || version == v.GetModelVersion()) {
			if found >= 0 {
				return 0, invalid("model_version", "which version of service %q is meant? It has: %s",
					s.GetMeta().GetName(), strings.Join(versionNames(s), ", "))
			}
			found = i
		}
	}
	if found < 0 {
		return 0, missing("model", fmt.Sprintf("version of service %q called", s.GetMeta().GetName()),
			strings.TrimSpace(model+" "+version), versionNames(s))
	}
	return found, nil
}

func versionNames(s *fleetv1.Service) []string {
	var all []string
	for _, v := range s.GetSpec().GetVersions() {
		all = append(all, v.GetModel()+" "+v.GetModelVersion())
	}
	return all
}

// scale is the write that gives a service a spec which differs in numbers of instances alone.
func scale(ctx context.Context, place *seat, old *fleetv1.Service, spec *fleetv1.ServiceSpec) (*fleetv1.Write, error) {
	if err := permitted(old, opUpdate, "scaled"); err != nil {
		return nil, err
	}
	after := proto.CloneOf(old)
	after.Spec = spec
	after.Meta.Generation++
	if err := place.take(old, after); err != nil {
		return nil, err
	}
	var parts []string
	for i, v := range spec.GetVersions() {
		if was := old.GetSpec().GetVersions()[i].GetInstances(); was != v.GetInstances() {
			parts = append(parts, fmt.Sprintf("%s %s from %d to %d instances", v.GetModel(), v.GetModelVersion(), was, v.GetInstances()))
		}
	}
	return &fleetv1.Write{
		Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), after)},
		Events: []*fleetv1.Event{serviceEvent(old, "Scaled",
			fmt.Sprintf("%s scaled %s", caller(ctx).Name, strings.Join(parts, ", ")))},
	}, nil
}
