package machine

import (
	"google.golang.org/protobuf/types/known/structpb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// PrepareBatch makes what batch jobs need: the flavor "small" with so much processor, the pool "all" of the machine's node and others, and the model
// "answers", whose route /predict answers as containerdtest's package model says.
func (m *Machine) PrepareBatch(cpuMillis int64, others ...string) {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	_, err := m.Client.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "small"},
		Spec: &fleetv1.FlavorSpec{CpuMillis: cpuMillis, MemoryBytes: 64 << 20}}})
	m.must(err)
	_, err = m.Client.Pools.CreatePool(ctx, &fleetv1.CreatePoolRequest{Pool: &fleetv1.Pool{Meta: &fleetv1.Meta{Name: "all"},
		Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Nodes: append([]string{m.Node}, others...)}}})
	m.must(err)
	request, err := structpb.NewStruct(map[string]any{"type": "object"})
	m.must(err)
	response, err := structpb.NewStruct(map[string]any{"type": "object", "required": []any{"answer"},
		"properties": map[string]any{"answer": map[string]any{"type": "string"}}})
	m.must(err)
	_, err = m.Client.Models.CreateModel(ctx, &fleetv1.CreateModelRequest{Model: &fleetv1.Model{Meta: &fleetv1.Meta{Name: "answers"},
		Spec: &fleetv1.ModelSpec{Image: m.Image, DeployTypes: []string{"batch", "real-time"},
			Health: &fleetv1.HealthCheck{CheckMethod: "HTTP", Url: "/health", PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 5},
			Apis: []*fleetv1.APIRoute{{Url: "/predict", Request: &fleetv1.APISchema{ContentType: "application/json", Data: request},
				Response: &fleetv1.APISchema{ContentType: "application/json", Data: response}}}}}})
	m.must(err)
}
