package main

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (f *fake) DeployService(_ context.Context, r *fleetv1.DeployServiceRequest) (*fleetv1.DeployServiceResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := r.GetService().GetMeta().GetName()
	if err := f.begin(name, r.GetRequestId()); err != nil {
		return nil, err
	}
	if old := f.services[name]; old != nil {
		return &fleetv1.DeployServiceResponse{Service: old}, nil
	}
	s := proto.Clone(r.GetService()).(*fleetv1.Service)
	s.Meta = made(s.GetMeta())
	s.Desired = &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning, StartTime: timestamppb.New(started)}
	s.Status = &fleetv1.ServiceStatus{State: fleetv1.ServiceDeploying}
	if name == "waits" {
		s.Status.Versions = []*fleetv1.ServiceVersionStatus{{Model: "iris", Desired: 3, Placed: 1, WaitingReason: "no room", WaitingSince: timestamppb.New(started),
			Explanation: noRoom(), Reservation: &fleetv1.Reservation{Nodes: []string{"dev-2"}, Detail: "5 of 8 devices are free", Since: timestamppb.New(started)}}}
	}
	f.services[name] = s
	return &fleetv1.DeployServiceResponse{Service: s, Changed: true}, nil
}

func (f *fake) service(name string) (*fleetv1.Service, error) {
	if s := f.services[name]; s != nil {
		return proto.Clone(s).(*fleetv1.Service), nil
	}
	return nil, notFound("service", name)
}

func (f *fake) GetService(_ context.Context, r *fleetv1.GetServiceRequest) (*fleetv1.GetServiceResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.service(r.GetName())
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.GetServiceResponse{Service: s, Instances: f.instances(s)}
	if r.GetName() == "waits" { // a gang of two runs, and more wait
		resp.Instances = resp.GetInstances()[:2]
		for rank, i := range resp.GetInstances() {
			i.Spec.Gang = &fleetv1.Gang{Id: "g1", Rank: int32(rank), Size: 2}
			i.Spec.Node = []string{"dev-1", "dev-2"}[rank]
			i.Observed.Ready = rank == 0
		}
	}
	return resp, nil
}

func (f *fake) ListServices(_ context.Context, r *fleetv1.ListServicesRequest) (*fleetv1.ListServicesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &fleetv1.ListServicesResponse{}
	for _, s := range f.services {
		if t := r.GetTags()["team"]; t == "" || t == s.GetMeta().GetTags()["team"] {
			resp.Services = append(resp.Services, s)
		}
	}
	return resp, nil
}

// instances are one for each that the spec asks for, ready when the service runs.
func (f *fake) instances(s *fleetv1.Service) []*fleetv1.Instance {
	var all []*fleetv1.Instance
	for i := range s.GetSpec().GetVersions()[0].GetInstances() {
		id := fmt.Sprintf("1111111%d-0000-4000-8000-000000000000", i)
		v := &fleetv1.Instance{
			Meta: made(&fleetv1.Meta{Name: s.GetMeta().GetName() + "-" + id[:8]}),
			Spec: &fleetv1.InstanceSpec{
				ServiceName: s.GetMeta().GetName(), Model: s.GetSpec().GetVersions()[0].GetModel(), ModelVersion: "1.0.0", Node: "dev-1", Flavor: "small",
				Image: "127.0.0.1:5000/iris:1.0", Network: "bridge", CpuMillis: 500, MemoryBytes: 64 << 20, Api: &fleetv1.ModelAPI{Port: 8080},
				Env: map[string]string{"MODE": "fast"}, Mounts: []*fleetv1.Mount{{Source: "/data", Path: "/d", ReadOnly: true}},
			},
			Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
			Observed: &fleetv1.InstanceObserved{
				State: fleetv1.InstanceRunning, Attempt: 2, Ready: true, Health: fleetv1.Healthy, Ip: "10.0.0.1", Port: 30000 + i, Restarts: 1,
				LastExit: &fleetv1.ExitStatus{Code: 137, Reason: "OOMKilled", Attempt: 1, Time: timestamppb.New(started)},
			},
		}
		v.Meta.Id = id
		all = append(all, v)
	}
	return all
}

