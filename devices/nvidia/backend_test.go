//go:build cgo && linux

package nvidia_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/devicestest"
	"github.com/drover-fleet/drover/devices/nvidia"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/vendorlib"
)

const mib = 1 << 20

// TestLibrary drives the real loader on the fake library of a current driver.
func TestLibrary(t *testing.T) {
	library := vendorlib.NVML(t, "")
	for name, test := range map[string]func(*testing.T, string){
		"Suite": suite, "Discover": discover, "Sample": sample, "Slices": mig, "Refused": refused, "Endless": endless,
		"ManyProcesses": manyProcesses, "Direct": direct, "Unlinked": unlinked, "Partition": partition, "LinkDown": linkDown,
		"Lost": lost, "Upgraded": upgraded, "Twins": twins, "LostAtStart": lostAtStart, "ResetRequired": resetRequired, "Init": initFails, "HotPlug": hotPlug,
		"Crash": crash, "Exit": exits, "Hang": hangs, "Events": events, "SliceEvents": sliceEvents, "LostEvent": lostEvent, "LostUnheard": lostUnheard,
	} {
		t.Run(name, func(t *testing.T) { test(t, library) })
	}
}

// suite is the only one to load a library into this process.
func suite(t *testing.T, library string) {
	t.Setenv(controlEnv, filepath.Join(t.TempDir(), "none"))
	devicestest.Run(t, func(*testing.T) devices.Backend {
		return nvidia.New(nvidia.Config{LibraryPath: library, SysRoot: t.TempDir()})
	})
}

func discover(t *testing.T, library string) {
	found := start(t, library, "").devices()
	listed(t, found, 8)
	for i, d := range found {
		links := d.Links
		d.Links = nil
		equal(t, devices.Device{
			ID: uuid(i), Vendor: "nvidia", Model: "H100-80GB", Index: i, MemoryBytes: 81559 * mib, Health: fleetv1.Healthy,
			PCIAddress: addresses[i], NUMANode: new(i / 4), Minor: new(7 - i), CPUAffinity: fmt.Sprintf("%d-%d", i/4*56, i/4*56+55),
			DriverVersion: "570.124.06", RuntimeVersion: "12.8", ComputeCapability: "9.0", Persistence: new(i != 7), Sliced: new(false),
		}, d)
		equal(t, 7, len(links))
		for _, l := range links {
			equal(t, devices.LinkNVLink, l.Kind)
			equal(t, 18, l.Count)
			equal(t, false, l.Peer == uuid(i))
		}
	}
}

func sample(t *testing.T, library string) {
	c := start(t, library, "")
	samples := c.samples() // discovers by itself
	equal(t, 8, len(samples))
	s := samples[uuid(2)]
	recent(t, s.Time)
	s.Time = time.Time{}
	equal(t, devices.Sample{
		DeviceID: uuid(2), Utilisation: new(0.25), MemoryUtilisation: new(0.05),
		MemoryUsedBytes: new(int64(3 * 1024 * mib)), MemoryReservedBytes: new(int64(551 * mib)),
		MemoryFreeBytes: new(int64((81559 - 551 - 3*1024) * mib)),
		TemperatureC:    new(42.0), PowerWatts: new(102.5), ClockHz: new(int64(1_980_000_000)), MemoryClockHz: new(int64(2_619_000_000)),
		Throttled:            []string{},
		ECCCorrectedVolatile: new(int64(2)), ECCUncorrectedVolatile: new(int64(1002)),
		ECCCorrectedAggregate: new(int64(102)), ECCUncorrectedAggregate: new(int64(1102)),
		RemappedCorrected: new(int64(2)), RemappedUncorrected: new(int64(4)), RemapPending: new(true), RemapFailed: new(false),
		RetiredPages: new(int64(3)), PCIeReplays: new(int64(12)),
		LinkTransmitBytes: new(int64(1002 * 1024)), LinkReceiveBytes: new(int64(2002 * 1024)), LinksDown: new(int64(0)),
		RecoveryAction: new("reset"),
		Processes:      []devices.Process{{PID: 1200, MemoryBytes: new(int64(512 * mib))}},
	}, s)
	equal(t, []devices.Process{ // the first is in two lists, the second's memory isn't told
		{PID: 1000, MemoryBytes: new(int64(612 * mib))}, {PID: 1001},
	}, samples[uuid(0)].Processes)
	equal(t, []string{}, samples[uuid(0)].Throttled)
	equal(t, []string{"sw-power-cap", "hw-thermal-slowdown"}, samples[uuid(1)].Throttled)
	equal(t, true, *samples[uuid(3)].RemapFailed)
	equal(t, true, samples[uuid(4)].RecoveryAction == nil)
	equal(t, false, samples[uuid(4)].RetiredPages == nil)
	equal(t, "none", *samples[uuid(5)].RecoveryAction)
}

