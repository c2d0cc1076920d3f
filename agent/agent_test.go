package agent_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/devices"
	fakedevices "github.com/drover-fleet/drover/devices/fake"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// scheduler is scripted: it welcomes, sends what the test puts into sets, and acknowledges.
type scheduler struct {
	fleetv1.UnimplementedAgentServiceServer
	t       *testing.T
	addr    string
	server  *grpc.Server
	cluster string
	leader  string // when set, sessions are refused with this hint
	hellos  chan *fleetv1.Hello
	sets    chan *fleetv1.AssignmentSet
	orders  chan *fleetv1.RelayOrder
	reports chan *fleetv1.StatusReport
	relayed chan *fleetv1.RelayRequest
	inputs  chan *fleetv1.ExecInput
	facts   chan *fleetv1.NodeFacts
	turn    sync.Mutex // held by the one session that is on
}

func newScheduler(t *testing.T, addr, leader string) *scheduler {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &scheduler{
		t: t, addr: l.Addr().String(), server: grpc.NewServer(), cluster: "c", leader: leader,
		hellos: make(chan *fleetv1.Hello, 100), sets: make(chan *fleetv1.AssignmentSet, 100), orders: make(chan *fleetv1.RelayOrder, 10),
		reports: make(chan *fleetv1.StatusReport, 1000), relayed: make(chan *fleetv1.RelayRequest, 1000),
		inputs: make(chan *fleetv1.ExecInput, 10), facts: make(chan *fleetv1.NodeFacts, 100),
	}
	fleetv1.RegisterAgentServiceServer(s.server, s)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { s.server.Stop(); <-served })
	return s
}

func (s *scheduler) Session(stream grpc.BidiStreamingServer[fleetv1.SessionRequest, fleetv1.SessionResponse]) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); len(md["authorization"]) != 1 || md["authorization"][0] != "Bearer secret" {
		return status.Error(codes.Unauthenticated, "wrong token")
	}
	if s.leader != "" {
		return status.Errorf(codes.Unavailable, "not the leader; the leader is at %s", s.leader)
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s.turn.Lock() // what is sent from now on must not go to a session that is about to end
	defer s.turn.Unlock()
	s.hellos <- first.GetHello()
	ended, acks := make(chan struct{}), make(chan uint64, 100)
	go func() {
		defer close(ended)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if f := m.GetFacts(); f != nil {
				s.facts <- f
			}
			if r := m.GetReport(); r != nil {
				s.reports <- r
				acks <- r.GetId()
			}
		}
	}()
	err = stream.Send(&fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Welcome{
		Welcome: &fleetv1.Welcome{ClusterId: s.cluster, HeartbeatMillis: 100, LeaseMillis: 1000},
	}})
	for err == nil {
		select {
		case <-ended:
			return nil
		case id := <-acks:
			err = stream.Send(&fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Ack{Ack: &fleetv1.ReportAck{Id: id}}})
		case set := <-s.sets:
			err = stream.Send(&fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Assignments{Assignments: set}})
		case o := <-s.orders:
			err = stream.Send(&fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Relay{Relay: o}})
		}
	}
	return err
}

func (s *scheduler) Relay(stream grpc.BidiStreamingServer[fleetv1.RelayRequest, fleetv1.RelayResponse]) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.GetRelayId() != "" {
			go func() { // ends with the stream
				for {
					select {
					case <-stream.Context().Done():
						return
					case in := <-s.inputs:
						if stream.Send(&fleetv1.RelayResponse{Input: in}) != nil {
							return
						}
					}
				}
			}()
		}
		s.relayed <- m
	}
}

// until waits for a report of the instance that satisfies ok, and answers it.
func (s *scheduler) until(what string, ok func(*fleetv1.InstanceObserved) bool) *fleetv1.InstanceObserved {
	s.t.Helper()
	deadline := time.After(patience)
	var last *fleetv1.InstanceObserved
	for {
		select {
		case r := <-s.reports:
			for _, in := range r.GetInstances() {
				if last = in.GetObserved(); ok(last) {
					return last
				}
			}
		case <-deadline:
			s.t.Fatalf("not %s; last report: %v", what, last)
		}
	}
}

func ready(o *fleetv1.InstanceObserved) bool { return o.GetReady() }