// WatchService plays what a service goes through: its name's first word chooses the end.
func (f *fake) WatchService(r *fleetv1.WatchServiceRequest, stream grpc.ServerStreamingServer[fleetv1.WatchServiceResponse]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.service(r.GetName())
	if err != nil {
		return err
	}
	instances := f.instances(s)
	send := func(state, reason, observed string, ready bool, pulled int64) error {
		s.Status.State, s.Status.Reason, s.Status.DeployTime = state, reason, s.GetDesired().GetStartTime()
		s.Status.Restarted = s.GetDesired().GetRestart()
		s.Status.Versions = nil
		for _, v := range s.GetSpec().GetVersions() {
			st := &fleetv1.ServiceVersionStatus{Model: v.GetModel(), Desired: v.GetInstances()}
			if ready {
				st.Ready, st.Placed = v.GetInstances(), v.GetInstances()
			}
			s.Status.Versions = append(s.Status.Versions, st)
		}
		resp := &fleetv1.WatchServiceResponse{Service: s}
		for _, i := range instances {
			i.Observed = &fleetv1.InstanceObserved{State: observed, Attempt: 1, Ready: ready}
			resp.Pulls = append(resp.Pulls, &fleetv1.PullProgress{InstanceId: i.GetMeta().GetId(), DoneBytes: pulled, TotalBytes: 10 << 20})
		}
		resp.Instances = instances
		return stream.Send(resp)
	}
	if s.GetDesired().GetState() == fleetv1.DesiredDeleted {
		if err := send(fleetv1.ServiceDeleting, "", fleetv1.InstanceStopping, false, 0); err != nil {
			return err
		}
		delete(f.services, r.GetName())
		return notFound("service", r.GetName())
	}
	if s.GetDesired().GetState() == fleetv1.DesiredStopped {
		instances = nil
		return send(fleetv1.ServiceStopped, "", "", false, 0)
	}
	for _, pulled := range []int64{0, 3 << 20, 4 << 20, 10 << 20} {
		if err := send(fleetv1.ServiceDeploying, "", fleetv1.InstancePulling, false, pulled); err != nil {
			return err
		}
	}
	switch fault, _, _ := strings.Cut(r.GetName(), "-"); fault {
	case "broken":
		return send(fleetv1.ServiceAbnormal, "image pull failed:\nno such tag", fleetv1.InstanceFailed, false, 0)
	case "stuck":
		if err := send(fleetv1.ServiceDeploying, "waits for 2 devices: 0 of 1 nodes have them free", "", false, 0); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	if err := send(fleetv1.ServiceRunning, "", fleetv1.InstanceRunning, true, 0); err != nil {
		return err
	}
	f.services[r.GetName()].Status = s.GetStatus()
	return nil
}

func (f *fake) change(name, requestID string, set func(*fleetv1.Service)) (*fleetv1.Service, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(name, requestID); err != nil {
		return nil, err
	}
	s, err := f.service(name)
	if err != nil {
		return nil, err
	}
	set(s)
	s.Meta.Generation++
	f.services[name] = s
	return s, nil
}

func (f *fake) ScaleService(_ context.Context, r *fleetv1.ScaleServiceRequest) (*fleetv1.ScaleServiceResponse, error) {
	if r.GetInstances() < 1 {
		return nil, status.Error(codes.InvalidArgument, "instances: 0 is out of range: want 1 to 1000")
	}
	s, err := f.change(r.GetName(), r.GetRequestId(), func(s *fleetv1.Service) { s.Spec.Versions[0].Instances = r.GetInstances() })
	return &fleetv1.ScaleServiceResponse{Service: s}, err
}

func (f *fake) StartService(_ context.Context, r *fleetv1.StartServiceRequest) (*fleetv1.StartServiceResponse, error) {
	s, err := f.change(r.GetName(), r.GetRequestId(), func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredRunning })
	return &fleetv1.StartServiceResponse{Service: s}, err
}

func (f *fake) StopService(_ context.Context, r *fleetv1.StopServiceRequest) (*fleetv1.StopServiceResponse, error) {
	s, err := f.change(r.GetName(), r.GetRequestId(), func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredStopped })
	return &fleetv1.StopServiceResponse{Service: s}, err
}

func (f *fake) RestartService(_ context.Context, r *fleetv1.RestartServiceRequest) (*fleetv1.RestartServiceResponse, error) {
	s, err := f.change(r.GetName(), r.GetRequestId(), func(s *fleetv1.Service) { s.Desired.Restart++ })
	return &fleetv1.RestartServiceResponse{Service: s}, err
}

