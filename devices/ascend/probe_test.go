package ascend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/devicestest"
	"github.com/drover-fleet/drover/devices/probe"
	"github.com/drover-fleet/drover/test/vendorlib"
)

// serve is the child that the agent has for the library.
func serve(library, sys string) error {
	conn, err := probe.Conn()
	if err != nil {
		return fmt.Errorf("child: %w", err)
	}
	return probe.Serve(context.Background(), New(Config{LibraryPath: library, SysRoot: sys, Logger: slog.New(slog.DiscardHandler)}), conn)
}

// probed answers a backend that has the library in a child; a call that hangs is given up after within.
func probed(t *testing.T, lib *vendorlib.DCMI, within time.Duration) *probe.Backend {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := probe.New(probe.Config{
		Vendor: "ascend", Program: self, Command: []string{"ascend.test", "serve", lib.Path, sysRoot(t)},
		DiscoverWithin: patience, SampleWithin: within, LeastPause: time.Millisecond,
	})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func TestProbed(t *testing.T) {
	lib := vendorlib.NewDCMI(t)
	devicestest.Run(t, func(t *testing.T) devices.Backend { return probed(t, lib, patience) })
}

// Whatever the library does to its process: the agent gets an error, and the devices again when the library is well.
func TestProbedLibraryThatBreaks(t *testing.T) {
	for name, told := range map[string]string{
		"crashes": "crash get_device_power_info 6", "exits": "exit get_device_power_info 6", "hangs": "hang get_device_power_info 6",
	} {
		t.Run(name, func(t *testing.T) {
			lib := vendorlib.NewDCMI(t)
			lib.Tell(t, told)
			b := probed(t, lib, time.Second)
			if found, err := b.Discover(t.Context()); err != nil || len(found) != 8 {
				t.Fatalf("discover: %d devices, %v", len(found), err)
			}
			if samples, err := b.Sample(t.Context(), devices.Usage); err == nil || errors.Is(err, devices.ErrUnresponsive) != (name == "hangs") {
				t.Errorf("sample: %+v, %v", samples, err)
			}
			lib.Tell(t)
			deadline := time.Now().Add(patience)
			for {
				found, err := b.Discover(t.Context())
				if err == nil && len(found) == 8 {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("discover after the library got well: %d devices, %v", len(found), err)
				}
				time.Sleep(5 * time.Millisecond) // the pause before a child is started again
			}
		})
	}
}
