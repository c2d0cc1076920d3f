// Package devicestest is the conformance suite of devices.Backend: every backend passes it.
package devicestest

import (
	"context"
	"testing"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Run runs the suite against the backend that open answers, which has at least one device.
func Run(t *testing.T, open func(t *testing.T) devices.Backend) {
	t.Run("Discover", func(t *testing.T) {
		b := opened(t, open)
		found, err := b.Discover(t.Context())
		if err != nil || len(found) == 0 {
			t.Fatalf("discover: %v, %v", found, err)
		}
		seen := map[string]bool{}
		for _, d := range found {
			if d.ID == "" || seen[d.ID] {
				t.Errorf("the ID of %+v is empty or not unique", d)
			}
			seen[d.ID] = true
			if d.Vendor != b.Vendor() || d.Model == "" || d.MemoryBytes <= 0 {
				t.Errorf("device %+v lacks vendor, model or memory", d)
			}
			switch d.Health {
			case fleetv1.Healthy, fleetv1.Unhealthy, fleetv1.Unresponsive, fleetv1.Lost:
			default:
				t.Errorf("health %q of %s", d.Health, d.ID)
			}
			if d.Health != fleetv1.Healthy && d.Reason == "" {
				t.Errorf("%s is %s and does not say why", d.ID, d.Health)
			}
		}
		again, err := b.Discover(t.Context())
		if err != nil || len(again) != len(found) {
			t.Fatalf("discover again: %v, %v", again, err)
		}
		for i := range again {
			if again[i].ID != found[i].ID {
				t.Errorf("ID of device %d changed from %s to %s", i, found[i].ID, again[i].ID)
			}
		}
	})
	t.Run("Sample", func(t *testing.T) {
		b := opened(t, open)
		found, err := b.Discover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		memory := map[string]int64{}
		for _, d := range found {
			memory[d.ID] = d.MemoryBytes
		}
		samples, err := b.Sample(t.Context())
		if err != nil {
			t.Fatalf("sample: %v", err)
		}
		for _, s := range samples {
			total, known := memory[s.DeviceID]
			if !known || s.Time.IsZero() {
				t.Errorf("sample %+v of an unknown device or without a time", s)
			}
			if s.Utilisation != nil && (*s.Utilisation < 0 || *s.Utilisation > 1) {
				t.Errorf("utilisation %v of %s is no ratio", *s.Utilisation, s.DeviceID)
			}
			if s.MemoryUsedBytes != nil && (*s.MemoryUsedBytes < 0 || *s.MemoryUsedBytes > total) {
				t.Errorf("%s uses %d of %d bytes", s.DeviceID, *s.MemoryUsedBytes, total)
			}
		}
	})
	t.Run("EndedContext", func(t *testing.T) {
		b := opened(t, open)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Discover(ctx); err == nil {
			t.Error("discover ignored its ended context")
		}
		if _, err := b.Sample(ctx); err == nil {
			t.Error("sample ignored its ended context")
		}
	})
}

func opened(t *testing.T, open func(t *testing.T) devices.Backend) devices.Backend {
	t.Helper()
	b := open(t)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}
