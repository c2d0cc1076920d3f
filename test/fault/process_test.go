package fault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

func TestMain(m *testing.M) { os.Exit(machine.Main(m)) }

// limit is how long anything without a deadline of its own may take on a busy machine.
const limit = 60 * time.Second

// identity of a process is its PID with its start time: a reused PID is another process.
func identity(t *testing.T, pid int) string {
	t.Helper()
	start, err := startTime(pid)
	if err != nil {
		t.Fatalf("process %d: %v", pid, err)
	}
	return fmt.Sprintf("%d@%s", pid, start)
}

// startTime is field 22 of /proc/PID/stat (proc(5)), counted after the name in parentheses. A zombie is gone.
func startTime(pid int) (string, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	_, rest, found := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat is not understood: %q", pid, raw)
	}
	if fields[0] == "Z" {
		return "", errors.New("it is a zombie")
	}
	return fields[19], nil
}

// identities of the instances' first processes, by instance.
func identities(t *testing.T, instances []*fleetv1.Instance) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for _, i := range instances {
		ids[i.GetMeta().GetId()] = identity(t, int(i.GetObserved().GetPid()))
	}
	return ids
}

// untouched fails the test unless the same instances run as the same processes, with the same endpoints,
// and the runtime has no container besides theirs.
func untouched(t *testing.T, m *machine.Machine, service string, before map[string]string, endpoints []client.Endpoint) {
	t.Helper()
	for id, was := range before {
		pid, _, _ := strings.Cut(was, "@")
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		if now := identity(t, n); now != was {
			t.Errorf("the process of instance %s was %s, now %s", id, was, now)
		}
	}
	now := m.Instances(service)
	if len(now) != len(before) {
		t.Errorf("%d instances, want %d", len(now), len(before))
	}
	for _, i := range now {
		if i.GetObserved().GetAttempt() != 1 || before[i.GetMeta().GetId()] == "" {
			t.Errorf("instance %s, attempt %d, is not one of those before", i.GetMeta().GetName(), i.GetObserved().GetAttempt())
		}
	}
	if list := m.Containers(); len(list) != len(before) {
		t.Errorf("containers: %v; want %d", list, len(before))
	}
	after := m.Endpoints(service)
	if fmt.Sprint(after) != fmt.Sprint(endpoints) {
		t.Errorf("endpoints were %v, now %v", endpoints, after)
	}
	for _, e := range after {
		if _, err := machine.Call(e, "/", nil); err != nil {
			t.Errorf("call %v: %v", e, err)
		}
	}
}

// Fault 1.
func TestAgentKilled(t *testing.T) {
	m := machine.Start(t, machine.Options{})
	before := identities(t, m.DeployRunning(machine.Deployment{Name: "svc", Instances: 2}))
	endpoints := m.WaitEndpoints(limit, "svc", 2)
	m.Agent.Kill()
	for _, e := range endpoints {
		if _, err := machine.Call(e, "/", nil); err != nil {
			t.Errorf("while the agent is dead: call %v: %v", e, err)
		}
	}
	started := time.Now()
	m.StartAgent()
	m.Within(10*time.Second-time.Since(started), "both instances are adopted", func() error {
		if n := machine.Count(m.Events("svc"), "InstanceAdopted", ""); n != 2 {
			return fmt.Errorf("%d adopted", n)
		}
		return nil
	})
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	untouched(t, m, "svc", before, endpoints)
}

// Fault 2.
func TestAgentDiesBetweenCreateAndJournal(t *testing.T) {
	m := machine.Start(t, machine.Options{})
	m.Agent.Stop()
	m.StartAgent("DROVER_FAULT_POINT=created")
	m.Deploy(machine.Deployment{Name: "svc"})
	if code := m.Agent.Wait(limit); code != -1 {
		t.Fatalf("the agent ended with code %d, want killed at the fault point", code)
	}
	if list := m.Containers(); len(list) != 1 {
		t.Fatalf("at the fault there are containers %v; want the one just made", list)
	}
	m.StartAgent()
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	before := identities(t, m.Instances("svc"))
	untouched(t, m, "svc", before, m.WaitEndpoints(limit, "svc", 1))
}

