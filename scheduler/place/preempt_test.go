package place

import (
	"slices"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// cheapest finds by trying every set who has to stop for the request, when all that is stopping has ended.
// tooMany says that there are too many sets.
func cheapest(view state.ReadView, r *Request) (best toll, ok, tooMany bool) {
	var stopping []*fleetv1.Instance
	units := map[string]toll{}
	for _, i := range view.Instances() {
		if stops(i) {
			stopping = append(stopping, i)
		}
		s := i.GetSpec()
		if state.Holds(i) && !stops(i) && s.GetPreemptible() && s.GetPriority() < r.Priority && groupOf(s) != (groupKey{r.Service, r.Version}) {
			id := s.GetGang().GetId()
			if id == "" {
				id = "alone " + i.GetMeta().GetId()
			}
			units[id] = append(units[id], i)
		}
	}
	var all []toll
	for _, u := range units {
		all = append(all, u)
	}
	if len(all) > 8 {
		return nil, false, true
	}
	var sets []toll
	for set := range 1 << len(all) {
		var t toll
		for i, u := range all {
			if set>>i&1 != 0 {
				t = append(t, u...)
			}
		}
		sets = append(sets, newToll(t))
	}
	slices.SortFunc(sets, toll.compare)
	for _, t := range sets {
		if got := NewIndex(alter(view).end(stopping...).end(t...)).Plan([]Request{*r}); len(got[0].Members) > 0 {
			return t, true, false
		}
	}
	return nil, false, false
}

// TestPreemptionsAreMinimal holds Preempt against every choice of victims in random fleets.
func TestPreemptionsAreMinimal(t *testing.T) {
	seeds, counts := 150, map[string]int{}
	if testing.Short() {
		seeds = 40
	}
	for seed := range uint64(seeds) {
		h := crowd(t, 5000+seed, 2+int(seed%4), 5)
		view := h.store.View()
		x := NewIndex(view)
		for range 6 {
			r := h.plain()
			want, ok, tooMany := cheapest(view, &r)
			if tooMany {
				counts["too many"]++
				continue
			}
			before := contents(x)
			nodes, victims, got := x.Preempt(&r)
			if d := differences(contents(x), before); len(d) > 0 {
				t.Fatalf("seed %d: preempting changes %v", seed, d)
			}
			var paid toll
			for _, id := range victims {
				paid = append(paid, view.Instance(id))
			}
			paid = newToll(paid)
			if got != ok || paid.compare(want) != 0 {
				t.Fatalf("seed %d: for %+v (%v %v) %v, want %v %v", seed, r, r.Accelerator, r.Rules, paid, ok, want)
			}
			switch {
			case !ok:
				counts["no"]++
				continue
			case len(nodes) != r.members():
				t.Fatalf("seed %d: on nodes %v for %+v", seed, nodes, r)
			case r.members() > 1 && len(victims) > 0:
				counts["gang"]++
			case len(victims) > 1:
				counts["several"]++
			case len(victims) == 1:
				counts["one"]++
			default:
				counts["none"]++
			}
		}
	}
	t.Log(counts)
	for _, what := range []string{"no", "gang", "several", "one", "none"} {
		if counts[what] < seeds/40 {
			t.Errorf("%q is tried too little", what)
		}
	}
}
