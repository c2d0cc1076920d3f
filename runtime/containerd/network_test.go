package containerd_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
)

// TestNetwork runs in a network of its own: it flushes tables and changes policies.
func TestNetwork(t *testing.T) {
	if !containerdtest.OwnNetwork(t) {
		return
	}
	e := containerdtest.New(t)
	hostIP, outside := containerdtest.Outside(t)
	metadataService(t, e, hostIP, outside)
	a, b := spec(t, e), spec(t, e)
	sa, sb := started(t, e, a), started(t, e, b)
	port := freePort(t)
	if err := e.Runtime.Publish(within(t), b.ID, port); err != nil {
		t.Fatal(err)
	}
	dialOutside := func(addr string) string { return outside(filepath.Join(e.Programs, "app"), "dial", addr) }
	reached := func(t *testing.T) {
		t.Helper()
		for _, host := range []string{"127.0.0.1", hostIP} {
			addr := fmt.Sprintf("%s:%d", host, port)
			if answer, err := getAt(addr, "/"); err != nil || answer != "ok" {
				t.Errorf("from the host, %s: %q, %v", addr, answer, err)
			}
		}
		if got := dialOutside(fmt.Sprintf("%s:%d", hostIP, port)); got != "connected" {
			t.Errorf("from outside: %s", got)
		}
	}
	t.Run("Published", reached)
	t.Run("Isolation", func(t *testing.T) { testIsolation(t, e, sa, sb, hostIP, port, dialOutside) })
	t.Run("Outward", func(t *testing.T) {
		if got := dialFrom(t, sa.IP, outsideIP(hostIP)+":9"); got != "connected" {
			t.Errorf("a container dials a service outside: %s; want it connected", got)
		}
	})
	t.Run("Repair", func(t *testing.T) {
		if n, err := e.Runtime.RepairNetwork(within(t)); err != nil || n != 0 {
			t.Fatalf("repair of a whole network: %d, %v; want 0", n, err)
		}
		for _, args := range [][]string{
			{"iptables", "-t", "nat", "-F"}, {"iptables", "-P", "FORWARD", "DROP"}, {"iptables", "-F", "FORWARD"}, {"iptables", "-D", "INPUT", "1"},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v: %s", args, err, out)
			}
		}
		if got, err := getAt(fmt.Sprintf("127.0.0.1:%d", port), "/"); err == nil {
			t.Fatalf("with flushed tables the port answers %q: the test breaks nothing", got)
		}
		// Two port jumps, one map, two masquerades and their jump, two jumps from FORWARD, one from INPUT.
		if n, err := e.Runtime.RepairNetwork(within(t)); err != nil || n != 9 {
			t.Errorf("repair: %d, %v; want 9 rules", n, err)
		}
		reached(t)
		testIsolation(t, e, sa, sb, hostIP, port, dialOutside)
		if n, err := e.Runtime.RepairNetwork(within(t)); err != nil || n != 0 {
			t.Errorf("repair after a repair: %d, %v; want 0", n, err)
		}
	})
	t.Run("RepairBridge", func(t *testing.T) {
		ports, err := filepath.Glob("/sys/class/net/" + e.Config.Bridge + "/brif/*")
		if err != nil || len(ports) != 2 {
			t.Fatalf("ports %v, %v; want two", ports, err)
		}
		for _, args := range [][]string{
			{"ip", "link", "set", filepath.Base(ports[0]), "nomaster"}, {"ip", "link", "set", e.Config.Bridge, "down"},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v: %s", args, err, out)
			}
		}
		if n, err := e.Runtime.RepairNetwork(within(t)); err != nil || n == 0 {
			t.Errorf("repair: %d, %v; want something", n, err)
		}
		// A connection that was begun while the bridge's link came up may be lost.
		eventually(t, "the port answers", func() error {
			conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
			if err == nil {
				err = conn.Close()
			}
			return err
		})
		reached(t)
		if got := dialFrom(t, sa.IP, sb.IP+":8080"); got == "connected" {
			t.Error("a container reaches another one after the repair")
		}
	})
	t.Run("HostNetwork", func(t *testing.T) {
		s := spec(t, e)
		s.HostNetwork, s.Env = true, map[string]string{"PORT": fmt.Sprint(freePort(t))}
		st := started(t, e, s)
		if st.IP != "" {
			t.Errorf("a container on the host's network has the address %s", st.IP)
		}
		if err := e.Runtime.Publish(within(t), s.ID, 1); err != nil {
			t.Errorf("publish: %v", err)
		}
		eventually(t, "it answers", func() error { _, err := getAt("127.0.0.1:"+s.Env["PORT"], "/"); return err })
	})
}

func outsideIP(hostIP string) string { return netip.MustParseAddr(hostIP).Next().String() }

// metadataService serves on the link-local address that clouds use, outside the host.
func metadataService(t *testing.T, e *containerdtest.Env, hostIP string, outside func(...string) string) {
	t.Helper()
	outside("ip", "addr", "add", "169.254.169.254/32", "dev", "drt-in")
	if out, err := exec.Command("ip", "route", "add", "169.254.169.254/32", "via", outsideIP(hostIP)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	server := exec.Command("ip", "netns", "exec", containerdtest.OutsideName(), filepath.Join(e.Programs, "app"))
	server.Env = []string{"PORT=9", "PATH=" + os.Getenv("PATH")}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = server.Wait() // killed
	})
	eventually(t, "the metadata service answers the host", func() error { _, err := getAt("169.254.169.254:9", "/"); return err })
}

// testIsolation: a container reaches neither the host nor another container, and is told so at once.
func testIsolation(t *testing.T, e *containerdtest.Env, a, b runtime.Status, hostIP string, port int, dialOutside func(string) string) {
	t.Helper()
	var listeners []string
	for _, ip := range []string{"127.0.0.1", "0.0.0.0"} {
		l, err := net.Listen("tcp", ip+":0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		_, port, _ := net.SplitHostPort(l.Addr().String())
		listeners = append(listeners, port)
	}
	gateway := a.IP[:strings.LastIndex(a.IP, ".")] + ".1"
	targets := map[string]string{
		"the host's loopback":            "127.0.0.1:" + listeners[0],
		"the bridge's address":           gateway + ":" + listeners[1],
		"the node's address":             hostIP + ":" + listeners[1],
		"another container":              b.IP + ":8080",
		"another one's published port":   fmt.Sprintf("%s:%d", hostIP, port),
		"that through the gateway":       fmt.Sprintf("%s:%d", gateway, port),
		"a link-local metadata service":  "169.254.169.254:9",
		"the registry on the loopback":   e.Registry.Host,
		"a loopback address of the host": "127.0.0.2:" + listeners[1],
	}
	for what, addr := range targets {
		if got := dialFrom(t, a.IP, addr); !strings.Contains(got, "connection refused") {
			t.Errorf("a container that dials %s, %s: %s; want it refused", what, addr, got)
		}
	}
	ctx := within(t)
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", gateway+":"+listeners[1])
	if err != nil {
		t.Fatalf("the listener that containers must not reach does not work: %v", err)
	}
	conn.Close()
	if got := dialOutside(hostIP + ":" + listeners[1]); got != "connected" {
		t.Errorf("the host's own port from outside: %s", got)
	}
	if raw, err := get(a.IP, "/file?path=/proc/net/if_inet6"); err == nil && strings.TrimSpace(raw) != "" && !strings.Contains(raw, "no such file") {
		t.Errorf("the container has IPv6 addresses: %s", raw)
	}
}
