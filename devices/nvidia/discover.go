//go:build cgo && linux

package nvidia

import (
	"context"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	lostHealth = fleetv1.Lost

	// A library that tells more than this is not believed.
	maxGPUs   = 1024
	maxSlices = 64
)

// scan lists what NVML answers for. refused is an answer of NVML for a GPU that it counts and gives no handle or
// UUID of, SUCCESS if there is none.
func (b *Backend) scan(ctx context.Context, lib *library) (found []*gpu, refused nvml.Return, err error) {
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, ret, fmt.Errorf("count GPUs: %w", answer(ret))
	}
	if count < 0 || count > maxGPUs {
		return nil, ret, fmt.Errorf("count GPUs: the driver counts %d", count)
	}
	host := readHost(lib)
	seen := map[string]bool{}
	for i := range count {
		if err := ctx.Err(); err != nil {
			return nil, refused, err
		}
		handle, ret := lib.DeviceGetHandleByIndex(i)
		id := ""
		if ret == nvml.SUCCESS {
			id, ret = handle.GetUUID()
		}
		if ofLibrary(ret) {
			return nil, ret, fmt.Errorf("ask for GPU %d: %w", i, answer(ret))
		}
		if ret != nvml.SUCCESS {
			b.warn("a GPU does not answer", "index", i, "reason", answer(ret).Error())
			refused = ret
			continue
		}
		if id == "" || seen[id] {
			b.warn("a GPU's UUID is empty or another's: left out", "index", i, "uuid", id)
			continue
		}
		seen[id] = true
		g := b.describe(lib, handle, id, i, host)
		found = append(found, g)
		for _, slice := range b.cut(lib, g) {
			if slice.ID == "" || seen[slice.ID] {
				b.warn("a slice's UUID is empty or another's: left out", "gpu", id, "uuid", slice.ID)
				continue
			}
			seen[slice.ID] = true
			found = append(found, slice)
		}
	}
	return found, refused, nil
}

// ofLibrary says whether an answer is about NVML as a whole, which says nothing against the GPU that was asked for.
func ofLibrary(ret nvml.Return) bool {
	switch ret {
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_UNINITIALIZED, nvml.ERROR_OPERATING_SYSTEM:
		return true
	}
	return false
}

// warn logs what a discovery finds, unless one before has found it.
func (b *Backend) warn(what string, args ...any) {
	if key := what + fmt.Sprint(args...); !b.told[key] {
		b.told[key] = true
		b.cfg.Logger.Warn(what, args...)
	}
}

// host is what all GPUs have in common.
type host struct{ driver, cuda string }

func readHost(lib *library) host {
	var h host
	a := &asker{lib: lib}
	if v := ask(a, callDriverVersion, lib.SystemGetDriverVersion); v != nil {
		h.driver = *v
	}
	v := ask(a, callCUDAVersionV2, lib.SystemGetCudaDriverVersion_v2)
	if v == nil {
		v = ask(a, callCUDAVersion, lib.SystemGetCudaDriverVersion)
	}
	if v != nil {
		h.cuda = fmt.Sprintf("%d.%d", *v/1000, *v%1000/10)
	}
	return h
}

// describe reads all that doesn't change while a GPU works.
func (b *Backend) describe(lib *library, handle nvml.Device, id string, index int, h host) *gpu {
	a := &asker{lib: lib}
	g := &gpu{handle: handle, Device: devices.Device{
		ID: id, Vendor: Vendor, Index: index, DriverVersion: h.driver, RuntimeVersion: h.cuda,
	}}
	if m := readMemory(a, handle); m != nil {
		g.MemoryBytes = m.total
	}
	name := ""
	if v := ask(a, callName, handle.GetName); v != nil {
		name = *v
	}
	g.Model, g.vague = modelName(name, g.MemoryBytes), name == "" || g.MemoryBytes == 0
	if v := ask(a, callPCI, handle.GetPciInfo); v != nil {
		g.PCIAddress = pciAddress(v.Domain, v.Bus, v.Device)
	}
	g.NUMANode, g.CPUAffinity = besides(b.cfg.SysRoot, g.PCIAddress)
	g.Minor = ask(a, callMinor, handle.GetMinorNumber)
	if v := ask(a, callComputeCapability, func() ([2]int, nvml.Return) {
		major, minor, ret := handle.GetCudaComputeCapability()
		return [2]int{major, minor}, ret
	}); v != nil {
		g.ComputeCapability = fmt.Sprintf("%d.%d", v[0], v[1])
	}
	if v := ask(a, callPersistence, handle.GetPersistenceMode); v != nil {
		on := *v == nvml.FEATURE_ENABLED
		g.Persistence = &on
	}
	g.Sliced = ask(a, callMIGMode, func() (bool, nvml.Return) {
		current, _, ret := handle.GetMigMode()
		g.unsure = ret != nvml.SUCCESS && !noSlice(ret)
		return current == nvml.DEVICE_MIG_ENABLE, ret
	})
	g.Health, g.Reason = judge(a.bad)
	return g
}

