//go:build cgo && linux

package nvidia

import (
	"log/slog"
	"reflect"
	"slices"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A GPU that doesn't tell its slices for a moment has not lost them: somebody may work on them.
func TestSlicesThatAreNotTold(t *testing.T) {
	yes := true
	whole := func(count, handle nvml.Return) *gpu {
		return &gpu{
			Device: devices.Device{ID: "GPU-1", Health: fleetv1.Healthy, Sliced: &yes},
			handle: &mock.Device{
				GetMaxMigDeviceCountFunc:      func() (int, nvml.Return) { return 7, count },
				GetMigDeviceHandleByIndexFunc: func(int) (nvml.Device, nvml.Return) { return nil, handle },
			},
		}
	}
	for name, c := range map[string]struct {
		count, handle nvml.Return
		kept          bool
	}{
		"none":               {nvml.SUCCESS, nvml.ERROR_NOT_FOUND, false},
		"no count":           {nvml.ERROR_UNKNOWN, nvml.ERROR_NOT_FOUND, true},
		"no slice is told":   {nvml.SUCCESS, nvml.ERROR_TIMEOUT, true},
		"MIG isn't known":    {nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_NOT_FOUND, true},
		"the mode is off":    {nvml.SUCCESS, nvml.ERROR_INVALID_ARGUMENT, false},
		"it requires resets": {nvml.SUCCESS, nvml.ERROR_RESET_REQUIRED, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := New(Config{Logger: slog.New(slog.DiscardHandler)})
			b.lib = &library{have: map[call]bool{callMIGCount: true, callMIGHandle: true}}
			b.gpus = []*gpu{whole(0, 0), {Device: devices.Device{ID: "MIG-1", ParentID: "GPU-1", Health: fleetv1.Healthy}}}
			now := whole(c.count, c.handle)
			found := append([]*gpu{now}, b.cut(b.lib, now)...)
			b.adoptLocked(found, nvml.SUCCESS)
			i := slices.IndexFunc(b.gpus, func(g *gpu) bool { return g.ID == "MIG-1" })
			if kept := i >= 0; kept != c.kept {
				t.Fatalf("kept: %v, want %v", kept, c.kept)
			}
			if i >= 0 && (b.gpus[i].Health != now.Health || now.Health == fleetv1.Lost) {
				t.Errorf("the slice is %s and its GPU %s", b.gpus[i].Health, now.Health)
			}
		})
	}
}

// A GPU that fails to tell what it is for a moment is what it was.
func TestIdentityIsKept(t *testing.T) {
	minor := 3
	b := New(Config{Logger: slog.New(slog.DiscardHandler)})
	b.lib = &library{have: map[call]bool{}}
	was := devices.Device{ID: "GPU-1", Model: "H100-80GB", MemoryBytes: 80 << 30, PCIAddress: "0000:3b:00.0", Minor: &minor, Health: fleetv1.Healthy}
	b.gpus = []*gpu{{Device: was}}
	b.adoptLocked([]*gpu{{Device: devices.Device{ID: "GPU-1", Model: "GPU", Health: fleetv1.Unhealthy}, vague: true}}, nvml.SUCCESS)
	was.Health = fleetv1.Unhealthy
	if now := b.gpus[0].Device; !reflect.DeepEqual(now, was) {
		t.Errorf("have %+v, want %+v", now, was)
	}
}