func mig(t *testing.T, library string) {
	c := start(t, library, "mig 1")
	found := c.devices()
	listed(t, found, 10)
	parent, big, small := found[1], found[2], found[3]
	equal(t, uuid(1), parent.ID)
	equal(t, true, *parent.Sliced)
	equal(t, "", parent.ParentID)
	for i, s := range []devices.Device{big, small} {
		equal(t, sliceID(1, i), s.ID)
		equal(t, []int{1, 9}[i], *s.GPUInstance)
		equal(t, 0, *s.ComputeInstance)
		equal(t, uuid(1), s.ParentID)
		equal(t, []string{"3g.40gb", "1g.10gb"}[i], s.Profile)
		equal(t, []int64{40448 * mib, 9984 * mib}[i], s.MemoryBytes)
		equal(t, "H100-80GB", s.Model)
		equal(t, addresses[1], s.PCIAddress)
		equal(t, true, s.Sliced == nil)
		equal(t, 0, len(s.Links))
	}
	equal(t, uuid(2), found[4].ID)

	samples := c.samples()
	equal(t, 10, len(samples))
	equal(t, true, samples[uuid(1)].Utilisation == nil)
	s := samples[sliceID(1, 0)]
	equal(t, int64(2048*mib), *s.MemoryUsedBytes)
	equal(t, []devices.Process{{PID: 1100, MemoryBytes: new(int64(512 * mib))}}, s.Processes)
	equal(t, true, s.TemperatureC == nil)
	equal(t, true, s.ECCCorrectedVolatile == nil)
	equal(t, true, samples[sliceID(1, 1)].Processes == nil)

	c.control("") // a slice that is deleted isn't lost
	listed(t, c.devices(), 8)
	c.control("mig 1")
	listed(t, c.devices(), 10)
	c.control("mig 1\nlost 1")
	found = c.devices()
	listed(t, found, 10)
	for _, d := range found[1:4] {
		equal(t, fleetv1.Lost, d.Health)
	}
}

// refused is a driver that knows other versions of the structs.
func refused(t *testing.T, library string) {
	c := start(t, library, "refuse")
	equal(t, int64(81559*mib), c.devices()[0].MemoryBytes)
	s := c.samples()[uuid(0)]
	equal(t, int64(2048*mib), *s.MemoryUsedBytes)
	equal(t, true, s.MemoryReservedBytes == nil)
	equal(t, false, s.Utilisation == nil)
}

func endless(t *testing.T, library string) {
	samples := start(t, library, "endless").samples()
	equal(t, 8, len(samples))
	equal(t, true, samples[uuid(0)].Processes == nil)
	equal(t, false, samples[uuid(0)].Utilisation == nil)
}

func manyProcesses(t *testing.T, library string) {
	c := start(t, library, "processes 1000")
	equal(t, 1000, len(c.samples()[uuid(0)].Processes))
	c.control("processes 0")
	samples := c.samples()
	equal(t, 1, len(samples[uuid(0)].Processes))
	equal(t, false, samples[uuid(1)].Processes == nil)
}

func direct(t *testing.T, library string) {
	for _, d := range start(t, library, "links direct").devices() {
		for _, l := range d.Links {
			equal(t, devices.Link{Peer: l.Peer, Kind: devices.LinkNVLink, Count: 2}, l)
		}
		equal(t, 7, len(d.Links))
	}
}

func unlinked(t *testing.T, library string) {
	c := start(t, library, "links none")
	equal(t, []devices.Link{
		{Peer: uuid(0), Kind: devices.LinkPIX}, {Peer: uuid(2), Kind: devices.LinkPHB}, {Peer: uuid(3), Kind: devices.LinkPHB},
		{Peer: uuid(4), Kind: devices.LinkSYS}, {Peer: uuid(5), Kind: devices.LinkSYS}, {Peer: uuid(6), Kind: devices.LinkSYS},
		{Peer: uuid(7), Kind: devices.LinkSYS},
	}, c.devices()[1].Links)
	equal(t, true, c.samples()[uuid(1)].LinksDown == nil)
}

