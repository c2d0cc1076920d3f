package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/drover-fleet/drover/runtime"
)

// writeFiles writes the container's /etc/hostname and /etc/resolv.conf, and an /etc/hosts to which
// addHost adds its address once that is known.
func writeFiles(dir string, s runtime.Spec) error {
	resolv, err := resolvConf(s.HostNetwork)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"hostname":    s.Hostname + "\n",
		"resolv.conf": resolv,
		"hosts":       "127.0.0.1\tlocalhost\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("write container's /etc/%s: %w", name, err)
		}
	}
	return nil
}

// addHost writes into the same file, which is bind-mounted already.
func addHost(dir, ip, hostname string) error {
	if hostname == "" {
		return nil
	}
	content := fmt.Sprintf("127.0.0.1\tlocalhost\n%s\t%s\n", ip, hostname)
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(content), 0o644); err != nil {
		return fmt.Errorf("write container's /etc/hosts: %w", err)
	}
	return nil
}

// resolvConf answers the host's, without the name servers on its loopback that a container with a
// network of its own cannot reach. Where that leaves none, those behind a local stub are taken.
func resolvConf(hostNetwork bool) (string, error) {
	var last string
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("read resolver configuration: %w", err)
		}
		if hostNetwork {
			return string(raw), nil
		}
		text, servers := reachable(string(raw))
		if servers > 0 {
			return text, nil
		}
		if last == "" {
			last = text
		}
	}
	return last, nil
}

// reachable drops name servers on a loopback address and counts the others.
func reachable(conf string) (string, int) {
	var out strings.Builder
	servers := 0
	for line := range strings.Lines(conf) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "nameserver" {
			if ip, err := netip.ParseAddr(fields[1]); err == nil && ip.IsLoopback() {
				continue
			}
			servers++
		}
		out.WriteString(line)
	}
	return out.String(), servers
}
