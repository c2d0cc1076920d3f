package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (f *fake) node(name string) *fleetv1.Node {
	n := f.bareNode(name)
	if f.drain != nil && f.drainDevice == "" && name == "dev-1" {
		n.Spec.Cordoned, n.Spec.Drain = true, f.drain
	}
	if f.drain != nil && f.drainDevice != "" {
		n.Spec.DeviceCordons = append(n.Spec.DeviceCordons, &fleetv1.DeviceCordon{DeviceId: f.drainDevice, Drain: f.drain})
	}
	if f.drained {
		n.Status.Instances = 0
	}
	return n
}

func (f *fake) bareNode(name string) *fleetv1.Node {
	return &fleetv1.Node{
		Meta: made(&fleetv1.Meta{Name: name}),
		Spec: &fleetv1.NodeSpec{Cordoned: f.cordoned == name, DeviceCordons: f.cordons},
		Facts: &fleetv1.NodeFacts{
			Hostname: "host", Arch: "amd64", Os: "Debian 12", Kernel: "6.18", CpuMillis: 2000, MemoryBytes: 8 << 30, DiskBytes: 100 << 30,
			ReservedCpuMillis: 500, ReservedMemoryBytes: 1 << 30, AdvertiseAddress: "10.0.0.1", Runtime: "containerd 1.6.20",
			Labels: map[string]string{"zone": "b", "rack": "a"}, Devices: []*fleetv1.Device{fakeDevice(), f.devices()[1].GetDevice()},
			DeviceShortfall: []string{"nvidia: 0 of 8 declared devices are there"},
		},
		Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady, StateTime: timestamppb.New(started), AllocatedCpuMillis: 1000, AllocatedMemoryBytes: 3 << 29, Instances: 2, AllocatedDevices: 1},
	}
}

func fakeDevice() *fleetv1.Device {
	return &fleetv1.Device{Id: "fake-0", Vendor: "fake", Model: "H100-80GB", MemoryBytes: 80 << 30, Health: fleetv1.Healthy, DriverVersion: "1.0",
		Links: []*fleetv1.DeviceLink{{Peer: "fake-1", Kind: "nvlink", Count: 18}}}
}

func (f *fake) ListNodes(context.Context, *fleetv1.ListNodesRequest) (*fleetv1.ListNodesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &fleetv1.ListNodesResponse{Nodes: []*fleetv1.Node{f.node("dev-1"), f.node("dev-2")}}, nil
}

func (f *fake) GetNode(_ context.Context, r *fleetv1.GetNodeRequest) (*fleetv1.GetNodeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetName() != "dev-1" {
		return nil, notFound("node", r.GetName())
	}
	return &fleetv1.GetNodeResponse{Node: f.node("dev-1")}, nil
}

func (f *fake) SetNodeCordon(_ context.Context, r *fleetv1.SetNodeCordonRequest) (*fleetv1.SetNodeCordonResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cordoned = ""
	if r.GetCordoned() {
		f.cordoned = r.GetName()
	}
	return &fleetv1.SetNodeCordonResponse{Node: f.node(r.GetName())}, nil
}

// devices of dev-1, in order.
func (f *fake) devices() []*fleetv1.DeviceInfo {
	all := []*fleetv1.DeviceInfo{
		{Device: fakeDevice(), Node: "dev-1", State: fleetv1.DeviceAllocated, InstanceName: "iris-11111110", Project: "default", Sample: fakeSample()},
		{Device: &fleetv1.Device{
			Id: "fake-1", Vendor: "fake", Model: "H100-80GB", Index: 1, MemoryBytes: 80 << 30, Health: fleetv1.Lost, HealthReason: "XID 79\nfell off the bus",
			Action: fleetv1.ActionRebootNeeded, Quarantined: true,
		}, Node: "dev-1", State: fleetv1.DeviceQuarantined, Sample: fakeSample()},
	}
	for _, d := range all {
		for _, c := range f.cordons {
			if c.GetDeviceId() == d.GetDevice().GetId() {
				d.Cordoned, d.CordonReason = true, c.GetReason()
			}
		}
	}
	return all
}

func (f *fake) ListDevices(_ context.Context, r *fleetv1.ListDevicesRequest) (*fleetv1.ListDevicesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetFree() {
		return &fleetv1.ListDevicesResponse{}, nil
	}
	return &fleetv1.ListDevicesResponse{Devices: f.devices()}, nil
}

