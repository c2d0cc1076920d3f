package containerd

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
		})
	}
}

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
