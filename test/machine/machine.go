package machine

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
)

// Machine is one host with real processes. Its fields may be read; the processes are changed by the
// methods alone.
type Machine struct {
	*containerdtest.Env
	Client    *client.Client
	Scheduler *Process // the only one; nil with Schedulers
	// Schedulers is nil unless there are several. Client asks the first of them.
	Schedulers *Schedulers
	Agent      *Process
	Node       string // name of the one node

	t       testing.TB
	dir     string
	binary  string
	addrs   addresses
	options Options
	seconds int // processes that Second started
}

// Options of a machine.
type Options struct {
	// AgentConfig is merged into the agent's configuration file.
	AgentConfig map[string]any
	AgentEnv    []string
	// Schedulers is how many there are, 1, 3 or 5; default 1.
	Schedulers int
	// Network has the schedulers on its hosts from 1 on; the agent, its containers and the test are on host 0. Nil: all are
	// on loopback.
	Network *Network
	// SchedulerConfig is merged into the schedulers' configuration files.
	SchedulerConfig map[string]any
}

type addresses struct{ grpc, http, raft, gossip, agent string }

// patience is how long anything but a deadline under test may take on a busy machine.
const patience = 60 * time.Second

// Start starts containerd, a scheduler and an agent, and waits until the node is Ready.
func Start(t testing.TB, options Options) *Machine {
	t.Helper()
	m := &Machine{Env: containerdtest.New(t), t: t, binary: Binary(t), Node: "n1", options: options}
	m.dir = t.TempDir()
	if n := options.Network; n != nil {
		on := n.Schedulers()
		on.Config = options.SchedulerConfig
		m.startWith(StartSchedulers(t, max(options.Schedulers, 1), on))
		return m
	}
	if options.Schedulers > 1 {
		m.startWith(StartSchedulers(t, options.Schedulers, SchedulersOptions{Config: options.SchedulerConfig}))
		return m
	}
	m.addrs = addresses{grpc: freeAddr(t), http: freeAddr(t), raft: freeAddr(t), gossip: freeAddr(t), agent: freeAddr(t)}
	config := map[string]any{
		"data_dir": m.SchedulerDir(), "grpc_addr": m.addrs.grpc, "http_addr": m.addrs.http, "raft_addr": m.addrs.raft,
		"gossip_addr":        m.addrs.gossip,
		"heartbeat_interval": "500ms", "lease_duration": "5s", "lookup_max_age": "1s", "lookups_per_user": 0, "lookups_per_account": 0,
	}
	maps.Copy(config, options.SchedulerConfig)
	m.writeConfig("scheduler", config)
	m.writeConfig("agent", m.agentConfig())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("agent:\n%s\nscheduler:\n%s", m.Agent.Log(), m.Scheduler.Log())
		}
		m.Agent.Stop()
		m.Scheduler.Stop()
	})
	m.StartScheduler()
	t.Cleanup(func() { _ = m.Client.Close() })
	m.WriteJoinFile(m.configFile("join"), m.Node)
	m.StartAgent()
	return m
}

// startWith starts the agent of a cluster that runs.
func (m *Machine) startWith(s *Schedulers) {
	m.t.Helper()
	first := s.All[0]
	m.Schedulers, m.Client, m.Scheduler = s, first.Client, nil
	m.addrs = addresses{grpc: first.GRPC, http: first.HTTP, agent: freeAddr(m.t)}
	m.writeConfig("agent", m.agentConfig())
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("agent:\n%s", m.Agent.Log())
		}
		m.Agent.Stop()
	})
	m.WriteJoinFile(m.configFile("join"), m.Node)
	m.StartAgent()
}

func (m *Machine) agentConfig() map[string]any {
	schedulers := []string{m.addrs.grpc}
	if m.Schedulers != nil {
		schedulers = m.Schedulers.addrs()
	}
	cfg := map[string]any{
		"node_name": m.Node, "schedulers": schedulers,
		"join_file": m.configFile("join"),
		// The environment's runtime and the agent's share one directory: cleaning up knows what to remove.
		"data_dir": filepath.Dir(m.Config.DataDir), "http_addr": m.addrs.agent, "advertise_address": "127.0.0.1",
		"port_min": m.PortMin, "port_max": m.PortMax,
		"containerd": map[string]any{
			"socket": m.Config.Socket, "bridge": m.Config.Bridge, "subnet": m.Config.Subnet, "cgroup_parent": m.Config.CgroupParent,
		},
	}
	maps.Copy(cfg, m.options.AgentConfig)
	return cfg
}

func (m *Machine) writeConfig(name string, values map[string]any) {
	m.t.Helper()
	raw, err := yaml.Marshal(values)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.configFile(name), raw, 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *Machine) configFile(name string) string { return filepath.Join(m.dir, name+".yaml") }

// SchedulerDir is the scheduler's data directory.
func (m *Machine) SchedulerDir() string {
	if m.Schedulers != nil {
		return m.Schedulers.All[0].Dir()
	}
	return filepath.Join(m.dir, "scheduler")
}

// AgentDir is the agent's data directory.
func (m *Machine) AgentDir() string { return filepath.Dir(m.Config.DataDir) }

// AdminToken is the file with the operator's token.
func (m *Machine) AdminToken() string { return filepath.Join(m.SchedulerDir(), "admin.token") }

// CAFile holds the certificates that the scheduler is checked by.
func (m *Machine) CAFile() string { return filepath.Join(m.SchedulerDir(), "identity", "ca.pem") }

