package raftstore

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// BenchmarkProposePlan places instances through the log, on a disk: each entry has parts of one instance.
func BenchmarkProposePlan(b *testing.B) {
	const parts, nodes = 500, 1000
	s, _ := mustOpen(b, testConfig(b.TempDir()), nil)
	awaitLeader(b, s)
	propose := func(cmd *fleetv1.Command) {
		cmd.Time = &timestamppb.Timestamp{Seconds: 1_700_000_000}
		cmd.Introduced = state.Introduced(cmd)
		if r, err := s.Propose(testContext(b), cmd); err != nil || len(r.Rejections) > 0 {
			b.Fatal(r.Rejections, err)
		}
	}
	meta := func(name string) *fleetv1.Meta {
		return &fleetv1.Meta{Name: name, Id: "id-" + name, Project: fleetv1.Default, Generation: 1}
	}
	write := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, &fleetv1.Service{Meta: meta("web"),
		Spec: &fleetv1.ServiceSpec{Versions: []*fleetv1.ServiceVersion{{}}}, Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning}})}}
	for n := range nodes {
		write.Mutations = append(write.Mutations, state.Put(0, &fleetv1.Node{Meta: meta(fmt.Sprint("node-", n)),
			Facts: &fleetv1.NodeFacts{CpuMillis: 1 << 50, MemoryBytes: 1 << 60}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady}}))
	}
	propose(&fleetv1.Command{Op: &fleetv1.Command_Write{Write: write}})
	placed := 0
	for b.Loop() {
		plan := &fleetv1.Plan{}
		for range parts {
			placed++
			id := fmt.Sprintf("%08x-%04x-4aaa-8bbb-%012x", uint32(placed)*2654435761, placed&0xffff, placed)
			plan.Parts = append(plan.Parts, &fleetv1.PlanPart{ServiceId: "id-web", ServiceGeneration: 1, Instances: []*fleetv1.Instance{{
				Meta: &fleetv1.Meta{Name: "web-" + id[:8], Id: id, Project: fleetv1.Default, Generation: 1},
				Spec: &fleetv1.InstanceSpec{ServiceId: "id-web", ServiceName: "web", Node: fmt.Sprint("node-", placed%nodes), CpuMillis: 1000, MemoryBytes: 1 << 30,
					Image: "registry.example.org/web:1.0", ImageDigest: "sha256:4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865",
					Env: map[string]string{"MODEL": "/models/web", "WORKERS": "8"}, Api: &fleetv1.ModelAPI{Protocol: "http", Port: 8080}},
				Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
			}}, Events: []*fleetv1.Event{{Type: fleetv1.EventNormal, Reason: "InstancePlaced", Message: "on a node"}}})
		}
		propose(&fleetv1.Command{Op: &fleetv1.Command_Plan{Plan: plan}})
	}
	b.ReportMetric(float64(placed)/b.Elapsed().Seconds(), "instances/s")
}
