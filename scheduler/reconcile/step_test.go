package reconcile

import (
	"fmt"
	"slices"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A simulation steps the loops with a clock and IDs of its own: equal runs give equal stores.
func TestStepsWithAVirtualClock(t *testing.T) {
	history := func() (names []string, took time.Duration) {
		c := newCluster(t, 2)
		start := time.Unix(1_000_000, 0)
		now, made := start, 0
		term := New(Config{State: c.store, Proposer: c, Sessions: c.sessions, Now: func() time.Time { return now },
			NewID: func() string { made++; return fmt.Sprintf("%08d-id", made) }}).Begin()
		defer term.End()
		steps := 0
		quiet := func() (next time.Time) {
			for {
				if steps++; steps > 1000 {
					t.Fatalf("no fixed point: %v", c.reasons())
				}
				before := c.proposed()
				next = term.Step(t.Context(), now)
				c.act()
				if !next.Equal(now) && c.proposed() == before {
					return next
				}
			}
		}
		c.add("s", 3, func(s *fleetv1.Service) {
			s.Spec.AutoStopHours = 1
			s.Desired.StartTime.Seconds, s.Desired.StartTime.Nanos = start.Unix(), 0
		})
		quiet()
		c.expect(fleetv1.ServiceRunning, 3)
		for _, i := range c.instances() {
			names = append(names, i.GetMeta().GetName()+" on "+i.GetSpec().GetNode())
		}
		for next := quiet(); c.service().GetStatus().GetState() != fleetv1.ServiceStopped; next = quiet() {
			if next.IsZero() || next.Before(now) {
				t.Fatalf("next step at %v, in state %v", next, c.service().GetStatus())
			}
			now = next
		}
		return names, now.Sub(start)
	}
	names, took := history()
	if took != time.Hour || len(names) != 3 {
		t.Errorf("stopped after %v, instances %v", took, names)
	}
	if again, _ := history(); !slices.Equal(names, again) {
		t.Errorf("first %v, then %v", names, again)
	}
}