// judge says what a device's answers mean for its health.
func judge(bad nvml.Return) (health, reason string) {
	switch bad {
	case nvml.ERROR_GPU_IS_LOST:
		return fleetv1.Lost, answer(bad).Error()
	case nvml.ERROR_RESET_REQUIRED:
		return fleetv1.Unhealthy, answer(bad).Error()
	}
	return fleetv1.Healthy, ""
}

// cut answers the slices of a GPU. Its health becomes theirs.
func (b *Backend) cut(lib *library, parent *gpu) []*gpu {
	if parent.Sliced == nil || !*parent.Sliced {
		return nil
	}
	a := &asker{lib: lib}
	count := ask(a, callMIGCount, parent.handle.GetMaxMigDeviceCount)
	if !lib.has(callMIGHandle) {
		return nil
	}
	if count == nil {
		parent.unsure = lib.has(callMIGCount)
		return nil
	}
	var found []*gpu
	for i := range min(*count, maxSlices) {
		handle, ret := parent.handle.GetMigDeviceHandleByIndex(i)
		if a.note(ret); ret != nvml.SUCCESS { // most numbers have no slice
			parent.unsure = parent.unsure || !noSlice(ret)
			continue
		}
		id, ret := handle.GetUUID()
		if a.note(ret); ret != nvml.SUCCESS {
			parent.unsure = true
			b.warn("a slice tells no UUID: left out", "gpu", parent.ID, "slice", i, "reason", answer(ret).Error())
			continue
		}
		s := &gpu{handle: handle, Device: parent.Device, vague: parent.vague, gpuInstance: -1, computeInstance: -1}
		s.ID, s.ParentID, s.Index, s.Sliced = id, parent.ID, i, nil
		s.describeSlice(a, parent)
		found = append(found, s)
	}
	if a.bad != nvml.SUCCESS {
		parent.Health, parent.Reason = judge(a.bad)
		for _, s := range found {
			s.Health, s.Reason = parent.Health, parent.Reason
		}
	}
	return found
}

// noSlice says whether an answer means that there is no slice, and not that NVML failed to tell.
func noSlice(ret nvml.Return) bool {
	switch ret {
	case nvml.ERROR_NOT_FOUND, nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_INVALID_ARGUMENT, nvml.ERROR_FUNCTION_NOT_FOUND:
		return true
	}
	return false
}

func (g *gpu) describeSlice(a *asker, parent *gpu) {
	g.MemoryBytes = 0
	attributes := ask(a, callMIGAttributes, g.handle.GetAttributes)
	if attributes == nil {
		attributes = &nvml.DeviceAttributes{}
	}
	if m := readMemory(a, g.handle); m != nil {
		g.MemoryBytes = m.total
	} else {
		g.MemoryBytes = int64(attributes.MemorySizeMB) * mib
	}
	name := ""
	if v := ask(a, callName, g.handle.GetName); v != nil {
		name = *v
	}
	g.Profile = profileOf(name, parent.MemoryBytes, g.MemoryBytes, attributes.GpuInstanceSliceCount, attributes.ComputeInstanceSliceCount)
	if v := ask(a, callGPUInstanceID, g.handle.GetGpuInstanceId); v != nil {
		g.gpuInstance, g.GPUInstance = *v, v
	}
	if v := ask(a, callComputeInstanceID, g.handle.GetComputeInstanceId); v != nil {
		g.computeInstance, g.ComputeInstance = *v, v
	}
}
