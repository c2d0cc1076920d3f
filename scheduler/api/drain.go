package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// maxDrainDeadline is 30 days.
const maxDrainDeadline = 30 * 24 * 60 * 60

// States of an instance of which a node or device is to be rid.
const (
	moveReplacing = "replacing"
	moveWaiting   = "waiting"
	moveStopping  = "stopping"
)

// DrainNode says what the drain's loop will do, or would. The loop does it.
func (s *nodeServer) DrainNode(ctx context.Context, req *fleetv1.DrainNodeRequest) (*fleetv1.DrainNodeResponse, error) {
	if err := checkDrain(req); err != nil {
		return nil, err
	}
	view, now := s.view(), s.cfg.Now()
	at, err := findDrained(view, req.GetName(), req.GetDeviceId())
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.DrainNodeResponse{}
	if !req.GetCancel() {
		resp.Moves = s.foresee(at, req.GetDeadlineSeconds() > 0, now)
	}
	if req.GetDryRun() {
		return resp, nil
	}
	err = s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		at, err := findDrained(view, req.GetName(), req.GetDeviceId())
		if err != nil {
			return nil, err
		}
		if req.GetCancel() {
			return at.cancel(caller(ctx).Name)
		}
		return at.start(req, caller(ctx).Name, now), nil
	})
	if err != nil {
		return nil, err
	}
	if req.GetCancel() {
		at, err := findDrained(s.view(), req.GetName(), req.GetDeviceId())
		if err != nil {
			return nil, err
		}
		resp.Moves = at.moves(s.view())
	}
	return resp, nil
}

func checkDrain(req *fleetv1.DrainNodeRequest) error {
	var v violations
	if req.GetName() == "" && req.GetDeviceId() == "" {
		v.add("name", "is missing")
	}
	v.description("reason", req.GetReason())
	v.between("deadline_seconds", req.GetDeadlineSeconds(), 0, maxDrainDeadline)
	if req.GetCancel() {
		for _, f := range []struct {
			name string
			set  bool
		}{{"dry_run", req.GetDryRun()}, {"reason", req.GetReason() != ""}, {"deadline_seconds", req.GetDeadlineSeconds() != 0}} {
			if f.set {
				v.add(f.name, "is not for ending a drain")
			}
		}
	}
	return v.err()
}

// GetDrain answers an empty drain when there is none.
func (s *nodeServer) GetDrain(_ context.Context, req *fleetv1.GetDrainRequest) (*fleetv1.GetDrainResponse, error) {
	if req.GetName() == "" && req.GetDeviceId() == "" {
		return nil, invalid("name", "is missing")
	}
	view := s.view()
	at, err := findDrained(view, req.GetName(), req.GetDeviceId())
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.GetDrainResponse{Drain: at.drain()}
	if resp.Drain != nil {
		resp.Moves = at.moves(view)
	}
	return resp, nil
}

// drained is a node, or a device of it, of which instances are or shall be rid.
type drained struct {
	node   *fleetv1.Node
	device string // empty for the whole node
}

func findDrained(view state.ReadView, node, device string) (drained, error) {
	if device == "" {
		n, err := findNode(view, node)
		return drained{node: n}, err
	}
	nodes := view.Nodes()
	if node != "" {
		n, err := findNode(view, node)
		if err != nil {
			return drained{}, err
		}
		nodes = []*fleetv1.Node{n}
	}
	for _, n := range nodes {
		if state.DeviceOf(n, device) != nil || cordonIndex(n, device) >= 0 { // a cordon may outlive the device
			return drained{n, device}, nil
		}
	}
	return drained{}, missing("", "device", device, deviceIDs(view))
}

func (d drained) name() string {
	if d.device != "" {
		return fmt.Sprintf("device %q", d.device)
	}
	return fmt.Sprintf("node %q", d.node.GetMeta().GetName())
}

// cordon is the device's own; nil when it has none.
func (d drained) cordon(n *fleetv1.Node) *fleetv1.DeviceCordon {
	if i := cordonIndex(n, d.device); i >= 0 {
		return n.GetSpec().GetDeviceCordons()[i]
	}
	return nil
}

func (d drained) drain() *fleetv1.Drain {
	if d.device == "" {
		return d.node.GetSpec().GetDrain()
	}
	return d.cordon(d.node).GetDrain()
}

