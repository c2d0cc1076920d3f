package api

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Limits of what a version may ask of placement.
const (
	maxPriority  = 100
	maxGang      = 256
	maxRequired  = 16
	maxPreferred = 4
	maxSpread    = 2
	maxRank      = 100 // of a preference's weight and of a spread's skew
	maxPinned    = 1000
	gangEnv      = "DROVER_GANG_"
)

// completePlacement fills the defaults of a version's rules in.
func completePlacement(version *fleetv1.ServiceVersion) {
	fillInt(&version.Nodes, 1)
	for _, p := range version.GetPlacement().GetPreferred() {
		fillInt(&p.Weight, 1)
	}
	for _, s := range version.GetPlacement().GetSpread() {
		fillInt(&s.MaxSkew, 1)
	}
}

// placement checks a version's rules by themselves.
func (v *violations) placement(field string, version *fleetv1.ServiceVersion) {
	v.between(field+".priority", int64(version.GetPriority()), 0, maxPriority)
	v.between(field+".nodes", int64(version.GetNodes()), 1, maxGang)
	all := int64(version.GetInstances()) * int64(version.GetNodes())
	if all > maxInstances && version.GetInstances() <= maxInstances && version.GetNodes() <= maxGang {
		v.add(field+".nodes", "%d instances on %d nodes each are %d containers, at most %d are allowed",
			version.GetInstances(), version.GetNodes(), all, maxInstances)
	}
	if version.GetNodes() > 1 {
		for k := range sorted(version.GetEnv()) {
			if strings.HasPrefix(k, gangEnv) {
				v.add(fmt.Sprintf("%s.env[%q]", field, k), "is set for the members of a gang: choose another name")
			}
		}
	}
	rules, at := version.GetPlacement(), field+".placement"
	if n := len(rules.GetRequired()); n > maxRequired {
		v.add(at+".required", "has %d entries, at most %d are allowed", n, maxRequired)
	}
	v.tags(at+".required", rules.GetRequired())
	v.preferred(at+".preferred", rules.GetPreferred())
	v.spread(at+".spread", rules.GetSpread())
	v.pinned(at, version)
}

func (v *violations) preferred(field string, preferred []*fleetv1.PreferredLabel) {
	if n := len(preferred); n > maxPreferred {
		v.add(field, "has %d entries, at most %d are allowed", n, maxPreferred)
	}
	for i, p := range preferred {
		at := fmt.Sprintf("%s[%d]", field, i)
		v.label(at+".label", p.GetLabel())
		v.tags(at, map[string]string{"value": p.GetValue()})
		v.between(at+".weight", int64(p.GetWeight()), 1, maxRank)
		first := slices.IndexFunc(preferred, func(o *fleetv1.PreferredLabel) bool {
			return o.GetLabel() == p.GetLabel() && o.GetValue() == p.GetValue()
		})
		if first < i {
			v.add(at, "is the same label and value as [%d]", first)
		}
	}
}

func (v *violations) spread(field string, spread []*fleetv1.SpreadRule) {
	if n := len(spread); n > maxSpread {
		v.add(field, "has %d entries, at most %d are allowed", n, maxSpread)
	}
	for i, s := range spread {
		at := fmt.Sprintf("%s[%d]", field, i)
		v.label(at+".label", s.GetLabel())
		v.between(at+".max_skew", int64(s.GetMaxSkew()), 1, maxRank)
		if first := slices.IndexFunc(spread, func(o *fleetv1.SpreadRule) bool { return o.GetLabel() == s.GetLabel() }); first < i {
			v.add(at+".label", "%q is the label of [%d] already", s.GetLabel(), first)
		}
	}
}

// label checks the name of a node's label.
func (v *violations) label(field, s string) {
	switch {
	case s == "":
		v.add(field, "is missing")
	case len([]rune(s)) > maxName || hasControl(s):
		v.add(field, "%q is not a label: at most %d characters, none of them a control character", s, maxName)
	}
}

// pinned checks the nodes that a version is restricted to: their names, and that there are enough of them.
func (v *violations) pinned(at string, version *fleetv1.ServiceVersion) {
	rules := version.GetPlacement()
	names := rules.GetNodes()
	if n := len(names); n > maxPinned {
		v.add(at+".nodes", "has %d entries, at most %d are allowed", n, maxPinned)
		return
	}
	for i, n := range names {
		here := fmt.Sprintf("%s.nodes[%d]", at, i)
		v.name(here, n, true)
		if slices.Contains(names[:i], n) {
			v.add(here, "%q stands twice", n)
		}
	}
	need := int(version.GetNodes())
	if rules.GetAntiAffinity() {
		need *= int(version.GetInstances())
	}
	if len(names) > 0 && need > len(names) {
		v.add(at+".nodes", "names %d %s, but %d are needed: each of %d %s spans %d%s", len(names), plural(len(names), "node", "nodes"), need,
			version.GetInstances(), plural(int(version.GetInstances()), "instance", "instances"), version.GetNodes(),
			map[bool]string{true: ", and no two share one"}[rules.GetAntiAffinity()])
	}
}

// admitPinned checks that a pool which lists its nodes has those that a version is restricted to. A pool with a
// selector says nothing: a node may join it later.
func admitPinned(pool *fleetv1.Pool, at string, version *fleetv1.ServiceVersion) error {
	listed := pool.GetSpec().GetNodes()
	for i, n := range version.GetPlacement().GetNodes() {
		if len(listed) == 0 || slices.Contains(listed, n) {
			continue
		}
		e := missing(fmt.Sprintf("%s.placement.nodes[%d]", at, i), "node", n, slices.Clone(listed))
		e.Code, e.Msg = codes.FailedPrecondition, e.Msg+fmt.Sprintf(" (in pool %q)", pool.GetMeta().GetName())
		return e
	}
	return nil
}
