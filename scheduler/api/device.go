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
		cut := make(map[string]bool) // into slices, which are held instead
		for _, d := range n.GetFacts().GetDevices() {
			cut[d.GetParentId()] = true
		}
		for _, d := range n.GetFacts().GetDevices() {
			info := s.info(view, n, d)
			if !req.GetFree() || info.GetState() == fleetv1.DeviceFree && !cut[d.GetId()] {
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
	for _, n := range view.Nodes() {
		if d := state.DeviceOf(n, req.GetId()); d != nil {
			return &fleetv1.GetDeviceResponse{Device: s.info(view, n, d)}, nil
		}
	}
	return nil, missing("", "device", req.GetId(), deviceIDs(view))
}

func (s *deviceServer) SetDeviceCordon(ctx context.Context, req *fleetv1.SetDeviceCordonRequest) (*fleetv1.SetDeviceCordonResponse, error) {
	var v violations
	if req.GetId() == "" {
		v.add("id", "is missing")
	}
	if !req.GetCordoned() && req.GetReason() != "" {
		v.add("reason", "is only for cordoning")
	}
	v.description("reason", req.GetReason())
	if err := v.err(); err != nil {
		return nil, err
	}
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		return cordonDevice(view, req, caller(ctx).Name, now)
	})
	if err != nil {
		return nil, err
	}
	return &fleetv1.SetDeviceCordonResponse{Device: s.shownDevice(s.view(), req.GetId())}, nil
}

// cordonDevice is the write that makes the device's cordon what is asked for, or nil when it is. A device that
// several nodes list, such as one that was moved from a node that is away, is cordoned on each.
func cordonDevice(view state.ReadView, req *fleetv1.SetDeviceCordonRequest, by string, now time.Time) (*fleetv1.Write, error) {
	known := false
	w := &fleetv1.Write{}
	for _, n := range view.Nodes() {
		d, i := state.DeviceOf(n, req.GetId()), cordonIndex(n, req.GetId())
		if d == nil && i < 0 {
			continue
		}
		known = true
		after := proto.CloneOf(n)
		if after.Spec == nil {
			after.Spec = &fleetv1.NodeSpec{}
		}
		cordons := after.Spec.DeviceCordons
		switch {
		case req.GetCordoned() && i >= 0 && cordons[i].GetReason() == req.GetReason():
			continue
		case req.GetCordoned():
			var drain *fleetv1.Drain // goes on
			if i >= 0 {
				drain = cordons[i].GetDrain()
				cordons = slices.Delete(cordons, i, i+1)
			}
			cordons = addCordon(cordons, &fleetv1.DeviceCordon{DeviceId: req.GetId(), Reason: req.GetReason(), Caller: by, Time: timestamppb.New(now), Drain: drain})
		case i >= 0:
			cordons = slices.Delete(cordons, i, i+1)
		default:
			if whole := state.CordonOf(n, d); whole != nil {
				return nil, refuse(codes.FailedPrecondition, "device %q has no cordon of its own: device %q, which it is cut from, is cordoned: uncordon that",
					req.GetId(), whole.GetDeviceId())
			}
			continue
		}
		after.Spec.DeviceCordons = cordons
		w.Mutations = append(w.Mutations, state.Put(n.GetMeta().GetRevision(), after))
		w.Events = append(w.Events, cordonEvent(n, req, by))
	}
	switch {
	case !known:
		return nil, missing("", "device", req.GetId(), deviceIDs(view))
	case len(w.Mutations) == 0:
		return nil, nil
	}
	return w, nil
}

func cordonEvent(n *fleetv1.Node, req *fleetv1.SetDeviceCordonRequest, by string) *fleetv1.Event {
	reason, message := "DeviceUncordoned", fmt.Sprintf("%s opened device %s for placement again", by, req.GetId())
	if req.GetCordoned() {
		reason, message = "DeviceCordoned", fmt.Sprintf("%s closed device %s for placement", by, req.GetId())
		if req.GetReason() != "" {
			message += ": " + req.GetReason()
		}
	}
	return nodeEvent(n, reason, message)
}

// addCordon keeps the cordons of a node in the order of their devices.
func addCordon(cordons []*fleetv1.DeviceCordon, c *fleetv1.DeviceCordon) []*fleetv1.DeviceCordon {
	cordons = append(cordons, c)
	slices.SortFunc(cordons, func(a, b *fleetv1.DeviceCordon) int { return strings.Compare(a.GetDeviceId(), b.GetDeviceId()) })
	return cordons
}

// cordonIndex is where the node's spec has the device's own cordon, or -1.
func cordonIndex(n *fleetv1.Node, id string) int {
	return slices.IndexFunc(n.GetSpec().GetDeviceCordons(), func(c *fleetv1.DeviceCordon) bool { return c.GetDeviceId() == id })
}

// deviceIDs are those of all devices that are listed or cordoned.
func deviceIDs(view state.ReadView) []string {
	var ids []string
	for _, n := range view.Nodes() {
		for _, d := range n.GetFacts().GetDevices() {
			ids = append(ids, d.GetId())
		}
		for _, c := range n.GetSpec().GetDeviceCordons() {
			ids = append(ids, c.GetDeviceId())
		}
	}
	return ids
}

// shownDevice is what is known of a device, which may be no more than its ID and its cordon.
func (s *deviceServer) shownDevice(view state.ReadView, id string) *fleetv1.DeviceInfo {
	bare := &fleetv1.DeviceInfo{Device: &fleetv1.Device{Id: id}}
	for _, n := range view.Nodes() {
		if d := state.DeviceOf(n, id); d != nil {
			return s.info(view, n, d)
		}
		if i := cordonIndex(n, id); i >= 0 {
			bare.Node, bare.Cordoned = n.GetMeta().GetName(), true
			bare.CordonReason = n.GetSpec().GetDeviceCordons()[i].GetReason()
		}
	}
	return bare
}

func (s *deviceServer) info(view state.ReadView, n *fleetv1.Node, d *fleetv1.Device) *fleetv1.DeviceInfo {
	name := n.GetMeta().GetName()
	info := &fleetv1.DeviceInfo{Device: d, Node: name, State: fleetv1.DeviceFree, Sample: s.cfg.Sessions.DeviceSample(name, d.GetId())}
	if d.GetQuarantined() {
		info.State = fleetv1.DeviceQuarantined
	}
	if holder := view.DeviceHolder(name, d.GetId()); holder != nil {
		info.State = fleetv1.DeviceAllocated
		if holder.GetObserved().GetState() == fleetv1.InstanceReclaiming {
			info.State = fleetv1.DeviceReclaiming
		}
		info.InstanceId, info.InstanceName = holder.GetMeta().GetId(), holder.GetMeta().GetName()
		info.Project = holder.GetMeta().GetProject()
	}
	if word, reason := state.Barred(n, d); word == state.BarredCordoned {
		info.Cordoned, info.CordonReason = true, reason
	}
	return info
}
