//go:build cgo && linux

package nvidia

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

func TestModelName(t *testing.T) {
	for _, c := range []struct {
		driver string
		mib    int64
		want   string
	}{
		{"NVIDIA H100 80GB HBM3", 81559, "H100-80GB"},
		{"NVIDIA H100 PCIe", 81559, "H100-80GB"},
		{"NVIDIA H100 NVL", 95830, "H100-94GB"},
		{"NVIDIA H200", 143771, "H200-141GB"},
		{"NVIDIA B200", 183359, "B200-180GB"},
		{"NVIDIA H20", 97871, "H20-96GB"},
		{"NVIDIA GH200 480GB", 97871, "GH200-96GB"},
		{"NVIDIA A100-SXM4-40GB", 40960, "A100-40GB"},
		{"A100-PCIE-40GB", 40536, "A100-40GB"},
		{"NVIDIA A100 80GB PCIe", 81920, "A100-80GB"},
		{"Tesla V100-SXM2-32GB", 32510, "V100-32GB"},
		{"Tesla T4", 15109, "T4-16GB"},
		{"NVIDIA A10", 23028, "A10-24GB"},
		{"NVIDIA L40S", 46068, "L40S-48GB"},
		{"NVIDIA GeForce RTX 4090", 24564, "RTX-4090-24GB"},
		{"NVIDIA RTX 6000 Ada Generation", 49140, "RTX-6000-Ada-48GB"},
		{"NVIDIA", 7000, "GPU-8GB"},
		{"", 0, "GPU"},
		{"NVIDIA Z1", 400_000, "Z1-391GB"},
	} {
		if got := modelName(c.driver, c.mib*mib); got != c.want {
			t.Errorf("%q with %d MiB is %s, not %s", c.driver, c.mib, got, c.want)
		}
	}
}

func TestProfileOf(t *testing.T) {
	for _, c := range []struct {
		name          string
		parent, slice int64
		gpu, compute  uint32
		want          string
	}{
		{"NVIDIA A100-SXM4-40GB MIG 1g.5gb", 0, 0, 0, 0, "1g.5gb"},
		{"NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", 81559, 9984, 1, 1, "1g.10gb+me"},
		{"NVIDIA H100 80GB HBM3", 81559, 40448, 3, 3, "3g.40gb"},
		{"NVIDIA H100 80GB HBM3", 81559, 9984, 1, 1, "1g.10gb"},
		{"", 40960, 4864, 1, 1, "1g.5gb"},
		{"", 81559, 40448, 3, 1, "1c.3g.40gb"},
		{"", 0, 9984, 1, 1, "1g.10gb"},
		{"", 81559, 0, 0, 0, ""},
	} {
		if got := profileOf(c.name, c.parent*mib, c.slice*mib, c.gpu, c.compute); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestFieldValue(t *testing.T) {
	word := func(v uint64) (b [8]byte) {
		binary.NativeEndian.PutUint64(b[:], v)
		return b
	}
	half := func(v uint32) (b [8]byte) {
		binary.NativeEndian.PutUint32(b[:], v)
		binary.NativeEndian.PutUint32(b[4:], 0xdeadbeef) // not of the value
		return b
	}
	for _, c := range []struct {
		kind  nvml.ValueType
		value [8]byte
		want  int64
	}{
		{nvml.VALUE_TYPE_DOUBLE, word(math.Float64bits(7.5)), 7},
		{nvml.VALUE_TYPE_UNSIGNED_INT, half(math.MaxUint32), math.MaxUint32},
		{nvml.VALUE_TYPE_SIGNED_INT, half(math.MaxUint32), -1},
		{nvml.VALUE_TYPE_UNSIGNED_LONG, word(1 << 40), 1 << 40},
		{nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, word(1 << 41), 1 << 41},
		{nvml.VALUE_TYPE_SIGNED_LONG_LONG, word(math.MaxUint64), -1},
		{nvml.VALUE_TYPE_UNSIGNED_SHORT, half(0x7fff), 0x7fff},
	} {
		if got := fieldValue(nvml.FieldValue{ValueType: uint32(c.kind), Value: c.value}); got == nil || *got != c.want {
			t.Errorf("type %d: %v, want %d", c.kind, got, c.want)
		}
	}
	if fieldValue(nvml.FieldValue{ValueType: 99}) != nil ||
		fieldValue(nvml.FieldValue{ValueType: uint32(nvml.VALUE_TYPE_UNSIGNED_INT), NvmlReturn: uint32(nvml.ERROR_NOT_SUPPORTED)}) != nil {
		t.Error("a value of an unknown type or of a failed field is not absent")
	}
}

func TestWords(t *testing.T) {
	if got := throttleWords(1 | 8 | 1<<20); !slices.Equal(got, []string{"hw-slowdown", "reason-20"}) {
		t.Errorf("reasons %v", got)
	}
	if got := throttleWords(0); got == nil || len(got) != 0 {
		t.Errorf("no reasons are %#v", got)
	}
	for v, want := range []string{"none", "reset", "reboot", "drain", "drain-and-reset", "recover-imex-domain", "action-6"} {
		if got := recoveryWord(int64(v)); got != want {
			t.Errorf("action %d is %q", v, got)
		}
	}
	if got := answer(500).Error(); got != "NVML error 500" {
		t.Errorf("an answer of tomorrow: %q", got)
	}
	if percent(101) != nil || *percent(100) != 1 {
		t.Error("what is above 100 % is no answer")
	}
}

func TestBesides(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "bus/pci/devices", pciAddress(0x10000, 0xa, 0x1f))
	if filepath.Base(dir) != "10000:0a:1f.0" || os.MkdirAll(dir, 0o755) != nil {
		t.Fatal(dir)
	}
	for text, want := range map[string]*int{"-1\n": nil, "3\n": new(3), "x": nil} {
		if err := os.WriteFile(filepath.Join(dir, "numa_node"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if node, cpus := besides(root, filepath.Base(dir)); cpus != "" || (node == nil) != (want == nil) || node != nil && *node != *want {
			t.Errorf("%q: node %v, CPUs %q", text, node, cpus)
		}
	}
	if node, cpus := besides(root, ""); node != nil || cpus != "" {
		t.Error("a GPU without an address is beside something")
	}
	if err := os.MkdirAll(filepath.Join(root, "bus/pci/drivers/nvidia/0000:0a:00.0"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"bind", "module"} {
		if err := os.WriteFile(filepath.Join(root, "bus/pci/drivers/nvidia", other), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := bound(root); err != nil || !slices.Equal(found, []string{"0000:0a:00.0"}) {
		t.Errorf("the driver holds %v, %v", found, err)
	}
}
