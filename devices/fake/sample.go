package fake

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Sample implements devices.Backend.
func (b *Backend) Sample(ctx context.Context, what devices.Figures) ([]devices.Sample, error) {
	if err := b.enter(ctx); err != nil {
		return nil, fmt.Errorf("sample fake devices: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.Now()
	var samples []devices.Sample
	for i := range b.models {
		if health, _ := b.faults[i].at(now); health != fleetv1.Healthy && health != fleetv1.Unhealthy {
			continue
		}
		s := devices.Sample{DeviceID: b.id(i), Time: now}
		held, leaks := b.held[s.DeviceID], b.faults[i].leaks
		if what&devices.Usage != 0 {
			usage(&s, b.models[i].memory, held || b.held == nil, leaks)
		}
		if what&devices.Condition != 0 {
			condition(&s, b.faults[i].errors)
		}
		if what&devices.Processes != 0 {
			s.Processes = []devices.Process{}
			if held || leaks {
				s.Processes = append(s.Processes, process(i, b.models[i].memory))
			}
		}
		samples = append(samples, s)
	}
	return samples, nil
}

// SetHeld implements devices.Follower.
func (b *Backend) SetHeld(held map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = held
}

// idleShare of its memory is what a device uses that nobody works on.
const idleShare = 128

// usage is a wave with the period of ten minutes, shifted for each device. A device that isn't at work idles; one that
// leaks has its memory in use all the same.
func usage(s *devices.Sample, memory int64, works, leaks bool) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s.DeviceID)) // never fails
	phase := float64(h.Sum32()%600) + float64(s.Time.UnixMilli())/1000
	use := 0.5 + 0.4*math.Sin(2*math.Pi*phase/600)
	reserved, used := memory/128, memory/idleShare
	if works || leaks {
		used = int64(float64(memory) * (0.2 + 0.6*use))
	}
	clock := int64(1_200_000_000 + math.Round(7*use)*100_000_000)
	if !works {
		use, clock = 0, 345_000_000
	}
	bandwidth, free := use*0.6, memory-used-reserved
	temperature, power := math.Round(35+40*use), math.Round(90+500*use)
	memoryClock := int64(2_600_000_000)
	s.Utilisation, s.MemoryUtilisation = &use, &bandwidth
	s.MemoryUsedBytes, s.MemoryFreeBytes, s.MemoryReservedBytes = &used, &free, &reserved
	s.TemperatureC, s.PowerWatts = &temperature, &power
	s.ClockHz, s.MemoryClockHz, s.Throttled = &clock, &memoryClock, []string{}
}

// process is the one that uses the device at this index.
func process(index int, memory int64) devices.Process {
	used := memory / 5
	return devices.Process{PID: 1_000_000 + index, MemoryBytes: &used}
}

func condition(s *devices.Sample, failures int64) {
	count := func(n int64) *int64 { return &n }
	pending, failed := failures > 0, false
	s.ECCCorrectedVolatile, s.ECCCorrectedAggregate = count(0), count(0)
	s.ECCUncorrectedVolatile, s.ECCUncorrectedAggregate = count(failures), count(failures)
	s.RemappedCorrected, s.RemappedUncorrected = count(0), count(failures)
	s.RemapPending, s.RemapFailed = &pending, &failed
	s.PCIeReplays, s.LinksDown = count(0), count(0)
	// 10 GB/s on the average, since a fixed day.
	moved := max(0, s.Time.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).Milliseconds()) * 10_000_000
	s.LinkTransmitBytes, s.LinkReceiveBytes = count(moved), count(moved)
}
