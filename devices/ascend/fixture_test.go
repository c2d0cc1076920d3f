package ascend

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/vendorlib"
)

const gibibyte = 1 << 30

// opened answers a backend on the library, on a host where NPU n is beside NUMA node n/2 and that of NPU 7 isn't
// known.
func opened(t *testing.T, lib *vendorlib.DCMI) *Backend {
	t.Helper()
	return New(Config{LibraryPath: lib.Path, SysRoot: sysRoot(t), Logger: slog.New(slog.DiscardHandler)})
}

func sysRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for n := range 8 {
		dir := filepath.Join(root, "bus/pci/devices", pci(n))
		node := fmt.Sprint(n / 2)
		if n == 7 {
			node = "-1"
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "numa_node"), []byte(node+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func pci(n int) string { return fmt.Sprintf("0000:%02x:00.0", 0xc1-0x10*n) }

func die(n int) string {
	x := 0xA0 + n
	return fmt.Sprintf("%02X000000-%02X000001-%02X000002-%02X000003-%02X000004", x, x, x, x, x)
}

// npu is NPU n as it must be discovered.
func npu(n int) devices.Device {
	d := devices.Device{
		ID: die(n), Vendor: "ascend", Model: "Ascend910B3-64GB", Index: n, MemoryBytes: 64 * gibibyte,
		Health: fleetv1.Healthy, PCIAddress: pci(n), NUMANode: new(n / 2),
		LogicID: new(n), PhysicalID: new(7 - n), CPUAffinity: fmt.Sprintf("%d-%d", n/2*24, n/2*24+23),
		DriverVersion: "24.1.rc2",
	}
	if n == 7 {
		d.NUMANode = nil
	}
	for peer := range 8 {
		switch {
		case peer == n:
		case peer/4 == n/4:
			d.Links = append(d.Links, devices.Link{Peer: die(peer), Kind: devices.LinkHCCS})
		case peer%4 == n%4:
			d.Links = append(d.Links, devices.Link{Peer: die(peer), Kind: devices.LinkPXB})
		default:
			d.Links = append(d.Links, devices.Link{Peer: die(peer), Kind: devices.LinkSYS})
		}
	}
	return d
}

// measured is the sample of NPU n with all figures, as it must be taken.
func measured(n int) devices.Sample {
	used := int64(3072+100*n) << 20
	return devices.Sample{
		DeviceID:    die(n),
		Utilisation: new(float64(10+n) / 100), OverallUtilisation: new(float64(40+n) / 100), MemoryUtilisation: new(float64(20+n) / 100),
		MemoryUsedBytes: new(used), MemoryFreeBytes: new(64*gibibyte - used),
		TemperatureC: new(float64(50 + n)), PowerWatts: new(float64(905+10*n) / 10),
		ClockHz: new(int64(1000+n) * 1e6), MemoryClockHz: new(int64(1600+n) * 1e6),
		ECCCorrectedVolatile: new(int64(1 + n)), ECCUncorrectedVolatile: new(int64(11 + n)),
		ECCCorrectedAggregate: new(int64(101 + n)), ECCUncorrectedAggregate: new(int64(111 + n)),
		RetiredPages: new(int64(3 + n)), HealthCode: new(int64(0)), ErrorCodes: []int64{},
		Processes: []devices.Process{},
	}
}

const everything = devices.Usage | devices.Condition | devices.Processes

func discovered(t *testing.T, b *Backend) []devices.Device {
	t.Helper()
	found, err := b.Discover(t.Context())
	if err != nil {
		t.Fatalf("discover: %v", err)
	}
	return found
}

// sampled answers what was measured, without the times, which are checked.
func sampled(t *testing.T, b *Backend, what devices.Figures) []devices.Sample {
	t.Helper()
	before := time.Now()
	samples, err := b.Sample(t.Context(), what)
	if err != nil {
		t.Fatalf("sample: %v", err)
	}
	for i := range samples {
		if at := samples[i].Time; at.Before(before) || at.After(time.Now()) {
			t.Errorf("the sample's time is %v", at)
		}
		samples[i].Time = time.Time{}
	}
	return samples
}

// noLinks is what is compared where links aren't the point.
func noLinks(found []devices.Device) []devices.Device {
	found = slices.Clone(found)
	for i := range found {
		found[i].Links = nil
	}
	return found
}

// TestMain is also the process that a broken driver may take down: it says how far it came.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "serve" {
		if err := serve(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	path := os.Getenv("ASCEND_TEST_LIBRARY")
	if path == "" {
		os.Exit(m.Run())
	}
	b := New(Config{LibraryPath: path, Logger: slog.New(slog.DiscardHandler)})
	found, err := b.Discover(context.Background())
	fmt.Println("discovered", len(found), err)
	samples, err := b.Sample(context.Background(), everything)
	fmt.Println("sampled", len(samples), err)
	os.Exit(0)
}

func containsAll(s string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(s, p) })
}
