package member

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

func TestJoinAndPromotion(t *testing.T) {
	first := newOne(t, "s1").start(true)
	second := newOne(t, "s2", first.addr()).start(false)
	second.await("membership", second.known)
	first.await("s2 ready", func() bool {
		return strings.HasPrefix(memberOf(t, first, "s2").GetNote(), "spare")
	})
	if n := first.voters(); n != 1 {
		t.Fatalf("%d voters with two schedulers, want 1", n)
	}
	// The third is told of the second, which names the leader.
	third := newOne(t, "s3", second.addr()).start(false)
	first.await("three voters", func() bool { return first.voters() == 3 })
	for _, o := range []*one{second, third} {
		o.await("the cluster's state", func() bool { return o.st.View().Cluster() != nil && len(o.st.View().Schedulers()) == 3 })
		o.await("a fresh picture", func() bool { age, known := o.Staleness(); return known && age < time.Second })
	}
	if age, known := first.Staleness(); !known || age != 0 {
		t.Errorf("the leader's picture is %v old (%v)", age, known)
	}
}

func memberOf(t *testing.T, o *one, word string) *fleetv1.Member {
	t.Helper()
	m, err := o.find(word)
	if err != nil {
		return nil
	}
	return m
}

func TestFollowersWithoutALeaderAreStale(t *testing.T) {
	all := three(t, nil)
	all[1].await("a fresh picture", func() bool { age, known := all[1].Staleness(); return known && age < time.Second })
	all[0].stop()
	all[2].stop()
	all[1].await("staleness", func() bool { age, _ := all[1].Staleness(); return age > 1500*time.Millisecond })
}

func TestReturnAtAnotherAddress(t *testing.T) {
	if underRace {
		t.Skip("SKIPPED under the race detector: see underRace")
	}
	all := three(t, nil)
	all[0].propose(&fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "before"}})
	old := all[1].raft.Addr()
	all[1].stop()
	all[0].propose(&fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "meanwhile"}})
	all[1].start(false)
	all[1].await("what was written meanwhile", func() bool { return len(all[1].st.View().Flavors()) == 2 })
	if all[1].raft.Addr() == old {
		t.Skip("the kernel gave the same port again")
	}
	all[0].await("the new address", func() bool {
		s := all[0].st.View().Scheduler(all[1].id)
		return s.GetRaftAddress() == all[1].raft.Addr() && s.GetGrpcAddress() == all[1].addr() && all[0].voters() == 3
	})
}

func TestDeadIsReplacedAndNotJustRemoved(t *testing.T) {
	all := three(t, func(_ int, c *Config) { c.DeadAfter = 700 * time.Millisecond })
	all[2].stop()
	dead := all[2].id
	all[0].await("s3 unreachable", func() bool { return memberOf(t, all[0], dead).GetState() == StateUnreachable })
	all[0].await("s3 dead", func() bool {
		return slices.ContainsFunc(all[0].standings(), func(s standing) bool { return s.dead })
	})
	if err := all[0].reform(t.Context()); err != nil || all[0].voters() != 3 {
		t.Fatalf("%d voters: the dead one of three was removed (%v)", all[0].voters(), err)
	}
	newOne(t, "s4", all[0].addr()).start(false)
	all[0].await("the replacement", func() bool {
		return all[0].voters() == 3 && memberOf(t, all[0], dead) == nil && memberOf(t, all[0], "s4").GetRole() == "voter"
	})
	all[0].await("the dead one's object to go", func() bool { return all[0].st.View().Scheduler(dead) == nil })
	// It comes back, and is a spare.
	all[2].tune = nil
	all[2].start(false)
	all[0].await("the returned one", func() bool { return memberOf(t, all[0], dead).GetRole() == "non-voter" })
}

