package api

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestPlacementRules(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.put(&fleetv1.Pool{Meta: meta("later"), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolPublic, Selector: map[string]string{"no": "node"}}})
	before := w.store.View().Index()
	const at = "service.spec.versions[0]"
	rules := func(r *fleetv1.PlacementRules) func(*fleetv1.ServiceVersion) {
		return func(v *fleetv1.ServiceVersion) { v.Placement = r }
	}
	many := map[string]string{}
	for i := range 17 {
		many[fmt.Sprint("l", i)] = ""
	}
	for _, c := range []struct {
		field, words string
		edit         func(*fleetv1.ServiceVersion)
	}{
		{at + ".priority", "101 is out of range 0–100", func(v *fleetv1.ServiceVersion) { v.Priority = 101 }},
		{at + ".priority", "-1", func(v *fleetv1.ServiceVersion) { v.Priority = -1 }},
		{at + ".nodes", "257 is out of range 1–256", func(v *fleetv1.ServiceVersion) { v.Nodes = 257 }},
		{at + ".nodes", "-1", func(v *fleetv1.ServiceVersion) { v.Nodes = -1 }},
		{at + ".nodes", "50000 instances on 3 nodes each are 150000 containers", func(v *fleetv1.ServiceVersion) { v.Nodes, v.Instances = 3, 50000 }},
		{at + `.env["DROVER_GANG_RANK"]`, "set for the members of a gang", func(v *fleetv1.ServiceVersion) {
			v.Nodes, v.Env = 2, map[string]string{"DROVER_GANG_RANK": "7"}
		}},
		{at + ".placement.required", "17 entries", rules(&fleetv1.PlacementRules{Required: many})},
		{at + `.placement.required[""]`, "key", rules(&fleetv1.PlacementRules{Required: map[string]string{"": "x"}})},
		{at + ".placement.preferred", "5 entries, at most 4", rules(&fleetv1.PlacementRules{Preferred: []*fleetv1.PreferredLabel{
			{Label: "a"}, {Label: "b"}, {Label: "c"}, {Label: "d"}, {Label: "e"}}})},
		{at + ".placement.preferred[0].label", "missing", rules(&fleetv1.PlacementRules{Preferred: []*fleetv1.PreferredLabel{{Value: "x"}}})},
		{at + ".placement.preferred[0].weight", "101", rules(&fleetv1.PlacementRules{Preferred: []*fleetv1.PreferredLabel{{Label: "a", Weight: 101}}})},
		{at + `.placement.preferred[0]["value"]`, "control", rules(&fleetv1.PlacementRules{Preferred: []*fleetv1.PreferredLabel{{Label: "a", Value: "\n"}}})},
		{at + ".placement.preferred[1]", "same label and value as [0]", rules(&fleetv1.PlacementRules{Preferred: []*fleetv1.PreferredLabel{{Label: "a"}, {Label: "a", Weight: 2}}})},
		{at + ".placement.spread", "3 entries, at most 2", rules(&fleetv1.PlacementRules{Spread: []*fleetv1.SpreadRule{{Label: "a"}, {Label: "b"}, {Label: "c"}}})},
		{at + ".placement.spread[0].label", "at most 64", rules(&fleetv1.PlacementRules{Spread: []*fleetv1.SpreadRule{{Label: strings.Repeat("ü", 65)}}})},
		{at + ".placement.spread[0].max_skew", "-1 is out of range 1–100", rules(&fleetv1.PlacementRules{Spread: []*fleetv1.SpreadRule{{Label: "a", MaxSkew: -1}}})},
		{at + ".placement.spread[1].label", "label of [0] already", rules(&fleetv1.PlacementRules{Spread: []*fleetv1.SpreadRule{{Label: "a"}, {Label: "a"}}})},
		{at + ".placement.nodes[0]", "'/'", rules(&fleetv1.PlacementRules{Nodes: []string{"a/b"}})},
		{at + ".placement.nodes[1]", "stands twice", rules(&fleetv1.PlacementRules{Nodes: []string{"n1", "n1"}})},
		{at + ".placement.nodes", "names 1 node, but 2 are needed: each of 2 instances spans 1, and no two share one", func(v *fleetv1.ServiceVersion) {
			v.Instances, v.Placement = 2, &fleetv1.PlacementRules{Nodes: []string{"n1"}, AntiAffinity: true}
		}},
		{at + ".placement.nodes", "names 2 nodes, but 3 are needed: each of 1 instance spans 3", func(v *fleetv1.ServiceVersion) {
			v.Nodes, v.Placement = 3, &fleetv1.PlacementRules{Nodes: []string{"n1", "n2"}}
		}},
	} {
		_, err := w.deploy(iris(func(s *fleetv1.Service) { c.edit(s.Spec.Versions[0]) }), "refused")
		w.refused(c.field+" "+c.words, err, codes.InvalidArgument, c.field, c.words, before)
	}
	_, err := w.deploy(iris(func(s *fleetv1.Service) {
		s.Spec.Versions[0].Placement = &fleetv1.PlacementRules{Nodes: []string{"n2"}}
	}), "")
	w.refused("a node that the pool doesn't list", err, codes.FailedPrecondition, at+".placement.nodes[0]", `did you mean "n1"? (in pool "own")`, before)
	s := w.mustDeploy(iris(func(s *fleetv1.Service) {
		s.Spec.Pool, s.Spec.Versions[0].Placement = "later", &fleetv1.PlacementRules{Nodes: []string{"n9"},
			Spread: []*fleetv1.SpreadRule{{Label: "rack"}}, Preferred: []*fleetv1.PreferredLabel{{Label: "zone", Value: "a"}}}
	}))
	if p := s.GetSpec().GetVersions()[0].GetPlacement(); p.GetSpread()[0].GetMaxSkew() != 1 || p.GetPreferred()[0].GetWeight() != 1 {
		t.Errorf("defaults are not filled in: %v", p)
	}
}

