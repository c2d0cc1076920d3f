package devices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Cadence of the registry, and how long one call of a backend may take.
const (
	sampleEvery   = 5 * time.Second
	discoverEvery = 60 * time.Second
	patience      = 10 * time.Second
)

// Registry merges the backends' answers. Reads answer from memory and never wait for a backend.
type Registry struct {
	logger   *slog.Logger
	backends []Backend
	changed  chan struct{}

	mu      sync.Mutex
	devices map[string]Device
	samples map[string]Sample
	failing map[string]bool // vendors whose last discovery failed, so that it's logged once
}

// NewRegistry makes a registry that Run keeps current. It closes the backends when Run ends.
func NewRegistry(logger *slog.Logger, backends ...Backend) *Registry {
	return &Registry{
		logger: logger, backends: backends, changed: make(chan struct{}, 1),
		devices: map[string]Device{}, samples: map[string]Sample{}, failing: map[string]bool{},
	}
}

// Discover asks every backend once. The agent calls it before it registers, so that the first facts
// already name the devices.
func (r *Registry) Discover(ctx context.Context) {
	for _, b := range r.backends {
		callCtx, cancel := context.WithTimeout(ctx, patience)
		found, err := b.Discover(callCtx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if r.merge(b.Vendor(), found, err) {
			select {
			case r.changed <- struct{}{}:
			default:
			}
		}
	}
}

// Run discovers and samples until ctx ends, then closes the backends.
func (r *Registry) Run(ctx context.Context) error {
	r.Discover(ctx)
	r.sample(ctx)
	if len(r.backends) == 0 {
		<-ctx.Done()
		return nil
	}
	sample, discover := time.NewTicker(sampleEvery), time.NewTicker(discoverEvery)
	defer sample.Stop()
	defer discover.Stop()
	for {
		select {
		case <-ctx.Done():
			var errs []error
			for _, b := range r.backends {
				if err := b.Close(); err != nil {
					errs = append(errs, fmt.Errorf("close the %s devices: %w", b.Vendor(), err))
				}
			}
			return errors.Join(errs...)
		case <-sample.C:
			r.sample(ctx)
		case <-discover.C:
			r.Discover(ctx)
		}
	}
}

// merge takes in what a backend found and tells whether anything changed.
func (r *Registry) merge(vendor string, found []Device, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := maps.Clone(r.devices)
	if err != nil {
		if !r.failing[vendor] {
			r.logger.Error("devices don't answer", "vendor", vendor, "error", err)
		}
		r.failing[vendor] = true
		r.markLocked(vendor, nil, fleetv1.Unresponsive, err.Error())
	} else {
		r.failing[vendor] = false
		present := map[string]bool{}
		for _, d := range found {
			present[d.ID] = true
			r.devices[d.ID] = d
		}
		r.markLocked(vendor, present, fleetv1.Lost, "the driver no longer lists it")
	}
	return !maps.EqualFunc(before, r.devices, same)
}

// markLocked gives the vendor's devices that are not present this health.
func (r *Registry) markLocked(vendor string, present map[string]bool, health, reason string) {
	for id, d := range r.devices {
		if d.Vendor != vendor || present[id] || d.Health == fleetv1.Lost {
			continue
		}
		d.Health, d.Reason = health, reason
		r.devices[id] = d
		delete(r.samples, id)
	}
}

func same(a, b Device) bool {
	na, nb := a.NUMANode, b.NUMANode
	a.NUMANode, b.NUMANode = nil, nil
	return a == b && (na == nil) == (nb == nil) && (na == nil || *na == *nb)
}

func (r *Registry) sample(ctx context.Context) {
	for _, b := range r.backends {
		callCtx, cancel := context.WithTimeout(ctx, patience)
		got, err := b.Sample(callCtx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		if err != nil {
			if !r.failing[b.Vendor()] {
				r.logger.Error("devices can't be measured", "vendor", b.Vendor(), "error", err)
			}
			r.failing[b.Vendor()] = true
		}
		for _, s := range got {
			r.samples[s.DeviceID] = s
		}
		r.mu.Unlock()
	}
}

// Devices answers every device known, ordered by vendor, index and ID.
func (r *Registry) Devices() []Device {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.devices), func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.Vendor, b.Vendor), cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
	})
}

// Samples answers the last sample of each device that has one, ordered by ID.
func (r *Registry) Samples() []Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.samples), func(a, b Sample) int { return cmp.Compare(a.DeviceID, b.DeviceID) })
}

// Changed holds a token after Devices changed; it is for one reader.
func (r *Registry) Changed() <-chan struct{} { return r.changed }
