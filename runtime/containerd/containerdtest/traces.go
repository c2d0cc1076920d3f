package containerdtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Traces finds what a container has on this machine; interfaces are counted for all containers of the Env.
func Traces(t testing.TB, e *Env, id, ip string) map[string]bool {
	t.Helper()
	read := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		return string(out)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*" + e.Config.CgroupParent + "/" + id)
	if err != nil {
		t.Fatal(err)
	}
	v2, err := filepath.Glob("/sys/fs/cgroup" + e.Config.CgroupParent + "/" + id)
	if err != nil {
		t.Fatal(err)
	}
	_, addr := os.Stat(filepath.Join(e.Config.DataDir, "ipam", e.Config.Bridge, ip))
	ports, err := filepath.Glob("/sys/class/net/" + e.Config.Bridge + "/brif/*")
	if err != nil {
		t.Fatal(err)
	}
	_, netns := os.Stat(filepath.Join(e.Config.DataDir, "netns", id))
	_, files := os.Stat(filepath.Join(e.Config.DataDir, "containers", id))
	return map[string]bool{
		"mount":             strings.Contains(read("cat", "/proc/self/mountinfo"), id),
		"network namespace": netns == nil,
		"iptables rule":     strings.Contains(read("iptables-save"), " "+ip+":"),
		"cgroup":            len(groups)+len(v2) > 0,
		"address":           addr == nil,
		"interface":         len(ports) > 0,
		"files":             files == nil,
	}
}
