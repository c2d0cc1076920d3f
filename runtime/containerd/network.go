package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
)

// network attaches containers to the bridge.
type network struct {
	bridge   string
	netnsDir string
	ipamDir  string
	cni      *libcni.CNIConfig
	conf     *libcni.NetworkConfigList
	firewall *firewall
	records  *records

	mu    sync.Mutex // held while the bridge and the rules are made
	ready bool
}

func newNetwork(cfg Config, recs *records) (*network, error) {
	raw, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0",
		"name":       cfg.Bridge,
		"plugins": []any{map[string]any{
			"type": "bridge", "bridge": cfg.Bridge, "isGateway": true, "ipMasq": false, "hairpinMode": false,
			"ipam": map[string]any{
				"type":    "host-local",
				"dataDir": filepath.Join(cfg.DataDir, "ipam"),
				"ranges":  []any{[]any{map[string]any{"subnet": cfg.Subnet}}},
				"routes":  []any{map[string]any{"dst": "0.0.0.0/0"}},
			},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	conf, err := libcni.ConfListFromBytes(raw)
	if err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	return &network{
		bridge:   cfg.Bridge,
		netnsDir: filepath.Join(cfg.DataDir, "netns"),
		ipamDir:  filepath.Join(cfg.DataDir, "ipam"),
		cni:      libcni.NewCNIConfigWithCacheDir(cfg.CNIBinDirs, filepath.Join(cfg.DataDir, "cni"), nil),
		conf:     conf,
		firewall: &firewall{bridge: cfg.Bridge, subnet: cfg.Subnet},
		records:  recs,
	}, nil
}

func (n *network) netns(id string) string { return filepath.Join(n.netnsDir, id) }

func (n *network) runtimeConf(id string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: id, NetNS: n.netns(id), IfName: "eth0"}
}

// attach gives the container's namespace, which exists, an address on the bridge.
func (n *network) attach(ctx context.Context, id string) (ip, veth string, err error) {
	first, err := n.begin(ctx)
	if err != nil {
		return "", "", err
	}
	defer first()
	result, err := n.cni.AddNetworkList(ctx, n.conf, n.runtimeConf(id))
	if err != nil { // perhaps a part was left by an attempt that was cut short
		if err := n.cni.DelNetworkList(ctx, n.conf, n.runtimeConf(id)); err != nil {
			return "", "", fmt.Errorf("clean up network: %w", err)
		}
		if result, err = n.cni.AddNetworkList(ctx, n.conf, n.runtimeConf(id)); err != nil {
			return "", "", fmt.Errorf("attach to network: %w", err)
		}
	}
	return n.settle(result)
}

// attached finds what an earlier attach of ours answered, and finishes it; "" when there is nothing.
func (n *network) attached(id string) (ip, veth string, err error) {
	result, err := n.cni.GetNetworkListCachedResult(n.conf, n.runtimeConf(id))
	if err != nil || result == nil {
		return "", "", err
	}
	return n.settle(result)
}

// settle isolates the interface that the bridge plugin made.
func (n *network) settle(result types.Result) (ip, veth string, err error) {
	full, err := types100.NewResultFromResult(result)
	if err != nil {
		return "", "", fmt.Errorf("attach to network: %w", err)
	}
	for _, i := range full.Interfaces {
		if i.Sandbox == "" && i.Name != n.bridge {
			veth = i.Name
		}
	}
	if len(full.IPs) == 0 || veth == "" {
		return "", "", fmt.Errorf("attach to network: the bridge plugin answered no address or interface: %v", full)
	}
	if _, err := n.isolate(veth); err != nil {
		return "", "", err
	}
	if _, err := n.tune(); err != nil {
		return "", "", err
	}
	return full.IPs[0].Address.IP.String(), veth, nil
}

// begin makes sure that the rules stand before the first container is attached, and lets the first one
// make the bridge alone.
func (n *network) begin(ctx context.Context) (done func(), err error) {
	n.mu.Lock()
	if n.ready {
		n.mu.Unlock()
		return func() {}, nil
	}
	if _, err := n.firewall.repair(ctx, n.records.list()); err != nil {
		n.mu.Unlock()
		return nil, err
	}
	return func() {
		_, err := os.Stat("/sys/class/net/" + n.bridge)
		n.ready = err == nil
		n.mu.Unlock()
	}, nil
}

// isolate keeps a bridge port from reaching the other ports; true when it had to.
func (n *network) isolate(veth string) (bool, error) {
	return setFile("/sys/class/net/"+veth+"/brport/isolated", "1")
}

// tune sets what the rules rely on: the host answers for isolated neighbours, so that the rules refuse
// connections between them at once, and published ports answer on the loopback address.
func (n *network) tune() (int, error) {
	dir := "/proc/sys/net/ipv4/conf/" + n.bridge + "/"
	changed := 0
	for _, s := range [][2]string{
		{dir + "route_localnet", "1"}, {dir + "proxy_arp_pvlan", "1"}, {dir + "send_redirects", "0"},
		{"/proc/sys/net/ipv4/ip_forward", "1"},
	} {
		did, err := setFile(s[0], s[1])
		if err != nil {
			return changed, err
		}
		if did {
			changed++
		}
	}
	return changed, nil
}

// setFile writes a kernel setting when it has another value.
func setFile(path, value string) (bool, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("read kernel setting: %w", err)
	}
	if strings.TrimSpace(string(raw)) == value {
		return false, nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return false, fmt.Errorf("write kernel setting: %w", err)
	}
	return true, nil
}

