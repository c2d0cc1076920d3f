package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
	"github.com/drover-fleet/drover/test/machine"
)

// TestDemo runs the program of `make demo` as a script does. Its own network gives it the registry's usual
// port, and shows what it leaves there.
func TestDemo(t *testing.T) {
	if !containerdtest.OwnNetwork(t) {
		return
	}
	containerdtest.Outside(t) // an address besides the loopback's
	links := interfaces(t)
	binary := machine.Binary(t)
	program := filepath.Join(t.TempDir(), "demo")
	build := exec.Command("go", "build", "-o", program, "./examples/demo")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the demo: %v\n%s", err, out)
	}
	dir := filepath.Join(t.TempDir(), "demo")
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(dir, "dev")); err == nil { // a demo that failed has left its containerd
			out, err := exec.Command(binary, "dev", "stop", "--data-dir", filepath.Join(dir, "dev")).CombinedOutput()
			t.Errorf("something was left in %s; drover dev stop: %v\n%s", dir, err, out)
		}
	})
	cmd := exec.CommandContext(t.Context(), program, "-drover", binary, "-data-dir", dir)
	cmd.Dir = "../.."
	raw, err := cmd.CombinedOutput()
	out := string(raw)
	if err != nil {
		t.Fatalf("the demo: %v\n%s", err, out)
	}
	rest := out
	for _, next := range []string{
		"serving it as 127.0.0.1:5000/iris:1.0\n", "$ drover dev ", "\nready\n", "$ drover apply -f examples/iris/ --wait", "model/iris@1.0.0 created\n",
		"service/iris Running 2/2 ready\n", "$ drover service endpoints iris\n", "\n{\"host_endpoints\":[{\"schema\":\"http\",", `"predictresult":"setosa"`,
		`"predictresult":"versicolor"`, "$ drover service show iris\n", "$ drover node show dev-1\n", "$ drover device list\n", "$ drover event list", "ServiceRunning",
		"\ndrover_build_info{", "\ndrover_device_utilisation_ratio{", "\ndrover_instance_memory_bytes{", "removing containers",
	} {
		_, after, ok := strings.Cut(rest, next)
		if !ok {
			t.Fatalf("the demo did not show %q in its place:\n%s", next, out)
		}
		rest = after
	}
	if strings.Contains(out, "\x1b[") {
		t.Error("the demo colours or moves what is no terminal")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the demo's directory is still there: %v", err)
	}
	if now := interfaces(t); !slices.Equal(now, links) {
		t.Errorf("network interfaces %v, before the demo %v", now, links)
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("mounts below %s are left (%v):\n%s", dir, err, mounts)
	}
	if rules := listed(t, "iptables", "-w", "-S") + listed(t, "iptables", "-w", "-t", "nat", "-S"); strings.Contains(strings.ToLower(rules), "drover") || strings.Contains(rules, "DNAT") {
		t.Errorf("rules are left:\n%s", rules)
	}
	if running := processes(t, dir); len(running) > 0 {
		t.Errorf("processes are left: %q", running)
	}
}

// interfaces are the names of this network's interfaces.
func interfaces(t *testing.T) []string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names
}

// listed is a command's output.
func listed(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// processes are the command lines that name the directory.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		if raw, err := os.ReadFile(f); err == nil && strings.Contains(string(raw), dir) { // others end meanwhile
			found = append(found, strings.ReplaceAll(string(raw), "\x00", " "))
		}
	}
	return found
}
