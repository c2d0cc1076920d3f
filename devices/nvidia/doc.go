// Package nvidia is the devices.Backend of NVIDIA's GPUs: it speaks NVML, NVIDIA's management library.
//
// It must run in a process of its own (drover device-probe): an NVML call can block for ever, crash, or
// end the process, and none of that can be caught from within. Contexts are looked at between calls only.
// The package is empty without cgo or away from Linux, and a program that is built so doesn't wire it.
//
// No call is made before its symbol was looked up, because the loader ends the process at the first call of
// a symbol that a driver lacks. What a driver lacks, doesn't support on a GPU, or refuses is absent from
// the answer. Without the five calls named first below there is no backend at all.
//
//	what                              NVML call, alternatives in the order of preference
//	everything                        nvmlInit_v2 or nvmlInit, nvmlShutdown, nvmlDeviceGetCount[_v2],
//	                                  nvmlDeviceGetHandleByIndex[_v2], nvmlDeviceGetUUID
//	Model                             nvmlDeviceGetName, and the size of the memory
//	MemoryBytes, Memory*Bytes         nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetMemoryInfo (tells no reserved memory)
//	PCIAddress                        nvmlDeviceGetPciInfo[_v3|_v2]
//	NUMANode, CPUAffinity             none: numa_node and local_cpulist in sysfs
//	Minor                             nvmlDeviceGetMinorNumber
//	DriverVersion, RuntimeVersion     nvmlSystemGetDriverVersion, nvmlSystemGetCudaDriverVersion[_v2]
//	ComputeCapability                 nvmlDeviceGetCudaComputeCapability
//	Persistence                       nvmlDeviceGetPersistenceMode
//	Sliced                            nvmlDeviceGetMigMode
//	slices: ParentID, Profile         nvmlDeviceGetMaxMigDeviceCount, nvmlDeviceGetMigDeviceHandleByIndex; the profile
//	                                  from nvmlDeviceGetName, else nvmlDeviceGetAttributes_v2
//	Links, PCIe                       nvmlDeviceGetTopologyCommonAncestor
//	Links, NVLink; LinksDown          nvmlDeviceGetNvLinkState, nvmlDeviceGetNvLinkRemotePciInfo[_v2], with NVSwitches
//	                                  nvmlDeviceGetNvLinkRemoteDeviceType and nvmlDeviceGetP2PStatus
//	Utilisation, MemoryUtilisation    nvmlDeviceGetUtilizationRates
//	TemperatureC                      nvmlDeviceGetTemperature, nvmlDeviceGetTemperatureV
//	PowerWatts                        nvmlDeviceGetPowerUsage
//	ClockHz, MemoryClockHz            nvmlDeviceGetClockInfo (SM, memory)
//	Throttled                         nvmlDeviceGetCurrentClocksEventReasons, nvmlDeviceGetCurrentClocksThrottleReasons
//	ECC*                              nvmlDeviceGetTotalEccErrors
//	Remap*                            nvmlDeviceGetRemappedRows
//	RetiredPages                      nvmlDeviceGetFieldValues: RETIRED_SBE + RETIRED_DBE
//	PCIeReplays                       nvmlDeviceGetPcieReplayCounter
//	LinkTransmitBytes, …ReceiveBytes  nvmlDeviceGetFieldValues: NVLINK_THROUGHPUT_DATA_TX, …_RX over all links
//	RecoveryAction                    nvmlDeviceGetFieldValues: GET_GPU_RECOVERY_ACTION
//	Processes                         nvmlDeviceGet{Compute,Graphics,MPSCompute}RunningProcesses[_v3|_v2]
//	signals                           nvmlEventSetCreate, nvmlDeviceRegisterEvents, nvmlEventSetWait[_v2],
//	                                  nvmlDeviceGetSupportedEventTypes, nvmlDeviceGet{Gpu,Compute}InstanceId for slices
//
// Decisions:
//   - A model is the product without brand and form factor, and the size under which it is sold:
//     "NVIDIA H100 80GB HBM3" and "NVIDIA H100 PCIe" are both "H100-80GB". Flavors ask for that; the driver's own
//     name changes between releases. A slice has the model of its parent: the profile tells them apart.
//   - A GPU that was listed once and that NVML no longer answers for stays listed as lost, with its slices, until
//     the process ends. One that never answered has no ID and is logged. A slice that is gone from a GPU that
//     works was deleted, and is no longer listed.
//   - NVML lists the GPUs that were there when it was initialised. When sysfs shows one more, NVML is initialised again.
//   - A library that was used can't be unloaded: after an upgrade of the driver Discover fails (versions
//     differ) until the process is started again, which devices/probe does after each discovery that fails.
//   - Single-bit errors are no signals: they are corrected, come in storms, and are counted in the samples.
//   - An idle GPU's lower clock isn't throttling.
//   - LinksDown counts the links that were up since the process started and no longer are: a link without a
//     cable or bridge is no fault, and NVML doesn't tell which should be there.
//
// Dependencies: NVIDIA/go-nvml replaces the declarations of some hundred C calls and structs; it is NVIDIA's own.
// The lists of processes are read by C code of this package, because go-nvml doubles its array without end
// as long as the library asks for a longer one.
package nvidia
