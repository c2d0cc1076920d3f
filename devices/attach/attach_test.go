package attach_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/attach"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

var update = flag.Bool("update", false, "write the golden files")

// machine is a host with a /dev of its own.
type machine struct {
	t       testing.TB
	root    string
	cdi     string // directory of the host's specifications
	private string
	program string // stands for nvidia-ctk
	devices []devices.Device
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, root: filepath.Join(dir, "root"), cdi: filepath.Join(dir, "cdi"), private: filepath.Join(dir, "private"), program: filepath.Join(dir, "nvidia-ctk")}
	m.write(filepath.Join(m.root, "dev", ".keep"), "")
	if err := unix.Mknod(filepath.Join(dir, "try"), unix.S_IFCHR|0o600, int(unix.Mkdev(60, 255))); err != nil {
		t.Skipf("SKIPPED: needs the right to make device nodes (root): %v", err)
	}
	return m
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "ROOT", m.root)), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) node(name string, minor uint32) {
	m.t.Helper()
	path := filepath.Join(m.root, "dev", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(60, minor))); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) spec(name, text string) { m.write(filepath.Join(m.cdi, name), text) }

func (m *machine) attacher() *attach.Attacher {
	m.t.Helper()
	a, err := attach.New(attach.Config{
		SpecDirs: []string{m.cdi, m.cdi + "-later"}, Dir: m.private, Root: m.root, NvidiaCTK: m.program,
		Devices: func() []devices.Device { return m.devices },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return a
}

func container(env ...string) *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Env: env},
		Linux:   &specs.Linux{Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}},
	}
}

func inject(t *testing.T, a *attach.Attacher, ids ...string) *specs.Spec {
	t.Helper()
	s := container()
	if err := a.Inject(t.Context(), s, ids, false); err != nil {
		t.Fatal(err)
	}
	return s
}

// given answers the nodes of a container and their numbers, and fails when its allow-list differs from them.
func given(t *testing.T, s *specs.Spec) string {
	t.Helper()
	var nodes, allowed, want []string
	for _, d := range s.Linux.Devices {
		nodes = append(nodes, fmt.Sprintf("%s %d:%d", d.Path, d.Major, d.Minor))
		want = append(want, fmt.Sprintf("%s %d:%d", d.Type, d.Major, d.Minor))
	}
	for _, d := range s.Linux.Resources.Devices[1:] {
		if !d.Allow || d.Major == nil || d.Minor == nil {
			t.Errorf("the allow-list has %+v", d)
			continue
		}
		allowed = append(allowed, fmt.Sprintf("%s %d:%d", d.Type, *d.Major, *d.Minor))
	}
	slices.Sort(want)
	slices.Sort(allowed)
	if first := s.Linux.Resources.Devices[0]; first.Allow || first.Access != "rwm" || !slices.Equal(want, allowed) {
		t.Errorf("nodes %v, allow-list %v after %+v", want, allowed, first)
	}
	slices.Sort(nodes)
	return strings.Join(nodes, ", ")
}

func gpu(id string, minor int) devices.Device {
	return devices.Device{ID: id, Vendor: "nvidia", Health: fleetv1.Healthy, Minor: &minor}
}

func npu(id string, physical int) devices.Device {
	return devices.Device{ID: id, Vendor: "ascend", Health: fleetv1.Healthy, PhysicalID: &physical}
}

func golden(t *testing.T, name string, m *machine, s *specs.Spec) {
	t.Helper()
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(strings.ReplaceAll(string(raw), m.root, "ROOT"), m.private, "PRIVATE") + "\n"
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("differs from %s (go test -update writes it):\n%s", path, text)
	}
}

func TestFakeDevices(t *testing.T) {
	m := newMachine(t)
	m.devices = []devices.Device{{ID: "fake-a", Vendor: "fake"}, {ID: "../b", Vendor: "fake"}, {ID: "fake-c", Vendor: "fake"}}
	a := m.attacher()
	if got := given(t, inject(t, a, "../b")); got != "/dev/fake0 60:0" {
		t.Errorf("the first has %s", got)
	}
	if got := given(t, inject(t, m.attacher(), "fake-c", "../b")); got != "/dev/fake0 60:0, /dev/fake1 60:1" {
		t.Errorf("after a restart: %s; want the first's to be as before", got)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s := container()
			if err := a.Inject(t.Context(), s, []string{"fake-a"}, false); err != nil || given(t, s) != "/dev/fake2 60:2" {
				t.Errorf("at once: %v, %v", s.Linux.Devices, err)
			}
		})
	}
	wg.Wait()
	s := inject(t, a)
	if len(s.Linux.Devices) != 0 || len(s.Linux.Resources.Devices) != 1 {
		t.Errorf("without devices: %+v", s.Linux)
	}
	m.write(filepath.Join(m.private, "fake", "stray"), "")
	if err := a.Inject(t.Context(), container(), []string{"fake-a"}, false); err == nil || !strings.Contains(err.Error(), "stray is not a node of ours") {
		t.Errorf("with a stray file: %v", err)
	}
}

