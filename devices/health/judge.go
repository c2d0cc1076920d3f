package health

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// How long after a fault a check must come to count, and how long health must last for a relapse to be
// forgotten.
const (
	leastWait  = time.Minute
	mostWait   = time.Hour
	decayEvery = time.Hour
)

// mostRelapses that lengthen the wait: 1 min << 6 is past mostWait.
const mostRelapses = 6

// Judge decides how healthy devices are. It is not safe for use by several goroutines at once; what
// it is told may come in any order of time, the newest counts.
type Judge struct {
	table table
	cases map[string]*record
}

// record of a device.
type record struct {
	device devices.Device
	// faults that no clean check has ended, by source and sign.
	faults map[[2]string]*fault
	// since when it is as it is, in the eyes of Verdict.
	since time.Time
	// healthy since, zero during an episode.
	recovered time.Time
	relapses  int
	counters  devices.Sample
}

// fault of a device.
type fault struct {
	row      *Row
	sign     string
	text     string // the driver's words
	first    time.Time
	last     time.Time
	standing bool // shown by a figure or a listing that hasn't said otherwise
	repaired bool // there was a sign since of what needsSign asks for
}

// New makes a judge to whom every device is unknown.
func New() *Judge {
	return &Judge{table: newTable(Rows()), cases: map[string]*record{}}
}

// of answers the record of a device.
func (j *Judge) of(id string) *record {
	r := j.cases[id]
	if r == nil {
		r = &record{faults: map[[2]string]*fault{}}
		j.cases[id] = r
	}
	return r
}

// Discovered tells how the vendor's library lists a device, or that it isn't listed any more or doesn't answer, by
// d.Health and d.Reason.
func (j *Judge) Discovered(d devices.Device, at time.Time) {
	r := j.of(d.ID)
	if r.since.IsZero() {
		r.since = at
	}
	r.device = d
	shown := ""
	switch {
	case d.Health == fleetv1.Lost:
		shown = signLost
	case d.Health == fleetv1.Unresponsive:
		shown = signSilent
	case d.Health == fleetv1.Unhealthy && d.Vendor == "nvidia":
		shown = signReset
	case d.Health != fleetv1.Healthy:
		shown = signFails
	}
	for _, sign := range []string{signLost, signSilent, signReset, signFails} {
		if sign == shown {
			j.raise(r, sourceDevice, sign, d.Reason, at, true)
			continue
		}
		// A silent driver says nothing of what it said before.
		if shown != signSilent {
			r.withdraw(sourceDevice, sign, at)
		}
	}
	if d.Health == fleetv1.Healthy {
		r.withdraw(sourceDevice, signGone, at)
	}
	// Nothing was ever wrong but that the driver was silent: that it answers is a check.
	if shown == "" && r.relapses == 0 && r.onlySilence() {
		r.end(at)
	}
}

// Gone tells that the PCI device of a device was there and isn't any more.
func (j *Judge) Gone(id string, at time.Time) {
	j.raise(j.of(id), sourceDevice, signGone, "", at, true)
}

// Signalled tells what a driver told by itself about a device.
func (j *Judge) Signalled(s devices.Signal) {
	r := j.of(s.DeviceID)
	switch s.Kind {
	case devices.SignalXID:
		if action, told := recoveryOf(s); told {
			if action == noRecovery {
				r.repair(s.Time)
			}
			j.raise(r, sourceRecovery, action, s.Text, s.Time, false)
			return
		}
		j.raise(r, sourceXID, number(s.Code), s.Text, s.Time, false)
	case devices.SignalECC:
		j.raise(r, sourceMemory, signUncorrected, s.Text, s.Time, false)
	case devices.SignalFault:
		j.raise(r, sourceErrorCode, hexadecimal(s.Code), s.Text, s.Time, true)
	case devices.SignalLost:
		j.raise(r, sourceDevice, signLost, s.Text, s.Time, false)
	case devices.SignalRecovered:
		if s.Code == 0 {
			r.repair(s.Time)
			for key := range r.faults {
				r.withdraw(source(key[0]), key[1], s.Time)
			}
			return
		}
		r.withdraw(sourceErrorCode, hexadecimal(s.Code), s.Time)
	case devices.SignalReset:
		r.repair(s.Time)
	}
}