func (s *scheduler) send(generation uint64, instances ...*fleetv1.Instance) {
	s.sets <- &fleetv1.AssignmentSet{ClusterId: s.cluster, Generation: generation, Instances: instances}
}

// node is one agent on a directory and a fake runtime that outlive it.
type node struct {
	t   *testing.T
	cfg agent.Config
	rt  *fake.Runtime
	a   *agent.Agent
	end func()

	fleet        string                                                             // its devices
	exec         func(ctx context.Context, req runtime.ExecRequest) (uint32, error) // nil: rt's
	accelerators *fakedevices.Backend
	devices      *devices.Registry
}

func newNode(t *testing.T, schedulers ...string) *node {
	t.Helper()
	return newNodeWith(t, nil, schedulers...)
}

func newNodeWith(t *testing.T, exec func(context.Context, runtime.ExecRequest) (uint32, error), schedulers ...string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, fleet: "2xH100-80GB", exec: exec, cfg: agent.DefaultConfig(), rt: fake.New(fake.Options{Listen: true})}
	n.cfg.NodeName, n.cfg.DataDir, n.cfg.TokenFile = "n1", filepath.Join(dir, "data"), filepath.Join(dir, "token")
	n.cfg.Insecure = true
	n.cfg.Schedulers, n.cfg.HTTPAddr, n.cfg.AdvertiseAddress = schedulers, "127.0.0.1:0", "127.0.0.1"
	if err := os.WriteFile(n.cfg.TokenFile, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.boot(nil)
	t.Cleanup(func() {
		n.end()
		if err := n.rt.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) boot(fault func(string)) {
	n.t.Helper()
	var err error
	n.accelerators, err = fakedevices.Parse(n.fleet)
	if err != nil {
		n.t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	n.devices = devices.NewRegistry(logger, n.accelerators)
	var rt runtime.Runtime = n.rt
	if n.exec != nil {
		rt = shell{n.rt, n.exec}
	}
	n.a, err = agent.New(n.cfg, agent.Deps{Runtime: rt, Devices: n.devices, Logger: logger, FaultPoint: fault})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, a := make(chan error, 1), n.a
	go func() { done <- a.Run(ctx) }()
	ended := false
	n.end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				n.t.Errorf("the agent ended with: %v", err)
			}
		case <-time.After(patience):
			n.t.Error("the agent does not end")
		}
	}
}

// shell replaces what a command does.
type shell struct {
	runtime.Runtime
	exec func(ctx context.Context, req runtime.ExecRequest) (uint32, error)
}

func (s shell) Exec(ctx context.Context, _ string, req runtime.ExecRequest) (uint32, error) {
	return s.exec(ctx, req)
}

func instance() *fleetv1.Instance {
	return &fleetv1.Instance{
		Meta: &fleetv1.Meta{Id: "0a1b", Name: "iris-0a1b", Project: "default"},
		Spec: &fleetv1.InstanceSpec{
			ServiceId: "s", ServiceName: "iris", Model: "iris", ModelVersion: "0.0.1", Image: "iris:1", ImageDigest: "sha256:1",
			Api: &fleetv1.ModelAPI{Port: 8080}, Health: &fleetv1.HealthCheck{CheckMethod: "HTTP"}, MemoryBytes: 64 << 20, GracePeriodSeconds: 1,
		},
		Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v: %s", url, resp.Status, err, body)
	}
	return string(body)
}