func TestRemove(t *testing.T) {
	var mu sync.Mutex
	revoked := map[string]bool{}
	all := three(t, func(_ int, c *Config) {
		c.Revoke = func(_ context.Context, id string) error {
			mu.Lock()
			defer mu.Unlock()
			revoked[id] = true
			return nil
		}
		// What identity does once a certificate is revoked.
		c.Peer = func(ctx context.Context) (string, bool) {
			id, ok := callerID(ctx)
			mu.Lock()
			defer mu.Unlock()
			return id, ok && !revoked[id]
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := all[0].Remove(ctx, all[0].id, false, byAdmin()); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the leader removes itself: %v", err)
	}
	if _, err := all[0].Remove(ctx, "nobody", false, byAdmin()); status.Code(err) != codes.NotFound {
		t.Errorf("nobody is removed: %v", err)
	}
	all[2].stop()
	all[0].await("s3 unreachable", func() bool { return memberOf(t, all[0], "s3").GetState() == StateUnreachable })
	if _, err := all[0].Remove(ctx, "s2", false, byAdmin()); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "1 of 2 voters") {
		t.Errorf("removing a living one of two: %v", err)
	}
	if _, err := all[0].Remove(ctx, "s3", false, byAdmin()); err != nil {
		t.Fatal(err)
	}
	if all[0].voters() != 2 || !revoked[all[2].id] || all[0].st.View().Scheduler(all[2].id) != nil {
		t.Errorf("%d voters, revoked %v", all[0].voters(), revoked)
	}
	all[2].start(false)
	all[2].await("refusal", func() bool {
		all[2].mu.Lock()
		defer all[2].mu.Unlock()
		return strings.Contains(all[2].refusal, "only a scheduler's certificate")
	})
	if memberOf(t, all[0], all[2].id) != nil {
		t.Error("the removed scheduler is a member again")
	}
}

// A leader that was lost between removing a scheduler and deleting its object leaves the object to the next.
func TestObjectsOfNoMemberAreSwept(t *testing.T) {
	first := newOne(t, "s1").start(true)
	first.propose(&fleetv1.Scheduler{Meta: &fleetv1.Meta{Id: "gone", Name: "s9"}})
	first.await("the object to go", func() bool {
		return first.st.View().Scheduler("gone") == nil && first.st.View().Scheduler(first.id) != nil
	})
}

func TestTransfer(t *testing.T) {
	all := three(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	all[0].await("all alive", func() bool {
		return memberOf(t, all[0], "s2").GetState() == StateAlive && memberOf(t, all[0], "s3").GetState() == StateAlive
	})
	one, err := all[0].Transfer(ctx, "s3")
	if err != nil || one.GetName() != "s3" {
		t.Fatalf("%v, %v", one, err)
	}
	all[2].await("leadership", all[2].raft.IsLeader)
	// Back and forth: each time to whoever is most up to date.
	for range 3 {
		from := leader(t, all)
		from.await("all alive", func() bool { return from.successor(func(sighting) bool { return true }) != "" })
		to, err := from.Transfer(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		poll(t, "the transfer", func() bool { return leader(t, all).id == to.GetId() })
	}
}

func TestClockOutOfLine(t *testing.T) {
	all := three(t, nil)
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		old := leader(t, all)
		for _, o := range all {
			o.await("everyone's clock", func() bool { v, _ := o.clockVerdict(); return v == clockInLine })
		}
		before := old.cfg.Clock.Now()
		old.shift.Store(int64(by))
		poll(t, "another leader", func() bool { return !old.raft.IsLeader() && leader(t, all) != old })
		if passed := old.cfg.Clock.Now().Sub(before); passed < 0 || passed > limit {
			t.Errorf("the leader's clock went on by %v when the wall clock jumped", passed)
		}
		old.await("being barred", func() bool { old.mu.Lock(); defer old.mu.Unlock(); return old.barred && old.held })
		now := leader(t, all)
		now.await("the others to see it", func() bool {
			return strings.Contains(memberOf(t, now, old.id).GetNote(), "clock out of line")
		})
		old.shift.Store(0)
		old.await("being let again", func() bool { old.mu.Lock(); defer old.mu.Unlock(); return !old.barred && !old.held })
	}
}

func TestGate(t *testing.T) {
	all := three(t, func(i int, c *Config) {
		if i == 1 {
			c.Self.CommandVersion = state.CommandVersion // as the others, so that it is promoted
		}
	})
	newer := &fleetv1.Command{Introduced: state.CommandVersion}
	all[0].await("everyone's version", func() bool { return all[0].Gate(newer) == nil })
	// It comes back as the release before.
	all[1].stop()
	all[1].tune = func(c *Config) { c.Self.CommandVersion, c.Self.Version = state.CommandVersion-1, "v0" }
	all[1].start(false)
	var refused *VersionError
	all[0].await("the older version", func() bool { return errors.As(all[0].Gate(newer), &refused) })
	if !strings.Contains(refused.Error(), "s2 (") || refused.Has != state.CommandVersion-1 {
		t.Errorf("the error doesn't say who: %v", refused)
	}
	if err := all[0].Gate(&fleetv1.Command{Introduced: everywhere}); err != nil {
		t.Errorf("what everyone knows: %v", err)
	}
}

func TestAddMemberRefuses(t *testing.T) {
	first := newOne(t, "s1").start(true)
	other := newOne(t, "s2").start(false)
	conn, err := other.peers.Conn(first.addr())
	if err != nil {
		t.Fatal(err)
	}
	cl := fleetv1.NewPeerServiceClient(conn)
	first.await("its own object", func() bool { return first.st.View().Scheduler(first.id) != nil })
	for name, c := range map[string]struct {
		edit func(r *fleetv1.AddMemberRequest)
		code codes.Code
	}{
		"another's ID":      {func(r *fleetv1.AddMemberRequest) { r.Scheduler.Meta.Id = first.id }, codes.PermissionDenied},
		"another cluster":   {func(r *fleetv1.AddMemberRequest) { r.ClusterId = "c2" }, codes.FailedPrecondition},
		"no address":        {func(r *fleetv1.AddMemberRequest) { r.Scheduler.GrpcAddress = "" }, codes.InvalidArgument},
		"any address":       {func(r *fleetv1.AddMemberRequest) { r.Scheduler.RaftAddress = "0.0.0.0:7402" }, codes.InvalidArgument},
		"another's address": {func(r *fleetv1.AddMemberRequest) { r.Scheduler.RaftAddress = first.raft.Addr() }, codes.AlreadyExists},
		"no name":           {func(r *fleetv1.AddMemberRequest) { r.Scheduler.Meta.Name = "" }, codes.InvalidArgument},
	} {
		req := &fleetv1.AddMemberRequest{Scheduler: &fleetv1.Scheduler{Meta: &fleetv1.Meta{Id: other.id, Name: "s2"},
			RaftAddress: other.raft.Addr(), GrpcAddress: other.addr(), HttpAddress: other.addr()}}
		c.edit(req)
		if _, err := cl.AddMember(t.Context(), req); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %v", name, err, c.code)
		}
	}
	if n := len(first.raft.Members()); n != 1 {
		t.Errorf("%d members after refusals", n)
	}
}
