package fault

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
	"github.com/drover-fleet/drover/test/machine"
)

// What only the node can find out about a service.
func TestNodeRefuses(t *testing.T) {
	t.Parallel()
	allowed := t.TempDir()
	for name, target := range map[string]string{"out": "/etc", "in": allowed} {
		if err := os.Symlink(target, filepath.Join(allowed, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(allowed, "weights"), []byte("of a model"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	m := machine.Start(t, machine.Options{AgentConfig: map[string]any{
		"mount_dirs": []string{allowed}, "port_min": port, "port_max": min(port+50, 65535),
	}})

	t.Run("a port that somebody has", func(t *testing.T) {
		m.DeployRunning(machine.Deployment{Name: "mounted", Mounts: []*fleetv1.Mount{{Source: filepath.Join(allowed, "in"), Path: "/models", ReadOnly: true}}})
		endpoint := m.WaitEndpoints(limit, "mounted", 1)[0]
		if endpoint.Port <= port || endpoint.Port > port+50 {
			t.Errorf("endpoint %v, want a port above %d, which is taken", endpoint, port)
		}
		if got, err := machine.Call(endpoint, "/file", url.Values{"path": {"/models/weights"}}); err != nil || got != "of a model" {
			t.Errorf("the mounted file: %q, %v", got, err)
		}
	})
	t.Run("a link out of the allowed directories", func(t *testing.T) {
		m.Deploy(machine.Deployment{Name: "escaping", Mounts: []*fleetv1.Mount{{Source: filepath.Join(allowed, "out"), Path: "/models"}}})
		m.WaitEvent(limit, "escaping", "MountFailed", "it leads to /etc")
		m.WaitEvent(limit, "escaping", "InstanceFailed", "it leads to /etc")
		m.WaitService(limit, "escaping", fleetv1.ServiceAbnormal)
	})
	t.Run("a registry that is down", func(t *testing.T) {
		d := machine.Deployment{Name: "unreachable"}
		var host string
		t.Run("up", func(t *testing.T) { // its registry ends with it
			r := containerdtest.NewRegistry(t)
			host = r.Host
			d.Image, _ = r.PushApp(t, m.Programs)
			m.Prepare(d)
		})
		m.DeployPrepared(d)
		m.WaitEvent(limit, "unreachable", "ImagePullFailed", "registry "+host)
		if s := m.Service("unreachable").GetStatus(); s.GetState() != fleetv1.ServiceDeploying {
			t.Errorf("the service is %s: %s; want it waiting for the registry", s.GetState(), s.GetReason())
		}
	})
	t.Run("an image that is gone", func(t *testing.T) {
		d := machine.Deployment{Name: "gone"}
		r := containerdtest.NewRegistry(t)
		d.Image, _ = r.Push(t, "test/gone:1", containerdtest.NewImage(t, "", map[string]string{"/app": filepath.Join(m.Programs, "app")}, v1.Config{Cmd: []string{"/app"}}))
		m.Prepare(d)
		r.Delete(t, d.Image)
		m.DeployPrepared(d)
		m.WaitEvent(limit, "gone", "ImagePullFailed", "registry "+r.Host+" has no sha256:")
		m.WaitEvent(limit, "gone", "InstanceFailed", "has no sha256:")
		m.WaitService(limit, "gone", fleetv1.ServiceAbnormal)
	})
}

// A container that takes more memory than it may.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	m := machine.Start(t, machine.Options{})
	m.DeployRunning(machine.Deployment{Name: "svc"})
	endpoint := m.WaitEndpoints(limit, "svc", 1)[0]
	if answer, err := machine.Call(endpoint, "/alloc", url.Values{"bytes": {strconv.Itoa(256 << 20)}}); err == nil {
		t.Errorf("it was allowed to: %s", answer)
	}
	m.WaitEvent(limit, "svc", "InstanceExited", "(OOMKilled)")
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	m.WaitEndpoints(limit, "svc", 1)
	if exit := m.Instances("svc")[0].GetObserved().GetLastExit(); exit.GetReason() != "OOMKilled" || exit.GetAttempt() != 1 {
		t.Errorf("last exit %v", exit)
	}
}

// What reaches into an instance: logs, a shell, and the node's own commands while no scheduler runs.
func TestReachInto(t *testing.T) {
	t.Parallel()
	m := machine.Start(t, machine.Options{})
	instance := m.DeployRunning(machine.Deployment{Name: "svc"})[0]
	endpoint := m.WaitEndpoints(limit, "svc", 1)[0]
	name := instance.GetMeta().GetName()
	if _, err := machine.Call(endpoint, "/print", url.Values{"lines": {"3"}}); err != nil {
		t.Fatal(err)
	}
	m.Within(limit, "the lines in the log", func() error { // the logger writes beside the container
		out, errs, code := m.Drover("instance", "logs", name, "--tail", "2")
		if code != 0 || !strings.HasSuffix(out, "line 2\n"+lastLine(out)) || !strings.HasSuffix(out, "line 3\n") {
			return fmt.Errorf("logs through the scheduler: exit %d: %s%s", code, out, errs)
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, tty := range []bool{false, true} {
		if got := shell(ctx, t, m, name, tty); !strings.Contains(got, "terminal: "+strconv.FormatBool(tty)) || !strings.Contains(got, "read: hello") ||
			tty && !strings.Contains(got, "size: 40 100") && !strings.Contains(got, "size: 41 100") { // it may change before it is asked for
			t.Errorf("a shell with terminal %v: %q", tty, got)
		}
	}

	m.Scheduler.Kill()
	socket := filepath.Join(m.AgentDir(), "agent.sock")
	out, errs, code := m.Drover("agent", "list", "--socket", socket)
	if code != 0 || !strings.Contains(out, name) {
		t.Errorf("agent list: exit %d: %s%s", code, out, errs)
	}
	out, errs, code = m.Drover("agent", "logs", name, "--tail", "1", "--socket", socket)
	if code != 0 || !strings.HasSuffix(out, "line 3\n") {
		t.Errorf("agent logs: exit %d: %s%s", code, out, errs)
	}
	if out, errs, code = m.Drover("agent", "stop", name, "--socket", socket); code != 0 {
		t.Errorf("agent stop: exit %d: %s%s", code, out, errs)
	}
	m.Within(limit, "the container is gone", func() error {
		if _, err := startTime(int(instance.GetObserved().GetPid())); err == nil {
			return context.DeadlineExceeded
		}
		return nil
	})
	m.StartScheduler()
	m.WaitNode(fleetv1.NodeReady) // it answers no look-up before its log is read
	m.Within(limit, "the service has another instance", func() error {
		if now := m.Endpoints("svc"); len(now) != 1 || now[0].InstanceID == instance.GetMeta().GetId() {
			return context.DeadlineExceeded
		}
		return nil
	})
}

func lastLine(s string) string {
	s = strings.TrimSuffix(s, "\n")
	return s[strings.LastIndexByte(s, '\n')+1:] + "\n"
}

// shell runs "app tty", tells it the terminal's size and two lines, and answers what it printed.
func shell(ctx context.Context, t *testing.T, m *machine.Machine, instance string, tty bool) string {
	t.Helper()
	stream, err := m.Client.Instances.ExecInstance(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *fleetv1.ExecInstanceRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	send(&fleetv1.ExecInstanceRequest{Name: instance, Start: &fleetv1.ExecStart{Command: []string{"/app", "tty"}, Tty: tty, Rows: 40, Columns: 100}})
	var out strings.Builder
	told := false
	for {
		answer, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %q: %v", out.String(), err)
		}
		o := answer.GetOutput()
		out.Write(o.GetStdout())
		out.Write(o.GetStderr())
		if !told && strings.Contains(out.String(), "terminal:") {
			told = true
			send(&fleetv1.ExecInstanceRequest{Input: &fleetv1.ExecInput{Stdin: []byte("hello\nquit\n")}})
			send(&fleetv1.ExecInstanceRequest{Input: &fleetv1.ExecInput{CloseStdin: true}})
			send(&fleetv1.ExecInstanceRequest{Input: &fleetv1.ExecInput{Rows: 41, Columns: 100}}) // a size may follow the end
		}
		if o != nil && o.ExitCode != nil {
			if o.GetExitCode() != 0 {
				t.Errorf("exit code %d", o.GetExitCode())
			}
			return out.String()
		}
	}
}
