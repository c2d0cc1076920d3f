package fault

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
	"github.com/drover-fleet/drover/test/machine"
)

// container finds the one container of an instance.
func container(t *testing.T, m *machine.Machine, instance *fleetv1.Instance) runtime.Status {
	t.Helper()
	var found []runtime.Status
	for _, st := range m.Containers() {
		if st.Labels[runtime.LabelInstance] == instance.GetMeta().GetId() {
			found = append(found, st)
		}
	}
	if len(found) != 1 {
		t.Fatalf("instance %s has containers %v, want one", instance.GetMeta().GetName(), found)
	}
	return found[0]
}

// Fault 5.
func TestShimKilled(t *testing.T) {
	t.Parallel()
	m := machine.Start(t, machine.Options{})
	instance := m.DeployRunning(machine.Deployment{Name: "svc"})[0]
	m.WaitEndpoints(limit, "svc", 1)
	was := container(t, m, instance)
	for what, there := range containerdtest.Traces(t, m.Env, was.ID, was.IP) {
		if !there {
			t.Errorf("a running container has no %s: the test looks in the wrong place", what)
		}
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(was.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), "PPid:")
	shim, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.WaitEndpoints(5*time.Second, "svc", 0)
	m.WaitEvent(limit, "svc", "InstanceExited", "ShimKilled")
	m.WaitEndpoints(limit, "svc", 1)
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)

	now := container(t, m, m.Instances("svc")[0])
	if now.ID == was.ID {
		t.Fatalf("container %s runs on without its shim", now.ID)
	}
	for what, there := range containerdtest.Traces(t, m.Env, was.ID, was.IP) {
		if there && !(was.IP == now.IP && (what == "iptables rule" || what == "address")) && what != "interface" {
			t.Errorf("the killed shim's container left its %s", what)
		}
	}
	veths, err := filepath.Glob("/sys/class/net/" + m.Config.Bridge + "/brif/*")
	if err != nil || len(veths) != 1 {
		t.Errorf("interfaces on the bridge: %v, %v; want the new container's alone", veths, err)
	}
}

// Fault 7.
func TestProbeFailsAndRecovers(t *testing.T) {
	t.Parallel()
	m := machine.Start(t, machine.Options{})
	instance := m.DeployRunning(machine.Deployment{Name: "svc"})[0]
	endpoint := m.WaitEndpoints(limit, "svc", 1)[0]
	if _, err := machine.Call(endpoint, "/health/set", url.Values{"ok": {"false"}}); err != nil {
		t.Fatal(err)
	}
	m.WaitEndpoints(limit, "svc", 0)
	m.WaitService(limit, "svc", fleetv1.ServiceAlarm)
	m.WaitEvent(limit, "svc", "InstanceUnhealthy", "503")
	m.WaitEvent(limit, "svc", "ServiceAlarm", "")
	if _, err := machine.Call(endpoint, "/health/set", url.Values{"ok": {"true"}}); err != nil {
		t.Fatal(err)
	}
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	if back := m.WaitEndpoints(limit, "svc", 1)[0]; back != endpoint {
		t.Errorf("the endpoint was %v, now %v", endpoint, back)
	}
	m.Within(limit, "healthy and running are events again", func() error {
		events := m.Events("svc")
		if h, r := machine.Count(events, "InstanceHealthy", ""), machine.Count(events, "ServiceRunning", ""); h != 2 || r != 2 {
			return fmt.Errorf("InstanceHealthy %d times, ServiceRunning %d times; want each twice", h, r)
		}
		return nil
	})
	if now := m.Instances("svc")[0]; now.GetObserved().GetAttempt() != 1 || now.GetObserved().GetPid() != instance.GetObserved().GetPid() {
		t.Errorf("the instance was restarted: %v", now.GetObserved())
	}
}

