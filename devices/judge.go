package devices

import (
	"os"
	"path/filepath"
	"time"
)

// Judge decides how healthy devices are from what is known of them. The registry tells it everything, and
// never calls it twice at once.
type Judge interface {
	// Discovered: the backend lists the device so, or the registry has it as lost or unresponsive.
	Discovered(d Device, at time.Time)
	// Gone: its PCI device was there and isn't any more.
	Gone(id string, at time.Time)
	// Signalled: the driver told something of the device.
	Signalled(s Signal)
	// Checked: a sample with the figures of Condition.
	Checked(s Sample)
	// Judge answers what to think of the device now.
	Judge(id string) Verdict
}

// Verdict about a device.
type Verdict struct {
	Health string // fleetv1.Healthy, Unhealthy, Unresponsive, Lost
	Action string // what the state asks for: "", "observe", "drain", "evict", "reset-needed", "reboot-needed"
	Evict  bool   // who holds the device must leave it
	Reason string // a line for people
	Since  time.Time
}

// pciDevices is where the host lists its PCI devices.
const pciDevices = "/sys/bus/pci/devices"

// sameWithin is how far apart the library and the kernel's log tell of the same thing.
const sameWithin = 5 * time.Second

// telling is the last time that something was told, and by whom.
type telling struct {
	at    time.Time
	heard bool
}

// Heard takes in what the kernel's log tells of the device at a PCI address, slices of which share its fate.
// What the vendor's library tells as well counts once.
func (r *Registry) Heard(pciAddress string, s Signal) {
	r.mu.Lock()
	name := ""
	for _, d := range r.devices {
		if d.PCIAddress == pciAddress && d.ParentID == "" {
			s.DeviceID, name = d.ID, d.Vendor
		}
	}
	r.mu.Unlock()
	for _, v := range r.vendors {
		if v.name == name {
			r.signal(name, s, true)
			tell(v.look)
		}
	}
}

// repeatedLocked notes who tells a signal, and whether the other source has just told it.
func (r *Registry) repeatedLocked(s Signal, heard bool) bool {
	key := SignalCount{DeviceID: s.DeviceID, Kind: s.Kind, Code: s.Code}
	last, known := r.told[key]
	if known && last.heard != heard && s.Time.Sub(last.at).Abs() < sameWithin {
		return true
	}
	r.told[key] = telling{at: s.Time, heard: heard}
	return false
}

// judgeSignalLocked tells the judge of a signal. One without a device is about all of the vendor's.
func (r *Registry) judgeSignalLocked(name string, s Signal) {
	if r.Judge == nil {
		return
	}
	if s.DeviceID != "" {
		r.Judge.Signalled(s)
	} else {
		for id, d := range r.devices {
			if d.Vendor == name {
				s.DeviceID = id
				r.Judge.Signalled(s)
			}
		}
	}
	if r.consultLocked() {
		tell(r.changed)
	}
}

// consultLocked asks for all verdicts, and answers whether one is new.
func (r *Registry) consultLocked() bool {
	if r.Judge == nil {
		return false
	}
	news := false
	for id := range r.devices {
		if v := r.Judge.Judge(id); v != r.verdicts[id] {
			r.verdicts[id], news = v, true
		}
	}
	return news
}

// judgedLocked is the device as the judge sees it, and its quarantine.
func (r *Registry) judgedLocked(d Device) Device {
	if v, judged := r.verdicts[d.ID]; judged {
		d.Health, d.Reason, d.Action, d.Evict = v.Health, v.Reason, v.Action, v.Evict
	}
	return r.quarantinedLocked(d)
}

// lookAtPCI notes which of a vendor's PCI devices are there, and tells the judge of those that went.
func (r *Registry) lookAtPCI(name string) {
	if r.Judge == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, d := range r.devices {
		if d.Vendor != name || d.PCIAddress == "" {
			continue
		}
		_, err := os.Lstat(filepath.Join(r.PCIDevices, d.PCIAddress))
		switch {
		case err == nil:
			r.onBus[id] = true
		case os.IsNotExist(err) && r.onBus[id]:
			r.Judge.Gone(id, time.Now())
		}
	}
	if r.consultLocked() {
		tell(r.changed)
	}
}
