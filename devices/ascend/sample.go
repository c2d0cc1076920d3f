package ascend

import (
	"context"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"github.com/drover-fleet/drover/devices"
)

// Sample measures the NPUs of the last discovery, except those that are gone.
func (b *Backend) Sample(ctx context.Context, what devices.Figures) ([]devices.Sample, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.looked {
		if _, err := b.discover(ctx); err != nil {
			return nil, err
		}
	}
	var samples []devices.Sample
	for _, at := range b.chips {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if s, ok := b.measure(at, what); ok {
			samples = append(samples, s)
		}
	}
	return samples, nil
}

// measure answers what was asked for; not ok when the device is gone.
func (b *Backend) measure(at chip, what devices.Figures) (devices.Sample, bool) {
	s := devices.Sample{DeviceID: b.seen[at].ID, Time: time.Now()}
	health, err := get[uint32](b.calls.health, at)
	if gone(err) || err == nil && *health == healthNoDevice {
		return s, false
	}
	if what&devices.Usage != 0 {
		b.usage(at, &s)
	}
	if what&devices.Condition != 0 {
		if err == nil && *health <= healthCritical {
			s.HealthCode = new(int64(*health))
		}
		b.condition(at, &s)
	}
	if what&devices.Processes != 0 {
		s.Processes = b.processes(at)
	}
	return s, true
}

func (b *Backend) usage(at chip, s *devices.Sample) {
	s.Utilisation, s.OverallUtilisation = b.utilisation(at)
	s.MemoryUtilisation = b.ratio(at, useHBMBandwidth)
	_, s.MemoryUsedBytes, s.MemoryFreeBytes = b.memory(at)
	if degrees, err := get[int32](b.calls.temperature, at); err != nil {
		b.missing("temperature", err)
	} else if *degrees != temperatureInvalid && *degrees != temperatureUnreadable {
		s.TemperatureC = new(float64(*degrees))
	}
	if tenths, err := get[int32](b.calls.power, at); err != nil {
		b.missing("power", err)
	} else if *tenths >= 0 {
		s.PowerWatts = new(float64(*tenths) / 10)
	}
	s.ClockHz = b.clock(at, frequencyAICore)
	s.MemoryClockHz = b.clock(at, frequencyHBM)
}

// utilisation answers how busy the AI cores and the whole chip are. While a profiler runs, the chip can't tell
// of its cores. The call for all figures then answers numbers that are no percentages; those for one figure
// answer 0, which shows only when the chip as a whole is busy.
func (b *Backend) utilisation(at chip) (cores, overall *float64) {
	all, err := get[multiUse](b.calls.multiUse, at)
	if err == nil && *all != (multiUse{}) { // some drivers say so instead of "not supported"
		if percent(all.Cube) != nil && percent(all.Vector) != nil {
			cores = percent(all.AICore)
		}
		return cores, percent(all.NPU)
	}
	if err != nil {
		b.missing("utilisation at once", err)
	}
	cores, overall = b.ratio(at, useAICore), b.ratio(at, useNPU)
	if cores != nil && *cores == 0 && overall != nil && *overall > 0 {
		if vector := b.ratio(at, useVector); vector == nil || *vector == 0 {
			cores = nil
		}
	}
	return cores, overall
}

func (b *Backend) ratio(at chip, kind int32) *float64 {
	told, err := getKind[uint32](b.calls.use, at, kind)
	if err != nil {
		b.missing(fmt.Sprintf("utilisation of type %d", kind), err)
		return nil
	}
	return percent(*told)
}

// percent is nil for what is no percentage.
func percent(told uint32) *float64 {
	if told > 100 {
		return nil
	}
	return new(float64(told) / 100)
}

func (b *Backend) clock(at chip, kind int32) *int64 {
	megahertz, err := getKind[uint32](b.calls.frequency, at, kind)
	if err != nil {
		b.missing(fmt.Sprintf("frequency of type %d", kind), err)
		return nil
	}
	return new(int64(*megahertz) * 1_000_000)
}

func (b *Backend) condition(at chip, s *devices.Sample) {
	codes, err := b.errorCodes(at)
	if err != nil {
		b.missing("error codes", err)
	}
	s.ErrorCodes = codes
	ecc, err := getKind[eccInfo](b.calls.ecc, at, memoryHBM)
	if err != nil {
		if ecc, err = getKind[eccInfo](b.calls.ecc, at, memoryDDR); err != nil {
			b.missing("ECC counts", err)
			return
		}
	}
	if ecc.Enabled == 0 {
		return
	}
	s.ECCCorrectedVolatile, s.ECCUncorrectedVolatile = new(int64(ecc.Single)), new(int64(ecc.Double))
	s.ECCCorrectedAggregate, s.ECCUncorrectedAggregate = new(int64(ecc.TotalSingle)), new(int64(ecc.TotalDouble))
	s.RetiredPages = new(int64(ecc.IsolatedSingle) + int64(ecc.IsolatedDouble))
}

// errorCodes answers the faults that stand now, in order.
func (b *Backend) errorCodes(at chip) ([]int64, error) {
	if b.calls.errorCodes == nil {
		return nil, errNoSymbol
	}
	var count int32
	list, err := fill[[maxErrorCodes]uint32](func(out unsafe.Pointer) int32 {
		return b.calls.errorCodes(at, unsafe.Pointer(&count), out, maxErrorCodes)
	})
	if err != nil {
		return nil, err
	}
	if count < 0 || count > maxErrorCodes {
		return nil, fmt.Errorf("the driver counts %d error codes", count)
	}
	codes := []int64{}
	for _, code := range list[:count] {
		codes = append(codes, int64(code))
	}
	slices.Sort(codes)
	return codes, nil
}

// processes answers who uses the chip; nil when that isn't known.
func (b *Backend) processes(at chip) []devices.Process {
	if b.calls.processes == nil {
		return nil
	}
	var count int32
	list, err := fill[[maxProcesses]process](func(out unsafe.Pointer) int32 {
		return b.calls.processes(at, out, unsafe.Pointer(&count))
	})
	if err == nil && (count < 0 || count > maxProcesses) {
		err = fmt.Errorf("the driver counts %d processes", count)
	}
	if err != nil {
		b.missing("processes", err)
		return nil
	}
	users := []devices.Process{}
	for _, p := range list[:count] {
		users = append(users, devices.Process{PID: int(p.PID), MemoryBytes: new(int64(p.Memory))}) //nolint:gosec // no chip has 2^63 bytes
	}
	return users
}
