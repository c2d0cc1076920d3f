package cluster

import (
	"slices"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Agents tell which images their nodes have, and an instance goes where its image is.
func TestImageIsPreferred(t *testing.T) {
	f := startFleet(t, 3, "1xH100-80GB")
	last := f.Nodes[2]
	was := f.run("first", "gpu.1", 1, func(v *fleetv1.ServiceVersion) { v.Placement = &fleetv1.PlacementRules{Nodes: []string{last.Name}} })[0]
	f.remove("first")
	f.within("it is gone", func() bool { return len(last.Runtime.Containers()) == 0 })
	last.Stop() // what was fetched since its start is told within a minute, or when it starts
	last.Start()
	f.WaitNode(last.Name, "to tell of the image", func(n *fleetv1.Node) bool {
		return slices.Contains(n.GetFacts().GetImageDigests(), was.GetSpec().GetImageDigest())
	})
	if next := f.run("next", "gpu.1", 1, nil)[0]; next.GetSpec().GetNode() != last.Name {
		t.Errorf("it was placed on %s, its image is on %s", next.GetSpec().GetNode(), last.Name)
	}
}