func TestDevicesThatCannotBeGiven(t *testing.T) {
	m := newMachine(t)
	m.devices = []devices.Device{
		{ID: "fine", Vendor: "fake"}, {ID: "gone", Vendor: "fake", Health: fleetv1.Lost, Reason: "fell off its bus"},
		{ID: "odd", Vendor: "other"}, {ID: "slice", Vendor: "ascend", ParentID: "npu"}, {ID: "npu", Vendor: "ascend"},
	}
	a := m.attacher()
	for want, ids := range map[string][]string{
		"device none is not on this node":        {"fine", "none"},
		"device gone is lost: fell off its bus":  {"gone"},
		"device fine is named twice":             {"fine", "fine"},
		`device odd: nobody knows how to attach`: {"odd"},
		"device slice is a slice":                {"slice"},
		"device npu: the driver doesn't tell":    {"npu"},
	} {
		if err := a.Inject(t.Context(), container(), ids, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v; want %q", ids, err, want)
		}
	}
	for what, cfg := range map[string]attach.Config{
		"no directory":       {Devices: func() []devices.Device { return nil }},
		"relative directory": {Dir: "cdi", Devices: func() []devices.Device { return nil }},
		"no devices":         {Dir: t.TempDir()},
	} {
		if _, err := attach.New(cfg); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestRDMA(t *testing.T) {
	m := newMachine(t)
	m.devices = []devices.Device{{ID: "fake-a", Vendor: "fake"}}
	a := m.attacher()
	if err := a.Inject(t.Context(), container(), nil, true); err == nil || !strings.Contains(err.Error(), "this node has none (/dev/infiniband/uverbs*)") {
		t.Errorf("without adapters: %v", err)
	}
	for i, name := range []string{"uverbs0", "uverbs1", "rdma_cm", "umad0", "issm0"} {
		m.node("infiniband/"+name, uint32(100+i))
	}
	s := container()
	if err := a.Inject(t.Context(), s, []string{"fake-a"}, true); err != nil {
		t.Fatal(err)
	}
	if got := given(t, s); got != "/dev/fake0 60:0, /dev/infiniband/rdma_cm 60:102, /dev/infiniband/uverbs0 60:100, /dev/infiniband/uverbs1 60:101" {
		t.Errorf("given: %s", got)
	}
	if got := given(t, inject(t, a, "fake-a")); got != "/dev/fake0 60:0" {
		t.Errorf("not asked for and given: %s", got)
	}
	m.write(filepath.Join(m.root, "dev/infiniband/uverbs2"), "no node")
	if err := a.Inject(t.Context(), container(), nil, true); err == nil || !strings.Contains(err.Error(), "uverbs2, which is not a device node") {
		t.Errorf("with a file in the way: %v", err)
	}
}

func TestAscend(t *testing.T) {
	m := newMachine(t)
	m.devices = []devices.Device{npu("npu-b", 3), npu("npu-a", 0), npu("npu-c", 5)}
	for i, name := range []string{"davinci0", "davinci3", "davinci_manager", "devmm_svm"} {
		m.node(name, uint32(10+i))
	}
	a := m.attacher()
	err := a.Inject(t.Context(), container(), []string{"npu-b"}, false)
	if err == nil || !strings.Contains(err.Error(), "/dev/hisi_hdc: that doesn't exist") {
		t.Errorf("without one of the driver's nodes: %v", err)
	}
	m.node("hisi_hdc", 20)
	for _, path := range []string{"usr/local/Ascend/driver/lib64/common/libdcmi.so", "usr/local/Ascend/driver/version.info", "usr/local/bin/npu-smi"} {
		m.write(filepath.Join(m.root, path), "")
	}
	s := container("LD_LIBRARY_PATH=/opt/lib:/usr/local/Ascend/driver/lib64")
	if err := a.Inject(t.Context(), s, []string{"npu-b"}, false); err != nil {
		t.Fatal(err)
	}
	given(t, s)
	golden(t, "ascend.json", m, s)
	if got := given(t, inject(t, a, "npu-a", "npu-b")); !strings.Contains(got, "/dev/davinci0 60:10, /dev/davinci3 60:11") {
		t.Errorf("both: %s", got)
	}
	if err := a.Inject(t.Context(), container(), []string{"npu-c"}, false); err == nil || !strings.Contains(err.Error(), "/dev/davinci5: that doesn't exist") {
		t.Errorf("a device without its node: %v", err)
	}
	m.spec("ascend.yaml", `{cdiVersion: 0.6.0, kind: ascend.com/npu, containerEdits: {env: [FROM=host]}, devices: [
		{name: x, containerEdits: {deviceNodes: [{path: /dev/davinci3, hostPath: ROOT/dev/davinci3}]}}]}`)
	s = inject(t, a, "npu-b")
	if got := given(t, s); got != "/dev/davinci3 60:11" || !slices.Contains(s.Process.Env, "FROM=host") {
		t.Errorf("the host's specification was not used: %s, %v", got, s.Process.Env)
	}
	if got := given(t, inject(t, a, "npu-a")); !strings.Contains(got, "davinci_manager") || !strings.Contains(got, "/dev/davinci0 60:10") {
		t.Errorf("a device that the host's specification lacks: %s", got)
	}
}