// Fault 3.
func TestContainerdKilled(t *testing.T) {
	m := machine.Start(t, machine.Options{})
	instances := m.DeployRunning(machine.Deployment{Name: "svc", Instances: 2})
	kept, dies := instances[0], instances[1]
	before := identities(t, instances[:1])
	endpoints := m.WaitEndpoints(limit, "svc", 2)
	daemon := m.Daemon.Pid()
	if err := syscall.Kill(daemon, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(dies.GetObserved().GetPid()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, e := range endpoints {
		if _, err := machine.Call(e, "/", nil); e.InstanceID == kept.GetMeta().GetId() && err != nil {
			t.Errorf("while containerd is dead: call %v: %v", e, err)
		}
	}
	m.Within(limit, "containerd is dead", func() error { // else a new one finds it, and takes it for its own
		if _, err := startTime(daemon); err == nil {
			return errors.New("it lives")
		}
		return nil
	})
	if err := m.Daemon.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.WaitEvent(limit, "svc", "InstanceRestarted", "")
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	m.WaitEndpoints(limit, "svc", 2)
	for id, was := range before {
		if now := identity(t, int(kept.GetObserved().GetPid())); now != was {
			t.Errorf("the process of instance %s was %s, now %s", id, was, now)
		}
	}
	if n := machine.Count(m.Events("svc"), "InstanceExited", ""); n != 1 {
		t.Errorf("the exit was reported %d times, want once", n)
	}
	if list := m.Containers(); len(list) != 2 {
		t.Errorf("containers: %v; want 2", list)
	}
}

// Fault 4.
func TestContainerKilled(t *testing.T) {
	m := machine.Start(t, machine.Options{})
	was := m.DeployRunning(machine.Deployment{Name: "svc"})[0]
	m.WaitEndpoints(limit, "svc", 1)
	if err := syscall.Kill(int(was.GetObserved().GetPid()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.WaitEndpoints(2*time.Second, "svc", 0)
	m.WaitEvent(limit, "svc", "InstanceExited", "137")
	m.WaitEndpoints(limit, "svc", 1)
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	now := m.Instances("svc")[0]
	if now.GetMeta().GetId() != was.GetMeta().GetId() || now.GetObserved().GetAttempt() != 2 {
		t.Errorf("instance %s attempt %d, want %s attempt 2", now.GetMeta().GetId(), now.GetObserved().GetAttempt(), was.GetMeta().GetId())
	}
	if exit := now.GetObserved().GetLastExit(); exit.GetCode() != 137 || exit.GetReason() != "Exited" {
		t.Errorf("last exit: %v, want 137, Exited", exit)
	}
}

// Fault 6.
func TestSchedulerKilled(t *testing.T) {
	m := machine.Start(t, machine.Options{})
	before := identities(t, m.DeployRunning(machine.Deployment{Name: "svc", Instances: 2}))
	endpoints := m.WaitEndpoints(limit, "svc", 2)
	service := m.Service("svc")
	m.Scheduler.Kill()
	for _, e := range endpoints {
		if _, err := machine.Call(e, "/", nil); err != nil {
			t.Errorf("while the scheduler is dead: call %v: %v", e, err)
		}
	}
	m.StartScheduler()
	m.WaitNode(fleetv1.NodeReady)
	m.WaitEndpoints(limit, "svc", 2)
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	untouched(t, m, "svc", before, endpoints)
	if now := m.Service("svc"); now.GetMeta().GetId() != service.GetMeta().GetId() || now.GetMeta().GetGeneration() != service.GetMeta().GetGeneration() {
		t.Errorf("the service was %v, now %v", service.GetMeta(), now.GetMeta())
	}
	if machine.Count(m.Events("svc"), "DeploymentStarted", "") != 1 {
		t.Error("the events from before are not all there")
	}
}

// A data directory is used by one process at a time, and a damaged one by none.
func TestDataDirectories(t *testing.T) {
	m := machine.Start(t, machine.Options{})
	m.DeployRunning(machine.Deployment{Name: "svc"})

	second := m.Second("scheduler", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--raft-addr", "127.0.0.1:0")
	if code, out := second.Wait(limit), second.Log(); code != 1 || !strings.Contains(out, "in use") || !strings.Contains(out, m.SchedulerDir()) {
		t.Errorf("a second scheduler on the same directory: code %d:\n%s", code, out)
	}
	second = m.Second("agent", "--http-addr", "127.0.0.1:0")
	if code, out := second.Wait(limit), second.Log(); code != 1 || !strings.Contains(out, "in use") || !strings.Contains(out, m.AgentDir()) {
		t.Errorf("a second agent on the same directory: code %d:\n%s", code, out)
	}

	m.Agent.Stop()
	m.Scheduler.Stop()
	for _, broken := range []struct{ daemon, file string }{
		{"scheduler", find(t, m.SchedulerDir(), "0000000000000001.segment")}, {"agent", find(t, m.AgentDir(), "journal.db")},
	} {
		good, err := os.ReadFile(broken.file)
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]byte{}, good...)
		for i := range min(len(bad), 64<<10) {
			bad[i] ^= 0x5a
		}
		if err := os.WriteFile(broken.file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		p := m.Second(broken.daemon)
		if code, out := p.Wait(limit), p.Log(); code != 1 || !strings.Contains(out, broken.file) {
			t.Errorf("%s with a damaged %s: code %d:\n%s", broken.daemon, broken.file, code, out)
		}
		if left, err := os.ReadFile(broken.file); err != nil || string(left) != string(bad) {
			t.Errorf("%s changed the damaged %s (%v)", broken.daemon, broken.file, err)
		}
		if err := os.WriteFile(broken.file, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.StartScheduler()
	m.StartAgent()
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
}

func find(t *testing.T, dir, pattern string) string {
	t.Helper()
	var found string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ok, _ := filepath.Match(pattern, d.Name()); ok && d.Type().IsRegular() && !strings.Contains(path, "/logs/") {
			found = path
		}
		return nil
	})
	if err != nil || found == "" {
		t.Fatalf("no file %s below %s (%v)", pattern, dir, err)
	}
	return found
}