func logger(t *testing.T, dir string) int {
	t.Helper()
	links, err := filepath.Glob(filepath.Join(dir, "*", "logger"))
	if err != nil || len(links) != 1 {
		t.Fatalf("loggers below %s: %v, %v; want one", dir, links, err)
	}
	link, err := os.Readlink(links[0])
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscanf(link, "%d:", &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// Fault 8.
func TestLogger(t *testing.T) {
	m := machine.Start(t, machine.Options{})
	m.Agent.Stop()
	dir := filepath.Join(m.AgentDir(), "logs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	m.StartAgent()
	instance := m.DeployRunning(machine.Deployment{Name: "svc"})[0]
	before := identities(t, []*fleetv1.Instance{instance})
	endpoints := m.WaitEndpoints(limit, "svc", 1)
	pid := logger(t, filepath.Join(dir, instance.GetMeta().GetId()))
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if sig != syscall.SIGKILL && sig != syscall.SIGSTOP {
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatalf("signal %d: %v", sig, err)
			}
		}
	}
	if _, err := machine.Call(endpoints[0], "/flood", url.Values{"bytes": {strconv.Itoa(8 << 20)}}); err != nil {
		t.Errorf("the container noticed its logger's full disk: %v", err)
	}
	m.Within(limit, "dropped lines are a metric", func() error {
		if v := m.Metric("drover_instance_log_lines_dropped_total", instance.GetMeta().GetId()); v <= 0 {
			return fmt.Errorf("it is %v", v)
		}
		return nil
	})
	m.WaitEvent(limit, "svc", "LogLinesDropped", "")
	untouched(t, m, "svc", before, endpoints)

	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.WaitEvent(limit, "svc", "InstanceExited", "LoggerKilled")
	m.WaitEvent(limit, "svc", "InstanceRestarted", "")
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	m.WaitEndpoints(limit, "svc", 1)
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Fault 9.
func TestRulesFlushed(t *testing.T) {
	t.Parallel()
	if !containerdtest.OwnNetwork(t) {
		return
	}
	m := machine.Start(t, machine.Options{})
	before := identities(t, m.DeployRunning(machine.Deployment{Name: "svc"}))
	endpoints := m.WaitEndpoints(limit, "svc", 1)
	address, outside := containerdtest.Outside(t)
	everywhere := func() error {
		_, err := machine.Call(endpoints[0], "/", nil)
		answer := outside(filepath.Join(m.Programs, "app"), "dial", net.JoinHostPort(address, strconv.Itoa(endpoints[0].Port)))
		if strings.TrimSpace(answer) != "connected" {
			err = errors.Join(err, fmt.Errorf("from another host: %s", answer))
		}
		return err
	}
	if err := everywhere(); err != nil {
		t.Fatalf("before the fault: %v", err)
	}
	command(t, "iptables", "-w", "-P", "FORWARD", "DROP")
	command(t, "iptables", "-w", "-t", "nat", "-F")
	if everywhere() == nil {
		t.Error("the endpoint answers without its rules: the test proves nothing")
	}
	m.Within(30*time.Second, "the endpoint answers from the host and from another", everywhere)
	m.Within(limit, "the repair is an event of the node", func() error {
		if m.NodeEvents("NetworkRepaired") == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	untouched(t, m, "svc", before, endpoints)
}

// Fault 10.
func TestContainersAreConfined(t *testing.T) {
	m := machine.Start(t, machine.Options{})
	instances := m.DeployRunning(machine.Deployment{Name: "svc", Instances: 2})
	endpoints := m.WaitEndpoints(limit, "svc", 2)
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	gateway := strings.TrimSuffix(strings.Fields(command(t, "ip", "-4", "-o", "addr", "show", "dev", m.Config.Bridge))[3], "/24")

	var other, me client.Endpoint
	me, other = endpoints[0], endpoints[1]
	var otherIP string
	for _, i := range instances {
		if i.GetMeta().GetId() == other.InstanceID {
			otherIP = container(t, m, i).IP
		}
	}
	targets := map[string]string{
		"the host's loopback":                  "127.0.0.1:" + port,
		"the host's bridge address":            net.JoinHostPort(gateway, port),
		"another container":                    net.JoinHostPort(otherIP, "8080"),
		"another container's port on the host": net.JoinHostPort(gateway, strconv.Itoa(other.Port)),
		"the scheduler's gRPC":                 onHost(gateway, m.SchedulerGRPC()),
		"the scheduler's HTTP":                 onHost(gateway, m.SchedulerHTTP()),
		"the agent's HTTP":                     onHost(gateway, m.AgentHTTP()),
		"the agent's HTTP by the loopback":     m.AgentHTTP(),
		"the scheduler's gRPC by the loopback": m.SchedulerGRPC(),
	}
	for what, addr := range targets {
		answer, err := machine.Call(me, "/dial", url.Values{"addr": {addr}})
		if err != nil {
			t.Fatalf("ask the container to dial %s: %v", what, err)
		}
		if !strings.Contains(answer, "refused") {
			t.Errorf("a container's connection to %s (%s): %s; want it refused", what, addr, answer)
		}
	}
}

func onHost(ip, addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return net.JoinHostPort(ip, port)
}
