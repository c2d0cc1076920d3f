package devices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// signalRoom is how many signals wait for their reader. Past it they are dropped, counted and logged:
// what they announced is found by the next look at the device.
const signalRoom = 256

// ErrUnresponsive wraps the error of a backend whose driver doesn't answer in time: its devices may well
// be at work, but nothing can be said about them.
var ErrUnresponsive = errors.New("the driver doesn't answer")

// Reading is the last known of a device's figures. Each group of figures has its own time, which is zero
// while the group isn't known; Sample.Time is that of Usage.
type Reading struct {
	Sample
	ConditionTime time.Time
	ProcessesTime time.Time
}

// Vendor tells how the calls to one backend go.
type Vendor struct {
	Name     string
	Answered bool          // the last call did
	Took     time.Duration // that call
	Calls    uint64
	Failures uint64
}

// SignalCount is how often a device signalled something since the agent started.
type SignalCount struct {
	DeviceID string
	Kind     SignalKind
	Code     int64
	Count    uint64
}

// Registry merges the backends' answers. Reads answer from memory and never wait for a backend, and no
// backend waits for another.
type Registry struct {
	// These are set before Run.
	Judge      Judge  // decides how healthy devices are; nil: the backends do
	PCIDevices string // the folder in which the host lists its PCI devices
	// Held answers who holds which devices, ID by ID: the ledger. It answers from memory and calls nothing of the
	// registry; nil: nobody holds any.
	Held func() map[string]string
	// Listen tells Heard of what other sources than the backends say, until ctx ends; nil: there are none.
	Listen func(ctx context.Context, heard func(pciAddress string, s Signal)) error

	logger  *slog.Logger
	vendors []*vendor
	changed chan struct{}
	signals chan Signal

	mu       sync.Mutex
	devices  map[string]Device
	readings map[string]Reading
	counts   map[SignalCount]uint64 // by key with a Count of 0
	told     map[SignalCount]telling
	verdicts map[string]Verdict
	onBus    map[string]bool // whose PCI device was seen
	dropped  uint64

	discovered  map[string]bool // vendors that have answered
	quarantined map[string]Quarantine
	reclaiming  map[string]string       // by device: the holder that works on it no more
	baseline    map[string]int64        // least memory used while nobody held the device
	residents   map[string]map[int]bool // by device, once its processes were known: those that were on it while nobody held it, and still are
}

// NewRegistry makes a registry that Run keeps current. It closes the backends when Run ends.
func NewRegistry(logger *slog.Logger, backends ...Backend) *Registry {
	r := &Registry{
		logger: logger, changed: make(chan struct{}, 1), signals: make(chan Signal, signalRoom),
		devices: map[string]Device{}, readings: map[string]Reading{}, counts: map[SignalCount]uint64{},
		PCIDevices: pciDevices, told: map[SignalCount]telling{}, verdicts: map[string]Verdict{}, onBus: map[string]bool{},
		discovered: map[string]bool{}, quarantined: map[string]Quarantine{}, reclaiming: map[string]string{}, baseline: map[string]int64{},
		residents: map[string]map[int]bool{},
	}
	for _, b := range backends {
		r.vendors = append(r.vendors, newVendor(r, b))
	}
	return r
}

// Run discovers, samples and watches until ctx ends, then closes the backends. It is called once.
func (r *Registry) Run(ctx context.Context) error {
	errs := make([]error, len(r.vendors))
	var wg sync.WaitGroup
	for i, v := range r.vendors {
		wg.Go(func() { errs[i] = v.run(ctx) })
	}
	if r.Listen != nil {
		wg.Go(func() {
			if err := r.Listen(ctx, r.Heard); err != nil {
				r.logger.Error("device faults are known from the drivers' libraries alone", "error", err)
			}
		})
	}
	wg.Wait()
	<-ctx.Done()
	return errors.Join(errs...)
}

