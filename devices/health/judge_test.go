package health

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

// told is what a judge is told of device "g".
type told struct {
	*Judge
}

func newTold(vendor string) told {
	j := told{New()}
	j.Discovered(device(vendor, fleetv1.Healthy, ""), start)
	return j
}

func device(vendor, health, reason string) devices.Device {
	return devices.Device{ID: "g", Vendor: vendor, Health: health, Reason: reason}
}

func (j told) xid(code int64, text string, d time.Duration) {
	j.Signalled(devices.Signal{DeviceID: "g", Kind: devices.SignalXID, Code: code, Text: text, Time: at(d)})
}

func (j told) signal(kind devices.SignalKind, code int64, d time.Duration) {
	j.Signalled(devices.Signal{DeviceID: "g", Kind: kind, Code: code, Time: at(d)})
}

func (j told) check(d time.Duration, change func(*devices.Sample)) {
	s := devices.Sample{DeviceID: "g", Time: at(d)}
	if change != nil {
		change(&s)
	}
	j.Checked(s)
}

func (j told) is(t *testing.T, state string, action Action, since time.Duration) {
	t.Helper()
	v := j.Verdict("g")
	equal(t, []any{state, action, at(since)}, []any{v.State, v.Action, v.Since}, v.Reason)
}

func equal(t *testing.T, want, have any, about string) {
	t.Helper()
	if !reflect.DeepEqual(want, have) {
		t.Fatalf("have %v, want %v: %s", have, want, about)
	}
}

func recovery(action string) func(*devices.Sample) {
	return func(s *devices.Sample) { s.RecoveryAction = &action }
}

