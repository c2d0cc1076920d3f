package place

import (
	"reflect"
	"strings"
	"testing"
)

// TestRemediesHelp explains what does not fit in random fleets, does what each remedy says to the objects,
// and plans anew.
func TestRemediesHelp(t *testing.T) {
	seeds, tried, kinds := 60, 0, map[string]int{}
	if testing.Short() {
		seeds = 20
	}
	for seed := range uint64(seeds) {
		h := crowd(t, 1000+seed, 6, 8)
		view := h.store.View()
		x := NewIndex(view)
		for range 12 {
			r := h.plain()
			placed := x.Plan([]Request{r})
			x.Undo()
			before := contents(x)
			why, remedies := x.explain(&r)
			if d := differences(contents(x), before); len(d) > 0 {
				t.Fatalf("seed %d: explaining changes %v", seed, d)
			}
			if again := x.Plan([]Request{r}); !reflect.DeepEqual(placed, again) {
				t.Fatalf("seed %d: after explaining, %+v is planned as %+v, not %+v", seed, r, again, placed)
			}
			x.Undo()
			if len(placed[0].Members) > 0 {
				if !strings.HasPrefix(why.GetSummary(), "it fits now") || len(remedies) > 0 {
					t.Fatalf("seed %d: %v", seed, why)
				}
				continue
			}
			if len(why.GetSummary()) == 0 || len(why.GetSummary()) > maxSummary || len(remedies) == 0 || len(remedies) != len(why.GetRemedies()) || len(why.GetNearMisses()) > maxNearMisses {
				t.Fatalf("seed %d: %+v is explained by %v", seed, r, why)
			}
			counted := int32(0)
			for _, f := range why.GetFilters() {
				counted += f.GetNodes()
			}
			if r.members() == 1 && counted != why.GetNodes() {
				t.Fatalf("seed %d: %d of %d nodes are counted: %v", seed, counted, why.GetNodes(), why)
			}
			for i := range remedies {
				a := alter(view)
				with := a.mend(&remedies[i], r)
				if got := NewIndex(a).Plan([]Request{with}); len(got[0].Members) == 0 {
					t.Fatalf("seed %d: %+v still waits after %q: %v", seed, r, remedies[i].text, why)
				}
				tried++
				kinds[strings.Join(strings.Fields(remedies[i].text)[:3], " ")]++
			}
		}
	}
	t.Log(tried, kinds)
	if tried < 5*seeds {
		t.Error("the test tries too little")
	}
}