// Rules can't be changed by deploying again, but naming a default is no change.
func TestRedeployWithRules(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	older := &fleetv1.Service{Meta: meta("iris"), Spec: w.mustDeploy(iris(func(s *fleetv1.Service) { s.Meta.Name = "other" })).GetSpec(),
		Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning, StartTime: timestamppb.New(start)}}
	older.Spec = proto.CloneOf(older.Spec)
	older.Spec.Versions[0].Nodes = 0 // of a time before the field
	w.put(older)
	w.setState("iris", fleetv1.ServiceRunning)
	before := w.store.View().Index()
	if resp, err := w.deploy(iris(func(s *fleetv1.Service) { s.Spec.Versions[0].Nodes = 1 }), ""); err != nil || resp.GetChanged() {
		t.Errorf("the same again: %v, %v", resp, err)
	}
	for words, edit := range map[string]func(*fleetv1.ServiceVersion){
		"spec.versions[0].priority (0 → 7)":              func(v *fleetv1.ServiceVersion) { v.Priority = 7 },
		"spec.versions[0].preemptible (false → true)":    func(v *fleetv1.ServiceVersion) { v.Preemptible = true },
		"spec.versions[0].nodes (1 → 2)":                 func(v *fleetv1.ServiceVersion) { v.Nodes = 2 },
		"spec.versions[0].placement (not set → set)":     func(v *fleetv1.ServiceVersion) { v.Placement = &fleetv1.PlacementRules{AntiAffinity: true} },
		"updating a running service isn't available yet": func(v *fleetv1.ServiceVersion) { v.Placement = &fleetv1.PlacementRules{Nodes: []string{"n1"}} },
	} {
		_, err := w.deploy(iris(func(s *fleetv1.Service) { edit(s.Spec.Versions[0]) }), "")
		w.refused(words, err, codes.FailedPrecondition, "", words, before)
	}
	resp, err := w.deploy(iris(func(s *fleetv1.Service) { s.Spec.Versions[0].Instances = 2 }), "")
	if err != nil || resp.GetService().GetSpec().GetVersions()[0].GetInstances() != 2 || resp.GetService().GetMeta().GetGeneration() != 1 {
		t.Errorf("scaled: %v, %v", resp, err)
	}
}

func TestAccelerators(t *testing.T) {
	w := newWorld(t)
	c := fleetv1.NewFlavorServiceClient(w.conn)
	create := func(a *fleetv1.Accelerator) (*fleetv1.Flavor, error) {
		f := flavor("gpu.x", func(s *fleetv1.FlavorSpec) { s.Accelerator = a })
		resp, err := c.CreateFlavor(t.Context(), &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "gpu.x"}, Spec: f.GetSpec()}})
		return resp.GetFlavor(), err
	}
	const at = "flavor.spec.accelerator"
	for _, r := range []struct {
		field, words string
		a            *fleetv1.Accelerator
	}{
		{at + ".count", "1–64", &fleetv1.Accelerator{}},
		{at + ".count", "65", &fleetv1.Accelerator{Count: 65}},
		{at + ".vendor", "amd", &fleetv1.Accelerator{Count: 1, Vendor: "amd"}},
		{at + ".model", "pattern", &fleetv1.Accelerator{Count: 1, Model: "[H"}},
		{at + ".share", "1g.10gb", &fleetv1.Accelerator{Count: 1, Share: "half a one"}},
		{at + ".domain", `"rack" is not one of "any", "numa", "pcie", "nvlink", "hccs"`, &fleetv1.Accelerator{Count: 2, Domain: "rack"}},
		{at + ".domain", "no device of ascend is joined by nvlink", &fleetv1.Accelerator{Count: 2, Vendor: "ascend", Domain: "nvlink"}},
		{at + ".domain", "no device of nvidia is joined by hccs", &fleetv1.Accelerator{Count: 2, Vendor: "nvidia", Domain: "hccs"}},
		{at + ".same", `"rack" is not one of "node"`, &fleetv1.Accelerator{Count: 2, Same: "rack"}},
	} {
		_, err := create(r.a)
		w.refused(r.words, err, codes.InvalidArgument, r.field, r.words, 0)
	}
	f, err := create(&fleetv1.Accelerator{Count: 2, Model: "H100*"})
	if a := f.GetSpec().GetAccelerator(); err != nil || a.GetShare() != "whole" || a.GetDomain() != "any" || a.GetSame() != "node" {
		t.Errorf("%v, %v", a, err)
	}
	index := w.store.View().Index()
	if _, err := create(&fleetv1.Accelerator{Count: 2, Model: "H100*", Domain: "any"}); err != nil || w.store.View().Index() != index {
		t.Errorf("the same again: %v", err)
	}
	_, err = create(&fleetv1.Accelerator{Count: 2, Model: "H100*", Domain: "numa"})
	w.refused("another domain", err, codes.AlreadyExists, "", `spec.accelerator.domain ("any" → "numa")`, index)
	// A flavor of a time before the defaults were stored is the same, too.
	w.put(flavor("gpu.old", func(s *fleetv1.FlavorSpec) { s.Accelerator = &fleetv1.Accelerator{Count: 1} }))
	old := flavor("gpu.old", func(s *fleetv1.FlavorSpec) { s.Accelerator = &fleetv1.Accelerator{Count: 1} })
	if _, err := c.CreateFlavor(t.Context(), &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "gpu.old"}, Spec: old.GetSpec()}}); err != nil {
		t.Errorf("an older flavor: %v", err)
	}
}