func partition(t *testing.T, library string) {
	links := start(t, library, "partition").devices()[5].Links
	equal(t, 7, len(links))
	equal(t, devices.Link{Peer: uuid(3), Kind: devices.LinkSYS}, links[3])
	equal(t, devices.Link{Peer: uuid(4), Kind: devices.LinkNVLink, Count: 18}, links[4])
}

func linkDown(t *testing.T, library string) {
	c := start(t, library, "")
	c.devices()
	c.control("linkdown 5 17")
	samples := c.samples()
	equal(t, int64(1), *samples[uuid(5)].LinksDown)
	equal(t, int64(0), *samples[uuid(4)].LinksDown)
	for i, d := range c.devices() {
		for _, l := range d.Links {
			equal(t, i == 5 || l.Peer == uuid(5), l.Count == 17)
		}
	}
	equal(t, int64(1), *c.samples()[uuid(5)].LinksDown)
}

func lost(t *testing.T, library string) {
	c := start(t, library, "")
	before := c.devices()[3]
	c.control("lost 3")
	equal(t, 7, len(c.samples()))
	found := c.devices()
	listed(t, found, 8)
	equal(t, fleetv1.Lost, found[3].Health)
	contains(t, found[3].Reason, "fell off the bus")
	equal(t, before.Model, found[3].Model)
	equal(t, 6, len(found[2].Links))
	equal(t, 0, len(found[3].Links))
	c.control("count 3") // the driver forgets it, and others
	found = c.devices()
	listed(t, found, 8)
	equal(t, fleetv1.Lost, found[3].Health)
	contains(t, found[3].Reason, "fell off the bus")
	contains(t, found[7].Reason, "no longer lists")
	equal(t, 3, len(c.samples()))
	c.control("")
	equal(t, before, c.devices()[3])
	equal(t, 8, len(c.samples()))
}

func lostAtStart(t *testing.T, library string) {
	c := start(t, library, "lost 0")
	found := c.devices()
	listed(t, found, 7)
	equal(t, 1, found[0].Index)
	contains(t, c.said(), "does not answer")
	c.control("")
	listed(t, c.devices(), 8)
}

// upgraded is a driver that doesn't fit the library any more: no GPU is lost by that.
func upgraded(t *testing.T, library string) {
	c := start(t, library, "")
	listed(t, c.devices(), 8)
	c.control("handles 18")
	contains(t, c.do("discover").Error, "versions of library and kernel module differ")
	c.control("")
	for _, d := range c.devices() {
		equal(t, fleetv1.Healthy, d.Health)
	}
}

// twins can't be told apart: the first is used, and the log says so once.
func twins(t *testing.T, library string) {
	c := start(t, library, "twin 5")
	for range 3 {
		found := c.devices()
		listed(t, found, 7)
		equal(t, uuid(0), found[0].ID)
		equal(t, 0, found[0].Index)
		equal(t, 6, found[5].Index)
	}
	equal(t, 1, strings.Count(c.said(), "a GPU's UUID is empty or another's"))
}

func resetRequired(t *testing.T, library string) {
	c := start(t, library, "reset 6")
	found := c.devices()
	equal(t, fleetv1.Unhealthy, found[6].Health)
	contains(t, found[6].Reason, "reset")
	equal(t, 8, len(c.samples()))
	c.control("")
	equal(t, fleetv1.Healthy, c.devices()[6].Health)
}

func initFails(t *testing.T, library string) {
	c := start(t, library, "init 18")
	contains(t, c.do("discover").Error, "versions of library and kernel module differ")
	contains(t, c.do("sample").Error, "versions of library and kernel module differ")
	c.control("init 9") // there is a library and no driver
	listed(t, c.devices(), 0)
	listed(t, c.devices(), 0)
	equal(t, 0, len(c.samples()))
	c.control("")
	listed(t, c.devices(), 8)
	equal(t, 1, strings.Count(c.said(), "no NVIDIA GPUs"))
	equal(t, "", c.do("close").Error)
	contains(t, c.do("discover").Error, "closed")
}