// Checked tells what a sample says of a device's condition. Only samples that were asked for devices.Condition
// may be told.
func (j *Judge) Checked(s devices.Sample) {
	r := j.of(s.DeviceID)
	if s.Time.Before(r.counters.Time) {
		return
	}
	if startedAnew(r.counters, s) || s.RecoveryAction != nil && *s.RecoveryAction == noRecovery {
		r.repair(s.Time)
	}
	j.examine(r, s)
	r.remember(s)
	r.check(s.Time)
}

// remember keeps a sample's counters. One that is absent keeps what it was: it may have grown meanwhile.
func (r *record) remember(s devices.Sample) {
	before := r.counters
	s.ECCCorrectedVolatile = cmp.Or(s.ECCCorrectedVolatile, before.ECCCorrectedVolatile)
	s.ECCUncorrectedVolatile = cmp.Or(s.ECCUncorrectedVolatile, before.ECCUncorrectedVolatile)
	s.ECCUncorrectedAggregate = cmp.Or(s.ECCUncorrectedAggregate, before.ECCUncorrectedAggregate)
	r.counters = s
}

// raise notes a fault, or that it's there again.
func (j *Judge) raise(r *record, from source, sign, text string, at time.Time, standing bool) {
	row := j.table.find(from, sign)
	if row == nil || row.Action == None {
		return
	}
	if !r.bad() && row.Action.rank() >= Drain.rank() {
		r.begin(at)
	}
	key := [2]string{string(from), sign}
	f := r.faults[key]
	if f == nil {
		f = &fault{row: row, sign: sign, first: at}
		r.faults[key] = f
	}
	f.last, f.standing = later(f.last, at), standing || f.standing
	f.repaired, f.text = false, cmp.Or(text, f.text)
}

// repair notes a sign of a reset or reboot.
func (r *record) repair(at time.Time) {
	for _, f := range r.faults {
		f.repaired = f.repaired || !f.last.After(at)
	}
}

// withdraw notes that what showed a fault doesn't show it any more. It is over when a check is clean.
func (r *record) withdraw(from source, sign string, at time.Time) {
	if f := r.faults[[2]string{string(from), sign}]; f != nil && f.standing {
		f.standing, f.last = false, later(f.last, at)
	}
}

// begin starts an episode in which the device isn't to be used.
func (r *record) begin(at time.Time) {
	r.since = later(r.since, at)
	if r.recovered.IsZero() {
		return
	}
	forgotten := min(max(0, at.Sub(r.recovered)/decayEvery), mostRelapses+1)
	r.relapses = min(max(0, r.relapses+1-int(forgotten)), mostRelapses)
	r.recovered = time.Time{}
}

// end ends an episode. What stands is only to be told.
func (r *record) end(at time.Time) {
	maps.DeleteFunc(r.faults, func(_ [2]string, f *fault) bool { return !f.standing })
	r.since, r.recovered = at, at
}

// check counts a sample that was examined as a check: it is clean when nothing stands and it comes long enough
// after all that did.
func (r *record) check(at time.Time) {
	bad := r.bad()
	for key, f := range r.faults {
		if !bad && !f.standing && at.Sub(f.last) >= leastWait { // only to be told
			delete(r.faults, key)
			continue
		}
		if f.row.Action.rank() < Drain.rank() {
			continue
		}
		if f.standing || at.Sub(f.last) < r.wait() || f.row.Action.needsSign() && !f.repaired {
			return
		}
	}
	if bad {
		r.end(at)
	}
}

func (r *record) wait() time.Duration { return min(leastWait<<r.relapses, mostWait) }

func (r *record) bad() bool {
	for _, f := range r.faults {
		if f.row.Action.rank() >= Drain.rank() {
			return true
		}
	}
	return false
}

func (r *record) onlySilence() bool {
	return len(r.faults) == 1 && r.faults[[2]string{string(sourceDevice), signSilent}] != nil
}

// worst fault, the one of the graver action, then the older, then by name. Nil when there is none.
func (r *record) worst() *fault {
	all := slices.SortedFunc(maps.Values(r.faults), func(a, b *fault) int {
		return cmp.Or(cmp.Compare(b.row.Action.rank(), a.row.Action.rank()), a.first.Compare(b.first),
			cmp.Compare(a.row.Source, b.row.Source), cmp.Compare(a.sign, b.sign))
	})
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
