package api

import (
	"context"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// States of a device.
const (
	deviceFree      = "free"
	deviceAllocated = "allocated"
)

type deviceServer struct {
	*API
	fleetv1.UnimplementedDeviceServiceServer
}

func (s *deviceServer) ListDevices(_ context.Context, req *fleetv1.ListDevicesRequest) (*fleetv1.ListDevicesResponse, error) {
	view := s.view()
	nodes := view.Nodes()
	if req.GetNode() != "" {
		n, err := findNode(view, req.GetNode())
		if err != nil {
			return nil, err
		}
		nodes = []*fleetv1.Node{n}
	}
	resp := &fleetv1.ListDevicesResponse{}
	for _, n := range nodes {
		for _, d := range n.GetFacts().GetDevices() {
			info := s.info(view, n, d)
			if !req.GetFree() || info.GetState() == deviceFree {
				resp.Devices = append(resp.Devices, info)
			}
		}
	}
	return resp, nil
}

func (s *deviceServer) GetDevice(_ context.Context, req *fleetv1.GetDeviceRequest) (*fleetv1.GetDeviceResponse, error) {
	if req.GetId() == "" {
		return nil, invalid("id", "is missing")
	}
	view := s.view()
	var ids []string
	for _, n := range view.Nodes() {
		for _, d := range n.GetFacts().GetDevices() {
			if d.GetId() == req.GetId() {
				return &fleetv1.GetDeviceResponse{Device: s.info(view, n, d)}, nil
			}
			ids = append(ids, d.GetId())
		}
	}
	return nil, missing("", "device", req.GetId(), ids)
}

func (s *deviceServer) info(view state.ReadView, n *fleetv1.Node, d *fleetv1.Device) *fleetv1.DeviceInfo {
	info := &fleetv1.DeviceInfo{Device: d, Node: n.GetMeta().GetName(), State: deviceFree, Sample: s.cfg.Sessions.DeviceSample(n.GetMeta().GetName(), d.GetId())}
	if holder := view.DeviceHolder(n.GetMeta().GetName(), d.GetId()); holder != nil {
		info.State = deviceAllocated
		info.InstanceId, info.InstanceName = holder.GetMeta().GetId(), holder.GetMeta().GetName()
		info.Project = holder.GetMeta().GetProject()
	}
	return info
}
