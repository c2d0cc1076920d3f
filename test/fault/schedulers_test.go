package fault

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

// The leader of three real schedulers is killed: another leads, nothing acknowledged is lost, the killed one comes back.
func TestLeaderIsKilled(t *testing.T) {
	s := machine.StartSchedulers(t, 3, machine.SchedulersOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	create := func(p *machine.SchedulerProcess, name string) error {
		_, err := p.Client.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{RequestId: name, Flavor: &fleetv1.Flavor{
			Meta: &fleetv1.Meta{Name: name}, Spec: &fleetv1.FlavorSpec{CpuMillis: 10, MemoryBytes: 16 << 20}}})
		return err
	}
	old := s.Leader()
	if err := create(old, "before"); err != nil {
		t.Fatal(err)
	}
	old.Kill()
	start := time.Now()
	s.Within(limit, "a write is acknowledged again", func() error {
		for _, p := range s.All {
			if p != old && create(p, "after") == nil {
				return nil
			}
		}
		return fmt.Errorf("none is")
	})
	t.Logf("a write is acknowledged %v after the leader was killed", time.Since(start).Round(time.Millisecond))
	next := s.Leader()
	if next == old {
		t.Fatal("the killed scheduler leads")
	}
	out, _, code := next.Drover("cluster", "members")
	if code != 0 || strings.Count(out, "voter") != 3 || !strings.Contains(out, old.Name) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	old.Start()
	s.WaitVoters(3)
	resp, err := old.Client.Flavors.ListFlavors(ctx, &fleetv1.ListFlavorsRequest{})
	if err != nil || len(resp.GetFlavors()) != 2 {
		t.Errorf("%v, %v", resp, err)
	}
}