// WriteJoinFile makes a join token for one node.
func (m *Machine) WriteJoinFile(path, node string) {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	resp, err := m.Client.Identity.CreateJoinToken(ctx, &fleetv1.CreateJoinTokenRequest{Node: node})
	m.must(err)
	token, err := identity.ParseToken(resp.GetSecret())
	m.must(err)
	file, err := identity.JoinFile{Schedulers: resp.GetSchedulers(), Token: token}.Encode()
	m.must(err)
	m.must(os.WriteFile(path, file, 0o600))
}

// SchedulerHTTP is "host:port" of the look-up.
func (m *Machine) SchedulerHTTP() string { return m.addrs.http }

// SchedulerGRPC is "host:port" of the API.
func (m *Machine) SchedulerGRPC() string { return m.addrs.grpc }

// AgentHTTP is "host:port" of the agent's metrics and health.
func (m *Machine) AgentHTTP() string { return m.addrs.agent }

// StartScheduler starts `drover scheduler` and waits until it has a leader's answer for its token.
func (m *Machine) StartScheduler() {
	m.t.Helper()
	m.Scheduler = startProcess(m.t, m.dir, "scheduler", m.binary, nil, "scheduler", "--config", m.configFile("scheduler"))
	m.poll("the scheduler answers", func() error {
		if m.Scheduler.Exited() {
			m.t.Fatalf("the scheduler ended:\n%s", m.Scheduler.Log())
		}
		return dialable(m.addrs.http)
	})
	m.poll("the operator's token and the CA's certificate exist", func() error {
		_, err := os.Stat(m.AdminToken())
		if err == nil {
			_, err = os.Stat(m.CAFile())
		}
		return err
	})
	if m.Client == nil {
		var err error
		m.Client, err = client.Dial(client.Config{Addr: m.addrs.grpc, TokenFile: m.AdminToken(), CAFile: m.CAFile()})
		m.must(err)
	}
	// Its own certificate is the last that a new cluster makes; before that no handshake succeeds.
	m.poll("the scheduler answers the operator", func() error {
		ctx, cancel := m.context()
		defer cancel()
		_, err := m.Client.Cluster.GetClusterStatus(ctx, &fleetv1.GetClusterStatusRequest{})
		return err
	})
}

// StartAgent starts `drover agent` with more environment variables and waits until its node is Ready.
func (m *Machine) StartAgent(env ...string) {
	m.t.Helper()
	m.LaunchAgent(env...)
	m.WaitNode("Ready")
}

// Rejoin starts the agent, which has lost its certificate, with a join token for its node, and waits until that is Ready.
func (m *Machine) Rejoin() {
	m.t.Helper()
	m.WriteJoinFile(m.configFile("join"), m.Node)
	m.StartAgent()
}

// LaunchAgent starts `drover agent` and does not wait.
func (m *Machine) LaunchAgent(env ...string) {
	m.t.Helper()
	env = append(append([]string{}, m.options.AgentEnv...), env...)
	m.Agent = startProcess(m.t, m.dir, "agent", m.binary, env, "agent", "--config", m.configFile("agent"))
}

// Containers lists what the runtime holds, through a runtime of its own: what the agent's has written since
// another was made, that one doesn't know.
func (m *Machine) Containers() []runtime.Status {
	m.t.Helper()
	rt, err := containerd.New(m.t.Context(), m.Config)
	m.must(err)
	defer rt.Close()
	list, err := rt.List(m.t.Context())
	m.must(err)
	return list
}

// Drover runs the command line against this machine and answers its output and exit code.
func (m *Machine) Drover(args ...string) (stdout, stderr string, code int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	token, err := os.ReadFile(m.AdminToken())
	m.must(err)
	cmd := exec.CommandContext(ctx, m.binary, args...)
	cmd.Env = append(os.Environ(), "DROVER_ADDR="+m.addrs.grpc, "DROVER_TOKEN="+strings.TrimSpace(string(token)), "DROVER_CA="+m.CAFile(), "XDG_CONFIG_HOME="+m.dir)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if cmd.ProcessState == nil {
		m.t.Fatalf("run drover %v: %v", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// poll tries until fn answers nil; processes under test give no other sign.
func (m *Machine) poll(what string, fn func() error) {
	m.t.Helper()
	m.Within(patience, what, fn)
}

// Within fails the test unless fn answers nil within limit.
func (m *Machine) Within(limit time.Duration, what string, fn func() error) {
	m.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func dialable(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// givenAddrs are those that freeAddr has answered: a port is free until its process listens, and is none for another one by then.
var givenAddrs sync.Map

// freeAddr is an address of this machine that nobody listens on, and that it answers once.
func freeAddr(t testing.TB) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, before := givenAddrs.LoadOrStore(addr, true); !before {
			return addr
		}
	}
}

var build struct {
	once sync.Once
	dir  string
	err  error
}

// Binary builds drover once for the test binary's run and answers its path. DROVER_BINARY names one
// that is built already.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("DROVER_BINARY"); path != "" {
		return path
	}
	build.once.Do(func() {
		if build.dir, build.err = os.MkdirTemp("", "drover-test-"); build.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(build.dir, "drover"), "github.com/drover-fleet/drover/cmd/drover")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("build drover: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return filepath.Join(build.dir, "drover")
}

// Main runs a package's tests and removes the binary that they built.
func Main(m *testing.M) int {
	code := m.Run()
	if build.dir != "" {
		_ = os.RemoveAll(build.dir) // a temporary directory
	}
	return code
}

// Second starts another process with the configuration of "scheduler" or "agent", which is expected to
// end by itself, with flags after it.
func (m *Machine) Second(daemon string, flags ...string) *Process {
	m.t.Helper()
	m.seconds++
	return startProcess(m.t, m.dir, fmt.Sprintf("%s-%d", daemon, m.seconds+1), m.binary, nil, append([]string{daemon, "--config", m.configFile(daemon)}, flags...)...)
}
