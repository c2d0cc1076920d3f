package api

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

type serviceServer struct {
	*API
	fleetv1.UnimplementedServiceServiceServer
}

func (s *serviceServer) DeployService(ctx context.Context, req *fleetv1.DeployServiceRequest) (*fleetv1.DeployServiceResponse, error) {
	asked := proto.CloneOf(req.GetService())
	if asked.GetSpec() == nil {
		return nil, invalid("service.spec", "is missing")
	}
	completeServiceSpec(asked.Spec)
	var v violations
	v.service("service", asked)
	if err := v.err(); err != nil {
		return nil, err
	}
	in, name := project(ctx, asked.GetMeta().GetProject()), asked.GetMeta().GetName()
	changed, place := true, seat{API: s.API}
	defer place.leave()
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		if old := view.Service(in, name); old != nil && old.GetMeta().GetName() == name {
			write, err := redeploy(ctx, &place, old, asked)
			changed = write != nil
			return write, err
		}
		after := &fleetv1.Service{
			Meta: newMeta(ctx, asked.GetMeta(), now), Spec: proto.CloneOf(asked.GetSpec()),
			Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning, StartTime: timestamppb.New(now), Caller: caller(ctx).Name},
		}
		needs, err := inProject(view, after.GetMeta())
		if err != nil {
			return nil, err
		}
		if err := s.admit(view, after); err != nil {
			return nil, err
		}
		if err := place.take(nil, after); err != nil {
			return nil, err
		}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, after)}, Needs: needs}, nil
	})
	if err != nil {
		return nil, err
	}
	service, err := findService(s.view(), in, name)
	if err != nil {
		return nil, err
	}
	return &fleetv1.DeployServiceResponse{Service: shownService(service), Changed: changed}, nil
}

// redeploy is DeployService for a service that exists.
func redeploy(ctx context.Context, place *seat, old, asked *fleetv1.Service) (*fleetv1.Write, error) {
	name := old.GetMeta().GetName()
	if effectiveState(old) == fleetv1.ServiceDeleting {
		return nil, refuse(codes.FailedPrecondition, "service %q is being deleted: wait until it is gone, or choose another name", name)
	}
	spec, stands := proto.CloneOf(asked.GetSpec()), proto.CloneOf(old.GetSpec())
	completeServiceSpec(stands) // it may be older than some field
	keepVersions(spec, stands)
	same := proto.CloneOf(spec)
	if len(same.GetVersions()) == len(stands.GetVersions()) {
		for i, v := range same.GetVersions() {
			v.Instances = stands.GetVersions()[i].GetInstances()
		}
	}
	diff := differences("spec", stands, same)
	diff = append(diff, differences("meta", &fleetv1.Meta{Tags: old.GetMeta().GetTags()}, &fleetv1.Meta{Tags: asked.GetMeta().GetTags()})...)
	if len(diff) > 0 {
		return nil, refuse(codes.FailedPrecondition,
			"service %q exists and differs in %s: updating a running service isn't available yet; only the number of instances can be changed",
			name, summary(diff))
	}
	if proto.Equal(spec, stands) {
		return nil, nil
	}
	return scale(ctx, place, old, spec)
}

// keepVersions fills versions that were left out in with those that are deployed: "latest" means the
// latest at the first deployment.
func keepVersions(spec, old *fleetv1.ServiceSpec) {
	for i, v := range spec.GetVersions() {
		if i < len(old.GetVersions()) && v.GetModelVersion() == "" && v.GetModel() == old.GetVersions()[i].GetModel() {
			v.ModelVersion = old.GetVersions()[i].GetModelVersion()
		}
	}
}

func (s *serviceServer) ListServices(ctx context.Context, req *fleetv1.ListServicesRequest) (*fleetv1.ListServicesResponse, error) {
	resp := &fleetv1.ListServicesResponse{}
	for _, service := range realTime(s.view().Services(project(ctx, req.GetProject()))) {
		if hasTags(service.GetMeta().GetTags(), req.GetTags()) {
			resp.Services = append(resp.Services, shownService(service))
		}
	}
	return resp, nil
}

