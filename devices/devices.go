package devices

import (
	"context"
	"time"
)

// Device is one accelerator of this host, or a slice of one.
type Device struct {
	ID          string // the vendor's stable ID
	Vendor      string // "nvidia", "ascend", "fake"
	Model       string // for example "H100-80GB"
	Index       int    // the driver's number, which a reboot may change
	MemoryBytes int64
	Health      string // fleetv1.Healthy, Unhealthy, Unresponsive, Lost
	Reason      string // why it isn't healthy
	Action      string // what its state asks for, see Verdict; empty from a backend
	Evict       bool   // who holds it must leave it; false from a backend
	Quarantined bool   // see Registry.Quarantine; false from a backend
	PCIAddress  string // "0000:3b:00.0"; empty when there is none
	NUMANode    *int   // nil when the host doesn't say

	ParentID string // of a slice: the device that it is cut from; that one is listed too, and can't be given out whole
	Profile  string // of a slice: "1g.10gb"
	// Of a slice: the GPU instance that it is in and its number in that, which name what its holder may open.
	GPUInstance, ComputeInstance *int

	Minor       *int   // number in the name of its device file
	LogicID     *int   // Ascend: number that programs use
	PhysicalID  *int   // Ascend: number in the name of its device file
	CPUAffinity string // list of the CPUs beside it, as in sysfs: "0-31,64-95"

	DriverVersion     string
	RuntimeVersion    string // of CUDA or CANN that the driver offers
	ComputeCapability string // "9.0"
	Persistence       *bool
	Sliced            *bool // NVIDIA: MIG mode is on

	Links []Link // to other devices of this host, ordered by peer
}

// Link is the best connection between two devices.
type Link struct {
	Peer  string // ID of the other device
	Kind  LinkKind
	Count int // of parallel links, where the kind has any
}

// LinkKind names a connection, the words are the vendors'.
type LinkKind string

// Kinds of links, fast ones first. HCCS is Huawei's bus between NPUs, directly or through a switch; SIO joins the two
// dies of a card; UB, the unified bus, is what later Ascend chips have instead. The PCIe kinds say what is between: one
// switch, several, a host bridge, the CPUs' interconnect.
const (
	LinkNVLink LinkKind = "nvlink"
	LinkHCCS   LinkKind = "hccs"
	LinkHCCSSw LinkKind = "hccs-sw"
	LinkSIO    LinkKind = "sio"
	LinkUB     LinkKind = "ub"
	LinkPIX    LinkKind = "pix"
	LinkPXB    LinkKind = "pxb"
	LinkPHB    LinkKind = "phb"
	LinkSYS    LinkKind = "sys"
)

// Figures selects what Sample measures: they differ in cost and cadence.
type Figures uint8

// Figures, with the cadence at which the registry asks for them (DESIGN §6).
const (
	Usage     Figures = 1 << iota // utilisation, memory, power, temperature, clocks: every 5 s
	Condition                     // health, ECC, remapped rows, links, error codes: every 60 s
	Processes                     // who uses it: every 30 s
)

// Sample is one measurement of a device. A nil figure is absent, never zero: not asked for, not known to this
// driver or chip, or meaningless now. Counters only grow while the driver is loaded.
type Sample struct {
	DeviceID string
	Time     time.Time

	// Usage.
	Utilisation         *float64 // 0–1, of the compute units
	OverallUtilisation  *float64 // 0–1, Ascend: of the whole chip, as the driver counts it
	MemoryUtilisation   *float64 // 0–1, of the memory's bandwidth
	MemoryUsedBytes     *int64
	MemoryFreeBytes     *int64
	MemoryReservedBytes *int64 // by the driver
	TemperatureC        *float64
	PowerWatts          *float64
	ClockHz             *int64 // of the compute units
	MemoryClockHz       *int64
	Throttled           []string // why the clock is held down, in the driver's words; nil: not known, empty: it isn't

	// Condition.
	ECCCorrectedVolatile, ECCUncorrectedVolatile   *int64 // since the driver was loaded
	ECCCorrectedAggregate, ECCUncorrectedAggregate *int64 // in the device's life
	RemappedCorrected, RemappedUncorrected         *int64 // rows of memory
	RemapPending, RemapFailed                      *bool
	RetiredPages                                   *int64
	PCIeReplays                                    *int64
	LinkTransmitBytes, LinkReceiveBytes            *int64 // over NVLink or HCCS
	LinksDown                                      *int64 // links of the device that should be up and aren't
	HealthCode                                     *int64 // Ascend: 0 healthy, 1 minor, 2 major, 3 critical
	ErrorCodes                                     []int64
	RecoveryAction                                 *string // NVIDIA: "none", "reset", "reboot", "drain", …

	// Processes: nil not known, empty none.
	Processes []Process
}

// Process uses a device.
type Process struct {
	PID         int // in the host's PID name space
	MemoryBytes *int64
}

// Signal is something that a driver tells by itself.
type Signal struct {
	DeviceID string // empty when it is about all of the vendor's devices
	Kind     SignalKind
	Code     int64 // of an XID or error code
	Time     time.Time
	Text     string // the driver's words, if any
}

// SignalKind says what a Signal is.
type SignalKind string

// Kinds of signals.
const (
	SignalXID       SignalKind = "xid"       // NVIDIA, code per the vendor's list
	SignalECC       SignalKind = "ecc"       // an uncorrectable memory error
	SignalFault     SignalKind = "fault"     // Ascend: an error code was raised
	SignalRecovered SignalKind = "recovered" // Ascend: an error code was taken back
	SignalLost      SignalKind = "lost"      // fell off its bus
	SignalReset     SignalKind = "reset"     // was reset
)

// Backend knows the devices of one vendor. Its calls may be slow but honour their context; they are not
// called at once, except Watch beside the others.
type Backend interface {
	Vendor() string
	// Discover answers every device that exists, those that don't work among them. No driver on this
	// host: no devices and no error.
	Discover(ctx context.Context) ([]Device, error)
	// Sample measures the devices that can be measured.
	Sample(ctx context.Context, what Figures) ([]Sample, error)
	// Watch calls f with each signal until ctx ends. A backend whose driver tells nothing just waits.
	Watch(ctx context.Context, f func(Signal)) error
	Close() error
}
