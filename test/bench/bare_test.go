//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
)

const (
	snapshotter   = "overlayfs"
	containerPort = 8080
	healthPath    = "/health"
	cpuMillis     = 1000
	memoryBytes   = 256 << 20
)

// bareSteps of one container, in order.
var bareSteps = []string{"snapshot", "namespace", "bridge", "portmap", "container", "task", "start", "probe of the container", "probe of the host port"}

// bare is a client of containerd that starts one container at a time, one step after the other.
type bare struct {
	env    *containerdtest.Env
	client *containerd.Client
	cni    *libcni.CNIConfig
	list   *libcni.NetworkConfigList
	timed  *timedExec
	spec   *oci.Spec
	chain  string
	dir    string
	logger string
	rounds int
}

// timedExec runs CNI plugins and notes how long each took.
type timedExec struct {
	*invoke.DefaultExec
	took map[string]time.Duration
}

func (e *timedExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	start := time.Now()
	out, err := e.DefaultExec.ExecPlugin(ctx, path, stdin, environ)
	e.took[filepath.Base(path)] = time.Since(start)
	return out, err
}

// newBare pulls the image and does everything that one does once.
func newBare(t *testing.T, env *containerdtest.Env, logger string) *bare {
	t.Helper()
	b := &bare{env: env, dir: t.TempDir(), logger: logger, timed: &timedExec{
		DefaultExec: &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}, PluginDecoder: version.PluginDecoder{}},
		took:        map[string]time.Duration{},
	}}
	var err error
	if b.client, err = containerd.New(env.Daemon.Socket(), containerd.WithDefaultNamespace("bare")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.client.Close() })
	ctx := namespaces.WithNamespace(t.Context(), "bare")
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))})
	image, err := b.client.Pull(ctx, env.Image+"@"+env.Digest, containerd.WithPullUnpack, containerd.WithResolver(resolver), containerd.WithPullSnapshotter(snapshotter))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b.chain = identity.ChainID(layers).String()
	b.spec, err = oci.GenerateSpec(ctx, b.client, &containers.Container{ID: "bare"}, oci.WithProcessArgs("/app"),
		oci.WithCPUCFS(cpuMillis*100, 100_000), oci.WithMemoryLimit(memoryBytes), oci.WithPidsLimit(16384), seccomp.WithDefaultProfile())
	if err != nil {
		t.Fatal(err)
	}
	b.cni = libcni.NewCNIConfigWithCacheDir(cniDirs(), filepath.Join(b.dir, "cni"), b.timed)
	b.list, err = libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion": "1.0.0", "name": "bare", "plugins": [
		{"type": "bridge", "bridge": "bare0", "isGateway": true, "ipMasq": false,
		 "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.199.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}]}`, filepath.Join(b.dir, "ipam")))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func cniDirs() []string { return []string{"/opt/cni/bin", "/usr/lib/cni"} }

// round starts one container, measures each step, and removes the container, which isn't measured.
func (b *bare) round(ctx context.Context) (steps map[string]time.Duration, total time.Duration, err error) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, "bare"), time.Minute)
	defer cancel()
	b.rounds++
	id := fmt.Sprintf("bare-%d", b.rounds)
	port := 29000 + b.rounds
	netns := filepath.Join(b.dir, id+".netns")
	network := &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: "eth0", CapabilityArgs: map[string]any{
		"portMappings": []map[string]any{{"hostPort": port, "containerPort": containerPort, "protocol": "tcp"}},
	}}
	defer func() { err = errors.Join(err, b.remove(context.WithoutCancel(ctx), id, network)) }()

	steps = map[string]time.Duration{}
	start := time.Now()
	last := start
	done := func(step string) {
		now := time.Now()
		steps[step], last = now.Sub(last), now
	}
	// The label keeps the snapshot from garbage collection until the container refers to it; a lease costs two more calls.
	kept := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": start.UTC().Format(time.RFC3339)})
	rootfs, err := b.client.SnapshotService(snapshotter).Prepare(ctx, id, b.chain, kept)
	if err != nil {
		return nil, 0, fmt.Errorf("prepare snapshot: %w", err)
	}
	done("snapshot")
	if err := newNetns(netns); err != nil {
		return nil, 0, err
	}
	done("namespace")
	result, err := b.cni.AddNetworkList(ctx, b.list, network)
	if err != nil {
		return nil, 0, fmt.Errorf("attach to network: %w", err)
	}
	done("bridge")
	steps["portmap"] = b.timed.took["portmap"]
	steps["bridge"] -= steps["portmap"]
	if err := b.create(ctx, id, netns); err != nil {
		return nil, 0, err
	}
	done("container")
	request := &tasksapi.CreateTaskRequest{ContainerID: id, Stdout: b.output(id), Stderr: b.output(id)}
	for _, m := range rootfs {
		request.Rootfs = append(request.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	if _, err := b.client.TaskService().Create(ctx, request); err != nil {
		return nil, 0, fmt.Errorf("make task: %w", err)
	}
	done("task")
	if _, err := b.client.TaskService().Start(ctx, &tasksapi.StartRequest{ContainerID: id}); err != nil {
		return nil, 0, fmt.Errorf("start task: %w", err)
	}
	done("start")
	ip, err := address(result)
	if err != nil {
		return nil, 0, err
	}
	if err := probe(ctx, fmt.Sprintf("%s:%d", ip, containerPort)); err != nil {
		return nil, 0, err
	}
	done("probe of the container")
	if err := probe(ctx, fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		return nil, 0, err
	}
	done("probe of the host port")
	return steps, last.Sub(start), nil
}

func (b *bare) create(ctx context.Context, id, netns string) error {
	spec := *b.spec
	linux := *spec.Linux
	spec.Linux = &linux
	linux.CgroupsPath = b.env.Config.CgroupParent + "/" + id
	linux.Namespaces = append([]specs.LinuxNamespace{}, linux.Namespaces...)
	for i := range linux.Namespaces {
		if linux.Namespaces[i].Type == specs.NetworkNamespace {
			linux.Namespaces[i].Path = netns
		}
	}
	encoded, err := typeurl.MarshalAny(&spec)
	if err != nil {
		return fmt.Errorf("encode OCI specification: %w", err)
	}
	_, err = b.client.ContainerService().Create(ctx, containers.Container{
		ID: id, Image: b.env.Image, Snapshotter: snapshotter, SnapshotKey: id, Spec: encoded,
		Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"},
	})
	if err != nil {
		return fmt.Errorf("make container: %w", err)
	}
	return nil
}

// output makes the shim start Drover's logger.
func (b *bare) output(id string) string {
	u := url.URL{Scheme: "binary", Path: b.logger, RawQuery: url.Values{"logger": {filepath.Join(b.dir, "logs", id)}}.Encode()}
	return u.String()
}

// remove takes back what round made, as far as it got.
func (b *bare) remove(ctx context.Context, id string, network *libcni.RuntimeConf) error {
	var errs []error
	if container, err := b.client.LoadContainer(ctx, id); err == nil {
		if task, err := container.Task(ctx, nil); err == nil {
			_, err = task.Delete(ctx, containerd.WithProcessKill)
			errs = append(errs, err)
		}
		errs = append(errs, container.Delete(ctx, containerd.WithSnapshotCleanup))
	} else {
		errs = append(errs, b.client.SnapshotService(snapshotter).Remove(ctx, id))
	}
	errs = append(errs, b.cni.DelNetworkList(ctx, b.list, network))
	errs = append(errs, unix.Unmount(network.NetNS, unix.MNT_DETACH), os.Remove(network.NetNS))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove %s: %w", id, err)
	}
	return nil
}

// address is the IPv4 address that the plugins gave.
func address(result interface{ Version() string }) (string, error) {
	full, ok := result.(*types100.Result)
	if !ok || len(full.IPs) == 0 {
		return "", fmt.Errorf("the CNI plugins answered no address: %v", result)
	}
	return full.IPs[0].Address.IP.String(), nil
}

// newNetns makes a network namespace with its loopback up and binds it to path.
func newNetns(path string) error {
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	return nil
}

// probe asks each millisecond until the application answers.
func probe(ctx context.Context, hostPort string) error {
	transport := &http.Transport{DisableKeepAlives: true}
	probing := http.Client{Transport: transport, Timeout: time.Second}
	for {
		resp, err := probing.Get("http://" + hostPort + healthPath)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("probe %s: %w (%s)", hostPort, err, strings.TrimSpace(ctx.Err().Error()))
		case <-time.After(time.Millisecond):
		}
	}
}
