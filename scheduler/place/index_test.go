package place

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// contents is all that an index knows of its nodes, in a form that can be compared.
func contents(x *Index) map[string]any {
	out := map[string]any{}
	for name, n := range x.nodes {
		groups := map[groupKey]int32{}
		for _, p := range n.groups(nil) {
			groups[x.numbered[p.group].key] += p.n
		}
		if n.crowded != (len(n.crowd) > 0) {
			out["crowded "+name] = n.crowded
		}
		out[name] = []any{n.open, n.cpu, n.memory, n.disk, n.free, n.usable, n.last, n.soft, n.softest, n.ending, n.ids, n.topology.key(), slices.Sorted(slices.Values(n.ports)), n.arch, n.images, groups}
	}
	for image, nodes := range x.images {
		for n := range nodes {
			out[image+" "+n.name] = true
		}
	}
	for k, g := range x.groups {
		if g.total > 0 {
			out["total "+k.service+k.version] = g.total
		}
	}
	return out
}

func differences(a, b map[string]any) (out []string) {
	for k := range a {
		if !reflect.DeepEqual(a[k], b[k]) {
			out = append(out, fmt.Sprintf("%s: %v, want %v", k, a[k], b[k]))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[k]; !ok {
			out = append(out, "no "+k)
		}
	}
	return out
}

// TestHistories drives random fleets through random histories.
func TestHistories(t *testing.T) {
	var s score
	seeds := 60
	if testing.Short() {
		seeds = 15
	}
	for seed := range uint64(seeds) {
		h := newHistory(t, seed, 6, true)
		for range 25 {
			h.step(seed, 6, &s)
		}
	}
	t.Logf("%+v", s)
	if s.members < 10*seeds || s.waited < seeds || s.gangs < seeds {
		t.Error("the test tries too little")
	}
}

// TestLargerFleets does so where there are more nodes than a search compares.
func TestLargerFleets(t *testing.T) {
	var s score
	for seed := range uint64(6) {
		h := newHistory(t, seed, 60, false)
		for range 8 {
			h.step(seed, 40, &s)
		}
	}
	t.Logf("%+v", s)
	if s.members < 100 || s.waited < 10 {
		t.Error("the test tries too little")
	}
}

// TestTalliesLast asks for the same few things all the time where no node comes or goes: what the index
// remembers of instances, nodes and labels has to stay right.
func TestTalliesLast(t *testing.T) {
	var s score
	for seed := range uint64(30) {
		h := newHistory(t, seed, 0, false)
		h.feed.Close()
		for i := range 8 {
			n := host(fmt.Sprint("n", i), 0, label("rack", fmt.Sprint(i%3), "zone", fmt.Sprint(i%2)))
			h.write(state.Put(0, n))
		}
		h.feed = h.store.Subscribe()
		if _, _, err := h.feed.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.index = NewIndex(h.store.View())
		for i, u := range []*fleetv1.PlacementRules{
			{Spread: []*fleetv1.SpreadRule{{Label: "rack", Required: true}}},
			{Spread: []*fleetv1.SpreadRule{{Label: "rack", MaxSkew: 2, Required: true}, {Label: "zone", MaxSkew: 1, Required: true}}},
			{AntiAffinity: true},
		} {
			h.menu = append(h.menu, Request{Service: fmt.Sprint("s", i), Version: "m@1", Pool: "p", CPUMillis: 1000, Image: "i1", Rules: u})
		}
		h.only = true
		for range 40 {
			h.step(seed, 4, &s)
		}
	}
	t.Logf("%+v", s)
	if s.members < 500 || s.waited < 100 {
		t.Error("the test tries too little")
	}
}

// score is what a test has tried.
type score struct{ members, gangs, waited int }

// step changes the fleet and plans. The index that was kept up to date must be what one made anew is, and
// plan the same; every placement must keep the rules, and what waits must not fit.
func (h *history) step(seed uint64, most int, s *score) {
	for range h.rng.IntN(4) {
		h.change()
	}
	if h.rng.IntN(10) == 0 {
		h.index = NewIndex(h.store.View()) // a restart
	}
	h.refresh()
	view := h.store.View()
	fresh := NewIndex(view)
	if d := differences(contents(h.index), contents(fresh)); len(d) > 0 {
		h.t.Fatalf("seed %d, index %d: the index is not what one made anew is: %v", seed, h.last, d)
	}
	requests := h.requests(1 + h.rng.IntN(most))
	plan := h.index.Plan(requests)
	if again := fresh.Plan(requests); !reflect.DeepEqual(plan, again) {
		h.t.Fatalf("seed %d, index %d: an index made anew plans otherwise:\n%v\n%v", seed, h.last, plan, again)
	}
	o := newOracle(view)
	for i, p := range plan {
		if why := o.check(&requests[i], p); why != "" {
			h.t.Fatalf("seed %d, index %d: request %d %+v placed %+v: %s", seed, h.last, i, requests[i], p, why)
		}
		switch {
		case len(p.Members) == 0:
			s.waited++
		case len(p.Members) > 1:
			s.gangs++
		}
		s.members += len(p.Members)
	}
	fresh.Undo()
	if d := differences(contents(fresh), contents(NewIndex(view))); len(d) > 0 {
		h.t.Fatalf("seed %d, index %d: undo leaves %v", seed, h.last, d)
	}
	h.commit(requests, plan)
}

// touch changes what the index does not look at, so that there is something to read.
func (h *history) touch() {
	s := proto.CloneOf(h.store.View().ServiceByID("s0"))
	s.Spec.Description = fmt.Sprint(h.last)
	h.write(state.Put(s.GetMeta().GetRevision(), s))
}
