package quality

import (
	"slices"
	"testing"
	"time"

	"github.com/drover-fleet/drover/test/sim/trace"
)

func planner(t *testing.T, nodes int) Policy {
	t.Helper()
	p, err := NewPlanner(nodes)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Neither the load nor what is free in pieces depends on luck: first-fit is a good packer, and ours no worse.
func TestFragment(t *testing.T) {
	c := Churn{Seed: 1, Nodes: 100, Load: 0.85, Changes: 4000}
	ours, err := Fragment(planner(t, c.Nodes), c)
	if err != nil {
		t.Fatal(err)
	}
	first, err := Fragment(NewFirstFit(c.Nodes), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ours %+v, first-fit %+v", ours, first)
	if ours.Load < 0.8 || ours.Load > 0.85 || ours.Unusable > 1.1*first.Unusable || ours.Unusable <= 0 || ours.Refused > first.Refused {
		t.Errorf("ours %+v, first-fit %+v", ours, first)
	}
}

// Under load nothing starves: the longest wait is shorter than with first-fit, which keeps nothing for big jobs.
func TestQueue(t *testing.T) {
	jobs := Jobs(trace.Synthetic(trace.Options{Seed: 5, Nodes: 20, Hours: 12, JobLoad: 0.9}))
	ours, err := Queue(planner(t, 20), jobs)
	if err != nil {
		t.Fatal(err)
	}
	first, err := Queue(NewFirstFit(20), jobs)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ours      %+v\nfirst-fit %+v", ours, first)
	if ours.Jobs != len(jobs) || first.Jobs != len(jobs) || ours.Most >= first.Most || ours.BigP99 >= first.BigP99 {
		t.Errorf("of %d jobs: ours %+v, first-fit %+v", len(jobs), ours, first)
	}
}

func TestQueueByHand(t *testing.T) {
	jobs := []Job{
		{ID: 0, Run: 100 * time.Second, Devices: 8, Nodes: 1},
		{ID: 1, Submit: 10 * time.Second, Run: time.Second, Devices: 8, Nodes: 2},
		{ID: 2, Submit: 20 * time.Second, Run: 60 * time.Second, Devices: 1, Nodes: 1},
	}
	for name, p := range map[string]Policy{"planner": planner(t, 2), "first-fit": NewFirstFit(2)} {
		d, err := Queue(p, jobs)
		if err != nil {
			t.Fatal(err)
		}
		if d.Jobs != 3 || d.Most != 90*time.Second || d.P50 != 0 || d.Makespan != 101*time.Second || d.BigMean != 45*time.Second {
			t.Errorf("%s: %+v", name, d)
		}
		if _, err := Queue(p, []Job{{ID: 9, Devices: 8, Nodes: 3}}); err == nil {
			t.Errorf("%s: a job of 3 nodes was queued for 2", name)
		}
	}
}

func TestOptimum(t *testing.T) {
	for _, c := range []struct {
		Case
		want Outcome
	}{
		{Case{Nodes: 2, Requests: []int{4, 4, 8}}, Outcome{16, 0}},
		{Case{Nodes: 2, Requests: []int{1, 8, 8}}, Outcome{16, 0}}, // without the first
		{Case{Nodes: 3, Requests: []int{4, 2, 1, 1}}, Outcome{8, 2}},
		{Case{Nodes: 2, Requests: []int{4, 4, 4, 2, 1, 1, 1}}, Outcome{16, 0}},
		{Case{Nodes: 1}, Outcome{0, 1}},
	} {
		if got := c.Optimum(); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.Case, got, c.want)
		}
	}
	ours, err := Compare(1, 300, func(n int) (Policy, error) { return NewPlanner(n) })
	if err != nil {
		t.Fatal(err)
	}
	first, err := Compare(1, 300, func(n int) (Policy, error) { return NewFirstFit(n), nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ours %+v, first-fit %+v", ours, first)
	if ours.Placed < first.Placed || ours.Placed < 0.9 || ours.Placed > 1 {
		t.Errorf("ours %+v, first-fit %+v", ours, first)
	}
}

func TestPoliciesGiveBack(t *testing.T) {
	for name, p := range map[string]Policy{"planner": planner(t, 3), "first-fit": NewFirstFit(3)} {
		started, err := p.Place(0, []Job{{ID: 1, Devices: 8, Nodes: 4}, {ID: 2, Devices: 8, Nodes: 2}, {ID: 3, Devices: 5, Nodes: 1}, {ID: 4, Devices: 5, Nodes: 1}})
		if err != nil || !slices.Equal(started, []int{1, 2}) {
			t.Errorf("%s started %v: %v", name, started, err)
		}
		for _, id := range []int{2, 3} {
			if err := p.End(id); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(p.Free(), []int{8, 8, 8}) {
			t.Errorf("%s has %v free", name, p.Free())
		}
	}
}