// hotPlug has NVML initialised again for a GPU that it doesn't list.
func hotPlug(t *testing.T, library string) {
	c := start(t, library, "count 7")
	listed(t, c.devices(), 7)
	contains(t, c.said(), "pci=0000:df:00.0")
	said := len(c.said())
	listed(t, c.devices(), 7)
	equal(t, said, len(c.said()))
	c.send("watch")
	c.bind("0000:e1:00.0")
	listed(t, c.devices(), 7)
	contains(t, c.said(), "0000:e1:00.0")
	c.control("event 1 xid 4 79 -1 -1")
	equal(t, uuid(4), c.signal().DeviceID)
	c.control("")
	listed(t, c.devices(), 8)
}

func crash(t *testing.T, library string) {
	c := start(t, library, "crash nvmlDeviceGetTemperature 3")
	listed(t, c.devices(), 8)
	c.send("sample")
	// Go's own handler of the signal may print what happened first, and exit with 2.
	if err := fmt.Sprint(c.exit()); err != "exit status 2" && !strings.Contains(err, "segmentation fault") {
		t.Errorf("the child ended with %s", err)
	}
}

func exits(t *testing.T, library string) {
	c := start(t, library, "exit * 20")
	c.send("discover")
	equal(t, "exit status 127", fmt.Sprint(c.exit()))
}

func hangs(t *testing.T, library string) {
	c := start(t, library, "hang nvmlDeviceGetPowerUsage 1")
	listed(t, c.devices(), 8)
	c.send("sample")
	select {
	case r := <-c.replies:
		t.Fatalf("answered %+v", r)
	case <-time.After(100 * time.Millisecond):
	}
	if err := c.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	equal(t, "signal: killed", fmt.Sprint(c.exit()))
}

func events(t *testing.T, library string) {
	c := start(t, library, "")
	c.send("watch") // before there are devices
	listed(t, c.devices(), 8)
	c.control("event 1 xid 3 79 -1 -1\nevent 2 sbe 1 0 -1 -1\nevent 3 ecc 2 0 -1 -1\nevent 4 gone 7 0 -1 -1\nevent 5 xid -1 94 -1 -1")
	for _, want := range []devices.Signal{
		{DeviceID: uuid(3), Kind: devices.SignalXID, Code: 79, Text: "Xid 79"},
		{DeviceID: uuid(2), Kind: devices.SignalECC, Text: "uncorrectable memory error"},
		{DeviceID: uuid(7), Kind: devices.SignalLost, Text: "the GPU is unavailable"},
		{Kind: devices.SignalXID, Code: 94, Text: "Xid 94"},
	} {
		got := c.signal()
		recent(t, got.Time)
		got.Time = time.Time{}
		equal(t, want, got)
	}
	c.send("end")
	equal(t, true, c.receive("end").Done)
}

func sliceEvents(t *testing.T, library string) {
	c := start(t, library, "mig 1")
	listed(t, c.devices(), 10)
	c.send("watch")
	const lines = "mig 1\nevent 1 xid 1 43 9 0\nevent 2 xid 1 43 1 -1\nevent 3 xid 1 95 -1 -1\nevent 4 xid 1 13 5 0\n"
	c.control(lines)
	equal(t, sliceID(1, 1), c.signal().DeviceID)
	equal(t, sliceID(1, 0), c.signal().DeviceID)
	equal(t, uuid(1), c.signal().DeviceID)
	equal(t, uuid(1), c.signal().DeviceID)
	// Slices that come later are listened to as well.
	c.control(lines + "mig 4")
	listed(t, c.devices(), 12)
	c.control(lines + "mig 4\nevent 5 xid 4 43 1 0")
	equal(t, sliceID(4, 0), c.signal().DeviceID)
}

func lostEvent(t *testing.T, library string) {
	c := start(t, library, "")
	listed(t, c.devices(), 8)
	c.send("watch")
	c.control("event 1 xid 0 79 -1 -1")
	equal(t, uuid(0), c.signal().DeviceID)
	c.control("lost 5") // while it is listened to
	got := c.signal()
	equal(t, uuid(5), got.DeviceID)
	equal(t, devices.SignalLost, got.Kind)
	contains(t, got.Text, "fell off the bus")
	c.control("lost 5\nevent 2 xid 6 48 -1 -1") // the others are still heard
	equal(t, uuid(6), c.signal().DeviceID)
	c.control("lost 5\nlost 1")
	equal(t, uuid(1), c.signal().DeviceID)
	c.control("lost 5\nlost 1\nevent 3 xid 7 48 -1 -1")
	equal(t, uuid(7), c.signal().DeviceID)
	equal(t, "", c.do("close").Error)
}

