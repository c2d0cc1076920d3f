//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/devices"
	deviceprobe "github.com/drover-fleet/drover/devices/probe"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
	"github.com/drover-fleet/drover/test/machine"
	"github.com/drover-fleet/drover/test/vendorlib"
)

const (
	deviceReport  = "devices"
	samplings     = 1000
	busyDevices   = 16
	failureRounds = 12
	goodGPUs      = 6 // of the stand-in's eight: two need a reset from the start
)

// TestDeviceFigures measures what devices cost, prints the table, and writes it down.
func TestDeviceFigures(t *testing.T) {
	if !containerdtest.OwnNetwork(t) {
		printed(t, deviceReport)
		return
	}
	t.Setenv("DROVER_HEARTBEAT_INTERVAL", "2s")
	t.Setenv("DROVER_LEASE_DURATION", "10s")
	b := &bench{t: t, report: &report{name: deviceReport, title: "Figures of devices"}}
	b.sampling()
	b.holding()
	info, err := b.m.Runtime.Info(t.Context())
	b.must(err)
	b.report.describe(info.Version)
	b.failing()
	b.must(b.report.write())
}

// sampling measures rounds of samples of eight GPUs through a child.
func (b *bench) sampling() {
	backend := deviceprobe.New(deviceprobe.Config{Vendor: "nvidia", Program: machine.Binary(b.t),
		Command: []string{"drover", "device-probe", "--vendor", "nvidia", "--library", vendorlib.NVML(b.t, "")}})
	defer func() { b.must(backend.Close()) }()
	all, err := backend.Discover(b.t.Context())
	b.must(err)
	child, err := probeOf(os.Getpid())
	b.must(err)
	for _, round := range []struct {
		name string
		what devices.Figures
		goal *goal
	}{
		{"usage", devices.Usage, nil},
		{"all figures", devices.Usage | devices.Condition | devices.Processes, nil},
	} {
		var wall []time.Duration
		ownBefore, err := ownTime()
		b.must(err)
		childBefore, err := cpuTime(child)
		b.must(err)
		for range samplings {
			start := time.Now()
			samples, err := backend.Sample(b.t.Context(), round.what)
			b.must(err)
			wall = append(wall, time.Since(start))
			if len(samples) != len(all) {
				b.t.Fatalf("%d samples of %d GPUs", len(samples), len(all))
			}
		}
		own, err := ownTime()
		b.must(err)
		childs, err := cpuTime(child)
		b.must(err)
		name := fmt.Sprintf("a round of samples of %d GPUs, %s: ", len(all), round.name)
		per := func(d time.Duration) spread { return one(float64(d) / float64(time.Millisecond) / samplings) }
		b.report.add(figure{Name: name + "wall", Unit: "ms", Measured: spreadOf(milliseconds(wall)), N: samplings})
		b.report.add(figure{Name: name + "processor time of the child", Unit: "ms", Measured: per(childs - childBefore), N: samplings})
		b.report.add(figure{Name: name + "processor time of the parent", Unit: "ms", Measured: per(own - ownBefore), N: samplings})
	}
	for _, part := range []struct{ key, name string }{{"VmRSS:", "resident memory"}, {"RssAnon:", "of that its own, not the program that the agent has as well"}} {
		bytes, err := kilobytes(fmt.Sprintf("/proc/%d/status", child), part.key)
		b.must(err)
		b.report.add(figure{Name: "the probe: " + part.name, Unit: "MiB", Measured: one(mib(bytes)), N: 1})
	}
}

// ownTime is the processor time of this process.
func ownTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("ask for the processor time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// probeOf finds the device probe that a process has started.
func probeOf(parent int) (int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		raw, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // it ended meanwhile
		}
		_, rest, _ := strings.Cut(string(raw), ") ")
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if fields := strings.Fields(rest); err != nil || len(fields) < 2 || fields[1] != strconv.Itoa(parent) || !strings.Contains(string(line), "device-probe") {
			continue
		}
		return strconv.Atoi(filepath.Base(dir))
	}
	return 0, errors.New("there is no device probe")
}