// closed is a copy of the node that is cordoned, or whose device is.
func (d drained) closed(reason, by string, now time.Time) *fleetv1.Node {
	n := proto.CloneOf(d.node)
	if n.Spec == nil {
		n.Spec = &fleetv1.NodeSpec{}
	}
	switch {
	case d.device == "" && !n.Spec.Cordoned:
		n.Spec.Cordoned, n.Spec.CordonReason = true, reason
	case d.device != "" && d.cordon(n) == nil:
		n.Spec.DeviceCordons = addCordon(n.Spec.DeviceCordons, &fleetv1.DeviceCordon{DeviceId: d.device, Reason: reason, Caller: by, Time: timestamppb.New(now)})
	}
	return n
}

// start is the write that starts the drain, or changes its deadline and reason.
func (d drained) start(req *fleetv1.DrainNodeRequest, by string, now time.Time) *fleetv1.Write {
	drain := &fleetv1.Drain{Caller: by, Reason: req.GetReason(), StartTime: timestamppb.New(now)}
	if req.GetDeadlineSeconds() > 0 {
		drain.Deadline = timestamppb.New(now.Add(time.Duration(req.GetDeadlineSeconds()) * time.Second))
	}
	old := d.drain()
	if old != nil {
		drain.StartTime = old.GetStartTime()
	}
	if proto.Equal(old.GetDeadline(), drain.GetDeadline()) && old.GetReason() == drain.GetReason() && old != nil {
		return nil
	}
	after := d.closed(req.GetReason(), by, now)
	if d.device == "" {
		after.Spec.Drain = drain
	} else {
		d.cordon(after).Drain = drain
	}
	message := by + " drains it"
	reason := "NodeDrainStarted"
	if d.device != "" {
		reason, message = "DeviceDrainStarted", fmt.Sprintf("%s drains device %s", by, d.device)
	}
	if drain.Deadline != nil {
		message += ", what is preemptible until " + drain.GetDeadline().AsTime().UTC().Format(time.RFC3339)
	}
	if drain.Reason != "" {
		message += ": " + drain.Reason
	}
	return d.write(after, reason, message)
}

// cancel is the write that ends the drain; the cordon stays.
func (d drained) cancel(by string) (*fleetv1.Write, error) {
	if d.drain() == nil {
		return nil, refuse(codes.FailedPrecondition, "%s is not being drained", d.name())
	}
	after := proto.CloneOf(d.node)
	if d.device == "" {
		after.Spec.Drain = nil
		return d.write(after, "NodeDrainCancelled", by+" ended its drain; it stays cordoned"), nil
	}
	d.cordon(after).Drain = nil
	return d.write(after, "DeviceDrainCancelled", fmt.Sprintf("%s ended the drain of device %s; it stays cordoned", by, d.device)), nil
}

func (d drained) write(after *fleetv1.Node, reason, message string) *fleetv1.Write {
	return &fleetv1.Write{
		Mutations: []*fleetv1.Mutation{state.Put(d.node.GetMeta().GetRevision(), after)},
		Events:    []*fleetv1.Event{nodeEvent(after, reason, message)},
	}
}

// instances are those that are still there.
func (d drained) instances(view state.ReadView) []*fleetv1.Instance {
	all := view.InstancesOnNode(d.node.GetMeta().GetName())
	if d.device == "" {
		return all
	}
	ids := map[string]bool{d.device: true}
	for _, dev := range d.node.GetFacts().GetDevices() {
		if dev.GetParentId() == d.device {
			ids[dev.GetId()] = true
		}
	}
	return slices.DeleteFunc(all, func(i *fleetv1.Instance) bool {
		return !slices.ContainsFunc(i.GetSpec().GetDeviceIds(), func(id string) bool { return ids[id] })
	})
}

func newMove(i *fleetv1.Instance) *fleetv1.DrainMove {
	return &fleetv1.DrainMove{InstanceId: i.GetMeta().GetId(), InstanceName: i.GetMeta().GetName(), Service: i.GetSpec().GetServiceName(),
		Project: i.GetMeta().GetProject(), Preemptible: i.GetSpec().GetPreemptible()}
}

// stays says that an instance runs on unless it has to leave.
func stays(i *fleetv1.Instance) bool { return i.GetDesired().GetState() == fleetv1.DesiredRunning }
