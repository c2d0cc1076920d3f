package api

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// scattered has one small instance on each of n2 and n3.
func scattered(w *world) *fleetv1.Service {
	w.t.Helper()
	w.fleet()
	s := w.mustDeploy(wide("small", "gpu.1", 2, nil))
	w.run(s, "11111111", "n2", func(i *fleetv1.Instance) {
		i.Meta.CreateTime, i.Observed.StartTime = timestamppb.New(start), timestamppb.New(start.Add(4*time.Second))
	}, "n2-0")
	w.run(s, "21111111", "n3", func(i *fleetv1.Instance) {
		i.Meta.CreateTime, i.Observed.StartTime = timestamppb.New(start), timestamppb.New(start.Add(4*time.Second))
	}, "n3-0")
	return s
}

func (w *world) defrag(req *fleetv1.DefragRequest) *fleetv1.DefragResponse {
	w.t.Helper()
	resp, err := fleetv1.NewClusterServiceClient(w.conn).Defrag(w.t.Context(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func TestDefragPlansAndApplies(t *testing.T) {
	w := newWorld(t)
	scattered(w)
	before := w.store.View().Index()
	plan := w.defrag(&fleetv1.DefragRequest{Pool: "wide", Flavor: "gpu.2"})
	if len(plan.GetSteps()) != 1 || len(plan.GetSteps()[0].GetMoves()) != 1 || plan.GetRoomBefore() != 0 || plan.GetRoomAfter() != 1 || plan.GetApplied() != 0 {
		t.Fatalf("plan %v", plan)
	}
	step := plan.GetSteps()[0]
	m := step.GetMoves()[0]
	if m.GetSource() != step.GetNode() || m.GetTarget() == m.GetSource() || m.GetService() != "small" || m.GetProject() != fleetv1.Default || m.GetDevices() != 1 ||
		!strings.HasPrefix(m.GetInstanceName(), "small-") || m.GetStartMillis() != 4000 || len(step.GetDeviceIds()) != 2 {
		t.Errorf("step %v", step)
	}
	if now := w.store.View().Index(); now != before {
		t.Errorf("planning took the store from %d to %d", before, now)
	}
	// Events know better how long a start took.
	at := func(reason string, after time.Duration) *fleetv1.Event {
		return &fleetv1.Event{Time: timestamppb.New(start.Add(after)), Reason: reason, Objects: []*fleetv1.ObjectRef{{Kind: fleetv1.KindInstance, Id: m.GetInstanceId()}}}
	}
	w.events = append(w.events, at("InstanceHealthy", 0), at("InstancePlaced", time.Second), at("InstanceStarting", 2*time.Second), at("InstanceHealthy", 91*time.Second),
		at("InstanceUnhealthy", 100*time.Second), at("InstanceHealthy", 200*time.Second))

	done := w.defrag(&fleetv1.DefragRequest{Pool: "wide", Flavor: "gpu.2", Apply: true, RequestId: "r1"})
	if done.GetApplied() != 1 || done.GetSteps()[0].GetMoves()[0].GetStartMillis() != 90000 {
		t.Errorf("applied %v", done)
	}
	want := &fleetv1.Leave{Cause: fleetv1.LeaveDefrag, Target: m.GetTarget()}
	if leave := w.store.View().Instance(m.GetInstanceId()).GetDesired().GetLeave(); !proto.Equal(leave, want) {
		t.Errorf("leave %v, want %v", leave, want)
	}
	e := w.lastEvent()
	if e.GetReason() != "InstanceLeaving" || !strings.Contains(e.GetMessage(), "root has it replaced on "+m.GetTarget()) || len(e.GetObjects()) != 3 || e.GetObjects()[0].GetId() != m.GetInstanceId() {
		t.Errorf("event %v", e)
	}
	// The same request again orders nothing more.
	before = w.store.View().Index()
	again := w.defrag(&fleetv1.DefragRequest{Pool: "wide", Flavor: "gpu.2", Apply: true, RequestId: "r1"})
	if !again.GetDoneBefore() || done.GetDoneBefore() || plan.GetDoneBefore() {
		t.Errorf("answers %v, then %v", done, again)
	}
	if now := w.store.View().Index(); now != before {
		t.Errorf("the same request took the store from %d to %d", before, now)
	}
}

func TestDefragWithNothingToDo(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	before := w.store.View().Index()
	if resp := w.defrag(&fleetv1.DefragRequest{Apply: true}); len(resp.GetSteps()) != 0 || resp.GetApplied() != 0 || resp.GetRoomBefore() != 3 || resp.GetRoomAfter() != 3 {
		t.Errorf("answer %v", resp)
	}
	if now := w.store.View().Index(); now != before {
		t.Errorf("the store went from %d to %d", before, now)
	}
}

// What is ordered is planned from what the write is made from.
func TestDefragMeetsAnotherWrite(t *testing.T) {
	w := newWorld(t)
	s := scattered(w)
	w.before = func() { // an instance that would have moved, or the target, is taken by another
		w.run(s, "31111111", "n2", nil, "n2-1")
		w.run(s, "41111111", "n3", nil, "n3-1")
		for _, id := range []string{"11111111", "21111111"} {
			i := proto.CloneOf(w.store.View().Instance(id))
			i.Desired.Reason = "touched"
			w.write(state.Put(i.GetMeta().GetRevision(), i))
		}
	}
	resp := w.defrag(&fleetv1.DefragRequest{Flavor: "gpu.2", Apply: true})
	for _, i := range w.store.View().Instances() {
		if i.GetDesired().GetLeave() != nil {
			t.Errorf("%s leaves, though there is nowhere to go", i.GetMeta().GetName())
		}
	}
	if resp.GetApplied() != 0 || len(resp.GetSteps()) != 0 {
		t.Errorf("answer %v", resp)
	}
}

func TestDefragRefusals(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	before := w.store.View().Index()
	for _, c := range []struct {
		name, field, words string
		code               codes.Code
		req                *fleetv1.DefragRequest
	}{
		{"pool", "pool", `did you mean "wide"`, codes.NotFound, &fleetv1.DefragRequest{Pool: "wade"}},
		{"flavor", "flavor", `did you mean "gpu.1"`, codes.NotFound, &fleetv1.DefragRequest{Flavor: "gpu.7"}},
		{"few moves", "max_moves", "1–1000", codes.InvalidArgument, &fleetv1.DefragRequest{MaxMoves: -1}},
		{"many moves", "max_moves", "1–1000", codes.InvalidArgument, &fleetv1.DefragRequest{MaxMoves: 1001, Apply: true}},
	} {
		_, err := fleetv1.NewClusterServiceClient(w.conn).Defrag(t.Context(), c.req)
		w.refused(c.name, err, c.code, c.field, c.words, before)
	}
}

func TestHowLongAStartTook(t *testing.T) {
	made, started := timestamppb.New(start), timestamppb.New(start.Add(1500*time.Millisecond))
	for name, c := range map[string]struct {
		o    *fleetv1.InstanceObserved
		want int64
	}{
		"first attempt": {&fleetv1.InstanceObserved{Attempt: 1, StartTime: started}, 1500},
		"later attempt": {&fleetv1.InstanceObserved{Attempt: 2, StartTime: started}, 0},
		"not started":   {&fleetv1.InstanceObserved{}, 0},
		"clock is off":  {&fleetv1.InstanceObserved{Attempt: 1, StartTime: timestamppb.New(start.Add(-time.Hour))}, 0},
	} {
		if got := firstStart(&fleetv1.Instance{Meta: &fleetv1.Meta{CreateTime: made}, Observed: c.o}); got != c.want {
			t.Errorf("%s: %d ms, want %d", name, got, c.want)
		}
	}
}
