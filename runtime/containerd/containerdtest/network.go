package containerdtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const ownNetworkVariable = "DROVER_TEST_OWN_NETWORK"

// OwnNetwork runs the calling test again in a process with network and mount namespaces of its own, so
// that it may flush tables and change policies without hurting the machine. It answers true in that
// process; where it answers false the test has been run, and the caller returns.
func OwnNetwork(t *testing.T) bool {
	t.Helper()
	Need(t)
	if os.Getenv(ownNetworkVariable) == t.Name() {
		return true
	}
	// A new sysfs shows the new namespace's interfaces, but hides the cgroup hierarchies: they move along.
	const script = `set -e
mkdir -p "$CGROUPS"
mount --rbind /sys/fs/cgroup "$CGROUPS"
mount -t sysfs sysfs /sys
mount --rbind "$CGROUPS" /sys/fs/cgroup
ip link set lo up
exec "$0" "$@"`
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script,
		binary, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), ownNetworkVariable+"="+t.Name(), "CGROUPS="+filepath.Join(t.TempDir(), "cgroup"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in its own network: %v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("in its own network:\n%s", out)
	}
	return false
}

// OutsideName names the network namespace that Outside makes; names are shared by all of the machine's tests.
func OutsideName() string { return fmt.Sprintf("drover-outside-%d", os.Getpid()) }

// Outside makes a network namespace beside the host's, joined to it by drt-in, and answers the host's address there, after
// which its own follows, and a function that runs a command in it.
func Outside(t *testing.T) (hostIP string, run func(args ...string) string) {
	t.Helper()
	place := takePlace(t)
	host, peer := fmt.Sprintf("203.0.113.%d", 4*place+1), fmt.Sprintf("203.0.113.%d", 4*place+2)
	ours := fmt.Sprintf("drt-out%d", place)
	name := OutsideName()
	command(t, "ip", "netns", "add", name)
	t.Cleanup(func() { command(t, "ip", "netns", "delete", name) })
	command(t, "ip", "link", "add", ours, "type", "veth", "peer", "name", "drt-in", "netns", name)
	command(t, "ip", "addr", "add", host+"/30", "dev", ours)
	command(t, "ip", "link", "set", ours, "up")
	in := func(args ...string) string {
		return command(t, append([]string{"ip", "netns", "exec", name}, args...)...)
	}
	in("ip", "addr", "add", peer+"/30", "dev", "drt-in")
	in("ip", "link", "set", "drt-in", "up")
	in("ip", "route", "add", "default", "via", host)
	return host, in
}

func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
