// Package ascend asks the Ascend driver about this host's NPUs, through its library libdcmi.so. It needs no C
// compiler: the library is loaded and each of its functions is looked up while the program runs, so an agent for
// Arm hosts is cross-compiled like any Go program (make build-arm64-ascend).
//
// Calls of the library can block for ever or take the process down. A Backend is therefore for a child process;
// a deadline, if it must hold, is held by the parent.
//
// Layouts, numbers and meanings are those of dcmi_interface_api.h and the "DCMI API Reference" of the Ascend
// driver (Atlas A2, A3 and 950). The driver has two sets of names. dcmi_* addresses a chip by its card and its
// number there, and counts each card's controller (MCU) beside the chips; dcmiv2_* addresses a device by its
// logic ID. The first that works is used: a driver whose chips are only asked by the second has the first's
// names too, and answers "not supported".
//
// A name that the driver lacks, a code that isn't success, a number out of its range, and a struct longer than
// published leave their figure absent, and nothing else. Each reason is logged once.
//
//	figure                         dcmi_…                                dcmiv2_…
//	devices                        get_card_list (get_card_num_list),    get_device_list,
//	                               get_device_num_in_card,               get_device_type
//	                               get_device_type
//	ID                             get_device_die_v2 (VDIE)              get_device_die_id (DDIE)
//	  else                         get_card_elabel_v2, chip on card      get_device_elabel_info, logic ID
//	  else                         PCI address, else card and chip       PCI address, else logic ID
//	Model                          get_device_chip_info_v2               get_device_chip_info
//	                               (get_device_chip_info), memory
//	MemoryBytes, used, free        get_device_hbm_info, else             get_device_hbm_info
//	                               get_device_memory_info_v3
//	Health, HealthCode             get_device_health                     get_device_health
//	ErrorCodes                     get_device_errorcode_v2               get_device_error_code_list
//	PCIAddress                     get_device_pcie_info_v2               get_device_pcie_info
//	NUMANode                       sysfs, of the PCI address             the same
//	LogicID, Index                 get_device_logic_id                   the address
//	PhysicalID                     get_device_phyid_from_logicid         get_chip_phy_id_by_dev_id
//	CPUAffinity                    get_affinity_cpu_info_by_device_id    get_affinity_cpu_info_by_dev_id
//	Links                          get_topo_info_by_device_id            get_topo_info_by_device_id
//	DriverVersion                  get_driver_version                    get_driver_version
//	Utilisation (AI cores),        get_device_multi_utilization_rate,    the same
//	  OverallUtilisation           else get_device_utilization_rate
//	                               (2, 13)
//	MemoryUtilisation              get_device_utilization_rate (10)      the same
//	TemperatureC                   get_device_temperature                the same
//	PowerWatts (0.1 W told)        get_device_power_info                 the same
//	ClockHz, MemoryClockHz         get_device_frequency (7, 6)           the same
//	ECC…, RetiredPages             get_device_ecc_info (HBM, else DDR)   the same
//	Processes                      get_device_resource_info              get_device_proc_mem_info
//	signals                        subscribe_fault_event                 the same
//
// What Sample has beyond these the driver doesn't tell in a form that can be used. LinkTransmitBytes and
// LinkReceiveBytes are absent: get_hccs_statistic_info counts packets in flits, whose size isn't published, in registers
// of 32 bits, and get_hccs_link_bandwidth_info keeps its caller waiting while it measures.
//
// # Decisions
//
// A die's number is an ID that survives a change of slot, driver and host; it is written like npu-exporter's
// label of it. An ID, once known, is kept while the driver is too busy to tell it. A device that was lost when
// it was first seen has the ID of its address, and its true one when it comes back.
//
// An alarm of the lowest level (health 1) leaves a device healthy, as its code tells; 2 and 3 make it unhealthy.
//
// While a profiler runs, the AI cores' use can't be told, and the driver answers 0 with success. The call for
// all utilisations gives it away, for it passes on the chip's mark for it; where a driver lacks that call, a
// chip that is busy with idle cores does. A driver that has neither that call nor the overall figure can't be
// told from an idle one.
//
// Drivers of Atlas A2 answer 6 for a connection that they don't know, later ones mean SIO, which joins the two
// dies of a card: so it is SIO on one card, and nothing between cards.
//
// The driver takes one subscription to faults of a process, and it can't be ended: it is made for the first
// Watch and kept for the next. The library isn't unloaded either, for its threads run on.
//
// Dependency: github.com/ebitengine/purego calls C functions, passes structs by value and takes calls back from
// the library's threads without cgo, which would need a cross compiler and the driver's headers to build.
package ascend
