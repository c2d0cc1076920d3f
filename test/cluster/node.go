package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/devices"
	fakedevices "github.com/drover-fleet/drover/devices/fake"
	"github.com/drover-fleet/drover/devices/health"
	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime/fake"
)

// Node is an agent with a fake runtime. The runtime and its containers outlive the agent, as containerd
// does.
type Node struct {
	Name    string
	Runtime *fake.Runtime
	Devices *fakedevices.Backend // of the agent that runs; nil without devices

	c      *Cluster
	index  int
	agent  *agent.Agent
	daemon daemon
	secure func(*agent.Config) // how it is let into a cluster with TLS; nil without
}

func newNode(c *Cluster, index int) *Node {
	n := &Node{Name: fmt.Sprintf("node-%d", index+1), c: c, index: index}
	n.Runtime = fake.New(fake.Options{Listen: true, HostIP: n.address()})
	return n
}

// address is the node's own, so that nodes on one machine don't take each other's host ports.
func (n *Node) address() string { return fmt.Sprintf("127.77.0.%d", n.index+1) }

// Start starts the agent; it registers by itself.
func (n *Node) Start() {
	t := n.c.t
	t.Helper()
	cfg := agent.DefaultConfig()
	cfg.NodeName = n.Name
	cfg.DataDir = filepath.Join(n.c.dir, n.Name)
	if n.c.opts.TLS {
		cfg.JoinFile = n.joinFile(cfg.DataDir + ".join")
	} else {
		cfg.Insecure, cfg.Schedulers = true, []string{n.c.grpcAddr}
		cfg.TokenFile = filepath.Join(n.c.dir, "scheduler", "agent.token")
	}
	cfg.HTTPAddr = "127.0.0.1:0"
	cfg.AdvertiseAddress = n.address()
	cfg.Labels = map[string]string{"cluster": "test"}
	if n.secure != nil {
		n.secure(&cfg)
	}
	if n.c.opts.Agent != nil {
		n.c.opts.Agent(n.index, &cfg)
	}
	logger := n.c.logger.With("daemon", n.Name)
	var backends []devices.Backend
	if n.c.opts.Devices != "" {
		backend, err := fakedevices.Parse(n.c.opts.Devices)
		if err != nil {
			t.Fatalf("devices %q: %v", n.c.opts.Devices, err)
		}
		n.Devices, backends = backend, append(backends, backend)
	}
	accelerators := devices.NewRegistry(logger, backends...)
	accelerators.Judge = health.New()
	deps := agent.Deps{Runtime: n.Runtime, Devices: accelerators, Logger: logger}
	if n.c.opts.FaultPoint != nil {
		deps.FaultPoint = func(name string) { n.c.opts.FaultPoint(n.index, name) }
	}
	a, err := agent.New(cfg, deps)
	if err != nil {
		t.Fatalf("make the agent of %s: %v", n.Name, err)
	}
	n.agent = a
	n.daemon.start("agent "+n.Name, a.Run)
}

// joinFile makes a join file for the node the first time that it starts, and again after Forget.
func (n *Node) joinFile(path string) string {
	t := n.c.t
	t.Helper()
	if _, err := os.Stat(path); err == nil {
		return path
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	resp, err := n.c.Client.Identity.CreateJoinToken(ctx, &fleetv1.CreateJoinTokenRequest{Node: n.Name})
	if err != nil {
		t.Fatalf("make a join token for %s: %v", n.Name, err)
	}
	token, err := identity.ParseToken(resp.GetSecret())
	if err != nil {
		t.Fatal(err)
	}
	data, err := identity.JoinFile{Schedulers: resp.GetSchedulers(), Token: token}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Forget removes the certificate of a node that doesn't run: it joins anew when it starts.
func (n *Node) Forget() {
	n.c.t.Helper()
	dir := filepath.Join(n.c.dir, n.Name)
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "identity")), os.Remove(dir+".join")); err != nil {
		n.c.t.Fatal(err)
	}
}

// Stop stops the agent; its containers go on.
func (n *Node) Stop() {
	n.c.t.Helper()
	n.daemon.stop(n.c.t)
}

// HTTPAddr is where the agent reports its metrics now.
func (n *Node) HTTPAddr() string { return n.agent.HTTPAddr() }

func (n *Node) close() {
	n.c.t.Helper()
	n.Stop()
	if err := n.Runtime.Close(); err != nil {
		n.c.t.Errorf("close the runtime of %s: %v", n.Name, err)
	}
}
