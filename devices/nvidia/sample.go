//go:build cgo && linux

package nvidia

import (
	"context"
	"encoding/binary"
	"math"
	"strconv"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-fleet/drover/devices"
)

// Sample implements devices.Backend. Of a slice it measures memory and processes: NVML tells no more.
func (b *Backend) Sample(ctx context.Context, what devices.Figures) ([]devices.Sample, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if b.lib == nil {
		if err := b.discoverLocked(ctx); err != nil {
			return nil, err
		}
	}
	var samples []devices.Sample
	for _, g := range b.gpus {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if g.handle == nil || g.Health == lostHealth {
			continue
		}
		a := &asker{lib: b.lib}
		s := devices.Sample{DeviceID: g.ID, Time: time.Now()}
		if what&devices.Usage != 0 {
			readUsage(a, g, &s)
		}
		if what&devices.Condition != 0 && g.ParentID == "" {
			readCondition(a, g, &s)
		}
		if what&devices.Processes != 0 {
			s.Processes = readProcesses(a, g.handle)
		}
		if a.bad == nvml.ERROR_GPU_IS_LOST {
			g.Health, g.Reason = judge(a.bad)
			continue
		}
		samples = append(samples, s)
	}
	return samples, nil
}

func readUsage(a *asker, g *gpu, s *devices.Sample) {
	if m := readMemory(a, g.handle); m != nil {
		s.MemoryUsedBytes, s.MemoryFreeBytes, s.MemoryReservedBytes = &m.used, &m.free, m.reserved
	}
	if g.ParentID != "" {
		return
	}
	if v := ask(a, callUtilisation, g.handle.GetUtilizationRates); v != nil {
		s.Utilisation, s.MemoryUtilisation = percent(v.Gpu), percent(v.Memory)
	}
	temperature := ask(a, callTemperature, func() (float64, nvml.Return) {
		v, ret := g.handle.GetTemperature(nvml.TEMPERATURE_GPU)
		return float64(v), ret
	})
	if temperature == nil {
		temperature = ask(a, callTemperatureV, func() (float64, nvml.Return) {
			v, ret := g.handle.GetTemperatureV().V1()
			return float64(v.Temperature), ret
		})
	}
	s.TemperatureC = temperature
	s.PowerWatts = ask(a, callPower, func() (float64, nvml.Return) {
		milliwatts, ret := g.handle.GetPowerUsage()
		return float64(milliwatts) / 1000, ret
	})
	s.ClockHz = readClock(a, g.handle, nvml.CLOCK_SM)
	s.MemoryClockHz = readClock(a, g.handle, nvml.CLOCK_MEM)
	reasons := ask(a, callEventReasons, g.handle.GetCurrentClocksEventReasons)
	if reasons == nil {
		reasons = ask(a, callThrottleReasons, g.handle.GetCurrentClocksThrottleReasons)
	}
	if reasons != nil {
		s.Throttled = throttleWords(*reasons)
	}
}

func readClock(a *asker, handle nvml.Device, clock nvml.ClockType) *int64 {
	return ask(a, callClock, func() (int64, nvml.Return) {
		megahertz, ret := handle.GetClockInfo(clock)
		return int64(megahertz) * 1_000_000, ret
	})
}

// percent makes a ratio; what is above 100 % is no answer.
func percent(v uint32) *float64 {
	if v > 100 {
		return nil
	}
	ratio := float64(v) / 100
	return &ratio
}

// throttleWords names the bits of the reasons but the one of an idle GPU, in the header's words.
func throttleWords(bits uint64) []string {
	words := []string{}
	names := map[uint64]string{
		nvml.ClocksEventReasonApplicationsClocksSetting: "applications-clocks-setting",
		nvml.ClocksEventReasonSwPowerCap:                "sw-power-cap",
		nvml.ClocksThrottleReasonHwSlowdown:             "hw-slowdown",
		nvml.ClocksEventReasonSyncBoost:                 "sync-boost",
		nvml.ClocksEventReasonSwThermalSlowdown:         "sw-thermal-slowdown",
		nvml.ClocksThrottleReasonHwThermalSlowdown:      "hw-thermal-slowdown",
		nvml.ClocksThrottleReasonHwPowerBrakeSlowdown:   "hw-power-brake-slowdown",
		nvml.ClocksEventReasonDisplayClockSetting:       "display-clock-setting",
	}
	for i := range 64 {
		bit := uint64(1) << i
		if bits&bit == 0 || bit == nvml.ClocksEventReasonGpuIdle {
			continue
		}
		name := names[bit]
		if name == "" {
			name = "reason-" + strconv.Itoa(i)
		}
		words = append(words, name)
	}
	return words
}

type memory struct {
	total, used, free int64
	reserved          *int64
}

// readMemory reads the memory of a GPU or slice. Only NVML's newer call tells what the driver reserves.
func readMemory(a *asker, handle nvml.Device) *memory {
	if v := ask(a, callMemoryV2, handle.GetMemoryInfo_v2); v != nil {
		reserved := int64(v.Reserved)
		return &memory{total: int64(v.Total), used: int64(v.Used), free: int64(v.Free), reserved: &reserved}
	}
	if v := ask(a, callMemory, handle.GetMemoryInfo); v != nil {
		return &memory{total: int64(v.Total), used: int64(v.Used), free: int64(v.Free)}
	}
	return nil
}