// Settle waits until Run has asked each backend once, but not past limit: a driver that hangs must not
// hold up the agent.
func (r *Registry) Settle(ctx context.Context, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for _, v := range r.vendors {
		select {
		case <-v.asked:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Asked tells whether each backend was asked for its devices, whatever it answered: a driver may take its time.
func (r *Registry) Asked() bool {
	for _, v := range r.vendors {
		select {
		case <-v.asked:
		default:
			return false
		}
	}
	return true
}

// Discovered tells whether every backend has told of its devices: from then on one that isn't listed isn't there.
func (r *Registry) Discovered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.discovered) == len(r.vendors)
}

// merge takes in what a vendor's discovery found.
func (r *Registry) merge(name string, found []Device) {
	found = r.checked(name, found)
	held := r.held()
	r.mu.Lock()
	defer r.mu.Unlock()
	first := !r.discovered[name]
	r.discovered[name] = true
	changed, now := false, time.Now()
	present := map[string]bool{}
	for _, d := range found {
		present[d.ID] = true
		if r.Judge != nil {
			r.Judge.Discovered(d, now)
		}
		if before, known := r.devices[d.ID]; !known || !reflect.DeepEqual(before, d) {
			r.devices[d.ID], changed = d, true
		}
		if d.Health == fleetv1.Lost {
			delete(r.readings, d.ID)
		}
	}
	changed = r.dropSlicesLocked(name, present, held) || changed
	changed = r.markLocked(name, present, fleetv1.Lost, "the driver no longer lists it") || changed
	if r.consultLocked() || changed || first {
		tell(r.changed)
	}
}

// checked leaves out devices without an ID of their own and says so: a device that can't be told from
// another can't be given out.
func (r *Registry) checked(name string, found []Device) []Device {
	times := map[string]int{}
	for _, d := range found {
		times[d.ID]++
	}
	var good []Device
	for _, d := range found {
		switch {
		case d.ID == "" || d.Vendor != name:
			r.logger.Error("device without an ID is left out", "vendor", name, "id", d.ID, "index", d.Index, "pci", d.PCIAddress)
		case times[d.ID] > 1:
			r.logger.Error("device is left out: another has the same ID", "vendor", name, "id", d.ID, "index", d.Index, "pci", d.PCIAddress)
		default:
			good = append(good, d)
		}
	}
	return good
}

// mark gives all of the vendor's devices that aren't lost this health.
func (r *Registry) mark(name, health, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := r.markLocked(name, nil, health, reason)
	if r.consultLocked() || changed {
		tell(r.changed)
	}
}

// markLocked gives the vendor's devices that are not present this health, and tells whether that is news.
// Nothing is known any more of what they measure.
func (r *Registry) markLocked(name string, present map[string]bool, health, reason string) bool {
	changed := false
	for id, d := range r.devices {
		if d.Vendor != name || present[id] || d.Health == fleetv1.Lost || d.Health == health {
			continue
		}
		d.Health, d.Reason = health, reason
		r.devices[id], changed = d, true
		delete(r.readings, id)
		if r.Judge != nil {
			r.Judge.Discovered(d, time.Now())
		}
	}
	return changed
}

// take merges samples of the asked figures. A device that they leave out couldn't be measured: what was
// known of those figures is old, and forgotten.
func (r *Registry) take(name string, what Figures, samples []Sample) {
	got := map[string]Sample{}
	for _, s := range samples {
		got[s.DeviceID] = s
	}
	held, released := r.held(), false
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, d := range r.devices {
		if d.Vendor != name || d.Health == fleetv1.Lost {
			continue
		}
		reading := r.readings[id]
		reading.DeviceID = id
		s, measured := got[id]
		reading.merge(what, s)
		if measured && what&Condition != 0 && r.Judge != nil {
			r.Judge.Checked(s)
		}
		if reading.Time.IsZero() && reading.ConditionTime.IsZero() && reading.ProcessesTime.IsZero() {
			delete(r.readings, id)
			continue
		}
		r.readings[id] = reading
		if measured {
			released = r.learnLocked(d, what, held[id] == "") || released
		}
	}
	if r.consultLocked() || released {
		tell(r.changed)
	}
}

// merge replaces the figures of each group in what by those of s, be they absent.
func (r *Reading) merge(what Figures, s Sample) {
	old := r.Sample
	if what&Usage == 0 {
		s.setUsage(&old)
	}
	if what&Condition != 0 {
		r.ConditionTime = s.Time
	} else {
		s.setCondition(&old)
	}
	if what&Processes != 0 {
		r.ProcessesTime = s.Time
	} else {
		s.Processes = old.Processes
	}
	if what&Usage == 0 {
		s.Time = old.Time
	}
	s.DeviceID = r.DeviceID
	r.Sample = s
}

func (s *Sample) setUsage(from *Sample) {
	s.Utilisation, s.OverallUtilisation, s.MemoryUtilisation = from.Utilisation, from.OverallUtilisation, from.MemoryUtilisation
	s.MemoryUsedBytes, s.MemoryFreeBytes, s.MemoryReservedBytes = from.MemoryUsedBytes, from.MemoryFreeBytes, from.MemoryReservedBytes
	s.TemperatureC, s.PowerWatts = from.TemperatureC, from.PowerWatts
	s.ClockHz, s.MemoryClockHz, s.Throttled = from.ClockHz, from.MemoryClockHz, from.Throttled
}

func (s *Sample) setCondition(from *Sample) {
	s.ECCCorrectedVolatile, s.ECCUncorrectedVolatile = from.ECCCorrectedVolatile, from.ECCUncorrectedVolatile
	s.ECCCorrectedAggregate, s.ECCUncorrectedAggregate = from.ECCCorrectedAggregate, from.ECCUncorrectedAggregate
	s.RemappedCorrected, s.RemappedUncorrected = from.RemappedCorrected, from.RemappedUncorrected
	s.RemapPending, s.RemapFailed, s.RetiredPages = from.RemapPending, from.RemapFailed, from.RetiredPages
	s.PCIeReplays, s.LinksDown = from.PCIeReplays, from.LinksDown
	s.LinkTransmitBytes, s.LinkReceiveBytes = from.LinkTransmitBytes, from.LinkReceiveBytes
	s.HealthCode, s.ErrorCodes, s.RecoveryAction = from.HealthCode, from.ErrorCodes, from.RecoveryAction
}

// signal counts what a driver tells and passes it on. heard: in the kernel's log.
func (r *Registry) signal(name string, s Signal, heard bool) {
	r.mu.Lock()
	r.judgeSignalLocked(name, s)
	if r.repeatedLocked(s, heard) {
		r.mu.Unlock()
		return
	}
	r.counts[SignalCount{DeviceID: s.DeviceID, Kind: s.Kind, Code: s.Code}]++
	r.mu.Unlock()
	select {
	case r.signals <- s:
		return
	default:
	}
	r.mu.Lock()
	r.dropped++
	dropped := r.dropped
	r.mu.Unlock()
	if dropped&(dropped-1) == 0 { // 1, 2, 4, 8, …: a storm of signals is no storm of lines
		r.logger.Error("device signal dropped: too many are waiting", "device", s.DeviceID, "kind", s.Kind, "code", s.Code, "dropped", dropped)
	}
}

// Devices answers every device known, ordered by vendor, index and ID. What they point to is read only.
func (r *Registry) Devices() []Device {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.SortedFunc(maps.Values(r.devices), func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.Vendor, b.Vendor), cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
	})
	for i := range all {
		all[i] = r.judgedLocked(all[i])
	}
	return all
}

// Readings answers the figures of each device that has any, ordered by ID. What they point to is read
// only.
func (r *Registry) Readings() []Reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.readings), func(a, b Reading) int { return cmp.Compare(a.DeviceID, b.DeviceID) })
}

// SignalCounts answers how often each device signalled what, ordered.
func (r *Registry) SignalCounts() []SignalCount {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []SignalCount
	for c, n := range r.counts {
		c.Count = n
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b SignalCount) int {
		return cmp.Or(cmp.Compare(a.DeviceID, b.DeviceID), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Code, b.Code))
	})
	return out
}

// Vendors answers how the calls to each backend go.
func (r *Registry) Vendors() []Vendor {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Vendor
	for _, v := range r.vendors {
		out = append(out, v.figures)
	}
	return out
}

// Changed holds a token after Devices, Asked or Discovered changed; it is for one reader.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Signals are what the drivers tell by themselves, in order per vendor; it is for one reader.
func (r *Registry) Signals() <-chan Signal { return r.signals }

// tell leaves a token that isn't there yet.
func tell(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// wrap names the vendor in an error of its backend.
func wrap(operation, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s devices: %w", operation, name, err)
}
