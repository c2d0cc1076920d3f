package api

import (
	"fmt"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// BenchmarkDeploy is what a deployment costs with 10,000 nodes and without the log's disk.
func BenchmarkDeploy(b *testing.B) {
	w := newWorldOf(b, 1<<30)
	w.furnish()
	w.put(&fleetv1.Pool{Meta: meta("fleet"), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolPublic, Selector: map[string]string{"fleet": "yes"}}})
	for n := range 10_000 {
		w.put(&fleetv1.Node{Meta: meta(fmt.Sprintf("node-%05d", n)), Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady},
			Facts: &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 64000, MemoryBytes: 256 << 30, Labels: map[string]string{"fleet": "yes", "rack": fmt.Sprint("r", n/16)}}})
	}
	n := 0
	for b.Loop() {
		n++
		w.mustDeploy(iris(func(s *fleetv1.Service) { s.Meta.Name, s.Spec.Pool = fmt.Sprint("s", n), "fleet" }))
	}
}
