package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/test/vendorlib"
)

// gpuMajor is among the character device numbers that Linux leaves to local use: no driver answers.
const gpuMajor = 61

// GPUs are a host's GPUs and what goes with them, made up: NVIDIA's library, device nodes with a CDI specification
// for them, and a kernel log. Everything in between is real: loader, probe, registry, runtime.
type GPUs struct {
	t    testing.TB
	dir  string
	lib  string
	log  *os.File
	told int // events
	base []string

	nodes []string // lines of the specification
}

// NewGPUs makes a host with so many GPUs, at most eight, that nobody uses.
func NewGPUs(t testing.TB, count int) *GPUs {
	t.Helper()
	g := &GPUs{t: t, dir: t.TempDir(), lib: vendorlib.NVML(t, ""), base: []string{fmt.Sprintf("count %d", count), "idle"}}
	g.Tell()
	for i := range count {
		minor := 7 - i // as the library has it
		node := filepath.Join(g.dir, fmt.Sprintf("nvidia%d", minor))
		if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(gpuMajor, uint32(minor)))); err != nil {
			t.Fatalf("make device node: %v", err)
		}
		g.nodes = append(g.nodes, fmt.Sprintf("- {name: %s, containerEdits: {deviceNodes: [{path: /dev/nvidia%d, hostPath: %s}]}}\n", g.ID(i), minor, node))
	}
	g.Specify(g.Specification())
	log := filepath.Join(g.dir, "kmsg")
	err := unix.Mkfifo(log, 0o600)
	if err == nil {
		g.log, err = os.OpenFile(log, os.O_RDWR, 0)
	}
	if err != nil {
		t.Fatalf("make kernel log: %v", err)
	}
	t.Cleanup(func() { _ = g.log.Close() })
	return g
}

// Options of a machine with these GPUs.
func (g *GPUs) Options() Options {
	return Options{
		AgentConfig: map[string]any{
			"devices": []string{"nvidia"}, "device_libraries": map[string]string{"nvidia": g.lib},
			"cdi_dirs": []string{filepath.Join(g.dir, "cdi")}, "kernel_log": g.log.Name(),
		},
		AgentEnv: []string{"DROVER_FAKE_NVML=" + filepath.Join(g.dir, "control")},
	}
}

// Specification is the CDI file of these GPUs.
func (g *GPUs) Specification() string {
	return "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n" + strings.Join(g.nodes, "")
}

// Specify replaces the host's CDI file and answers its path.
func (g *GPUs) Specify(text string) string {
	g.t.Helper()
	g.write("cdi/nvidia.yaml", text)
	return filepath.Join(g.dir, "cdi/nvidia.yaml")
}

// ID of a GPU.
func (g *GPUs) ID(i int) string { return fmt.Sprintf("GPU-00000000-0000-4000-8000-00000000000%d", i) }

// Index of the GPU with an ID.
func (g *GPUs) Index(id string) int {
	g.t.Helper()
	for i := range 8 {
		if g.ID(i) == id {
			return i
		}
	}
	g.t.Fatalf("there is no GPU %q", id)
	return 0
}

// Tell says how the library behaves from now on, in the words of its source, besides being idle.
func (g *GPUs) Tell(lines ...string) {
	g.t.Helper()
	g.write("control", strings.Join(append(append([]string{}, g.base...), lines...), "\n")+"\n")
}

// XID has the library tell of an XID of a GPU.
func (g *GPUs) XID(gpu, code int) {
	g.t.Helper()
	g.told++
	g.Tell(fmt.Sprintf("event %d xid %d %d -1 -1", g.told, gpu, code))
}

// Forget is for a new probe, which hasn't heard of what the library told the one before.
func (g *GPUs) Forget() {
	g.told = 0
	g.Tell()
}

// KernelXID has the driver write of an XID of a GPU into the kernel's log.
func (g *GPUs) KernelXID(gpu, code int) {
	g.t.Helper()
	bus := []string{"1b", "43", "52", "61", "9d", "c3", "d1", "df"}[gpu]
	if _, err := fmt.Fprintf(g.log, "3,%d,%d,-;NVRM: Xid (PCI:0000:%s:00): %d, pid='<unknown>', name=<unknown>, made up\n", g.told, g.told, bus, code); err != nil {
		g.t.Fatalf("write into the kernel log: %v", err)
	}
}

// write replaces a file at once: it may be read meanwhile.
func (g *GPUs) write(name, text string) {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path+".new", []byte(text), 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}
