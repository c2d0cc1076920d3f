package e2e

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/test/machine"
)

// manifests declare a service of the test image.
func manifests(t *testing.T, image string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "flavor.yaml", "kind: Flavor\nmeta: {name: small}\nspec: {cpu_millis: 100, memory_bytes: 64Mi}\n")
	write(t, dir, "service.yaml", "kind: Service\nmeta: {name: web, tags: {team: e2e}}\nspec:\n  pool: lab\n  grace_period_seconds: 2\n"+
		"  versions: [{model: web, flavor: small, instances: 2, weight: 100, env: {GREETING: hello}}]\n")
	write(t, dir, "pool.yaml", "kind: Pool\nmeta: {name: lab}\nspec: {type: dedicated, nodes: [n1]}\n")
	write(t, dir, "model.yaml", "kind: Model\nmeta: {name: web}\nspec:\n  version: 1.0.0\n  image: "+image+
		"\n  health: {check_method: HTTP, url: /health, period_seconds: 1, timeout_seconds: 1}\n")
	return dir
}

// TestJourney is the life of a service, from its manifests to its deletion.
func TestJourney(t *testing.T) {
	m := machine.Start(t, machine.Options{})
	dir := manifests(t, m.Image)
	out := run(t, m, "apply", "-f", dir, "--wait")
	for _, line := range []string{"flavor/small created", "pool/lab created", "model/web@1.0.0 created", "service/web created", "  auto stop: off", "service/web Running 2/2 ready"} {
		if !slices.Contains(strings.Split(out, "\n"), line) {
			t.Errorf("apply did not print %q:\n%s", line, out)
		}
	}
	if out := run(t, m, "apply", "-f", dir); strings.Count(out, " unchanged\n") != 4 {
		t.Errorf("applied again:\n%s", out)
	}
	if list := read[services](t, m, "service", "list", "--tag", "team=e2e").Services; len(list) != 1 || list[0].Status.State != "Running" {
		t.Errorf("services %+v", list)
	}
	show := run(t, m, "service", "show", "web")
	for _, words := range []string{"State:         Running", "Instances:", "ServiceRunning"} {
		if !strings.Contains(show, words) {
			t.Errorf("service show lacks %q:\n%s", words, show)
		}
	}
	called := call(t, m, 2)
	for _, e := range m.WaitEndpoints(limit, "web", 2) { // over HTTP
		if called[e.InstanceID] != e.Port || e.Weight != 100 || e.ModelVersion != "1.0.0" {
			t.Errorf("the look-up's endpoint %+v is not one of the command line's %v", e, called)
		}
	}
	t.Run("Reach", func(t *testing.T) { reach(t, m) })
	t.Run("Operate", func(t *testing.T) { operate(t, m) })
	t.Run("WithoutScheduler", func(t *testing.T) { withoutScheduler(t, m) })

	out = run(t, m, "delete", "-f", dir)
	if !strings.Contains(out, "service/web deleted\n") || !strings.HasSuffix(out, "flavor/small deleted\n") {
		t.Errorf("delete:\n%s", out)
	}
	for _, noun := range []string{"service", "instance", "model", "pool", "flavor"} {
		if out := run(t, m, noun, "list"); out != "" {
			t.Errorf("left after delete:\n%s", out)
		}
	}
	if left := m.Containers(); len(left) != 0 {
		t.Errorf("containers left: %+v", left)
	}
}

// call calls each endpoint of web and answers their ports by instance.
func call(t *testing.T, m *machine.Machine, want int) map[string]int {
	t.Helper()
	ports := map[string]int{}
	for _, e := range read[endpoints](t, m, "service", "endpoints", "web").Endpoints {
		body, err := machine.Call(client.Endpoint{IP: e.IP, Port: e.Port}, "/env", url.Values{"key": {"GREETING"}})
		if err != nil || strings.TrimSpace(body) != "hello" || e.Schema != "http" {
			t.Errorf("%+v answers %q, %v", e, body, err)
		}
		ports[e.InstanceID] = e.Port
	}
	if len(ports) != want {
		t.Fatalf("endpoints %v, want %d", ports, want)
	}
	return ports
}