func readCondition(a *asker, g *gpu, s *devices.Sample) {
	h := g.handle
	s.ECCCorrectedVolatile = readECC(a, h, nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC)
	s.ECCUncorrectedVolatile = readECC(a, h, nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	s.ECCCorrectedAggregate = readECC(a, h, nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.AGGREGATE_ECC)
	s.ECCUncorrectedAggregate = readECC(a, h, nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.AGGREGATE_ECC)

	type rows struct {
		corrected, uncorrected int64
		pending, failed        bool
	}
	if v := ask(a, callRemappedRows, func() (rows, nvml.Return) {
		corrected, uncorrected, pending, failed, ret := h.GetRemappedRows()
		return rows{int64(corrected), int64(uncorrected), pending, failed}, ret
	}); v != nil {
		s.RemappedCorrected, s.RemappedUncorrected = &v.corrected, &v.uncorrected
		s.RemapPending, s.RemapFailed = &v.pending, &v.failed
	}
	s.PCIeReplays = ask(a, callPCIeReplays, func() (int64, nvml.Return) {
		v, ret := h.GetPcieReplayCounter()
		return int64(v), ret
	})
	if n := readNVLinks(a, h, false); n.known {
		g.linksUp = max(g.linksUp, n.up)
		down := g.linksUp - n.up
		s.LinksDown = &down
	}
	readFields(a, h, s)
}

func readECC(a *asker, handle nvml.Device, kind nvml.MemoryErrorType, since nvml.EccCounterType) *int64 {
	return ask(a, callECC, func() (int64, nvml.Return) {
		v, ret := handle.GetTotalEccErrors(kind, since)
		return int64(v), ret
	})
}

// readFields reads what has no call of its own, all at once.
func readFields(a *asker, handle nvml.Device, s *devices.Sample) {
	const allLinks = math.MaxUint32
	fields := []nvml.FieldValue{
		{FieldId: nvml.FI_DEV_RETIRED_SBE},
		{FieldId: nvml.FI_DEV_RETIRED_DBE},
		{FieldId: nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, ScopeId: allLinks},
		{FieldId: nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, ScopeId: allLinks},
		{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION},
	}
	for i := range fields { // of a library that skips a field
		fields[i].NvmlReturn = uint32(nvml.ERROR_NOT_SUPPORTED)
	}
	if ask(a, callFieldValues, func() (struct{}, nvml.Return) { return struct{}{}, handle.GetFieldValues(fields) }) == nil {
		return
	}
	if single, double := fieldValue(fields[0]), fieldValue(fields[1]); single != nil && double != nil {
		pages := *single + *double
		s.RetiredPages = &pages
	}
	s.LinkTransmitBytes, s.LinkReceiveBytes = kibibytes(fieldValue(fields[2])), kibibytes(fieldValue(fields[3]))
	if v := fieldValue(fields[4]); v != nil {
		action := recoveryWord(*v)
		s.RecoveryAction = &action
	}
}

func kibibytes(v *int64) *int64 {
	if v != nil {
		*v *= 1024
	}
	return v
}

// fieldValue is a field's value, nil when the driver has none.
func fieldValue(f nvml.FieldValue) *int64 {
	if nvml.Return(f.NvmlReturn) != nvml.SUCCESS {
		return nil
	}
	var v int64
	word := binary.NativeEndian.Uint64(f.Value[:])
	half := binary.NativeEndian.Uint32(f.Value[:])
	switch nvml.ValueType(f.ValueType) {
	case nvml.VALUE_TYPE_DOUBLE:
		v = int64(math.Float64frombits(word))
	case nvml.VALUE_TYPE_UNSIGNED_INT:
		v = int64(half)
	case nvml.VALUE_TYPE_UNSIGNED_LONG, nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, nvml.VALUE_TYPE_SIGNED_LONG_LONG:
		v = int64(word)
	case nvml.VALUE_TYPE_SIGNED_INT:
		v = int64(int32(half))
	case nvml.VALUE_TYPE_UNSIGNED_SHORT:
		v = int64(binary.NativeEndian.Uint16(f.Value[:]))
	default:
		return nil
	}
	return &v
}

// recoveryWord names what the driver asks for to bring a GPU back.
func recoveryWord(v int64) string {
	switch nvml.DeviceGpuRecoveryAction(v) {
	case nvml.GPU_RECOVERY_ACTION_NONE:
		return "none"
	case nvml.GPU_RECOVERY_ACTION_GPU_RESET:
		return "reset"
	case nvml.GPU_RECOVERY_ACTION_NODE_REBOOT:
		return "reboot"
	case nvml.GPU_RECOVERY_ACTION_DRAIN_P2P:
		return "drain"
	case nvml.GPU_RECOVERY_ACTION_DRAIN_AND_RESET:
		return "drain-and-reset"
	case nvml.GPU_RECOVERY_ACTION_RECOVER_IMEX_DOMAIN:
		return "recover-imex-domain"
	}
	return "action-" + strconv.FormatInt(v, 10)
}
