package containerdtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Bare does what a plain program would to get a container served, one step after the other: network
// namespace, CNI bridge and portmap, snapshot, container with a logger, start, first probe. It answers how long
// that took until the probe succeeded; the image must have been pulled by the Env's Runtime. Everything is removed
// again but the portmap plugin's own chains: call it in a test with OwnNetwork.
func (e *Env) Bare(ctx context.Context, id string, hostPort int) (took time.Duration, err error) {
	ctx = namespaces.WithNamespace(ctx, "drover")
	c, err := client.New(e.Config.Socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	images, err := c.ListImages(ctx)
	if err != nil || len(images) == 0 {
		return 0, fmt.Errorf("no image was pulled: %w", err)
	}
	conf, cni, err := e.bareNetwork()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if out, err := exec.CommandContext(ctx, "ip", "netns", "add", id).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	defer func() { err = errors.Join(err, exec.Command("ip", "netns", "delete", id).Run()) }()
	rc := &libcni.RuntimeConf{ContainerID: id, NetNS: "/run/netns/" + id, IfName: "eth0", CapabilityArgs: map[string]any{
		"portMappings": []map[string]any{{"hostPort": hostPort, "containerPort": 8080, "protocol": "tcp"}}}}
	result, err := cni.AddNetworkList(ctx, conf, rc)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cni.DelNetworkList(ctx, conf, rc)) }()
	full, err := types100.NewResultFromResult(result)
	if err != nil {
		return 0, err
	}
	container, err := c.NewContainer(ctx, id, client.WithSnapshotter("overlayfs"), client.WithNewSnapshot(id, images[0]),
		client.WithNewSpec(oci.WithImageConfig(images[0]), oci.WithCgroup(e.Config.CgroupParent+"/"+id), oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: rc.NetNS})))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, container.Delete(ctx, client.WithSnapshotCleanup)) }()
	logs, err := os.MkdirTemp("", "bare")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(logs)) }()
	task, err := container.NewTask(ctx, cio.BinaryIO(e.Config.LoggerBinary, map[string]string{"logger": logs}))
	if err != nil {
		return 0, err
	}
	defer func() {
		_, del := task.Delete(ctx, client.WithProcessKill)
		err = errors.Join(err, del)
	}()
	if err := task.Start(ctx); err != nil {
		return 0, err
	}
	if err := Probe(ctx, net.JoinHostPort(full.IPs[0].Address.IP.String(), "8080")); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// Probe connects until that succeeds.
func Probe(ctx context.Context, addr string) error {
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(time.Millisecond):
		}
	}
}

func (e *Env) bareNetwork() (*libcni.NetworkConfigList, *libcni.CNIConfig, error) {
	raw, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "bare", "plugins": []any{
		map[string]any{"type": "bridge", "bridge": e.Config.Bridge, "isGateway": true, "ipMasq": true, "ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(e.Config.DataDir, "bare"), "ranges": []any{[]any{map[string]any{"subnet": e.Config.Subnet, "rangeStart": e.bareStart()}}},
			"routes": []any{map[string]any{"dst": "0.0.0.0/0"}}}},
		map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
	}})
	if err != nil {
		return nil, nil, err
	}
	conf, err := libcni.ConfListFromBytes(raw)
	if err != nil {
		return nil, nil, err
	}
	return conf, libcni.NewCNIConfigWithCacheDir([]string{"/opt/cni/bin", "/usr/lib/cni"}, filepath.Join(e.Config.DataDir, "bare-cni"), nil), nil
}

// bareStart keeps the bare sequence's addresses apart from the runtime's.
func (e *Env) bareStart() string {
	ip, _, err := net.ParseCIDR(e.Config.Subnet)
	if err != nil {
		return ""
	}
	ip = ip.To4()
	ip[3] = 200
	return ip.String()
}
