package ascend

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/devicestest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/vendorlib"
)

// The sizes of the published structs: C and Go must pad alike.
func TestLayout(t *testing.T) {
	for name, size := range map[string][2]uintptr{
		"chip info": {unsafe.Sizeof(chipInfo{}), 132}, "PCIe info": {unsafe.Sizeof(pcieInfo{}), 64},
		"elabel": {unsafe.Sizeof(elabelInfo{}), 1280}, "die ID": {unsafe.Sizeof(dieID{}), 20},
		"HBM info": {unsafe.Sizeof(hbmInfo{}), 32}, "memory info": {unsafe.Sizeof(memoryInfo{}), 112},
		"utilisation": {unsafe.Sizeof(multiUse{}), 48}, "ECC info": {unsafe.Sizeof(eccInfo{}), 28},
		"process": {unsafe.Sizeof(process{}), 16}, "event filter": {unsafe.Sizeof(eventFilter{}), 48},
		"event": {unsafe.Sizeof(event{}), 360}, "event name": {unsafe.Offsetof(faultEvent{}.Name), 32},
	} {
		if size[0] != size[1] {
			t.Errorf("%s has %d bytes, not %d", name, size[0], size[1])
		}
	}
}

func TestBothGenerations(t *testing.T) {
	for name, flags := range map[string][]string{
		"both sets of names": nil, "dcmi only": {"-DNO_V2"}, "dcmiv2 only": {"-DNO_V1"},
	} {
		t.Run(name, func(t *testing.T) {
			lib := vendorlib.NewDCMI(t, flags...)
			b := opened(t, lib)
			found := discovered(t, b)
			if len(found) != 8 {
				t.Fatalf("%d devices: %+v", len(found), found)
			}
			for n, d := range found {
				if want := npu(n); !reflect.DeepEqual(d, want) {
					t.Errorf("device %d is\n%+v, not\n%+v", n, d, want)
				}
			}
			samples := sampled(t, b, everything)
			if len(samples) != 8 {
				t.Fatalf("%d samples", len(samples))
			}
			for n, s := range samples {
				if want := measured(n); !reflect.DeepEqual(s, want) {
					t.Errorf("sample %d is\n%+v, not\n%+v", n, s, want)
				}
			}
		})
	}
}

func TestBackend(t *testing.T) {
	for name, lib := range map[string]*vendorlib.DCMI{
		"dcmi": vendorlib.NewDCMI(t, "-DNO_V2"), "dcmiv2": vendorlib.NewDCMI(t, "-DNO_V1"),
	} {
		t.Run(name, func(t *testing.T) {
			devicestest.Run(t, func(t *testing.T) devices.Backend {
				return opened(t, lib.Without(t)) // a library takes one subscription
			})
		})
	}
}

// A driver has both sets of names, and says of the first that its chips aren't asked that way.
func TestSecondGenerationOfADriverWithBoth(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	lib.Tell(t, "fail get_card_list -8255")
	b := opened(t, lib)
	if found := discovered(t, b); len(found) != 8 || !b.calls.second {
		t.Errorf("second generation %v, devices %+v", b.calls.second, found)
	}
}

// What is counted on a card, but is its controller, is no device.
func TestControllersAreNoDevices(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	lib.Tell(t, "mcu 1")
	if found := discovered(t, opened(t, lib)); len(found) != 8 {
		t.Errorf("%d devices: %+v", len(found), found)
	}
}

func TestNoDriver(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	away := lib.Path + ".away"
	if err := os.Rename(lib.Path, away); err != nil {
		t.Fatal(err)
	}
	b := opened(t, lib)
	for range 2 {
		if found, err := b.Discover(t.Context()); err != nil || len(found) != 0 {
			t.Fatalf("without a driver: %v, %v", found, err)
		}
		if samples, err := b.Sample(t.Context(), everything); err != nil || len(samples) != 0 {
			t.Fatalf("without a driver: %v, %v", samples, err)
		}
	}
	if err := os.Rename(away, lib.Path); err != nil {
		t.Fatal(err)
	}
	if found := discovered(t, b); len(found) != 8 {
		t.Errorf("%d devices after the driver came", len(found))
	}
}

// The reason of a failed load is kept by thread: whoever moves to another in between reads an empty one.
func TestNoDriverAmongManyThreads(t *testing.T) {
	var busy sync.WaitGroup
	for range 16 {
		busy.Go(func() {
			for range 5000 {
				if _, err := load("/nonexistent/libdcmi.so"); !errors.Is(err, errNoLibrary) {
					t.Errorf("no library: %v", err)
					return
				}
			}
		})
	}
	busy.Wait()
}

