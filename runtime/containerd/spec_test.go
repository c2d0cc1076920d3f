package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/attach"
	"github.com/drover-fleet/drover/runtime"
)

var update = flag.Bool("update", false, "write the golden files")

func TestSpecGolden(t *testing.T) {
	full := runtime.Spec{
		ID: "0a1b-1", Hostname: "iris-0a1b", Command: []string{"/bin/serve", "--port", "8080"},
		Env:       map[string]string{"PORT": "8080", "MODEL": "iris"},
		CPUMillis: 2500, MemoryBytes: 4 << 30, ShmBytes: 1 << 30, Memlock: -1, Nofile: 1 << 20, Pids: 512,
		ReadOnlyRoot: true,
		Mounts:       []runtime.Mount{{Source: "/srv/weights", Target: "/weights", ReadOnly: true}, {Source: "/srv/out", Target: "/out"}},
	}
	small := runtime.Spec{ID: "0a1b-2", HostNetwork: true}
	image := ocispec.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"arg"}, WorkingDir: "/work",
		Env: []string{"PATH=/image/bin", "MODEL=none", "KEPT=yes"},
	}
	base := host{cgroupPath: "/drover/0a1b-1", swap: true, netns: "/data/netns/0a1b-1", filesDir: "/data/containers/0a1b-1", maxNofile: 1024, maxMemlock: 65536}
	v2, onHost := base, base
	v2.cgroupV2 = true
	onHost.netns, onHost.swap = "", false
	for name, c := range map[string]struct {
		spec runtime.Spec
		host host
	}{
		"cgroup-v1": {full, base}, "cgroup-v2": {full, v2}, "host-network-defaults": {small, onHost},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ociSpec(c.spec, image, c.host)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, name, got)
		})
	}
}

func checkGolden(t *testing.T, name string, got *specs.Spec) {
	t.Helper()
	if got.Linux.Seccomp == nil || got.Linux.Seccomp.DefaultAction != "SCMP_ACT_ERRNO" {
		t.Error("no default seccomp profile")
	}
	got.Linux.Seccomp = nil // long, and differs between architectures
	raw, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(raw)+"\n" {
		t.Errorf("differs from %s (go test -update writes it):\n%s", path, raw)
	}
}