func TestSigns(t *testing.T) {
	for name, c := range map[string]struct {
		vendor string
		tell   func(j told)
		state  string
		action Action
		reason string
	}{
		"nothing":           {tell: func(told) {}, state: fleetv1.Healthy},
		"application's XID": {tell: func(j told) { j.xid(31, "", 1) }, state: fleetv1.Healthy},
		"unknown XID":       {tell: func(j told) { j.xid(4711, "new", 1) }, state: fleetv1.Healthy, action: Observe, reason: "XID 4711: any other XID (new)"},
		"XID in a range":    {tell: func(j told) { j.xid(40, "", 1) }, state: fleetv1.Healthy, action: Observe},
		"contained":         {tell: func(j told) { j.xid(94, "", 1) }, state: fleetv1.Unhealthy, action: Drain},
		"double bit":        {tell: func(j told) { j.xid(48, "", 1) }, state: fleetv1.Unhealthy, action: ResetNeeded, reason: "XID 48: an uncorrectable memory error; reset the device; waiting for a clean check after that"},
		"off the bus":       {tell: func(j told) { j.xid(79, "", 1) }, state: fleetv1.Lost, action: RebootNeeded},
		"worst counts":      {tell: func(j told) { j.xid(79, "", 1); j.xid(94, "", 2); j.xid(63, "", 3) }, state: fleetv1.Lost, action: RebootNeeded},
		"154 reboot": {tell: func(j told) {
			j.xid(154, "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)", 1)
		}, state: fleetv1.Unhealthy, action: RebootNeeded},
		"154 none":              {tell: func(j told) { j.xid(154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", 1) }, state: fleetv1.Healthy},
		"154 without words":     {tell: func(j told) { j.xid(154, "Xid 154", 1) }, state: fleetv1.Healthy, action: Observe},
		"ECC event":             {tell: func(j told) { j.signal(devices.SignalECC, 0, 1) }, state: fleetv1.Unhealthy, action: Evict},
		"lost event":            {tell: func(j told) { j.signal(devices.SignalLost, 0, 1) }, state: fleetv1.Lost, action: Evict},
		"reset event":           {tell: func(j told) { j.signal(devices.SignalReset, 0, 1) }, state: fleetv1.Healthy},
		"listed lost":           {tell: func(j told) { j.Discovered(device("nvidia", fleetv1.Lost, "fell off"), at(1)) }, state: fleetv1.Lost, action: Evict, reason: "lost: the driver lost the device, or no longer lists it (fell off)"},
		"reset required":        {tell: func(j told) { j.Discovered(device("nvidia", fleetv1.Unhealthy, ""), at(1)) }, state: fleetv1.Unhealthy, action: ResetNeeded},
		"listed as failing":     {vendor: "ascend", tell: func(j told) { j.Discovered(device("ascend", fleetv1.Unhealthy, ""), at(1)) }, state: fleetv1.Unhealthy, action: Evict},
		"silent":                {tell: func(j told) { j.Discovered(device("nvidia", fleetv1.Unresponsive, ""), at(1)) }, state: fleetv1.Unresponsive, action: Drain},
		"gone":                  {tell: func(j told) { j.Gone("g", at(1)) }, state: fleetv1.Lost, action: Evict},
		"remap pending":         {tell: func(j told) { j.check(1, func(s *devices.Sample) { s.RemapPending = new(true) }) }, state: fleetv1.Unhealthy, action: Drain},
		"remap failed":          {tell: func(j told) { j.check(1, func(s *devices.Sample) { s.RemapFailed = new(true) }) }, state: fleetv1.Unhealthy, action: Evict},
		"old errors":            {tell: func(j told) { j.check(1, func(s *devices.Sample) { s.ECCUncorrectedVolatile = new(int64(3)) }) }, state: fleetv1.Healthy},
		"recovery: reset":       {tell: func(j told) { j.check(1, recovery("reset")) }, state: fleetv1.Unhealthy, action: ResetNeeded},
		"recovery: reboot":      {tell: func(j told) { j.check(1, recovery("reboot")) }, state: fleetv1.Unhealthy, action: RebootNeeded},
		"recovery: drain":       {tell: func(j told) { j.check(1, recovery("drain")) }, state: fleetv1.Unhealthy, action: Evict},
		"recovery: less of it":  {tell: func(j told) { j.check(1, recovery("drain-and-reset")) }, state: fleetv1.Unhealthy, action: Drain},
		"recovery: unknown":     {tell: func(j told) { j.check(1, recovery("action-9")) }, state: fleetv1.Unhealthy, action: Drain},
		"recovery: none":        {tell: func(j told) { j.check(1, recovery("none")) }, state: fleetv1.Healthy},
		"DCMI 0":                {tell: func(j told) { j.check(1, healthCode(0)) }, state: fleetv1.Healthy},
		"DCMI 1":                {tell: func(j told) { j.check(1, healthCode(1)) }, state: fleetv1.Healthy, action: Observe},
		"DCMI 2":                {tell: func(j told) { j.check(1, healthCode(2)) }, state: fleetv1.Unhealthy, action: Drain},
		"DCMI 3":                {tell: func(j told) { j.check(1, healthCode(3)) }, state: fleetv1.Unhealthy, action: Evict},
		"DCMI 7":                {tell: func(j told) { j.check(1, healthCode(7)) }, state: fleetv1.Unhealthy, action: Drain},
		"code of DCMI":          {tell: func(j told) { j.signal(devices.SignalFault, 0x80E3A201, 1) }, state: fleetv1.Unhealthy, action: Evict},
		"other code of DCMI":    {tell: func(j told) { j.check(1, func(s *devices.Sample) { s.ErrorCodes = []int64{0x80E01801} }) }, state: fleetv1.Healthy, action: Observe, reason: "DCMI error code 80E01801: an error that the driver raised; how grave it is, its health says"},
		"more errors than were": {tell: func(j told) { j.check(1, uncorrected(3)); j.check(2, uncorrected(4)) }, state: fleetv1.Unhealthy, action: Evict},
	} {
		t.Run(name, func(t *testing.T) {
			vendor := c.vendor
			if vendor == "" {
				vendor = "nvidia"
			}
			j := newTold(vendor)
			c.tell(j)
			v := j.Verdict("g")
			equal(t, c.state, v.State, v.Reason)
			equal(t, c.action, v.Action, v.Reason)
			if c.reason != "" {
				equal(t, c.reason, v.Reason, "reason")
			}
			equal(t, v.Action != None, v.Reason != "", "there is a reason")
		})
	}
}

func uncorrected(n int64) func(*devices.Sample) {
	return func(s *devices.Sample) { s.ECCUncorrectedVolatile = &n }
}

func healthCode(n int64) func(*devices.Sample) {
	return func(s *devices.Sample) { s.HealthCode = &n }
}

func TestRecoveryNeedsACleanCheck(t *testing.T) {
	j := newTold("nvidia")
	j.xid(94, "", 10*time.Second)
	j.is(t, fleetv1.Unhealthy, Drain, 10*time.Second)
	j.Discovered(device("nvidia", fleetv1.Healthy, ""), at(time.Hour))
	j.is(t, fleetv1.Unhealthy, Drain, 10*time.Second) // silence proves nothing
	j.check(69*time.Second, nil)
	j.is(t, fleetv1.Unhealthy, Drain, 10*time.Second) // too soon after the fault
	j.check(70*time.Second, func(s *devices.Sample) { s.RemapPending = new(true) })
	j.is(t, fleetv1.Unhealthy, Drain, 10*time.Second) // not clean
	j.check(200*time.Second, nil)
	j.is(t, fleetv1.Unhealthy, Drain, 10*time.Second) // an absent figure isn't a good one
	j.check(300*time.Second, func(s *devices.Sample) { s.RemapPending = new(false) })
	j.is(t, fleetv1.Unhealthy, Drain, 10*time.Second) // good since just now
	j.check(360*time.Second, func(s *devices.Sample) { s.RemapPending = new(false) })
	j.is(t, fleetv1.Healthy, None, 360*time.Second)
	equal(t, "", j.Verdict("g").Reason, "reason")
}

func TestResetNeedsASign(t *testing.T) {
	for name, sign := range map[string]func(j told){
		"driver says so":    func(j told) { j.check(10*time.Minute, recovery("none")) },
		"driver told of it": func(j told) { j.signal(devices.SignalReset, 0, 9*time.Minute); j.check(10*time.Minute, nil) },
		"kernel log told of it": func(j told) {
			j.xid(154, "changed from 0x1 (GPU Reset Required) to 0x0 (None)", 9*time.Minute)
			j.check(10*time.Minute, nil)
		},
		"taken back":    func(j told) { j.signal(devices.SignalRecovered, 0, 9*time.Minute); j.check(10*time.Minute, nil) },
		"counters fell": func(j told) { j.check(8*time.Minute, uncorrected(3)); j.check(10*time.Minute, uncorrected(0)) },
	} {
		t.Run(name, func(t *testing.T) {
			j := newTold("nvidia")
			j.xid(48, "", time.Minute)
			j.check(5*time.Minute, nil)
			j.is(t, fleetv1.Unhealthy, ResetNeeded, time.Minute)
			sign(j)
			j.is(t, fleetv1.Healthy, None, 10*time.Minute)
		})
	}
	t.Run("before the fault", func(t *testing.T) {
		j := newTold("nvidia")
		j.signal(devices.SignalReset, 0, time.Second)
		j.xid(48, "", time.Minute)
		j.check(5*time.Minute, nil)
		j.is(t, fleetv1.Unhealthy, ResetNeeded, time.Minute)
	})
	t.Run("the driver still wants it", func(t *testing.T) {
		j := newTold("nvidia")
		j.check(time.Minute, recovery("reset"))
		j.signal(devices.SignalReset, 0, 2*time.Minute)
		j.check(5*time.Minute, recovery("reset"))
		j.is(t, fleetv1.Unhealthy, ResetNeeded, time.Minute)
	})
}

// relapse makes the device fail, and answers how long its check must come after that to count.
func relapse(t *testing.T, j told, from time.Duration) time.Duration {
	t.Helper()
	j.signal(devices.SignalECC, 0, from)
	for wait := time.Minute; wait <= 2*time.Hour; wait *= 2 {
		j.check(from+wait-1, nil)
		if j.Verdict("g").State == fleetv1.Healthy {
			t.Fatalf("healthy before %s", wait)
		}
		j.check(from+wait, nil)
		if j.Verdict("g").State == fleetv1.Healthy {
			return wait
		}
		if wait == 32*time.Minute { // the bound isn't a power of two
			j.check(from+time.Hour, nil)
			equal(t, fleetv1.Healthy, j.Verdict("g").State, "after an hour")
			return time.Hour
		}
	}
	t.Fatal("it never came back")
	return 0
}

func TestFlappingBacksOff(t *testing.T) {
	j := newTold("nvidia")
	var waits []time.Duration
	from := time.Minute
	for range 9 {
		waits = append(waits, relapse(t, j, from))
		from += waits[len(waits)-1] + time.Second
	}
	m := time.Minute
	equal(t, []time.Duration{m, 2 * m, 4 * m, 8 * m, 16 * m, 32 * m, 60 * m, 60 * m, 60 * m}, waits, "waits")
	from += 3*time.Hour + time.Minute
	equal(t, 16*m, relapse(t, j, from), "three hours in health are three relapses forgotten, and this is one")
	equal(t, m, relapse(t, j, from+100*time.Hour), "all is forgotten")
}

func TestSilentDriver(t *testing.T) {
	j := newTold("nvidia")
	silent := func(d time.Duration) { j.Discovered(device("nvidia", fleetv1.Unresponsive, "hangs"), at(d)) }
	answers := func(d time.Duration) { j.Discovered(device("nvidia", fleetv1.Healthy, ""), at(d)) }
	silent(time.Second)
	j.is(t, fleetv1.Unresponsive, Drain, time.Second)
	answers(2 * time.Second)
	j.is(t, fleetv1.Healthy, None, 2*time.Second) // believed at once
	silent(3 * time.Second)
	answers(4 * time.Second)
	j.is(t, fleetv1.Unresponsive, Drain, 3*time.Second) // not again
	j.check(125*time.Second, nil)
	j.is(t, fleetv1.Healthy, None, 125*time.Second)

	j.xid(48, "", 3*time.Hour)
	silent(3*time.Hour + time.Second)
	answers(3*time.Hour + 2*time.Second)
	j.is(t, fleetv1.Unhealthy, ResetNeeded, 3*time.Hour) // there was more than silence
}

func TestSlicesFollowTheirDevice(t *testing.T) {
	j := newTold("nvidia")
	slice := devices.Device{ID: "s", ParentID: "g", Vendor: "nvidia", Health: fleetv1.Healthy}
	other := devices.Device{ID: "o", ParentID: "g", Vendor: "nvidia", Health: fleetv1.Healthy}
	j.Discovered(slice, start)
	j.Discovered(other, start)
	j.Signalled(devices.Signal{DeviceID: "s", Kind: devices.SignalECC, Time: at(1)})
	equal(t, Evict, j.Verdict("s").Action, "the slice")
	equal(t, None, j.Verdict("o").Action, "another slice")
	equal(t, None, j.Verdict("g").Action, "the device")
	j.xid(79, "", 2)
	for _, id := range []string{"s", "o", "g"} {
		equal(t, fleetv1.Lost, j.Verdict(id).State, id)
	}
	equal(t, true, strings.HasPrefix(j.Verdict("o").Reason, "g: XID 79"), j.Verdict("o").Reason)
}

func TestObservedSignsGo(t *testing.T) {
	j := newTold("ascend")
	j.check(time.Second, healthCode(1))
	j.xid(63, "", time.Second)
	j.signal(devices.SignalFault, 0x123, 2*time.Second)
	j.signal(devices.SignalRecovered, 0x123, 3*time.Second)
	j.check(70*time.Second, healthCode(0))
	equal(t, Observe, j.Verdict("g").Action, "too soon to forget")
	j.check(140*time.Second, healthCode(0))
	j.is(t, fleetv1.Healthy, None, 0)
}

func TestOldSamplesDontCount(t *testing.T) {
	j := newTold("nvidia")
	j.check(time.Hour, recovery("reset"))
	j.check(time.Minute, recovery("none"))
	j.is(t, fleetv1.Unhealthy, ResetNeeded, time.Hour)
}

// A counter that can't be read for a while may have grown meanwhile.
func TestErrorsWhileCountersAreAbsent(t *testing.T) {
	counted := func(n int64) func(*devices.Sample) {
		return func(s *devices.Sample) { s.ECCUncorrectedVolatile = &n }
	}
	j := newTold("nvidia")
	j.check(time.Minute, counted(1))
	j.check(2*time.Minute, nil)
	j.is(t, fleetv1.Healthy, None, 0)
	j.check(3*time.Minute, counted(2))
	j.is(t, fleetv1.Unhealthy, Evict, 3*time.Minute)
}

func TestUnknownDevice(t *testing.T) {
	equal(t, Verdict{State: fleetv1.Healthy}, New().Verdict("nobody"), "nobody")
}
