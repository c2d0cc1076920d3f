// Package fake has devices that exist only by name, for tests, demonstrations and simulated nodes.
//
// A backend is described in one word, "8xH100-80GB": how many, and the model, whose last part is the
// memory. IDs derive from a name given by the caller, the model and the index, so that they are stable
// across restarts and differ between nodes. Samples are a pure function of device and time: they vary
// like a busy device's and repeat exactly under an injected clock.
package fake

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Vendor of fake devices.
const Vendor = "fake"

// Backend is a devices.Backend.
type Backend struct {
	// Name makes the IDs of this host's devices differ from another's. Now is the clock. Both are set
	// before the backend is used.
	Name string
	Now  func() time.Time

	count  int
	model  string
	memory int64

	mu     sync.Mutex
	health map[string][2]string
}

// Parse reads "COUNTxMODEL-MEMORYGB", for example "8xH100-80GB"; COUNT is 1–64, MEMORY 1–1024.
func Parse(text string) (*Backend, error) {
	fail := func(why string) (*Backend, error) {
		return nil, fmt.Errorf("fake devices %q: %s; write for example 8xH100-80GB", text, why)
	}
	number, model, found := strings.Cut(text, "x")
	if !found {
		return fail("no 'x' between count and model")
	}
	count, err := strconv.Atoi(number)
	if err != nil || count < 1 || count > 64 {
		return fail("the count is not 1–64")
	}
	dash := strings.LastIndexByte(model, '-')
	size, isGB := strings.CutSuffix(model[dash+1:], "GB")
	memory, err := strconv.Atoi(size)
	if dash < 1 || !isGB || err != nil || memory < 1 || memory > 1024 {
		return fail("the model does not end in its memory (-80GB)")
	}
	for _, c := range model {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", c) {
			return fail(fmt.Sprintf("the model has the character %q", c))
		}
	}
	return &Backend{
		Name: "host", Now: time.Now, count: count, model: model, memory: int64(memory) << 30, health: map[string][2]string{},
	}, nil
}

// Vendor implements devices.Backend.
func (b *Backend) Vendor() string { return Vendor }

func (b *Backend) id(i int) string {
	return fmt.Sprintf("fake-%s-%s-%d", b.Name, strings.ToLower(b.model), i)
}

// Discover implements devices.Backend.
func (b *Backend) Discover(ctx context.Context) ([]devices.Device, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("discover fake devices: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	found := make([]devices.Device, 0, b.count)
	for i := range b.count {
		node := i * 2 / b.count
		d := devices.Device{
			ID: b.id(i), Vendor: Vendor, Model: b.model, Index: i, MemoryBytes: b.memory,
			Health: fleetv1.Healthy, PCIAddress: fmt.Sprintf("0000:%02x:00.0", 0x10+i), NUMANode: &node,
		}
		if h, set := b.health[d.ID]; set {
			d.Health, d.Reason = h[0], h[1]
		}
		found = append(found, d)
	}
	return found, nil
}

// Sample implements devices.Backend.
func (b *Backend) Sample(ctx context.Context) ([]devices.Sample, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sample fake devices: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.Now()
	var samples []devices.Sample
	for i := range b.count {
		id := b.id(i)
		if h, set := b.health[id]; set && h[0] != fleetv1.Healthy && h[0] != fleetv1.Unhealthy {
			continue
		}
		samples = append(samples, b.measure(id, now))
	}
	return samples, nil
}

// measure is a wave with the period of ten minutes, shifted for each device.
func (b *Backend) measure(id string, now time.Time) devices.Sample {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	phase := float64(h.Sum32()%600) + float64(now.UnixMilli())/1000
	use := 0.5 + 0.4*math.Sin(2*math.Pi*phase/600)
	memory := int64(float64(b.memory) * (0.2 + 0.6*use))
	temperature := math.Round(35 + 40*use)
	power := math.Round(90 + 500*use)
	return devices.Sample{
		DeviceID: id, Time: now, Utilisation: &use, MemoryUsedBytes: &memory, TemperatureC: &temperature, PowerWatts: &power,
	}
}

// SetHealth makes a device report this health from its next discovery on.
func (b *Backend) SetHealth(id, health, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.health[id] = [2]string{health, reason}
}

// Close implements devices.Backend.
func (b *Backend) Close() error { return nil }