// detach gives back address and interface and removes the namespace; what is gone already is no error.
func (n *network) detach(ctx context.Context, id string) error {
	path := n.netns(id)
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) && !n.reserved(id) {
		return nil
	}
	if !isNetns(path) { // the host was started anew: plugins take a missing file, but not one that is no namespace
		if err := removeNetns(path); err != nil {
			return err
		}
	}
	if err := n.cni.DelNetworkList(ctx, n.conf, n.runtimeConf(id)); err != nil {
		return fmt.Errorf("detach from network: %w", err)
	}
	return removeNetns(path)
}

// reserved says whether an address is still reserved for a container.
func (n *network) reserved(id string) bool {
	dir := filepath.Join(n.ipamDir, n.bridge)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false // nothing was ever reserved
	}
	for _, entry := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err == nil && strings.HasPrefix(string(raw), id) {
			return true
		}
	}
	return false
}

// repair puts back what somebody took from the network of containers that have one, and answers how
// many things that were.
func (n *network) repair(ctx context.Context) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	recs := n.records.list()
	count, err := n.firewall.repair(ctx, recs)
	if err != nil {
		return count, err
	}
	if _, err := os.Stat("/sys/class/net/" + n.bridge); err != nil {
		return count, nil // no container was attached since the host started
	}
	if err := linkUp(n.bridge); err != nil {
		return count, err
	}
	for _, rec := range recs {
		if rec.Veth == "" || rec.deleting {
			continue
		}
		if _, err := os.Stat("/sys/class/net/" + rec.Veth); err != nil {
			continue // its namespace ended with the host or was deleted
		}
		if _, err := os.Stat("/sys/class/net/" + rec.Veth + "/brport"); err != nil {
			if err := joinBridge(n.bridge, rec.Veth); err != nil {
				return count, err
			}
			count++
		}
		did, err := n.isolate(rec.Veth)
		if err != nil {
			return count, err
		}
		if did {
			count++
		}
	}
	tuned, err := n.tune()
	return count + tuned, err
}

func joinBridge(bridge, veth string) error {
	index, err := os.ReadFile("/sys/class/net/" + veth + "/ifindex")
	if err != nil {
		return fmt.Errorf("join bridge: %w", err)
	}
	var i uint32
	if _, err := fmt.Sscan(string(index), &i); err != nil {
		return fmt.Errorf("join bridge: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("join bridge: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(bridge)
	if err != nil {
		return fmt.Errorf("join bridge: %w", err)
	}
	req.SetUint32(i)
	if err := unix.IoctlIfreq(fd, unix.SIOCBRADDIF, req); err != nil {
		return fmt.Errorf("put %s on %s again: %w", veth, bridge, err)
	}
	return nil
}

// remove takes away rules and bridge; for when no container is left.
func (n *network) remove(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = false
	err := n.firewall.remove(ctx)
	if _, stat := os.Stat("/sys/class/net/" + n.bridge); stat == nil {
		out, del := exec.CommandContext(ctx, "ip", "link", "delete", n.bridge).CombinedOutput()
		if del != nil {
			err = errors.Join(err, fmt.Errorf("delete bridge: %w: %s", del, strings.TrimSpace(string(out))))
		}
	}
	return err
}