// The device cgroup of a container with devices allows these alone, in both versions: the OCI runtime turns the
// list into version 1's files or version 2's program.
func TestDeviceSpecGolden(t *testing.T) {
	dir := t.TempDir()
	a, err := attach.New(attach.Config{
		SpecDirs: []string{filepath.Join(dir, "cdi")}, Dir: filepath.Join(dir, "own"), Root: filepath.Join(dir, "root"),
		Devices: func() []devices.Device {
			return []devices.Device{{ID: "a", Vendor: "fake"}, {ID: "b", Vendor: "fake"}, {ID: "c", Vendor: "fake"}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	infiniband := filepath.Join(dir, "root", "dev", "infiniband")
	if err := os.MkdirAll(infiniband, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(infiniband, "uverbs0"), unix.S_IFCHR|0o600, int(unix.Mkdev(60, 200))); err != nil {
		t.Skipf("SKIPPED: needs the right to make device nodes (root): %v", err)
	}
	s := runtime.Spec{
		ID: "0a1b-1", Command: []string{"/serve"}, Devices: []string{"a", "b"}, RDMA: true,
		Env: map[string]string{"LD_LIBRARY_PATH": "/mine:/both", "DROVER_DEVICE_IDS": "a,b", "CUDA_VISIBLE_DEVICES": "1"},
	}
	image := ocispec.ImageConfig{Env: []string{
		"NVIDIA_VISIBLE_DEVICES=all", "CUDA_VISIBLE_DEVICES=0", "ASCEND_VISIBLE_DEVICES=0-7", "ASCEND_RT_VISIBLE_DEVICES=0", "DROVER_DEVICE_IDS=c", "LD_LIBRARY_PATH=/images:/both",
	}}
	r := &Runtime{cfg: Config{Devices: a}}
	for name, v2 := range map[string]bool{"devices-cgroup-v1": false, "devices-cgroup-v2": true} {
		t.Run(name, func(t *testing.T) {
			got, err := ociSpec(s, image, host{cgroupPath: "/drover/0a1b-1", cgroupV2: v2, netns: "/data/netns/0a1b-1", filesDir: "/data/containers/0a1b-1"})
			if err != nil {
				t.Fatal(err)
			}
			got.Process.User.UID, got.Process.User.GID = 1000, 1001
			if err := r.giveDevices(t.Context(), s, got); err != nil {
				t.Fatal(err)
			}
			checkGolden(t, name, got)
		})
	}
}

func TestDevicesThatCannotBeGiven(t *testing.T) {
	broken := errors.New("no such device")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	with := func(d Devices) *Runtime { return &Runtime{cfg: Config{Devices: d}} }
	s := runtime.Spec{Devices: []string{"a"}}
	if err := with(nil).giveDevices(t.Context(), s, nil); !errors.Is(err, runtime.ErrFatal) || !errors.Is(err, runtime.ErrDevice) {
		t.Errorf("a runtime without devices: %v", err)
	}
	if err := with(nil).giveDevices(t.Context(), runtime.Spec{}, nil); err != nil {
		t.Errorf("nothing asked for: %v", err)
	}
	if err := with(noDevices{broken}).giveDevices(t.Context(), s, nil); !errors.Is(err, runtime.ErrFatal) || !errors.Is(err, runtime.ErrDevice) || !errors.Is(err, broken) {
		t.Errorf("a device that is gone: %v", err)
	}
	if err := with(noDevices{broken}).giveDevices(ended, s, nil); errors.Is(err, runtime.ErrFatal) || !errors.Is(err, broken) {
		t.Errorf("interrupted: %v; it may be tried again", err)
	}
}

type noDevices struct{ err error }

func (n noDevices) Inject(context.Context, *specs.Spec, []string, bool) error { return n.err }

func TestSpecNeedsACommand(t *testing.T) {
	if _, err := ociSpec(runtime.Spec{}, ocispec.ImageConfig{}, host{}); !errors.Is(err, runtime.ErrFatal) {
		t.Errorf("no command: %v; want ErrFatal", err)
	}
}

func TestCapabilitiesAreSmall(t *testing.T) {
	for _, c := range []string{"CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_MKNOD"} {
		if slices.Contains(capabilities(), c) {
			t.Errorf("containers keep %s", c)
		}
	}
}

func TestConfig(t *testing.T) {
	good := Config{DataDir: "/d", LoggerBinary: "/bin/drover", Registry: noRegistry{}}
	ok := good
	if err := ok.fill(); err != nil || ok.Bridge != "drover0" || ok.Namespace != "drover" {
		t.Errorf("defaults: %+v, %v", ok, err)
	}
	for what, change := range map[string]func(*Config){
		"subnet":     func(c *Config) { c.Subnet = "10.0.0.1" },
		"IPv6":       func(c *Config) { c.Subnet = "fd00::/64" },
		"too small":  func(c *Config) { c.Subnet = "10.0.0.0/30" },
		"bridge":     func(c *Config) { c.Bridge = "a-name-that-is-too-long" },
		"cgroup":     func(c *Config) { c.CgroupParent = "drover" },
		"data":       func(c *Config) { c.DataDir = "" },
		"logger":     func(c *Config) { c.LoggerBinary = "drover" },
		"registries": func(c *Config) { c.Registry = nil },
	} {
		bad := good
		change(&bad)
		if err := bad.fill(); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

type noRegistry struct{}

func (noRegistry) Credentials(string) (string, string, error) { return "", "", nil }
func (noRegistry) PlainHTTP(string) bool                      { return false }