// reach reads logs of an instance and runs commands in it.
func reach(t *testing.T, m *machine.Machine) {
	i := read[instances](t, m, "instance", "list", "--service", "web").Instances[0]
	name := i.Meta.Name
	if _, err := machine.Call(client.Endpoint{IP: "127.0.0.1", Port: i.Observed.Port}, "/print", url.Values{"lines": {"5"}}); err != nil {
		t.Fatal(err)
	}
	var lines []string
	m.Within(limit, "the printed lines are in the log", func() error {
		lines = strings.Split(strings.TrimSpace(run(t, m, "instance", "logs", name, "--since", "5m", "--tail", "3")), "\n")
		if len(lines) != 3 {
			return fmt.Errorf("there are %q", lines)
		}
		return nil
	})
	if out := run(t, m, "instance", "logs", name, "--search", "no-such-word"); out != "" {
		t.Errorf("search found %q", out)
	}
	if out := run(t, m, "instance", "exec", name, "--", "/app", "dial", "127.0.0.1:8080"); strings.TrimSpace(out) != "connected" {
		t.Errorf("exec printed %q", out)
	}
	refused(t, m, 1, []string{"instance", "exec", name, "--", "/no/such/program"}, "/no/such/program", "no such file")
	refused(t, m, 2, []string{"instance", "exec", name}, "want INSTANCE -- COMMAND")
	refused(t, m, 2, []string{"instance", "logs", name, "--search", "a &&"}, `--search "a &&"`, "no word after &&")
}

// operate scales, restarts, stops and starts, and cordons the node.
func operate(t *testing.T, m *machine.Machine) {
	run(t, m, "service", "scale", "web", "--instances", "3", "--wait")
	call(t, m, 3)
	run(t, m, "service", "restart", "web", "--wait")
	for _, i := range read[instances](t, m, "instance", "list").Instances {
		if i.Observed.Attempt != 2 || !i.Observed.Ready {
			t.Errorf("after the restart: %+v", i)
		}
	}
	run(t, m, "service", "scale", "web", "--instances", "1", "--wait")
	run(t, m, "service", "stop", "web", "--wait")
	if out := run(t, m, "service", "endpoints", "web"); out != "" {
		t.Errorf("endpoints of a stopped service:\n%s", out)
	}
	refused(t, m, 1, []string{"service", "restart", "web"}, "Stopped", "allowed: start")
	if s := read[service](t, m, "service", "start", "web", "--wait"); s.Status.State != "Running" {
		t.Errorf("started: %+v", s)
	}
	refused(t, m, 1, []string{"service", "start", "web"}, "Running", "allowed: stop")
	call(t, m, 1)

	run(t, m, "node", "cordon", "n1", "--reason", "new disk")
	_, errs, code := m.Drover("service", "scale", "web", "--instances", "2", "--wait", "--wait-timeout", "2s")
	if code != 1 || !strings.Contains(errs, "still Alarm") || !strings.Contains(errs, "drover service show web") {
		t.Errorf("waited on a cordoned node: exit code %d, %s", code, errs)
	}
	if why := read[service](t, m, "service", "show", "web").Status.Versions[0].WaitingReason; !strings.Contains(why, "cordoned") {
		t.Errorf("waiting because of %q", why)
	}
	run(t, m, "node", "uncordon", "n1")
	run(t, m, "service", "scale", "web", "--instances", "2", "--wait")
	for _, reason := range []string{"Scaled", "Restarting", "Stopped", "Started"} {
		if !strings.Contains(run(t, m, "service", "events", "web"), reason) {
			t.Errorf("no event %s", reason)
		}
	}
}

// withoutScheduler uses the agent's own socket.
func withoutScheduler(t *testing.T, m *machine.Machine) {
	m.Scheduler.Stop()
	defer func() {
		m.StartScheduler()
		m.WaitNode("Ready")
		m.WaitEndpoints(limit, "web", 2)
	}()
	socket := filepath.Join(m.AgentDir(), "agent.sock")
	list := read[instances](t, m, "agent", "list", "--socket", socket).Instances
	if len(list) != 2 || !list[0].Observed.Ready {
		t.Fatalf("agent list: %+v", list)
	}
	run(t, m, "agent", "logs", list[0].Meta.Name, "--tail", "1", "--socket", socket)
	run(t, m, "agent", "stop", list[0].Meta.Name, "--socket", socket)
	m.Within(limit, "the stopped instance is gone", func() error {
		for _, i := range read[instances](t, m, "agent", "list", "--socket", socket).Instances {
			if i.Meta.ID == list[0].Meta.ID && i.Observed.Ready {
				return fmt.Errorf("it is %s", i.Observed.State)
			}
		}
		return nil
	})
	refused(t, m, 1, []string{"service", "list"}, "no scheduler answers at "+m.SchedulerGRPC(), "drover dev", "--addr")
}