func hasTags(tags, wanted map[string]string) bool {
	for k, want := range wanted {
		if got, ok := tags[k]; !ok || got != want {
			return false
		}
	}
	return true
}

func (s *serviceServer) GetService(ctx context.Context, req *fleetv1.GetServiceRequest) (*fleetv1.GetServiceResponse, error) {
	view := s.view()
	service, err := findService(view, project(ctx, req.GetProject()), req.GetName())
	if err != nil {
		return nil, err
	}
	return &fleetv1.GetServiceResponse{
		Service: s.explained(shownService(service)), Instances: view.InstancesOfService(service.GetMeta().GetId())}, nil
}

func (s *serviceServer) ListEndpoints(ctx context.Context, req *fleetv1.ListEndpointsRequest) (*fleetv1.ListEndpointsResponse, error) {
	in := project(ctx, req.GetProject())
	service, err := findService(s.view(), in, req.GetName())
	if err != nil {
		return nil, err
	}
	resp, err := s.cfg.Endpoints.Endpoints(in, service.GetMeta().GetId())
	if err != nil {
		return nil, refuse(codes.FailedPrecondition, "%v", err)
	}
	return resp, nil
}

func findService(view state.ReadView, project, name string) (*fleetv1.Service, error) {
	if name == "" {
		return nil, invalid("name", "is missing")
	}
	if s := view.Service(project, name); s != nil && !ofJob(s) {
		return s, nil
	}
	return nil, missing("", "service", name, namesOf(realTime(view.Services(project))))
}

// ofJob says whether a service is that of a job, which alone shows it and changes it.
func ofJob(s *fleetv1.Service) bool { return s.GetSpec().GetJobId() != "" }

// realTime leaves the services of jobs out.
func realTime(all []*fleetv1.Service) []*fleetv1.Service { return slices.DeleteFunc(all, ofJob) }

// shownService shows the state that follows from what was asked last.
func shownService(s *fleetv1.Service) *fleetv1.Service {
	state, older := effectiveState(s), s.GetSpec() != nil && s.Spec.RescheduleAfterSeconds != nil
	if s.GetStatus() != nil && state == s.GetStatus().GetState() && !older {
		return s
	}
	s = proto.CloneOf(s)
	if older {
		sayOnce(s.Spec)
	}
	if s.Status == nil {
		s.Status = &fleetv1.ServiceStatus{}
	}
	if state != s.Status.GetState() {
		s.Status.State, s.Status.Reason = state, ""
	}
	return s
}

// effectiveState is the state that the service loop found, unless what was asked since overrules it.
func effectiveState(s *fleetv1.Service) string {
	found := s.GetStatus().GetState()
	switch s.GetDesired().GetState() {
	case fleetv1.DesiredDeleted:
		return fleetv1.ServiceDeleting
	case fleetv1.DesiredStopped:
		if found != fleetv1.ServiceStopped {
			return fleetv1.ServiceStopping
		}
	case fleetv1.DesiredRunning:
		begun := s.GetStatus().GetDeployTime()
		if found == "" || found == fleetv1.ServiceStopped || found == fleetv1.ServiceStopping ||
			begun == nil || begun.AsTime().Before(s.GetDesired().GetStartTime().AsTime()) {
			return fleetv1.ServiceDeploying // the service loop has not seen the start yet
		}
	}
	return found
}

// serviceEvent tells about a service.
func serviceEvent(s *fleetv1.Service, reason, message string) *fleetv1.Event {
	return &fleetv1.Event{Type: fleetv1.EventNormal, Reason: reason, Message: message, Objects: []*fleetv1.ObjectRef{{
		Kind: fleetv1.KindService, Id: s.GetMeta().GetId(), Name: s.GetMeta().GetName(), Project: s.GetMeta().GetProject()}}}
}
