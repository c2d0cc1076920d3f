//go:build cgo && linux

package nvidia

/*
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

typedef int (*list_processes)(void *device, unsigned int *count, void *entries);

// NVML was opened with RTLD_GLOBAL.
static void *find_list(const char *symbol) { return dlsym(RTLD_DEFAULT, symbol); }

static int call_list(void *list, void *device, unsigned int *count, void *entries)
{
	return ((list_processes)list)(device, count, entries);
}
*/
import "C"

import (
	"encoding/binary"
	"math"
	"reflect"
	"slices"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-fleet/drover/devices"
)

// The entries of nvml.h's nvmlProcessInfo_v1_t and nvmlProcessInfo_v2_t both begin with a 32-bit PID and, at
// 8, the 64-bit memory.
const (
	entryV1 = int(unsafe.Sizeof(nvml.ProcessInfo_v1{}))
	entryV2 = int(unsafe.Sizeof(nvml.ProcessInfo_v2{}))

	// maxProcesses bounds the list that is believed; a list that grows meanwhile is asked for again.
	maxProcesses = 1 << 16
	listTries    = 6
)

// readProcesses answers who uses a GPU or slice: nil when NVML doesn't tell who computes. Graphics and MPS clients are
// beside them where NVML lists any.
func readProcesses(a *asker, handle nvml.Device) []devices.Process {
	memory := map[int]*int64{}
	for i, list := range []string{
		"nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses",
	} {
		if a.bad == nvml.ERROR_GPU_IS_LOST {
			return nil
		}
		entries, ret := listProcesses(handle, list)
		a.note(ret)
		switch {
		case ret == nvml.SUCCESS:
		case i == 0:
			return nil
		default:
			continue
		}
		for _, p := range entries { // of the same process in two lists the larger figure is the whole
			if seen := memory[p.PID]; seen == nil || p.MemoryBytes != nil && *seen < *p.MemoryBytes {
				memory[p.PID] = p.MemoryBytes
			}
		}
	}
	processes := make([]devices.Process, 0, len(memory))
	for pid, bytes := range memory {
		processes = append(processes, devices.Process{PID: pid, MemoryBytes: bytes})
	}
	slices.SortFunc(processes, func(x, y devices.Process) int { return x.PID - y.PID })
	return processes
}

// listProcesses makes one of the calls that list processes, in the newest version that there is.
func listProcesses(handle nvml.Device, name string) ([]devices.Process, nvml.Return) {
	var list unsafe.Pointer
	size := entryV2
	for _, version := range []string{"_v3", "_v2", ""} {
		symbol := C.CString(name + version)
		list = C.find_list(symbol)
		C.free(unsafe.Pointer(symbol))
		if list != nil {
			if version == "" {
				size = entryV1
			}
			break
		}
	}
	device := rawHandle(handle)
	if list == nil || device == nil {
		return nil, nvml.ERROR_FUNCTION_NOT_FOUND
	}
	room := 16
	for range listTries {
		buffer := make([]byte, room*size)
		count := C.uint(room)
		ret := nvml.Return(C.call_list(list, device, &count, unsafe.Pointer(&buffer[0])))
		switch {
		case ret == nvml.SUCCESS && int(count) <= room:
			return parseProcesses(buffer[:int(count)*size], size), ret
		case ret != nvml.ERROR_INSUFFICIENT_SIZE:
			return nil, ret
		}
		if room = max(2*room, int(count)+16); room > maxProcesses {
			break
		}
	}
	return nil, nvml.ERROR_INSUFFICIENT_SIZE
}

func parseProcesses(buffer []byte, size int) []devices.Process {
	var processes []devices.Process
	for entry := range slices.Chunk(buffer, size) {
		p := devices.Process{PID: int(binary.NativeEndian.Uint32(entry))}
		if bytes := binary.NativeEndian.Uint64(entry[8:]); bytes <= math.MaxInt64 { // all bits set: not available
			v := int64(bytes)
			p.MemoryBytes = &v
		}
		processes = append(processes, p)
	}
	return processes
}

// rawHandle is the C handle in go-nvml's device, whose type it doesn't export.
func rawHandle(handle nvml.Device) unsafe.Pointer {
	v := reflect.ValueOf(handle)
	if v.Kind() != reflect.Struct || v.NumField() != 1 || v.Field(0).Kind() != reflect.Pointer {
		return nil
	}
	return v.Field(0).UnsafePointer()
}
