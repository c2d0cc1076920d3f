package state

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Words of Barred that are no health.
const (
	BarredCordoned    = "cordoned"
	BarredQuarantined = "quarantined"
	BarredSliced      = "cut into slices"
)

// Barred says why a device of the node is given to nobody new, whoever holds it now: a word to count by, such
// as "cordoned" or "unhealthy (drain)", and what else there is to say, which may be nothing. The word is empty
// for a device that may be given out.
func Barred(n *fleetv1.Node, d *fleetv1.Device) (word, detail string) {
	health, action := d.GetHealth(), d.GetAction()
	if c := CordonOf(n, d); c != nil {
		detail = c.GetReason()
		if c.GetDeviceId() != d.GetId() {
			detail = strings.TrimSuffix("with "+c.GetDeviceId()+": "+detail, ": ")
		}
		return BarredCordoned, detail
	}
	switch {
	case d.GetQuarantined():
		return BarredQuarantined, strings.TrimPrefix(d.GetHealthReason(), BarredQuarantined+": ")
	case slices.ContainsFunc(n.GetFacts().GetDevices(), func(o *fleetv1.Device) bool { return d.GetId() != "" && o.GetParentId() == d.GetId() }):
		return BarredSliced, ""
	case health == fleetv1.Healthy && (action == "" || action == fleetv1.ActionObserve):
		return "", ""
	}
	word = strings.ToLower(cmp.Or(health, "of unknown health"))
	if action != "" {
		word += " (" + action + ")"
	}
	return word, d.GetHealthReason()
}

// KeepsStrangers says that a node runs, or has not removed yet, what it isn't assigned: it takes nothing new before
// that is gone, for nobody knows what it holds.
func KeepsStrangers(n *fleetv1.Node) bool { return len(n.GetFacts().GetHold().GetStrangers()) > 0 }

// CordonOf is the cordon that keeps a device of the node out of placement: its own, else that of the device
// which it is cut from, else nil.
func CordonOf(n *fleetv1.Node, d *fleetv1.Device) *fleetv1.DeviceCordon {
	var whole *fleetv1.DeviceCordon
	for _, c := range n.GetSpec().GetDeviceCordons() {
		switch c.GetDeviceId() {
		case "":
		case d.GetId():
			return c
		case d.GetParentId():
			whole = c
		}
	}
	return whole
}

// FailedDevice says which of the instance's devices, as its node reports them, can't be stayed on, and why;
// empty when none. A device that the node doesn't list counts as working: unknown isn't failed.
func FailedDevice(n *fleetv1.Node, i *fleetv1.Instance) string {
	held := i.GetSpec().GetDeviceIds()
	if len(held) == 0 {
		return ""
	}
	for _, d := range n.GetFacts().GetDevices() {
		if !fails(d) || !slices.Contains(held, d.GetId()) {
			continue
		}
		what := fmt.Sprintf("device %s is %s", d.GetId(), d.GetHealth())
		if d.GetHealthReason() != "" {
			what += ": " + d.GetHealthReason()
		}
		return what
	}
	return ""
}

// AnyFails says whether FailedDevice may name a device of the node.
func AnyFails(n *fleetv1.Node) bool { return slices.ContainsFunc(n.GetFacts().GetDevices(), fails) }

// fails says that who holds the device must leave it.
func fails(d *fleetv1.Device) bool {
	switch d.GetAction() {
	case fleetv1.ActionEvict, fleetv1.ActionResetNeeded, fleetv1.ActionRebootNeeded:
		return true
	}
	return d.GetHealth() == fleetv1.Lost
}
