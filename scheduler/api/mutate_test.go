package api

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

// A write proves by its commit that its scheduler led. What is answered without one is asked of the leader first.
func TestOnlyAnswersWithoutAWriteAreVerified(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	before := w.reads
	w.mustDeploy(iris(nil))
	if w.reads != before {
		t.Errorf("a deployment has asked %d times whether this scheduler leads", w.reads-before)
	}
	w.mustDeploy(iris(nil)) // stands as asked
	if w.reads != before+1 {
		t.Errorf("an answer without a write has asked %d times", w.reads-before)
	}
	index := w.store.View().Index()
	_, err := w.deploy(iris(func(s *fleetv1.Service) { s.Meta.Name, s.Spec.Pool = "other", "nowhere" }), "")
	if status.Code(err) != codes.InvalidArgument && status.Code(err) != codes.NotFound || w.reads != before+2 || w.store.View().Index() != index {
		t.Errorf("a refusal: %v, %d reads", err, w.reads-before)
	}
}

// What a scheduler refuses by an old picture it looks at again with the newest.
func TestRefusalByAnOldViewIsNotAnswered(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	pool := proto.CloneOf(w.store.View().Pool(iris(nil).GetSpec().GetPool()))
	pool.Meta = &fleetv1.Meta{Name: "later", Id: "later", Account: fleetv1.Default}
	w.read = func() error { // what was committed elsewhere arrives
		w.read = nil
		w.write(state.Put(0, pool))
		return nil
	}
	s, err := w.deploy(iris(func(s *fleetv1.Service) { s.Spec.Pool = "later" }), "")
	if err != nil || s.GetService().GetSpec().GetPool() != "later" {
		t.Errorf("%v, %v", s, err)
	}
}

// The event of an exceeded quota is kept once, when that is the answer.
func TestExceededQuotaIsToldOnce(t *testing.T) {
	w := newWorldOf(t, 1)
	w.furnish()
	w.mustDeploy(iris(nil))
	other := iris(func(s *fleetv1.Service) { s.Meta.Name = "other" })
	if _, err := w.deploy(other, ""); status.Code(err) != codes.ResourceExhausted {
		t.Fatal(err)
	}
	told := 0
	for _, e := range w.events {
		if e.GetReason() == "QuotaExceeded" {
			told++
		}
	}
	if told != 1 {
		t.Errorf("the quota was told of %d times", told)
	}
}

// A scheduler that doesn't lead says so before it looks at anything.
func TestFollowerRefusesMutations(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.follows, w.read = true, func() error { return &raftstore.NotLeaderError{Leader: "10.0.0.9:7402"} }
	index := w.store.View().Index()
	for _, s := range []*fleetv1.Service{iris(nil), iris(func(s *fleetv1.Service) { s.Spec.Pool = "nowhere" })} {
		if _, err := w.deploy(s, ""); status.Code(err) != codes.Unavailable {
			t.Errorf("a follower answers %v", err)
		}
	}
	w.follows, w.read = false, func() error { return raftstore.ErrUnknown } // it has lost its leadership unnoticed
	if _, err := w.deploy(iris(func(s *fleetv1.Service) { s.Spec.Pool = "nowhere" }), ""); status.Code(err) == codes.NotFound || status.Code(err) == codes.InvalidArgument {
		t.Errorf("a refusal that can't be verified is answered: %v", err)
	}
	if w.store.View().Index() != index {
		t.Error("something was written")
	}
}