func TestUnusableLibrary(t *testing.T) {
	t.Run("no library", func(t *testing.T) {
		lib := &vendorlib.DCMI{Path: t.TempDir() + "/libdcmi.so"}
		if err := os.WriteFile(lib.Path, []byte("not an ELF file, but longer than the header of one is, so that it is looked at\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := opened(t, lib).Discover(t.Context()); err == nil || !strings.Contains(err.Error(), lib.Path) {
			t.Errorf("a text file: %v", err)
		}
	})
	t.Run("no names", func(t *testing.T) {
		lib := vendorlib.NewDCMI(t, "-DNO_V1", "-DNO_V2", "-Wno-unused-function")
		if _, err := opened(t, lib).Discover(t.Context()); err == nil || !strings.Contains(err.Error(), "does not have the call") {
			t.Errorf("a library without the names: %v", err)
		}
	})
}

func TestDriverThatDoesNotStart(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	b := opened(t, lib)
	lib.Tell(t, "fail init -8005")
	if _, err := b.Discover(t.Context()); err == nil || !strings.Contains(err.Error(), "-8005") {
		t.Errorf("a driver that fails: %v", err)
	}
	lib.Tell(t, "fail init -8008")
	if found, err := b.Discover(t.Context()); err != nil || len(found) != 0 {
		t.Errorf("a driver without devices: %v, %v", found, err)
	}
	lib.Tell(t, "none 1")
	if found := discovered(t, b); len(found) != 0 {
		t.Errorf("a driver without devices: %v", found)
	}
	lib.Tell(t)
	if found := discovered(t, b); len(found) != 8 {
		t.Errorf("%d devices after they were plugged in", len(found))
	}
}

func TestLost(t *testing.T) {
	for name, gone := range map[string]string{"calls fail": "lost 3 1", "health": "health 3 -1"} {
		t.Run(name, func(t *testing.T) {
			lib := vendorlib.NewDCMI(t)
			b := opened(t, lib)
			discovered(t, b)
			lib.Tell(t, gone)
			samples := sampled(t, b, devices.Usage)
			for _, s := range samples {
				if s.DeviceID == die(3) {
					t.Errorf("a lost device was measured: %+v", s)
				}
			}
			if len(samples) != 7 {
				t.Errorf("%d samples beside a lost device", len(samples))
			}
			for n, d := range noLinks(discovered(t, b)) {
				want := noLinks([]devices.Device{npu(n)})[0]
				if n == 3 {
					want.Health, want.Reason = fleetv1.Lost, d.Reason
				}
				if !reflect.DeepEqual(d, want) || (n == 3) != (d.Reason != "") {
					t.Errorf("device %d is\n%+v, not\n%+v", n, d, want)
				}
			}
			lib.Tell(t)
			for n, d := range discovered(t, b) {
				if want := npu(n); !reflect.DeepEqual(d, want) {
					t.Errorf("back again, device %d is\n%+v, not\n%+v", n, d, want)
				}
			}
		})
	}
}

// A device that is lost at first sight is listed as well, with the little that is known.
func TestLostFromTheStart(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	lib.Tell(t, "lost 3 1")
	d := discovered(t, opened(t, lib))[3]
	if d.Health != fleetv1.Lost || d.Reason == "" || d.ID != "card3-chip0" || d.Model != "Ascend" {
		t.Errorf("lost device: %+v", d)
	}
}

func TestHealth(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	lib.Tell(t, "health 1 1", "health 2 2", "health 3 3", "health 4 9", "errors 3 2")
	b := opened(t, lib)
	found, samples := discovered(t, b), sampled(t, b, devices.Condition)
	for n, want := range []struct{ health, reason string }{
		{fleetv1.Healthy, ""},
		{fleetv1.Healthy, ""},
		{fleetv1.Unhealthy, "a major alarm (health 2)"},
		{fleetv1.Unhealthy, "a critical alarm (health 3): 0x80E01800, 0x80E01801"},
		{fleetv1.Unhealthy, "an unknown alarm (health 9)"},
	} {
		if found[n].Health != want.health || found[n].Reason != want.reason {
			t.Errorf("device %d is %s: %s", n, found[n].Health, found[n].Reason)
		}
		code := samples[n].HealthCode
		if n == 4 && code != nil || n < 4 && (code == nil || *code != int64(n)) {
			t.Errorf("health code of device %d is %v", n, code)
		}
	}
	if got, want := samples[3].ErrorCodes, []int64{0x80E01800, 0x80E01801}; !reflect.DeepEqual(got, want) {
		t.Errorf("error codes %x", got)
	}
}

func TestTopology(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	for code, want := range map[string]devices.LinkKind{
		"1": devices.LinkSYS, "2": devices.LinkPHB, "3": devices.LinkHCCS, "4": devices.LinkPXB, "5": devices.LinkPIX,
		"6": "", "7": devices.LinkHCCSSw, "8": devices.LinkUB, "9": "", "0": "",
	} {
		lib.Tell(t, "topology "+code)
		if got := linkTo(discovered(t, opened(t, lib))[0], die(1)); got != want {
			t.Errorf("topology %s is %q, not %q", code, got, want)
		}
	}
	if got := linkKind(topologySIO, true); got != devices.LinkSIO {
		t.Errorf("dies of a card: %q", got)
	}
}

func linkTo(d devices.Device, peer string) devices.LinkKind {
	for _, l := range d.Links {
		if l.Peer == peer {
			return l.Kind
		}
	}
	return ""
}

func TestIdentity(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	lib.Tell(t, "die 0")
	if id := discovered(t, opened(t, lib))[2].ID; id != "2102313LNR02-0" {
		t.Errorf("without die ID: %s", id)
	}
	lib.Tell(t, "die 0", "serial 0")
	if id := discovered(t, opened(t, lib))[2].ID; id != "pci-0000:a1:00.0" {
		t.Errorf("without serial number: %s", id)
	}
	lib.Tell(t)
	b := opened(t, lib)
	before := discovered(t, b)[2]
	lib.Tell(t, "fail get_device_die -8012", "fail get_device_die_v2 -8012", "fail get_device_hbm_info -8012",
		"fail get_device_memory_info_v3 -8012", "fail get_device_chip_info_v2 -8012",
		"fail get_device_chip_info -8012", "fail get_device_pcie_info_v2 -8012", "fail get_device_logic_id -8012", "fail get_device_phyid_from_logicid -8012")
	if d := discovered(t, b)[2]; d.ID != die(2) || d.Model != "Ascend910B3-64GB" || d.MemoryBytes != 64*gibibyte || d.PCIAddress != before.PCIAddress ||
		*d.LogicID != 2 || d.Index != 2 || *d.PhysicalID != *before.PhysicalID {
		t.Errorf("a busy driver made the device %+v", d)
	}
}
