//go:build cgo && linux

package nvidia

import "strings"

// call names an NVML function: the symbols that may provide it, separated by "|". One of them is enough.
type call string

// The calls that this package makes beyond the necessary ones.
const (
	callName              call = "nvmlDeviceGetName"
	callMemoryV2          call = "nvmlDeviceGetMemoryInfo_v2"
	callMemory            call = "nvmlDeviceGetMemoryInfo"
	callPCI               call = "nvmlDeviceGetPciInfo_v3|nvmlDeviceGetPciInfo_v2|nvmlDeviceGetPciInfo"
	callMinor             call = "nvmlDeviceGetMinorNumber"
	callDriverVersion     call = "nvmlSystemGetDriverVersion"
	callCUDAVersionV2     call = "nvmlSystemGetCudaDriverVersion_v2"
	callCUDAVersion       call = "nvmlSystemGetCudaDriverVersion"
	callComputeCapability call = "nvmlDeviceGetCudaComputeCapability"
	callPersistence       call = "nvmlDeviceGetPersistenceMode"

	callMIGMode           call = "nvmlDeviceGetMigMode"
	callMIGCount          call = "nvmlDeviceGetMaxMigDeviceCount"
	callMIGHandle         call = "nvmlDeviceGetMigDeviceHandleByIndex"
	callMIGAttributes     call = "nvmlDeviceGetAttributes_v2|nvmlDeviceGetAttributes"
	callGPUInstanceID     call = "nvmlDeviceGetGpuInstanceId"
	callComputeInstanceID call = "nvmlDeviceGetComputeInstanceId"

	callAncestor         call = "nvmlDeviceGetTopologyCommonAncestor"
	callP2PStatus        call = "nvmlDeviceGetP2PStatus"
	callNVLinkState      call = "nvmlDeviceGetNvLinkState"
	callNVLinkPCI        call = "nvmlDeviceGetNvLinkRemotePciInfo_v2|nvmlDeviceGetNvLinkRemotePciInfo"
	callNVLinkRemoteType call = "nvmlDeviceGetNvLinkRemoteDeviceType"

	callUtilisation     call = "nvmlDeviceGetUtilizationRates"
	callTemperature     call = "nvmlDeviceGetTemperature"
	callTemperatureV    call = "nvmlDeviceGetTemperatureV"
	callPower           call = "nvmlDeviceGetPowerUsage"
	callClock           call = "nvmlDeviceGetClockInfo"
	callEventReasons    call = "nvmlDeviceGetCurrentClocksEventReasons"
	callThrottleReasons call = "nvmlDeviceGetCurrentClocksThrottleReasons"
	callECC             call = "nvmlDeviceGetTotalEccErrors"
	callRemappedRows    call = "nvmlDeviceGetRemappedRows"
	callPCIeReplays     call = "nvmlDeviceGetPcieReplayCounter"
	callFieldValues     call = "nvmlDeviceGetFieldValues"

	callEventTypes    call = "nvmlDeviceGetSupportedEventTypes"
	callEventCreate   call = "nvmlEventSetCreate"
	callEventRegister call = "nvmlDeviceRegisterEvents"
	callEventWait     call = "nvmlEventSetWait_v2|nvmlEventSetWait"
	callEventFree     call = "nvmlEventSetFree"
)

// necessary are the calls without which nothing can be told.
func necessary() []call {
	return []call{
		"nvmlInit_v2|nvmlInit", "nvmlShutdown", "nvmlDeviceGetCount_v2|nvmlDeviceGetCount",
		"nvmlDeviceGetHandleByIndex_v2|nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID",
	}
}

func (c call) symbols() []string { return strings.Split(string(c), "|") }