func TestDeployServeMeasureStop(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	follower := newScheduler(t, "127.0.0.1:0", s.addr)
	n := newNode(t, follower.addr)
	hello := <-s.hellos
	if f := hello.GetFacts(); hello.GetNodeName() != "n1" || f.GetBootId() == "" || f.GetCpuMillis() < 1000 || f.GetMemoryBytes() == 0 ||
		f.GetReservedMemoryBytes() < 256<<20 || len(f.GetDevices()) != 2 || f.GetRuntime() != "fake 1" {
		t.Errorf("hello %v", hello)
	}
	s.send(1, instance())
	o := s.until("ready", ready)
	endpoint := "http://127.0.0.1:" + itoa(o.GetPort())
	if got := get(t, endpoint); got != "ok" {
		t.Errorf("the endpoint answers %q", got)
	}
	page := get(t, "http://"+n.a.HTTPAddr()+"/metrics")
	for _, line := range []string{
		`drover_instance_ready{instance="0a1b",model="iris",node="n1",project="default",service="iris",version="0.0.1"} 1`,
		`drover_instance_memory_bytes{instance="0a1b",model="iris",node="n1",project="default",service="iris",version="0.0.1"} 1.6777216e+07`,
		"drover_agent_connected 1", "drover_agent_assignment_generation 1", "drover_host_memory_bytes ", `drover_device_health{`, "drover_build_info{",
	} {
		if !strings.Contains(page, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	get(t, "http://"+n.a.HTTPAddr()+"/healthz")
	if got := n.a.Status(); got != "connected, 1 instances, 1 ready" {
		t.Errorf("status %q", got)
	}
	stopped := instance()
	stopped.Desired.State = fleetv1.DesiredStopped
	s.send(2, stopped)
	s.until("reaped", func(o *fleetv1.InstanceObserved) bool { return o.GetState() == fleetv1.InstanceReaped })
	if left := n.rt.Containers(); len(left) != 0 {
		t.Errorf("containers %v are left", left)
	}
}

func itoa(port int32) string { return (&net.TCPAddr{Port: int(port)}).String()[1:] }

func TestAdoptedAfterRestartAndSchedulerAway(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	<-s.hellos
	s.send(3, instance())
	before := s.until("ready", ready)
	n.end()
	s.server.Stop()
	n.boot(nil) // without any scheduler: everything is adopted
	if got := get(t, "http://127.0.0.1:"+itoa(before.GetPort())); got != "ok" {
		t.Errorf("the endpoint answers %q", got)
	}
	s2 := newScheduler(t, s.addr, "")
	hello := <-s2.hellos
	if hello.GetGeneration() != 3 || hello.GetClusterId() != "c" {
		t.Errorf("hello %v", hello)
	}
	after := s2.until("ready", ready)
	if after.GetPid() != before.GetPid() || after.GetPort() != before.GetPort() || after.GetSequence() <= before.GetSequence() {
		t.Errorf("before %v, after %v", before, after)
	}
	s2.send(2) // older: refused, the session ends and begins again
	<-s2.hellos
	s2.send(3, instance())
	s2.until("ready", ready)
}

func TestCrashBetweenCreateAndJournal(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	<-s.hellos
	n.end()
	reached, release := make(chan struct{}), make(chan struct{})
	n.boot(func(name string) {
		if name == "created" {
			close(reached)
			<-release
		}
	})
	<-s.hellos
	s.send(1, instance())
	select {
	case <-reached:
	case <-time.After(patience):
		t.Fatal("the fault point was not reached")
	}
	copied := t.TempDir() // what a crash at this moment leaves on the disk
	for _, name := range []string{"journal.db", "journal.marker"} {
		b, err := os.ReadFile(filepath.Join(n.cfg.DataDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	n.end()
	n.cfg.DataDir, n.cfg.LocalSocket = copied, ""
	n.boot(nil)
	<-s.hellos
	s.until("ready", ready)
	if got := n.rt.Containers(); len(got) != 1 || got[0] != "0a1b-1" {
		t.Errorf("containers %v, want the one", got)
	}
}

func TestExecAndLocalSocket(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	<-s.hellos
	s.send(1, instance())
	s.until("ready", ready)
	s.orders <- &fleetv1.RelayOrder{RelayId: "r", InstanceId: "0a1b", What: &fleetv1.RelayOrder_Exec{
		Exec: &fleetv1.ExecStart{Command: []string{"/server", "-print=1", "-exit=5"}},
	}}
	var out string
	for code := -1; code < 0; {
		select {
		case m := <-s.relayed:
			out += string(m.GetOutput().GetStdout())
			if m.GetError() != "" {
				t.Fatal(m.GetError())
			}
			if m.GetOutput() != nil && m.GetOutput().ExitCode != nil {
				code = int(m.GetOutput().GetExitCode())
				if code != 5 || out != "line 1\n" {
					t.Errorf("code %d, output %q", code, out)
				}
			}
		case <-time.After(patience):
			t.Fatal("no answer to an exec")
		}
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(n.cfg.DataDir, "agent.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	local := fleetv1.NewLocalServiceClient(conn)
	list, err := local.ListLocalInstances(t.Context(), &fleetv1.ListLocalInstancesRequest{})
	if err != nil || len(list.GetInstances()) != 1 || !list.GetConnected() {
		t.Fatalf("list %v, %v", list, err)
	}
	if _, err := local.StopLocalInstance(t.Context(), &fleetv1.StopLocalInstanceRequest{Name: "nobody"}); status.Code(err) != codes.NotFound || status.Convert(err).Message() != `no instance "nobody" on this node` {
		t.Errorf("stop of nobody: %v", err)
	}
	if _, err := local.StopLocalInstance(t.Context(), &fleetv1.StopLocalInstanceRequest{Name: "iris-0a1b"}); err != nil {
		t.Fatal(err)
	}
	s.until("reaped", func(o *fleetv1.InstanceObserved) bool { return o.GetState() == fleetv1.InstanceReaped })
}

func TestExitIsReportedAndRestarted(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	<-s.hellos
	s.send(1, instance())
	s.until("ready", ready)
	if err := n.rt.Exit("0a1b-1", 9, runtime.ExitNormal); err != nil {
		t.Fatal(err)
	}
	s.until("exited", func(o *fleetv1.InstanceObserved) bool {
		return o.GetState() == fleetv1.InstanceExited && !o.GetReady() && o.GetLastExit().GetCode() == 9
	})
	s.until("ready again", func(o *fleetv1.InstanceObserved) bool { return o.GetReady() && o.GetAttempt() == 2 })
}

func TestBadConfig(t *testing.T) {
	for field, change := range map[string]func(*agent.Config){
		"node_name":                        func(c *agent.Config) { c.NodeName = "a b" },
		"schedulers[0]":                    func(c *agent.Config) { c.Schedulers = []string{"x"} },
		"schedulers[1]":                    func(c *agent.Config) { c.Insecure, c.Schedulers = true, []string{"127.0.0.1:1", "10.0.0.1:1"} },
		"token_file":                       func(c *agent.Config) { c.Insecure, c.TokenFile = true, "" },
		"join_file":                        func(c *agent.Config) { c.Insecure, c.JoinFile = true, "x" },
		"data_dir":                         func(c *agent.Config) { c.DataDir = "" },
		"http_addr":                        func(c *agent.Config) { c.HTTPAddr = "x" },
		"advertise_address":                func(c *agent.Config) { c.AdvertiseAddress = "x" },
		`networks: "a b"`:                  func(c *agent.Config) { c.Networks = map[string]string{"a b": "10.0.0.1"} },
		`networks: "default"`:              func(c *agent.Config) { c.Networks = map[string]string{"default": "10.0.0.1"} },
		`"10.0.0" is neither`:              func(c *agent.Config) { c.Networks = map[string]string{"a": "10.0.0"} },
		`"10.0.0.1/" is`:                   func(c *agent.Config) { c.Networks = map[string]string{"a": "10.0.0.1/"} },
		`"10.0.0.1/33" is`:                 func(c *agent.Config) { c.Networks = map[string]string{"a": "10.0.0.1/33"} },
		`"0.0.0.0/0" is`:                   func(c *agent.Config) { c.Networks = map[string]string{"a": "0.0.0.0/0"} },
		`"fe80::1%eth0" is`:                func(c *agent.Config) { c.Networks = map[string]string{"a": "fe80::1%eth0"} },
		"mount_dirs[0]":                    func(c *agent.Config) { c.MountDirs = []string{"/"} },
		"storage_dirs[0]":                  func(c *agent.Config) { c.StorageDirs = []string{"data"} },
		"\"/srv/all\" would open those of": func(c *agent.Config) { c.StorageDirs = []string{"/srv/{project}", "/srv/all"} },
		"reserved_cpu_millis":              func(c *agent.Config) { c.ReservedCPUMillis = -1 },
		"port_min, port_max":               func(c *agent.Config) { c.PortMin = 1 },
		"image_low":                        func(c *agent.Config) { c.ImageLow = 0.9 },
		"\"nvdia\" is none":                func(c *agent.Config) { c.DeclaredDevices = map[string]int{"nvdia": 8} },
		"declared_devices":                 func(c *agent.Config) { c.DeclaredDevices = map[string]int{"nvidia": -1} },
		"reclaim_timeout":                  func(c *agent.Config) { c.ReclaimTimeout = 0 },
	} {
		c := agent.DefaultConfig()
		c.NodeName = "n"
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
