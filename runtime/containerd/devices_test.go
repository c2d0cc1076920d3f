package containerd_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/attach"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
)

// noDriver is what opening a node of no driver says after the device cgroup has let it pass; denied is the cgroup's
// word. (A file's mode would say "permission denied".)
const (
	noDriver = "no such device or address"
	denied   = "operation not permitted"
)

// accelerators is what the test says that the host has.
type accelerators struct {
	mu   sync.Mutex
	list []devices.Device
}

func (a *accelerators) set(list ...devices.Device) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = list
}

func (a *accelerators) known() []devices.Device {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.list)
}

func TestDevices(t *testing.T) {
	e := containerdtest.New(t)
	dir := t.TempDir()
	host := &accelerators{}
	minor := 0
	gpu := devices.Device{ID: "GPU-a", Vendor: "nvidia", Minor: &minor, Health: fleetv1.Healthy}
	a := devices.Device{ID: "a", Vendor: "fake", Health: fleetv1.Healthy}
	b := devices.Device{ID: "b", Vendor: "fake", Health: fleetv1.Healthy}
	host.set(gpu, a, b)
	attacher, err := attach.New(attach.Config{
		SpecDirs: []string{filepath.Join(dir, "cdi")}, Dir: filepath.Join(dir, "own"), Root: filepath.Join(dir, "root"), Devices: host.known,
		NvidiaCTK: filepath.Join(dir, "none"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Runtime.Close(); err != nil {
		t.Fatal(err)
	}
	e.Config.Devices = attacher
	if e.Runtime, err = containerd.New(t.Context(), e.Config); err != nil {
		t.Fatal(err)
	}
	fakeHost(t, dir)
	// The image brings nodes of all of them, and of the host's first disk or memory.
	e.Image, e.Digest = pushNodes(t, e, map[string][2]uint32{"pre/a": {60, 0}, "pre/b": {60, 1}, "pre/gpu": {60, 100}, "pre/gpu1": {60, 101}, "pre/mem": {1, 1}})
	t.Run("Nothing", func(t *testing.T) { testDevicesLeftBehind(t, e, host, a) })
	t.Run("Given", func(t *testing.T) { testDevicesGiven(t, e) })
	t.Run("None", func(t *testing.T) { testNoDevices(t, e) })
}

// fakeHost puts two GPUs and an RDMA adapter below dir, and a specification that gives the first.
func fakeHost(t *testing.T, dir string) {
	t.Helper()
	for _, sub := range []string{"root/dev/infiniband", "root/lib", "cdi"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, minor := range map[string]uint32{"nvidia0": 100, "nvidia1": 101, "nvidiactl": 102, "infiniband/uverbs0": 103, "infiniband/umad0": 104} {
		path := filepath.Join(dir, "root/dev", name)
		if err := errors.Join(unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(60, minor))), os.Chmod(path, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	spec := `cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void, LD_LIBRARY_PATH=/driver]
  deviceNodes: [{path: /dev/nvidiactl, hostPath: DIR/dev/nvidiactl}]
  mounts: [{hostPath: DIR/lib, containerPath: /driver, options: [ro, nosuid, nodev, rbind]}]
devices: [{name: "7", containerEdits: {deviceNodes: [{path: /dev/nvidia0, hostPath: DIR/dev/nvidia0}]}}]
`
	spec = strings.ReplaceAll(spec, "DIR", filepath.Join(dir, "root"))
	for path, text := range map[string]string{"cdi/nvidia.yaml": spec, "root/lib/libcuda.so.1": "the driver"} {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// pushNodes pushes the app with device nodes that anybody may open.
func pushNodes(t *testing.T, e *containerdtest.Env, nodes map[string][2]uint32) (image, digest string) {
	t.Helper()
	img := containerdtest.NewImage(t, "", map[string]string{"/app": filepath.Join(e.Programs, "app")}, v1.Config{
		Entrypoint: []string{"/app"}, User: "1000:1001",
		Env: []string{"NVIDIA_VISIBLE_DEVICES=all", "CUDA_VISIBLE_DEVICES=0,1", "ASCEND_VISIBLE_DEVICES=0-7", "ASCEND_RT_VISIBLE_DEVICES=0", "LD_LIBRARY_PATH=/image", "FROM=image"},
	})
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for name, number := range nodes {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: int64(number[0]), Devminor: int64(number[1])}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, l); err != nil {
		t.Fatal(err)
	}
	return e.Registry.Push(t, "test/nodes:1", img)
}

// testDevicesLeftBehind: a container that can't have its devices is not made, not even in part.
func testDevicesLeftBehind(t *testing.T, e *containerdtest.Env, host *accelerators, a devices.Device) {
	s := spec(t, e)
	if _, err := e.Runtime.Pull(within(t), runtime.PullRequest{Image: s.Image, Digest: s.Digest}, nil); err != nil {
		t.Fatal(err)
	}
	before := host.known()
	lost := a
	lost.Health, lost.Reason = fleetv1.Lost, "fell off its bus"
	host.set(lost)
	for id, want := range map[string]string{"a": "device a is lost: fell off its bus", "GPU-a": "device GPU-a is not on this node"} {
		s.Devices = []string{id}
		_, err := e.Runtime.Create(within(t), s)
		if !errors.Is(err, runtime.ErrFatal) || !errors.Is(err, runtime.ErrDevice) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", id, err, want)
		}
		if _, err := e.Runtime.Status(within(t), s.ID); !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("the container is there: %v", err)
		}
		for what, there := range containerdtest.Traces(t, e, s.ID, "none") {
			if there {
				t.Errorf("%s of the container is left behind", what)
			}
		}
		if ctr, err := exec.LookPath("ctr"); err == nil {
			out, err := exec.CommandContext(within(t), ctr, "--address", e.Daemon.Socket(), "--namespace", "drover", "snapshots", "list").CombinedOutput()
			if err != nil || strings.Contains(string(out), s.ID) {
				t.Errorf("snapshots: %v\n%s", err, out)
			}
		}
	}
	host.set(before...)
}

// testDevicesGiven looks at a container with devices from inside and outside.
func testDevicesGiven(t *testing.T, e *containerdtest.Env) {
	s := spec(t, e)
	s.Devices, s.RDMA = []string{"a", "GPU-a"}, true
	s.Env = map[string]string{"LD_LIBRARY_PATH": "/mine", "DROVER_DEVICE_IDS": "a,GPU-a"}
	st := started(t, e, s)
	for path, want := range map[string]string{
		"/file?path=/dev/fake0": noDriver, "/file?path=/dev/nvidia0": noDriver, "/file?path=/dev/nvidiactl": noDriver, "/file?path=/dev/infiniband/uverbs0": noDriver,
		"/file?path=/pre/a": noDriver, "/file?path=/pre/gpu": noDriver,
		"/file?path=/pre/b": denied, "/file?path=/pre/gpu1": denied, "/file?path=/pre/mem": denied,
		"/file?path=/driver/libcuda.so.1": "the driver", "/list?path=/dev/infiniband": "uverbs0\n",
		"/env?key=LD_LIBRARY_PATH": "/driver:/mine:/image", "/env?key=DROVER_DEVICE_IDS": "a,GPU-a", "/env?key=FROM": "image",
		"/env?key=NVIDIA_VISIBLE_DEVICES": "void", // the driver's own word, against hooks that would add more
		"/env?key=CUDA_VISIBLE_DEVICES":   "", "/env?key=ASCEND_VISIBLE_DEVICES": "", "/env?key=ASCEND_RT_VISIBLE_DEVICES": "",
	} {
		got, err := get(st.IP, path)
		if err != nil || got != want && (want == "" || !strings.HasSuffix(got, want)) {
			t.Errorf("%s answers %q, %v; want %q", path, got, err, want)
		}
	}
	checkDev(t, st.IP, "fake0", "infiniband", "nvidia0", "nvidiactl")
	checkMounts(t, st.IP)
	checkAllowed(t, e, s.ID, "c 60:0 rw", "c 60:100 rwm", "c 60:102 rwm", "c 60:103 rw")
}

func testNoDevices(t *testing.T, e *containerdtest.Env) {
	s := spec(t, e)
	st := started(t, e, s)
	for _, name := range []string{"a", "b", "gpu", "gpu1", "mem"} {
		if got, err := get(st.IP, "/file?path=/pre/"+name); err != nil || !strings.HasSuffix(got, denied) {
			t.Errorf("/pre/%s answers %q, %v", name, got, err)
		}
	}
	if got, err := get(st.IP, "/env?key=NVIDIA_VISIBLE_DEVICES"); err != nil || got != "" {
		t.Errorf("the image chose devices: %q, %v", got, err)
	}
	checkDev(t, st.IP)
	checkAllowed(t, e, s.ID)
}

// checkDev compares /dev with what every container has and these.
func checkDev(t *testing.T, ip string, more ...string) {
	t.Helper()
	got, err := get(ip, "/list?path=/dev")
	if err != nil {
		t.Fatal(err)
	}
	want := append([]string{"core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}, more...)
	slices.Sort(want)
	have := slices.DeleteFunc(strings.Fields(got), func(name string) bool { return name == "core" })
	want = slices.DeleteFunc(want, func(name string) bool { return name == "core" }) // where the kernel has /proc/kcore
	if !slices.Equal(have, want) {
		t.Errorf("/dev has %v; want %v", have, want)
	}
}

// checkMounts wants the driver's files read-only and nothing else from the host but what every container has.
func checkMounts(t *testing.T, ip string) {
	t.Helper()
	raw, err := get(ip, "/file?path=/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	binds := map[string]string{}
	for line := range strings.Lines(raw) {
		fields := strings.Fields(line)
		if fields[3] != "/" && !strings.HasPrefix(fields[4], "/proc") && !strings.HasPrefix(fields[4], "/sys") && !strings.HasPrefix(fields[4], "/dev/") {
			binds[fields[4]] = fields[5]
		}
	}
	for path := range binds {
		if !slices.Contains([]string{"/driver", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}, path) {
			t.Errorf("mounted from the host: %s", path)
		}
	}
	if options := binds["/driver"]; !strings.HasPrefix(options, "ro,nosuid,nodev") {
		t.Errorf("/driver is mounted with %q", options)
	}
}

// checkAllowed compares the container's device cgroup, of version 1, with what runc gives every container and these.
// Version 2 keeps a program that can't be listed: there, opening the nodes is the test.
func checkAllowed(t *testing.T, e *containerdtest.Env, id string, more ...string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/devices", e.Config.CgroupParent, id, "devices.list"))
	if errors.Is(err, os.ErrNotExist) {
		t.Log("SKIPPED: the allow-list can be read in cgroups of version 1 alone")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	always := []string{
		"c *:* m", "b *:* m", // make nodes, which needs CAP_MKNOD as well
		"c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", // null, zero, full, random, urandom
		"c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm", // terminals
		"c 10:200 rwm", // tun, in runc before 1.2: it needs CAP_NET_ADMIN as well
	}
	var got []string
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSpace(line); !slices.Contains(always, line) {
			got = append(got, line)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, more) {
		t.Errorf("the device cgroup allows %q; want %q", got, more)
	}
}