// lostUnheard is lost after Discover and before Watch.
func lostUnheard(t *testing.T, library string) {
	c := start(t, library, "")
	listed(t, c.devices(), 8)
	c.control("lost 5")
	c.send("watch")
	got := c.signal()
	equal(t, uuid(5), got.DeviceID)
	equal(t, devices.SignalLost, got.Kind)
}

// TestOldDriver drives the loader on a driver that lacks most functions.
func TestOldDriver(t *testing.T) {
	c := start(t, vendorlib.NVML(t, "OLD"), "")
	found := c.devices()
	listed(t, found, 8)
	equal(t, devices.Device{
		ID: uuid(4), Vendor: "nvidia", Model: "H100-80GB", Index: 4, MemoryBytes: 81559 * mib, Health: fleetv1.Healthy,
		PCIAddress: addresses[4], NUMANode: new(1), Minor: new(3), CPUAffinity: "56-111", DriverVersion: "384.183",
		ComputeCapability: "9.0", Persistence: new(true),
	}, found[4])
	s := c.samples()[uuid(1)]
	s.Time = time.Time{}
	equal(t, devices.Sample{
		DeviceID: uuid(1), Utilisation: new(0.15), MemoryUtilisation: new(0.04), MemoryUsedBytes: new(int64(3 * 1024 * mib)),
		MemoryFreeBytes: new(int64((81559 - 3*1024) * mib)), TemperatureC: new(41.0), PowerWatts: new(101.5),
		ClockHz: new(int64(1_980_000_000)), MemoryClockHz: new(int64(2_619_000_000)), Throttled: []string{"sw-power-cap", "hw-thermal-slowdown"},
		ECCCorrectedVolatile: new(int64(1)), ECCUncorrectedVolatile: new(int64(1001)), ECCCorrectedAggregate: new(int64(101)),
		ECCUncorrectedAggregate: new(int64(1101)), PCIeReplays: new(int64(11)),
		Processes: []devices.Process{{PID: 1100, MemoryBytes: new(int64(512 * mib))}},
	}, s)
	c.send("watch")
	c.control("event 1 xid 2 31 -1 -1")
	equal(t, uuid(2), c.signal().DeviceID)
}

// TestBareDriver drives the loader on a driver with nothing but the necessary functions.
func TestBareDriver(t *testing.T) {
	c := start(t, vendorlib.NVML(t, "BARE"), "")
	found := c.devices()
	listed(t, found, 8)
	equal(t, devices.Device{ID: uuid(4), Vendor: "nvidia", Model: "GPU", Index: 4, Health: fleetv1.Healthy}, found[4])
	s := c.samples()[uuid(4)]
	s.Time = time.Time{}
	equal(t, devices.Sample{DeviceID: uuid(4)}, s)
	c.send("watch")
	c.send("end")
	equal(t, true, c.receive("end").Done)
}

// TestNoLibrary finds nothing, says so once, and finds the devices as soon as there is a library.
func TestNoLibrary(t *testing.T) {
	library := vendorlib.NVML(t, "")
	path := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	c := start(t, path, "")
	c.send("watch")
	for range 3 {
		listed(t, c.devices(), 0)
		equal(t, 0, len(c.samples()))
	}
	equal(t, 1, strings.Count(c.said(), "no NVIDIA GPUs"))
	if err := os.Symlink(library, path); err != nil {
		t.Fatal(err)
	}
	listed(t, c.devices(), 8)
	c.control("event 1 xid 0 79 -1 -1")
	equal(t, uuid(0), c.signal().DeviceID)
}

// TestNotNVML refuses libraries that aren't NVML.
func TestNotNVML(t *testing.T) {
	c := start(t, vendorlib.NVML(t, "BROKEN"), "")
	contains(t, c.do("discover").Error, "has no nvmlDeviceGetUUID")

	garbage := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	if err := os.WriteFile(garbage, []byte("no ELF"), 0o600); err != nil {
		t.Fatal(err)
	}
	c = start(t, garbage, "")
	contains(t, c.do("discover").Error, "load NVML")
}
