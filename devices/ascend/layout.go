package ascend

// What follows is the library's binary interface: layouts and numbers as published in dcmi_interface_api.h of
// the Ascend driver and in its "DCMI API Reference" for Atlas A2, A3 and 950 (named API below). C's int and
// enum are int32, unsigned long is uint64 on the 64-bit hosts that these drivers exist for; Go pads like C.

// Return codes (API, "Return Codes").
const (
	codeOK           = 0
	codeNotPermitted = -8002
	codeNoSuchID     = -8007
	codeNotExist     = -8008
	codeNotInside    = -8013 // not supported in a container
	codeUnsupported  = -8255
)

const (
	maxCards      = 64  // MAX_CARD_NUM
	maxProcesses  = 32  // API, dcmi_get_device_resource_info
	maxErrorCodes = 128 // API, dcmi_get_device_errorcode_v2

	unitNPU = 0 // enum dcmi_unit_type; 1 is the card's controller (MCU), 2 a CPU

	dieV = 1 // enum dcmi_die_type: VDIE
	dieD = 2 // DDIE, the only one that a 950 tells

	memoryDDR = 0 // enum dcmi_device_type
	memoryHBM = 2

	frequencyHBM    = 6 // enum dcmi_freq_type
	frequencyAICore = 7

	useAICore       = 2 // DCMI_UTILIZATION_RATE_*
	useHBMBandwidth = 10
	useVector       = 12
	useNPU          = 13

	healthCritical = 3
	healthNoDevice = 0xFFFFFFFF // API, dcmi_get_device_health

	temperatureInvalid    = 0x7ffd // API, dcmi_get_device_temperature
	temperatureUnreadable = 0x7fff

	allDevices = -1 // API, dcmi_subscribe_fault_event

	eventFault    = 0 // enum dcmi_event_type: DCMI_DMS_FAULT_EVENT
	eventRecovery = 0 // assertion: 0 recovery, 1 fault, 2 told once
)

// Answers of the topology calls (API, dcmi_get_topo_info_by_device_id). Drivers of Atlas A2 that know no SIO
// call 6 "unknown".
const (
	topologySYS    = 1
	topologyPHB    = 2
	topologyHCCS   = 3
	topologyPXB    = 4
	topologyPIX    = 5
	topologySIO    = 6
	topologyHCCSSw = 7
	topologyUB     = 8
)

// chipInfo is struct dcmi_chip_info_v2; struct dcmi_chip_info is the same without NPUName.
type chipInfo struct {
	Type, Name, Version [32]byte
	AICores             uint32
	NPUName             [32]byte
}

// pcieInfo is struct dcmi_pcie_info_all.
type pcieInfo struct {
	Vendor, SubVendor, Device, SubDevice uint32
	Domain                               int32
	Bus, Slot, Function                  uint32
	_                                    [32]byte
}

// elabelInfo is struct dcmi_elabel_info.
type elabelInfo struct {
	Product, Model, Manufacturer, Date, Serial [256]byte
}

// dieID is struct dcmi_die_id.
type dieID [5]uint32

// hbmInfo is struct dcmi_hbm_info: sizes in MB, which are MiB.
type hbmInfo struct {
	Size         uint64
	Frequency    uint32
	Used         uint64
	Temperature  int32
	BandwidthUse uint32
}

// memoryInfo is struct dcmi_get_memory_info_stru: sizes in MB, which are MiB.
type memoryInfo struct {
	Size, Available                            uint64
	Frequency                                  uint32
	HugePageSize, HugePagesTotal, HugePageFree uint64
	Use                                        uint32
	_                                          [60]byte
}

// multiUse is struct dcmi_multi_utilization_info: percentages. The driver passes on what the chip says: 0xEF
// (a conflict with profiling) and 0xEE (a damaged core) are no percentages.
type multiUse struct {
	Cube, Vector, AICore, NPU uint32
	_                         [8]uint32
}

// eccInfo is struct dcmi_ecc_info.
type eccInfo struct {
	Enabled                        int32
	Single, Double                 uint32 // since the driver was loaded
	TotalSingle, TotalDouble       uint32 // in the chip's life
	IsolatedSingle, IsolatedDouble uint32 // pages
}

// process is struct dcmi_proc_mem_info.
type process struct {
	PID    int32
	Memory uint64 // bytes
}

// eventFilter is struct dcmi_event_filter, passed by value; a zero flag lets everything through.
type eventFilter struct {
	Flag               uint64
	EventID            uint32
	Severity, NodeType uint8
	Reserved           [32]uint8
}

// event is struct dcmi_event with the one member of its union, struct dcmi_dms_fault_event.
type event struct {
	Type  int32
	Fault faultEvent
}

type faultEvent struct {
	ID                               uint32
	Device                           uint16 // logic ID
	NodeType, NodeID, SubType, SubID uint8
	Severity, Assertion              uint8
	Serial, Notification             int32
	RaisedMillis                     uint64 // of a recovery: when the fault was raised
	Name                             [256]byte
	Additional                       [32]byte
	_                                [32]byte
}
