package sim

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/drover-fleet/drover/test/sim/trace"
)

// Preemptible jobs ask for more than there is, while services of more priority and drains need room.
func TestPressure(t *testing.T) {
	const nodes = 40
	events := trace.Synthetic(trace.Options{Seed: 3, Nodes: nodes, Hours: 5, JobLoad: 0.9, Trouble: 20})
	for i := range 40 {
		s := &trace.Shape{Devices: 8, Model: "H100-80GB", Priority: 50 + i%3, CPUMillis: 64_000, MemoryBytes: 512 * gib, Nodes: 1 + i%4}
		if i%2 == 0 {
			s.Devices, s.CPUMillis, s.MemoryBytes, s.Nodes = 4, 32_000, 256*gib, 1
		}
		at := 3600 + 300*float64(i)
		events = append(events, trace.Event{At: at, Kind: trace.Deploy, Service: fmt.Sprintf("urgent%d", i), Project: "urgent", Shape: s, Instances: 1},
			trace.Event{At: at + 1200, Kind: trace.Delete, Service: fmt.Sprintf("urgent%d", i), Project: "urgent"})
	}
	slices.SortStableFunc(events, func(a, b trace.Event) int { return cmp.Compare(a.At, b.At) })
	r := simulate(t, Config{Seed: 3, Fleet: Fleet{Nodes: nodes}, Trace: events, Stopwatch: time.Now})
	sound(t, r)
	if r.Preempted == 0 || r.Load < 0.7 {
		t.Errorf("%d instances were preempted at a load of %.0f %%", r.Preempted, 100*r.Load)
	}
}