func (f *fake) DeleteService(_ context.Context, r *fleetv1.DeleteServiceRequest) (*fleetv1.DeleteServiceResponse, error) {
	_, err := f.change(r.GetName(), r.GetRequestId(), func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredDeleted })
	return &fleetv1.DeleteServiceResponse{}, err
}

func (f *fake) ListEndpoints(_ context.Context, r *fleetv1.ListEndpointsRequest) (*fleetv1.ListEndpointsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.service(r.GetName())
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.ListEndpointsResponse{Index: 9, MaxAgeSeconds: 3}
	if s.GetDesired().GetState() == fleetv1.DesiredRunning {
		for _, i := range f.instances(s) {
			resp.Endpoints = append(resp.Endpoints, &fleetv1.Endpoint{Schema: "http", Ip: "10.0.0.1", Port: i.GetObserved().GetPort(),
				InstanceId: i.GetMeta().GetId(), Model: "iris", ModelVersion: "1.0.0", Weight: 100})
		}
	}
	return resp, nil
}

func (f *fake) ListInstances(_ context.Context, r *fleetv1.ListInstancesRequest) (*fleetv1.ListInstancesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &fleetv1.ListInstancesResponse{}
	for _, s := range f.services {
		if r.GetService() == "" || r.GetService() == s.GetMeta().GetName() {
			resp.Instances = append(resp.Instances, f.instances(s)...)
		}
	}
	return resp, nil
}

func (f *fake) find(name string) (*fleetv1.Instance, error) {
	resp, err := f.ListInstances(context.Background(), &fleetv1.ListInstancesRequest{})
	for _, i := range resp.GetInstances() {
		if i.GetMeta().GetName() == name || i.GetMeta().GetId() == name {
			return i, err
		}
	}
	return nil, notFound("instance", name)
}

func (f *fake) GetInstance(_ context.Context, r *fleetv1.GetInstanceRequest) (*fleetv1.GetInstanceResponse, error) {
	i, err := f.find(r.GetName())
	return &fleetv1.GetInstanceResponse{Instance: i}, err
}

// lines echo the query, so that scripts see what was asked for.
func lines(q *fleetv1.LogQuery) []*fleetv1.LogLine {
	asked := fmt.Sprintf("tail=%d follow=%t search=%q attempt=%d since=%t", q.GetTail(), q.GetFollow(), q.GetSearch(), q.GetAttempt(), q.GetSince() != nil)
	return []*fleetv1.LogLine{
		{Time: timestamppb.New(started), Stream: "stdout", Text: []byte(asked)},
		{Time: timestamppb.New(started), Stream: "stderr", Text: []byte("bad \xff byte")},
	}
}

func (f *fake) GetInstanceLogs(r *fleetv1.GetInstanceLogsRequest, stream grpc.ServerStreamingServer[fleetv1.GetInstanceLogsResponse]) error {
	if _, err := f.find(r.GetName()); err != nil && !strings.HasPrefix(r.GetName(), "job.") { // those of jobs are fakeJobs' own
		return err
	}
	return stream.Send(&fleetv1.GetInstanceLogsResponse{Lines: lines(r.GetQuery())})
}

// ExecInstance runs "echo", which repeats its input, and "exit N".
func (f *fake) ExecInstance(stream grpc.BidiStreamingServer[fleetv1.ExecInstanceRequest, fleetv1.ExecInstanceResponse]) error {
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	if _, err := f.find(r.GetName()); err != nil {
		return err
	}
	command := r.GetStart().GetCommand()
	if err := stream.Send(&fleetv1.ExecInstanceResponse{Output: &fleetv1.ExecOutput{Stderr: []byte(strings.Join(command, " ") + "\n")}}); err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		out := &fleetv1.ExecOutput{Stdout: r.GetInput().GetStdin()}
		if r.GetInput().GetCloseStdin() {
			code := uint32(0)
			if command[0] == "exit" {
				code = uint32(command[1][0] - '0')
			}
			out.ExitCode = &code
		}
		if err := stream.Send(&fleetv1.ExecInstanceResponse{Output: out}); err != nil || out.ExitCode != nil {
			return err
		}
	}
}
