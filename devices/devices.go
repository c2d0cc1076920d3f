package devices

import (
	"context"
	"time"
)

// Device is one accelerator of this host.
type Device struct {
	ID          string // the vendor's stable ID
	Vendor      string // "nvidia", "ascend", "fake"
	Model       string // for example "H100-80GB"
	Index       int
	MemoryBytes int64
	Health      string // fleetv1.Healthy, Unhealthy, Unresponsive, Lost
	Reason      string // why it isn't healthy
	PCIAddress  string // empty when there is none
	NUMANode    *int   // nil when the host doesn't say
}

// Sample is one measurement of a device. A nil figure is absent, never zero.
type Sample struct {
	DeviceID        string
	Time            time.Time
	Utilisation     *float64 // 0–1
	MemoryUsedBytes *int64
	TemperatureC    *float64
	PowerWatts      *float64
}

// Backend knows the devices of one vendor. Its calls may be slow but honour their context.
type Backend interface {
	Vendor() string
	// Discover answers every device that exists, those that don't work among them.
	Discover(ctx context.Context) ([]Device, error)
	// Sample measures the devices that can be measured.
	Sample(ctx context.Context) ([]Sample, error)
	Close() error
}
