package agent

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	goruntime "runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/host"
	"github.com/shirou/gopsutil/v3/mem"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// hostFacts answers what does not change while the host is up.
func hostFacts(ctx context.Context, cfg Config) (*fleetv1.NodeFacts, error) {
	f := &fleetv1.NodeFacts{
		Arch: goruntime.GOARCH, Os: goruntime.GOOS, CpuMillis: int64(goruntime.NumCPU()) * 1000,
		Labels: cfg.Labels, MountDirs: cfg.MountDirs, Networks: cfg.Networks, AgentVersion: cmp.Or(cfg.Version, version()),
	}
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the boot ID: %w", err)
	}
	f.BootId = strings.TrimSpace(string(bootID))
	if f.Hostname, err = os.Hostname(); err != nil {
		return nil, fmt.Errorf("read the host's name: %w", err)
	}
	if f.Kernel, err = host.KernelVersionWithContext(ctx); err != nil {
		return nil, fmt.Errorf("read the kernel's version: %w", err)
	}
	memory, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the memory's size: %w", err)
	}
	usage, err := disk.UsageWithContext(ctx, cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("read the disk's size: %w", err)
	}
	f.MemoryBytes, f.DiskBytes = int64(memory.Total), int64(usage.Total)
	f.ReservedCpuMillis = reserve(cfg.ReservedCPUMillis, f.CpuMillis, 100)
	f.ReservedMemoryBytes = reserve(cfg.ReservedMemoryBytes, f.MemoryBytes, 256<<20)
	f.ReservedDiskBytes = reserve(cfg.ReservedDiskBytes, f.DiskBytes, 0)
	if f.Addresses, err = addresses(); err != nil {
		return nil, fmt.Errorf("read the host's addresses: %w", err)
	}
	f.AdvertiseAddress = cfg.AdvertiseAddress
	if f.AdvertiseAddress == "" {
		f.AdvertiseAddress = "127.0.0.1"
		if len(f.Addresses) > 0 {
			f.AdvertiseAddress = f.Addresses[0]
		}
	}
	return f, nil
}

// uptime is the host's time since its boot. It goes on while the host is suspended, other than Go's clock.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // every kernel that containers need has this clock
	}
	return time.Duration(ts.Nano())
}

// reserve answers what is kept back: as configured, else 5 % but at least least.
func reserve(configured, total, least int64) int64 {
	if configured > 0 {
		return min(configured, total)
	}
	return min(max(total/20, least), total)
}

// addresses answers every global unicast address, IPv4 first.
func addresses() ([]string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var four, six []string
	for _, a := range all {
		ip, ok := a.(*net.IPNet)
		switch {
		case !ok || !ip.IP.IsGlobalUnicast():
		case ip.IP.To4() != nil:
			four = append(four, ip.IP.String())
		default:
			six = append(six, ip.IP.String())
		}
	}
	return append(four, six...), nil
}

// version of this program, from the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

func deviceFacts(all []devices.Device) []*fleetv1.Device {
	var out []*fleetv1.Device
	for _, d := range all {
		f := &fleetv1.Device{
			Id: d.ID, Vendor: d.Vendor, Model: d.Model, Index: int32(d.Index), MemoryBytes: d.MemoryBytes,
			Health: d.Health, HealthReason: d.Reason, Action: d.Action, Quarantined: d.Quarantined, PciAddress: d.PCIAddress, NumaNode: narrow(d.NUMANode),
			ParentId: d.ParentID, Profile: d.Profile, Minor: narrow(d.Minor), CpuAffinity: d.CPUAffinity,
			DriverVersion: d.DriverVersion, RuntimeVersion: d.RuntimeVersion, ComputeCapability: d.ComputeCapability,
		}
		for _, l := range d.Links {
			f.Links = append(f.Links, &fleetv1.DeviceLink{Peer: l.Peer, Kind: string(l.Kind), Count: int32(l.Count)})
		}
		out = append(out, f)
	}
	return out
}

func narrow(n *int) *int32 {
	if n == nil {
		return nil
	}
	v := int32(*n)
	return &v
}

// samples answers what an operator is shown of the devices' last figures.
func (a *Agent) samples() []*fleetv1.DeviceSample {
	var out []*fleetv1.DeviceSample
	for _, r := range a.deps.Devices.Readings() {
		if r.Time.IsZero() {
			continue
		}
		s := &fleetv1.DeviceSample{
			DeviceId: r.DeviceID, Time: timestamppb.New(r.Time), Utilisation: r.Utilisation, MemoryUsedBytes: r.MemoryUsedBytes,
			TemperatureCelsius: r.TemperatureC, PowerWatts: r.PowerWatts,
		}
		for _, p := range r.Processes {
			s.Processes = append(s.Processes, &fleetv1.DeviceProcess{Pid: int32(p.PID), MemoryBytes: p.MemoryBytes})
		}
		out = append(out, s)
	}
	return out
}
