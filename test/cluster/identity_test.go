package cluster

import (
	"context"
	"strings"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

// certificate is the last one that the node was given, or nil.
func certificate(t *testing.T, c *Cluster, node string) *fleetv1.Certificate {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	list, err := c.Client.Identity.ListCertificates(ctx, &fleetv1.ListCertificatesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, cert := range list.GetCertificates() {
		if cert.GetRole() == fleetv1.RoleAgent && cert.GetName() == node {
			return cert
		}
	}
	return nil
}

// Nodes join, renew while they serve, are shut out and come back; instances that run go on.
func TestNodesWithCertificates(t *testing.T) {
	c := Start(t, Options{TLS: true, Nodes: 2, Scheduler: func(cfg *scheduler.Config) {
		cfg.CertificateLifetime, cfg.LeaseDuration, cfg.HeartbeatInterval = 15*time.Second, 2*time.Second, 200*time.Millisecond
	}})
	c.Declare()
	c.Deploy("iris", 2)
	c.WaitState("iris", fleetv1.ServiceRunning)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()

	first := certificate(t, c, "node-1")
	for certificate(t, c, "node-1").GetSerial() == first.GetSerial() {
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatal("node-1 doesn't renew")
		}
	}
	events, err := c.Client.Events.ListEvents(ctx, &fleetv1.ListEventsRequest{Filter: &fleetv1.EventFilter{Kind: fleetv1.KindNode, Name: "node-1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.GetEvents() {
		if strings.HasPrefix(e.GetReason(), "Node") && e.GetReason() != "NodeRegistered" {
			t.Errorf("a renewal is felt: %s: %s", e.GetReason(), e.GetMessage())
		}
	}

	// An agent that is started again needs no join file.
	c.Nodes[1].Stop()
	c.Nodes[1].Start()
	c.WaitNodeState("node-2", fleetv1.NodeReady)

	if _, err := c.Client.Identity.RevokeNode(ctx, &fleetv1.RevokeNodeRequest{Name: "node-1"}); err != nil {
		t.Fatal(err)
	}
	c.WaitNodeState("node-1", fleetv1.NodeUnreachable)
	if cert := certificate(t, c, "node-1"); cert != nil {
		t.Errorf("it has a certificate: %v", cert)
	}
	running := 0
	list, err := c.Nodes[0].Runtime.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Pid > 0 {
			running++
		}
	}
	if running == 0 {
		t.Error("what ran on the node has ended")
	}
	c.Nodes[0].Stop()
	c.Nodes[0].Forget()
	c.Nodes[0].Start()
	c.WaitNodeState("node-1", fleetv1.NodeReady)
}
