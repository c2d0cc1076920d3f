package fault

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

// Two of three schedulers are lost with all that they had: containers run on, what may be stale is answered, and the one that is
// left goes on alone with what it knew when it is told to. It removes nothing before that is confirmed.
func TestMajorityIsLostForGood(t *testing.T) {
	t.Parallel()
	m := machine.Start(t, machine.Options{Schedulers: 3})
	s, survivor := m.Schedulers, m.Schedulers.All[0]
	before := identities(t, m.DeployRunning(machine.Deployment{Name: "svc", Instances: 2}))
	endpoints := m.WaitEndpoints(limit, "svc", 2)
	answers(t, s, survivor, "svc", 2)
	for _, p := range s.Others(survivor) {
		p.Kill()
		if err := os.RemoveAll(p.Dir()); err != nil {
			t.Fatal(err)
		}
	}
	withoutMajority(t, s, survivor)
	survivor.Stop()

	out, errs, code := survivor.Recover()
	if code != 1 || !strings.Contains(out, "are lost") || !strings.Contains(errs, "--yes") {
		t.Errorf("a look at the recovery: code %d: %s%s", code, out, errs)
	}
	if again, _, _ := survivor.Recover(); again != out {
		t.Errorf("a look at the recovery has changed something: before\n%snow\n%s", out, again)
	}
	survivor.Launch()
	refusesWrites(t, s, survivor)
	survivor.Stop()
	if out, errs, code = survivor.Recover("--yes"); code != 0 {
		t.Fatalf("the recovery: code %d: %s%s", code, out, errs)
	}
	survivor.Start()
	s.WaitVoters(1)
	m.Within(limit, "the agent has reported what it runs", func() error {
		list, err := m.Client.Backups.ListRemovals(t.Context(), &fleetv1.ListRemovalsRequest{})
		if err == nil && (!list.GetHeld() || len(list.GetSilentNodes()) > 0) {
			err = fmt.Errorf("%v", list)
		}
		return err
	})
	if out, errs, code := survivor.Drover("cluster", "restore", "--confirm"); code != 0 {
		t.Fatalf("confirm: code %d: %s%s", code, out, errs)
	}
	m.WaitNode(fleetv1.NodeReady)
	m.WaitEndpoints(limit, "svc", 2)
	for _, p := range s.Others(survivor) {
		p.Rejoin()
	}
	s.WaitVoters(3)
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	untouched(t, m, "svc", before, endpoints)
}

// withoutMajority checks what a scheduler does that has lost the others.
func withoutMajority(t *testing.T, s *machine.Schedulers, p *machine.SchedulerProcess) {
	t.Helper()
	s.Within(limit, "the look-up answers, as the scheduler without others knew", func() error {
		found, err := p.Endpoints("svc")
		if err == nil && len(found) != 2 {
			err = fmt.Errorf("%d endpoints", len(found))
		}
		return err
	})
	refusesWrites(t, s, p)
	s.Within(limit, "a read that may be stale says that it is", func() error {
		out, errs, code := p.Drover("service", "list", "--consistency", "stale")
		if code != 0 || !strings.Contains(out, "svc") || !strings.Contains(errs, "may be old") {
			return fmt.Errorf("code %d: %s%s", code, out, errs)
		}
		return nil
	})
	if _, errs, code := p.Drover("service", "list"); code == 0 || strings.Count(errs, "\n") != 1 {
		t.Errorf("a linearizable read without a majority: code %d: %s", code, errs)
	}
}

// refusesWrites waits until a scheduler says that it knows no leader to write to.
func refusesWrites(t *testing.T, s *machine.Schedulers, p *machine.SchedulerProcess) {
	t.Helper()
	s.Within(limit, "writes are UNAVAILABLE", func() error {
		_, err := p.Client.Flavors.CreateFlavor(t.Context(), &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "never"},
			Spec: &fleetv1.FlavorSpec{CpuMillis: 100, MemoryBytes: 64 << 20}}})
		if code := status.Code(err); code == codes.OK || code == codes.AlreadyExists {
			t.Fatal("a write is acknowledged without a majority")
		} else if said := status.Convert(err).Message(); code != codes.Unavailable || !strings.Contains(said, "leader") || strings.Contains(said, "\n") {
			return err
		}
		return nil
	})
}
