package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Bounds of a defragmentation.
const (
	standardMoves = 20
	maxMoves      = 1000
	// startEvents is in how many of an instance's latest events its last start is looked for.
	startEvents = 200
)

// Defrag plans moves, and with apply has the instances leave for their targets. They are planned anew from what the
// write is made from: what is ordered is what is answered.
func (s *clusterServer) Defrag(ctx context.Context, req *fleetv1.DefragRequest) (*fleetv1.DefragResponse, error) {
	req = proto.CloneOf(req)
	fillInt(&req.MaxMoves, standardMoves)
	var v violations
	v.between("max_moves", int64(req.GetMaxMoves()), 1, maxMoves)
	if err := v.err(); err != nil {
		return nil, err
	}
	if !req.GetApply() {
		return s.defrag(ctx, s.view(), req)
	}
	resp := &fleetv1.DefragResponse{DoneBefore: true} // unless it is planned now
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, _ time.Time) (w *fleetv1.Write, err error) {
		if resp, err = s.defrag(ctx, view, req); err != nil || len(resp.GetSteps()) == 0 {
			return nil, err
		}
		w, err = moved(ctx, view, resp)
		resp.Applied = int32(len(resp.GetSteps()))
		return w, err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// defrag plans the moves.
func (s *clusterServer) defrag(ctx context.Context, view state.ReadView, req *fleetv1.DefragRequest) (*fleetv1.DefragResponse, error) {
	ask := place.DefragRequest{Pool: req.GetPool(), MaxMoves: int(req.GetMaxMoves()), StartMillis: firstStart}
	if req.GetPool() != "" && view.Pool(req.GetPool()) == nil {
		return nil, missing("pool", "pool", req.GetPool(), namesOf(view.Pools()))
	}
	if req.GetFlavor() != "" {
		flavor := view.Flavor(req.GetFlavor())
		if flavor == nil {
			return nil, missing("flavor", "flavor", req.GetFlavor(), namesOf(view.Flavors()))
		}
		one := place.NewRequest("", &fleetv1.ServiceSpec{Pool: req.GetPool()}, &fleetv1.ServiceVersion{}, flavor, nil)
		ask.Flavor = &one
	}
	resp := &fleetv1.DefragResponse{}
	s.planner.ask(func(sc *scene) {
		plan := sc.index.Defrag(ask)
		resp.RoomBefore, resp.RoomAfter, resp.Notes = int32(plan.RoomBefore), int32(plan.RoomAfter), plan.Notes
		for _, step := range plan.Steps {
			shown := &fleetv1.DefragStep{Node: step.Node, DeviceIds: step.DeviceIDs}
			for _, m := range step.Moves {
				i := sc.Instance(m.InstanceID)
				shown.Moves = append(shown.Moves, &fleetv1.DefragMove{InstanceId: m.InstanceID, InstanceName: i.GetMeta().GetName(),
					Service: i.GetSpec().GetServiceName(), Project: i.GetMeta().GetProject(), Source: m.Source, Target: m.Target,
					Devices: int32(m.Devices), ImagePresent: m.ImagePresent, StartMillis: m.StartMillis})
			}
			resp.Steps = append(resp.Steps, shown)
		}
	})
	for _, step := range resp.GetSteps() {
		for _, m := range step.GetMoves() {
			if took := s.lastStart(ctx, m); took > 0 {
				m.StartMillis = took.Milliseconds()
			}
		}
	}
	return resp, nil
}

// moved is the write that has the instances leave for their targets.
func moved(ctx context.Context, view state.ReadView, plan *fleetv1.DefragResponse) (*fleetv1.Write, error) {
	w := &fleetv1.Write{}
	for _, step := range plan.GetSteps() {
		for _, m := range step.GetMoves() {
			old := view.Instance(m.GetInstanceId())
			if old == nil || !stays(old) {
				return nil, refuse(codes.Aborted, "instance %s is going meanwhile: nothing was ordered, try again", m.GetInstanceName())
			}
			after := proto.CloneOf(old)
			after.Desired.Leave = &fleetv1.Leave{Cause: fleetv1.LeaveDefrag, Target: m.GetTarget()}
			w.Mutations = append(w.Mutations, state.Put(old.GetMeta().GetRevision(), after))
			w.Events = append(w.Events, &fleetv1.Event{Type: fleetv1.EventNormal, Reason: "InstanceLeaving",
				Message: fmt.Sprintf("%s has it replaced on %s first: it makes room on %s", caller(ctx).Name, m.GetTarget(), step.GetNode()),
				Objects: state.InstanceRefs(old, view.Node(old.GetSpec().GetNode()))})
		}
	}
	return w, nil
}

// firstStart is how long it took from placing the instance to starting its container, or 0 when that was an attempt
// before.
func firstStart(i *fleetv1.Instance) int64 {
	o := i.GetObserved()
	if o.GetAttempt() > 1 || o.GetStartTime() == nil || i.GetMeta().GetCreateTime() == nil {
		return 0
	}
	return max(0, o.GetStartTime().AsTime().Sub(i.GetMeta().GetCreateTime().AsTime()).Milliseconds())
}

// lastStart is how long the instance took from its last placement or restart until it was healthy, as its events tell;
// 0 when they don't.
func (s *clusterServer) lastStart(ctx context.Context, m *fleetv1.DefragMove) time.Duration {
	events, err := s.cfg.Events.List(ctx, &fleetv1.EventFilter{Project: m.GetProject(), Kind: fleetv1.KindInstance, Name: m.GetInstanceId(), Limit: startEvents})
	if err != nil {
		s.cfg.Logger.Warn("how long an instance took to start isn't known", "instance", m.GetInstanceName(), "error", err)
		return 0
	}
	var begun time.Time
	var took time.Duration
	for _, e := range events {
		if len(e.GetObjects()) == 0 || e.GetObjects()[0].GetId() != m.GetInstanceId() {
			continue
		}
		switch at := e.GetTime().AsTime(); e.GetReason() {
		case "InstancePlaced", "InstanceRestarted":
			begun = at
		case "InstanceHealthy":
			if !begun.IsZero() {
				took, begun = at.Sub(begun), time.Time{}
			}
		}
	}
	return took
}