// holding measures an agent with as many instances as devices, at rest.
func (b *bench) holding() {
	b.m = machine.Start(b.t, machine.Options{AgentConfig: map[string]any{"devices": []string{fmt.Sprintf("fake:%dxH100-80GB", busyDevices)}}})
	b.prepare()
	b.flavor("gpu", 50)
	b.deploy("busy", "gpu", busyDevices)
	b.m.WaitEndpoints(patience, "busy", busyDevices)
	type daemon struct {
		name   string
		pid    int
		before time.Duration
	}
	daemons := []daemon{{name: "agent", pid: b.m.Agent.Pid()}, {name: "scheduler", pid: b.m.Scheduler.Pid()}}
	for i := range daemons {
		var err error
		daemons[i].before, err = cpuTime(daemons[i].pid)
		b.must(err)
	}
	start := time.Now()
	time.Sleep(idleTime)
	for _, d := range daemons {
		used, err := cpuTime(d.pid)
		b.must(err)
		with := fmt.Sprintf("%s with %d fake devices, held by %d instances: ", d.name, busyDevices, busyDevices)
		b.report.add(figure{Name: with + fmt.Sprintf("processor, over %v", idleTime), Unit: "% of a core",
			Measured: one(100 * float64(used-d.before) / float64(time.Since(start))), Goal: &goal{AtMost: 0.5}, N: 1})
		resident, _, err := memory(d.pid)
		b.must(err)
		b.report.add(figure{Name: with + "resident memory", Unit: "MiB", Measured: one(mib(resident)), N: 1})
	}
	n, err := scrape(b.t.Context(), "http://"+b.m.AgentHTTP()+"/metrics")
	b.must(err)
	b.report.add(figure{Name: fmt.Sprintf("agent with %d fake devices: samples on its metrics page", busyDevices), Unit: "", Measured: one(float64(n)), N: 1})
}

// flavor makes one with a device.
func (b *bench) flavor(name string, millis int64) {
	_, err := b.m.Client.Flavors.CreateFlavor(b.t.Context(), &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: name},
		Spec: &fleetv1.FlavorSpec{CpuMillis: millis, MemoryBytes: 64 << 20, Accelerator: &fleetv1.Accelerator{Count: 1}}}})
	b.must(err)
}

// failing measures how soon an instance isn't answered any more after its device failed, and is replaced.
func (b *bench) failing() {
	gpus := machine.NewGPUs(b.t, 8)
	b.m = machine.Start(b.t, gpus.Options())
	b.prepare()
	b.flavor("gpu", 50)
	b.deploy("victim", "gpu", 1)
	type source struct {
		name               string
		tell               func(gpu, code int)
		withdrawn, replace []time.Duration
	}
	sources := []source{{name: "told by the library", tell: gpus.XID}, {name: "in the kernel's log", tell: gpus.KernelXID}}
	spent := 0
	for round := range len(sources) * failureRounds {
		s := &sources[round%len(sources)]
		victim := b.m.WaitEndpoints(patience, "victim", 1)[0].InstanceID
		if spent == goodGPUs-2 { // one is held, one is for the replacement
			spent = 0
			gpus.Forget()
			b.m.Agent.Stop()
			b.m.StartAgent()
			b.until(func() bool { // it has asked its probe
				_, err := scrape(b.t.Context(), "http://"+b.m.AgentHTTP()+"/metrics")
				return err == nil && b.m.Metric("drover_device_temperature_celsius", gpus.ID(0)) > 0
			})
			victim = b.m.WaitEndpoints(patience, "victim", 1)[0].InstanceID
		}
		const resetNeeded = 48
		start := time.Now()
		s.tell(gpus.Index(b.holds(victim)), resetNeeded)
		b.until(func() bool {
			endpoints := b.m.Endpoints("victim")
			return !slices.ContainsFunc(endpoints, func(e client.Endpoint) bool { return e.InstanceID == victim })
		})
		s.withdrawn = append(s.withdrawn, time.Since(start))
		b.until(func() bool { return len(b.m.Endpoints("victim")) == 1 })
		s.replace = append(s.replace, time.Since(start))
		spent++
	}
	for _, s := range sources {
		b.report.add(figure{Name: "XID " + s.name + " → the look-up doesn't answer the instance", Unit: "ms", Measured: spreadOf(milliseconds(s.withdrawn)),
			Goal: &goal{AtMost: 1000}, N: failureRounds})
		b.report.add(figure{Name: "XID " + s.name + " → the look-up answers its replacement", Unit: "ms", Measured: spreadOf(milliseconds(s.replace)), N: failureRounds})
	}
}

// holds answers the device of the victim's instance.
func (b *bench) holds(instance string) string {
	b.t.Helper()
	for _, i := range b.m.Instances("victim") {
		if ids := i.GetSpec().GetDeviceIds(); i.GetMeta().GetId() == instance && len(ids) == 1 {
			return ids[0]
		}
	}
	b.t.Fatalf("instance %s holds no device", instance)
	return ""
}

// until asks each millisecond.
func (b *bench) until(done func() bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			b.t.Fatal("it doesn't happen")
		case <-time.After(time.Millisecond):
		}
	}
}