func (f *fake) findDevice(id string) (*fleetv1.DeviceInfo, error) {
	for _, d := range f.devices() {
		if d.GetDevice().GetId() == id {
			return d, nil
		}
	}
	return nil, notFound("device", id)
}

func (f *fake) GetDevice(_ context.Context, r *fleetv1.GetDeviceRequest) (*fleetv1.GetDeviceResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, err := f.findDevice(r.GetId())
	return &fleetv1.GetDeviceResponse{Device: d}, err
}

func (f *fake) SetDeviceCordon(_ context.Context, r *fleetv1.SetDeviceCordonRequest) (*fleetv1.SetDeviceCordonResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(r.GetId(), r.GetRequestId()); err != nil {
		return nil, err
	}
	if _, err := f.findDevice(r.GetId()); err != nil {
		return nil, err
	}
	f.cordons = nil
	if r.GetCordoned() {
		f.cordons = []*fleetv1.DeviceCordon{{DeviceId: r.GetId(), Reason: r.GetReason(), Caller: "admin"}}
	}
	d, err := f.findDevice(r.GetId())
	return &fleetv1.SetDeviceCordonResponse{Device: d}, err
}

func fakeSample() *fleetv1.DeviceSample {
	use, memory, heat, power := 0.42, int64(12<<30), 56.0, 310.0
	return &fleetv1.DeviceSample{DeviceId: "fake-0", Time: timestamppb.New(started), Utilisation: &use, MemoryUsedBytes: &memory, TemperatureCelsius: &heat, PowerWatts: &power,
		Processes: []*fleetv1.DeviceProcess{{Pid: 4711, MemoryBytes: &memory}, {Pid: 4712}}}
}

func fakeEvents(f *fleetv1.EventFilter) []*fleetv1.Event {
	all := []*fleetv1.Event{
		{Id: "8-0", Time: timestamppb.New(started), Type: fleetv1.EventNormal, Reason: "DeploymentStarted", Message: "2 instances of iris@1.0.0",
			Objects: []*fleetv1.ObjectRef{{Kind: "service", Name: "iris"}}},
		{Id: "9-0", Time: timestamppb.New(started), Type: fleetv1.EventWarning, Reason: "InstanceExited", Message: "code 137\nOOMKilled",
			Objects: []*fleetv1.ObjectRef{{Kind: "instance", Name: "iris-11111110"}, {Kind: "service", Name: "iris"}}},
	}
	if f.GetProblems() || f.GetLimit() == 1 {
		return all[1:]
	}
	if f.GetKind() == "node" {
		return nil
	}
	return all
}

func (f *fake) ListEvents(_ context.Context, r *fleetv1.ListEventsRequest) (*fleetv1.ListEventsResponse, error) {
	return &fleetv1.ListEventsResponse{Events: fakeEvents(r.GetFilter())}, nil
}

func (f *fake) WatchEvents(r *fleetv1.WatchEventsRequest, stream grpc.ServerStreamingServer[fleetv1.WatchEventsResponse]) error {
	if err := stream.Send(&fleetv1.WatchEventsResponse{Events: fakeEvents(r.GetFilter())}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (f *fake) ListLocalInstances(ctx context.Context, _ *fleetv1.ListLocalInstancesRequest) (*fleetv1.ListLocalInstancesResponse, error) {
	resp, err := f.ListInstances(ctx, &fleetv1.ListInstancesRequest{})
	return &fleetv1.ListLocalInstancesResponse{Instances: resp.GetInstances()}, err
}

func (f *fake) GetLocalLogs(r *fleetv1.GetLocalLogsRequest, stream grpc.ServerStreamingServer[fleetv1.GetLocalLogsResponse]) error {
	if _, err := f.find(r.GetName()); err != nil {
		return err
	}
	return stream.Send(&fleetv1.GetLocalLogsResponse{Lines: lines(r.GetQuery())})
}

func (f *fake) StopLocalInstance(_ context.Context, r *fleetv1.StopLocalInstanceRequest) (*fleetv1.StopLocalInstanceResponse, error) {
	i, err := f.find(r.GetName())
	return &fleetv1.StopLocalInstanceResponse{Instance: i}, err
}
