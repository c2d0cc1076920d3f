package devices_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/health"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// judged runs a registry with a judge on one scripted GPU.
func judged(t *testing.T, f func(r *devices.Registry, b *scripted, told func(devices.Signal), first func() devices.Device)) {
	bus := t.TempDir()
	if err := os.Mkdir(filepath.Join(bus, "0000:3b:00.0"), 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan devices.Signal)
		b := &scripted{vendor: "nvidia", found: []devices.Device{{ID: "g", Vendor: "nvidia", Health: fleetv1.Healthy, PCIAddress: "0000:3b:00.0"}}}
		b.sample = func(devices.Figures) []devices.Sample { return []devices.Sample{{DeviceID: "g", Time: time.Now()}} }
		b.watch = func(ctx context.Context, f func(devices.Signal)) error {
			for {
				select {
				case s := <-signals:
					f(s)
				case <-ctx.Done():
					return nil
				}
			}
		}
		r := devices.NewRegistry(slog.New(slog.DiscardHandler), b)
		r.Judge, r.PCIDevices = health.New(), bus
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		<-r.Changed()
		f(r, b, func(s devices.Signal) { signals <- s; synctest.Wait() }, func() devices.Device { return r.Devices()[0] })
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestJudgeHearsSignals(t *testing.T) {
	judged(t, func(r *devices.Registry, _ *scripted, told func(devices.Signal), first func() devices.Device) {
		told(devices.Signal{DeviceID: "g", Kind: devices.SignalECC})
		<-r.Changed() // at once, without waiting for a round
		if d := first(); d.Health != fleetv1.Unhealthy || d.Action != "evict" || !d.Evict || d.Reason == "" {
			t.Errorf("%+v", d)
		}
		time.Sleep(59 * time.Second)
		synctest.Wait()
		if d := first(); d.Health != fleetv1.Unhealthy {
			t.Errorf("back too soon: %+v", d)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if d := first(); d.Health != fleetv1.Healthy || d.Action != "" || d.Evict {
			t.Errorf("not back: %+v", d)
		}
	})
}

func TestSignalOfAllDevices(t *testing.T) {
	judged(t, func(_ *devices.Registry, _ *scripted, told func(devices.Signal), first func() devices.Device) {
		told(devices.Signal{Kind: devices.SignalXID, Code: 79})
		if d := first(); d.Health != fleetv1.Lost || d.Action != "reboot-needed" {
			t.Errorf("%+v", d)
		}
	})
}

func TestKernelLogAndLibraryCountOnce(t *testing.T) {
	judged(t, func(r *devices.Registry, _ *scripted, told func(devices.Signal), first func() devices.Device) {
		xid := devices.Signal{Kind: devices.SignalXID, Code: 94, Time: time.Now()}
		r.Heard("0000:3b:00.0", xid)
		r.Heard("0000:77:00.0", xid) // nobody's
		if d := first(); d.Action != "drain" {
			t.Errorf("%+v", d)
		}
		xid.DeviceID = "g"
		told(xid)
		if c := r.SignalCounts(); len(c) != 1 || c[0].Count != 1 || c[0].DeviceID != "g" {
			t.Errorf("%+v", c)
		}
		xid.Time = time.Now().Add(time.Minute)
		told(xid)
		if c := r.SignalCounts(); c[0].Count != 2 {
			t.Errorf("%+v", c)
		}
	})
}

func TestListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &scripted{vendor: "nvidia", found: []devices.Device{{ID: "g", Vendor: "nvidia", Health: fleetv1.Healthy, PCIAddress: "0000:3b:00.0"}}}
		r := devices.NewRegistry(slog.New(slog.DiscardHandler), b)
		r.Judge = health.New()
		r.Listen = func(ctx context.Context, heard func(string, devices.Signal)) error {
			<-time.After(time.Second)
			heard("0000:3b:00.0", devices.Signal{Kind: devices.SignalXID, Code: 79, Time: time.Now()})
			return errors.New("the log broke")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
		if d := r.Devices(); len(d) != 1 || d[0].Health != fleetv1.Lost || !d[0].Evict {
			t.Errorf("%+v", d)
		}
	})
}

func TestPCIDeviceGone(t *testing.T) {
	judged(t, func(r *devices.Registry, b *scripted, _ func(devices.Signal), first func() devices.Device) {
		hang := func(yes bool) {
			b.mu.Lock()
			b.hang = yes
			b.mu.Unlock()
		}
		time.Sleep(time.Minute) // it was seen
		hang(true)
		defer hang(false) // Close too
		time.Sleep(time.Minute)
		if d := first(); d.Health != fleetv1.Unresponsive || d.Evict {
			t.Errorf("%+v", d)
		}
		if err := os.Remove(filepath.Join(r.PCIDevices, "0000:3b:00.0")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if d := first(); d.Health != fleetv1.Lost || !d.Evict {
			t.Errorf("%+v", d)
		}
	})
}
