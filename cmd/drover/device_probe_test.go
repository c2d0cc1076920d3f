//go:build cgo && linux

package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/devicestest"
	"github.com/drover-fleet/drover/devices/probe"
	"github.com/drover-fleet/drover/test/vendorlib"
)

func TestDeviceWords(t *testing.T) {
	config := func(list ...string) agentConfig {
		return agentConfig{Config: agent.Config{NodeName: "n"}, Devices: list}
	}
	for list, want := range map[string]string{
		"": "ascend nvidia", "none": "", "nvidia": "nvidia", "ascend,nvidia": "ascend nvidia",
		"fake:8xH100-80GB": "fake", "fake:8xH100-80GB,2xAscend910B-64GB": "fake", "nvidia,fake:1xA-1GB;1s:0:lost": "nvidia fake",
		"amd": "error", "none,nvidia": "error", "nvidia,nvidia": "error", "fake:": "error", "fake": "error", "8xH100-80GB": "error",
		"fake:8xH100-80GB,fake:1xA-1GB": "error", "fake:8xH100-80GB,none": "error", "nvidia,": "error",
	} {
		lists := [][]string{{list}, strings.Split(list, ",")} // from `drover dev`; from a flag
		if list == "" {
			lists = [][]string{nil}
		}
		for _, words := range lists {
			backends, err := deviceBackends(config(words...), slog.New(slog.DiscardHandler))
			var got []string
			for _, b := range backends {
				got = append(got, b.Vendor())
			}
			if err != nil {
				got = []string{"error"}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%q: %v, %v; want %s", words, got, err, want)
			}
		}
	}
	bad := config()
	bad.DeviceLibraries = map[string]string{"amd": "/lib/x.so"}
	if _, err := deviceBackends(bad, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a library of an unknown vendor is accepted")
	}
}

// probed answers the backend of a vendor on a stand-in for its library, in a child of this binary, and what
// tells that library how to behave.
func probed(t *testing.T, vendor string, within time.Duration) (devices.Backend, func(...string)) {
	t.Helper()
	var library string
	var tell func(...string)
	switch vendor {
	case "nvidia":
		control := filepath.Join(t.TempDir(), "nvml.ctl")
		t.Setenv("DROVER_FAKE_NVML", control)
		library, tell = vendorlib.NVML(t, ""), func(lines ...string) {
			if err := os.WriteFile(control, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	case "ascend":
		lib := vendorlib.NewDCMI(t)
		library, tell = lib.Path, func(lines ...string) { lib.Tell(t, lines...) }
	}
	tell()
	b := probe.New(probe.Config{
		Vendor: vendor, Program: "/proc/self/exe", Command: []string{"drover", probeCommand, "--vendor", vendor, "--library", library},
		SampleWithin: within, LeastPause: time.Millisecond, MostPause: time.Millisecond,
	})
	return b, tell
}

func TestVendorsConformThroughProbes(t *testing.T) {
	for _, vendor := range []string{"nvidia", "ascend"} {
		t.Run(vendor, func(t *testing.T) {
			devicestest.Run(t, func(t *testing.T) devices.Backend {
				b, _ := probed(t, vendor, 0)
				return b
			})
		})
	}
}

// Whatever a vendor's library does, this process lives on, the call fails in time, and a new child works.
func TestLibrariesMisbehave(t *testing.T) {
	// Called by no more than samples.
	for vendor, measures := range map[string]string{"nvidia": "nvmlDeviceGetPowerUsage", "ascend": "get_device_temperature"} {
		for _, how := range []string{"hang", "crash", "exit"} {
			t.Run(vendor+" "+how, func(t *testing.T) {
				within := time.Duration(0)
				if how == "hang" {
					within = time.Second
				}
				b, tell := probed(t, vendor, within)
				defer func() {
					if err := b.Close(); err != nil {
						t.Error(err)
					}
				}()
				all, err := b.Discover(t.Context())
				if err != nil || len(all) != 8 {
					t.Fatalf("%d devices, %v", len(all), err)
				}
				tell(how + " " + measures + " 1")
				_, err = b.Sample(t.Context(), devices.Usage)
				if err == nil || errors.Is(err, devices.ErrUnresponsive) != (how == "hang") {
					t.Errorf("sample: %v", err)
				}
				tell()
				for deadline := time.Now().Add(20 * time.Second); ; { // until the old one is gone
					if all, err = b.Discover(t.Context()); err == nil || time.Now().After(deadline) {
						break
					}
				}
				if err != nil || len(all) != 8 {
					t.Errorf("afterwards: %d devices, %v", len(all), err)
				}
			})
		}
	}
}
