package health

import (
	"slices"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Action says what a device's state asks for.
type Action string

// Actions, the mildest first. Each includes those before it.
const (
	None         Action = ""              // nothing: the device is well, or the sign isn't about it
	Observe      Action = "observe"       // use it, and tell people
	Drain        Action = "drain"         // place nothing new on it
	Evict        Action = "evict"         // withdraw its instances' endpoints, then replace them
	ResetNeeded  Action = "reset-needed"  // as Evict, until the device was reset
	RebootNeeded Action = "reboot-needed" // as Evict, until the node was rebooted
)

var severity = []Action{None, Observe, Drain, Evict, ResetNeeded, RebootNeeded}

func (a Action) rank() int { return slices.Index(severity, a) }

// Evicts tells whether instances that hold the device must go.
func (a Action) Evicts() bool { return a.rank() >= Evict.rank() }

// needsSign tells whether a clean check alone isn't enough.
func (a Action) needsSign() bool { return a == ResetNeeded || a == RebootNeeded }

// source of a sign.
type source string

const (
	sourceXID       source = "XID"
	sourceRecovery  source = "NVML recovery action"
	sourceMemory    source = "memory"
	sourceDevice    source = "device"
	sourceHealth    source = "DCMI health"
	sourceErrorCode source = "DCMI error code"
	sourceNode      source = "node"
)

// Row of the table.
type Row struct {
	Source  source
	Signs   []string // words, or numbers and ranges of them such as "39-41"; one "*" for all others of the source
	Meaning string
	Action  Action
	State   string // of the device, when it isn't Healthy or Unhealthy as the action says
}

// state that a device with this fault is in.
func (r *Row) state() string {
	switch {
	case r.State != "":
		return r.State
	case r.Action.rank() >= Drain.rank():
		return fleetv1.Unhealthy
	}
	return fleetv1.Healthy
}

// Signs that aren't numbers.
const (
	others           = "*"
	signUncorrected  = "uncorrectable error"
	signRemapPending = "remap pending"
	signRemapFailed  = "remap failed"
	signLost         = "lost"
	signGone         = "gone from sysfs"
	signSilent       = "driver silent"
	signReset        = "reset required"
	signFails        = "fails"
	signFewer        = devices.FewerThanDeclared

	noRecovery = "none"
)

// Rows answers the table, in the order in which people read it. It is a fresh copy.
//
// XIDs follow NVIDIA's Xid catalogue, https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, by
// its column of immediate actions: RESTART_APP and IGNORE are ignored where the application is to blame, and
// observed otherwise; RESET_GPU is reset-needed; RESTART_BM is reboot-needed. Where it names a work flow
// the row says what the flow begins with. Recovery actions follow
// https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/error-recovery-and-response-flags.html, and health
// the levels of dcmi_get_device_health. The error codes are those that Ascend's device plugin separates NPUs for
// by default (SeparateNPUCodes of its faultCode.json).
func Rows() []Row {
	return slices.Concat(xidRows(), recoveryRows(), memoryRows(), deviceRows(), ascendRows())
}

func xidRows() []Row {
	xid := func(action Action, meaning string, signs ...string) Row {
		return Row{Source: sourceXID, Signs: signs, Meaning: meaning, Action: action}
	}
	return []Row{
		xid(None, "the application sent bad commands, touched memory that isn't its own, or hung", "8", "11", "13", "25", "31", "69", "137"),
		xid(None, "an application ended on a fault of its own, or was ended; the GPU is well", "43", "45"),
		xid(None, "the video decoder refused what an application sent", "68"),
		xid(None, "a test message", "14", "106-107"),
		xid(Observe, "the command stream got damaged, which points to PCIe when it repeats", "32", "80"),
		xid(Observe, "an engine (copy, video, JPEG, optical flow) failed for one application", "39-41", "60", "70-72", "75-77", "82-86", "88-89", "96-105", "126-135", "139", "142"),
		xid(Observe, "the driver or its firmware made a mistake and went on", "37-38", "44", "66-67", "141"),
		xid(Observe, "a row of memory was remapped or a page retired; NVML tells whether a reset is due", "63", "157", "160-161"),
		xid(Observe, "many corrected memory errors", "92"),
		xid(Observe, "the driver changed what it wants done; its recovery action, or the line in the kernel log, tells what", "154"),
		xid(Drain, "an uncorrectable memory error that hit one application only; a reset is due when convenient", "94"),
		xid(Drain, "an NVLink error whose weight depends on its details; NVML's recovery action tells", "144-150"),
		xid(Drain, "an NVLink went down, perhaps meant so", "155"),
		xid(Drain, "a part of the GPU is to be retired by a reset", "156"),
		xid(Evict, "the board has no auxiliary power", "54"),
		xid(Evict, "PCIe timed out", "167"),
		xid(ResetNeeded, "the GPU stopped working on commands", "46", "109", "158"),
		xid(ResetNeeded, "an uncorrectable memory error", "48", "140", "171-172"),
		xid(ResetNeeded, "a microcontroller of the GPU halted or doesn't answer", "62", "119-120", "169"),
		xid(ResetNeeded, "a row of memory couldn't be remapped, or a page retired", "64"),
		xid(ResetNeeded, "an NVLink error", "74", "136"),
		xid(ResetNeeded, "an uncorrectable memory error that may have hit every application", "95"),
		xid(ResetNeeded, "a security fault", "110"),
		xid(ResetNeeded, "the GPU couldn't be started", "143"),
		{Source: sourceXID, Signs: []string{"79"}, Meaning: "the GPU fell off the bus", Action: RebootNeeded, State: fleetv1.Lost},
		xid(Observe, "any other XID", others),
	}
}

func recoveryRows() []Row {
	row := func(action Action, meaning, sign string) Row {
		return Row{Source: sourceRecovery, Signs: []string{sign}, Meaning: meaning, Action: action}
	}
	return []Row{
		row(None, "none is needed", noRecovery),
		row(ResetNeeded, "the GPU has to be reset", "reset"),
		row(RebootNeeded, "the node has to be rebooted", "reboot"),
		row(Evict, "traffic between GPUs has to stop before the driver can tell more", "drain"),
		row(Drain, "the GPU works with less than all of itself until it is idle and reset", "drain-and-reset"),
		row(Drain, "any other", others),
	}
}

func memoryRows() []Row {
	return []Row{
		{Source: sourceMemory, Signs: []string{signUncorrected}, Meaning: "the driver tells of an uncorrectable error, or counts more of them than before", Action: Evict},
		{Source: sourceMemory, Signs: []string{signRemapPending}, Meaning: "a bad row of memory is replaced by the next reset; what runs can go on", Action: Drain},
		{Source: sourceMemory, Signs: []string{signRemapFailed}, Meaning: "a bad row of memory couldn't be replaced: the board is for its maker", Action: Evict},
	}
}

func deviceRows() []Row {
	return []Row{
		{Source: sourceDevice, Signs: []string{signLost}, Meaning: "the driver lost the device, or no longer lists it", Action: Evict, State: fleetv1.Lost},
		{Source: sourceDevice, Signs: []string{signGone}, Meaning: "its PCI device was there and is gone", Action: Evict, State: fleetv1.Lost},
		{Source: sourceDevice, Signs: []string{signReset}, Meaning: "the driver refuses to work with the GPU before a reset", Action: ResetNeeded},
		{Source: sourceDevice, Signs: []string{signFails}, Meaning: "the driver lists it as not working", Action: Evict},
		{Source: sourceDevice, Signs: []string{signSilent}, Meaning: "the vendor's library hangs, crashes or fails: nothing can be said about the device, and nothing against it", Action: Drain, State: fleetv1.Unresponsive},
		{Source: sourceNode, Signs: []string{signFewer}, Meaning: "told of the node; the devices that are there are used", Action: Observe},
	}
}

func ascendRows() []Row {
	return []Row{
		{Source: sourceHealth, Signs: []string{"0"}, Meaning: "healthy", Action: None},
		{Source: sourceHealth, Signs: []string{"1"}, Meaning: "a minor alarm", Action: Observe},
		{Source: sourceHealth, Signs: []string{"2"}, Meaning: "a major alarm", Action: Drain},
		{Source: sourceHealth, Signs: []string{"3"}, Meaning: "a critical alarm", Action: Evict},
		{Source: sourceHealth, Signs: []string{others}, Meaning: "unknown to us", Action: Drain},
		{
			Source: sourceErrorCode, Action: Evict, Meaning: "an error for which the vendor's own tools take the NPU out of use",
			Signs: []string{"80E3A201", "80E18402", "80E0020B", "817F8002", "816F8002", "814F8002", "80818C00", "80818C05", "80DF8402"},
		},
		{Source: sourceErrorCode, Signs: []string{others}, Meaning: "an error that the driver raised; how grave it is, its health says", Action: Observe},
	}
}

// recoveryWords are how a line of XID 154 names what the driver changed to.
var recoveryWords = []struct{ words, action string }{
	{"(Node Reboot Required)", "reboot"},
	{"(GPU Reset Required)", "reset"},
	{"(Drain and Reset)", "drain-and-reset"},
	{"(Drain P2P)", "drain"},
	{"(None)", noRecovery},
}
