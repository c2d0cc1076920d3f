package main

import (
	"context"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (f *fake) SetQuota(_ context.Context, r *fleetv1.SetQuotaRequest) (*fleetv1.SetQuotaResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := r.GetQuota().GetMeta().GetName()
	if err := f.begin(name, r.GetRequestId()); err != nil {
		return nil, err
	}
	q := proto.CloneOf(r.GetQuota())
	q.Meta = made(q.GetMeta())
	f.quotas[name] = q
	return &fleetv1.SetQuotaResponse{Quota: used(q)}, nil
}

// used adds to a quota that 3 cores, 2 GiB, 2 instances and 1 device of each model are held.
func used(q *fleetv1.Quota) *fleetv1.Quota {
	q = proto.CloneOf(q)
	q.Usage = &fleetv1.QuotaUsage{CpuMillis: 3000, MemoryBytes: 2 << 30, Instances: 2}
	for _, d := range q.GetSpec().GetDevices() {
		q.Usage.Devices = append(q.Usage.Devices, &fleetv1.DeviceQuota{Model: d.GetModel(), Count: 1})
	}
	return q
}

func (f *fake) GetQuota(_ context.Context, r *fleetv1.GetQuotaRequest) (*fleetv1.GetQuotaResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	project := first(r.GetProject(), fleetv1.Default)
	if q := f.quotas[project]; q != nil {
		return &fleetv1.GetQuotaResponse{Quota: used(q)}, nil
	}
	return nil, notFound("quota", project)
}

func (f *fake) ListQuotas(context.Context, *fleetv1.ListQuotasRequest) (*fleetv1.ListQuotasResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &fleetv1.ListQuotasResponse{}
	for _, q := range f.quotas {
		resp.Quotas = append(resp.Quotas, used(q))
	}
	return resp, nil
}

func (f *fake) DeleteQuota(_ context.Context, r *fleetv1.DeleteQuotaRequest) (*fleetv1.DeleteQuotaResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.quotas[r.GetProject()] == nil {
		return nil, notFound("quota", r.GetProject())
	}
	delete(f.quotas, r.GetProject())
	return &fleetv1.DeleteQuotaResponse{}, nil
}

// noRoom is why an instance waits.
func noRoom() *fleetv1.Explanation {
	return &fleetv1.Explanation{
		Summary: "0 of 3 nodes of pool \"demo\" fit: 1 is cordoned, 2 lack free devices", Nodes: 3,
		Filters: []*fleetv1.FilterCount{
			{Filter: "cordoned", Nodes: 1, Detail: "is cordoned"},
			{Filter: "devices", Nodes: 2, Detail: "lack free devices (need 8 × H100*, most free 5 on dev-2)"},
		},
		NearMisses: []*fleetv1.NearMiss{{Node: "dev-2", Missing: "5 of 8 devices are free"}},
		Remedies:   []string{"it fits if 3 devices on dev-2 are freed", "it fits with 5 devices instead of 8"},
	}
}

// PlanService has a place for all but "big": of that, one preempts and the rest waits.
func (f *fake) PlanService(_ context.Context, r *fleetv1.PlanServiceRequest) (*fleetv1.PlanServiceResponse, error) {
	s := r.GetService()
	v := s.GetSpec().GetVersions()[0]
	resp := &fleetv1.PlanServiceResponse{}
	switch s.GetMeta().GetName() {
	case "bad":
		return nil, status.Error(codes.NotFound, `service.spec.versions[0].flavor: there is no flavor "smal"; did you mean "small"?`)
	case "there":
		return resp, nil
	case "big":
		resp.Instances = []*fleetv1.PlannedInstance{{Model: v.GetModel(), ModelVersion: "1.0.0", Preempts: []string{"batch-11111110", "batch-11111111"},
			Members: []*fleetv1.PlannedMember{{Node: "dev-1", DeviceIds: []string{"a", "b"}}, {Node: "dev-2", DeviceIds: []string{"c", "d"}}}}}
		resp.Waits = []*fleetv1.PlannedWait{{Model: v.GetModel(), ModelVersion: "1.0.0", Instances: v.GetInstances() - 1, Explanation: noRoom()}}
		return resp, nil
	}
	for range v.GetInstances() {
		resp.Instances = append(resp.Instances, &fleetv1.PlannedInstance{Model: v.GetModel(), ModelVersion: "1.0.0", Members: []*fleetv1.PlannedMember{{Node: "dev-1"}}})
	}
	return resp, nil
}

// DrainNode remembers the drain of the one node, or of a device.
func (f *fake) DrainNode(_ context.Context, r *fleetv1.DrainNodeRequest) (*fleetv1.DrainNodeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.GetName() != "dev-1" && r.GetDeviceId() != "fake-0" {
		return nil, notFound("node", r.GetName())
	}
	resp := &fleetv1.DrainNodeResponse{Moves: []*fleetv1.DrainMove{
		{InstanceName: "iris-11111110", Service: "iris", Project: "default", State: "replacing", Target: "dev-2"},
		{InstanceName: "batch-11111110", Service: "batch", Project: "default", State: "waiting", Preemptible: true, Detail: "no room:\nnone"},
	}}
	if r.GetDryRun() {
		return resp, nil
	}
	if err := f.begin(r.GetName(), r.GetRequestId()); err != nil {
		return nil, err
	}
	if r.GetCancel() {
		if f.drain == nil {
			return nil, status.Errorf(codes.FailedPrecondition, "node %q is not being drained", r.GetName())
		}
		f.drain = nil
		return resp, nil
	}
	f.drain = &fleetv1.Drain{Caller: "admin", Reason: r.GetReason(), StartTime: timestamppb.New(started)}
	if r.GetDeadlineSeconds() > 0 {
		f.drain.Deadline = timestamppb.New(started.AddDate(0, 0, 1))
	}
	f.drainDevice, f.drainLooks = r.GetDeviceId(), 0
	return resp, nil
}

// GetDrain has one instance fewer at each look; a drain because of "stuck" goes on for ever, and one because of "dropped"
// is ended by somebody.
func (f *fake) GetDrain(_ context.Context, r *fleetv1.GetDrainRequest) (*fleetv1.GetDrainResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.drain == nil || f.drainDevice != r.GetDeviceId() {
		return &fleetv1.GetDrainResponse{}, nil
	}
	resp := &fleetv1.GetDrainResponse{Drain: f.drain}
	f.drainLooks++
	reason, _, _ := strings.Cut(f.drain.GetReason(), " ")
	switch {
	case reason == "dropped" || reason == "now":
		f.drained = reason == "now"
		f.drain = nil
		return &fleetv1.GetDrainResponse{}, nil
	case f.drainLooks == 1 || reason == "stuck" || reason == "show":
		resp.Moves = []*fleetv1.DrainMove{{InstanceName: "iris-11111110", State: "replacing", Target: "dev-2"}}
	default:
		f.drain, f.drained = nil, true
		return &fleetv1.GetDrainResponse{}, nil
	}
	return resp, nil
}

func (f *fake) Defrag(_ context.Context, r *fleetv1.DefragRequest) (*fleetv1.DefragResponse, error) {
	if r.GetPool() == "again" {
		return &fleetv1.DefragResponse{DoneBefore: true}, nil
	}
	if r.GetPool() == "tidy" {
		return &fleetv1.DefragResponse{RoomBefore: 4, RoomAfter: 4, Notes: []string{"gangs are not moved"}}, nil
	}
	resp := &fleetv1.DefragResponse{RoomBefore: 1, RoomAfter: 3, Steps: []*fleetv1.DefragStep{
		{Node: "dev-1", DeviceIds: []string{"a", "b"}, Moves: []*fleetv1.DefragMove{
			{InstanceName: "iris-11111110", Project: "default", Source: "dev-1", Target: "dev-2", Devices: 1, ImagePresent: true, StartMillis: 2500},
			{InstanceName: "iris-11111111", Project: "research", Source: "dev-1", Target: "dev-3", Devices: 1, StartMillis: 95000},
		}},
		{Node: "dev-4", Moves: []*fleetv1.DefragMove{{InstanceName: "other-11111110", Project: "default", Source: "dev-4", Target: "dev-2"}}},
	}}
	if r.GetApply() {
		if r.GetRequestId() == "" {
			return nil, status.Error(codes.InvalidArgument, "request_id: is missing")
		}
		resp.Applied = 2
	}
	return resp, nil
}
