// Package devicestest is the conformance suite of devices.Backend: every backend passes it.
package devicestest

import (
	"context"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// patience bounds what must happen at once.
const patience = 10 * time.Second

// Run runs the suite against the backend that open answers, which has at least one device that works.
func Run(t *testing.T, open func(t *testing.T) devices.Backend) {
	for name, test := range map[string]func(*testing.T, devices.Backend){
		"Discover": discover, "Links": links, "Sample": sample, "Figures": figures, "EndedContext": endedContext, "Watch": watch,
	} {
		t.Run(name, func(t *testing.T) { test(t, opened(t, open)) })
	}
}

func discover(t *testing.T, b devices.Backend) {
	found := all(t, b)
	seen := map[string]devices.Device{}
	for _, d := range found {
		if _, twice := seen[d.ID]; d.ID == "" || twice {
			t.Errorf("the ID of %+v is empty or not unique", d)
		}
		seen[d.ID] = d
		if d.Vendor != b.Vendor() {
			t.Errorf("%s is of %q, not of %q", d.ID, d.Vendor, b.Vendor())
		}
		switch d.Health {
		case fleetv1.Healthy:
			if d.Model == "" || d.MemoryBytes <= 0 {
				t.Errorf("device %+v lacks model or memory", d)
			}
		case fleetv1.Unhealthy, fleetv1.Unresponsive, fleetv1.Lost:
			if d.Reason == "" {
				t.Errorf("%s is %s and does not say why", d.ID, d.Health)
			}
		default:
			t.Errorf("health %q of %s", d.Health, d.ID)
		}
	}
	for _, d := range found {
		if _, known := seen[d.ParentID]; d.ParentID != "" && (!known || d.ParentID == d.ID || d.Profile == "") {
			t.Errorf("slice %s of %q, profile %q: its parent is not listed, or it has no profile", d.ID, d.ParentID, d.Profile)
		}
	}
	again := all(t, b)
	if len(again) != len(found) {
		t.Fatalf("%d devices, then %d", len(found), len(again))
	}
	for i := range again {
		if again[i].ID != found[i].ID {
			t.Errorf("ID of device %d changed from %s to %s", i, found[i].ID, again[i].ID)
		}
	}
}

// links are told by both of their ends.
func links(t *testing.T, b devices.Backend) {
	type end struct{ from, to string }
	type joint struct {
		kind  devices.LinkKind
		count int
	}
	told, known := map[end]joint{}, map[string]bool{}
	found := all(t, b)
	for _, d := range found {
		known[d.ID] = true
	}
	for _, d := range found {
		if !slices.IsSortedFunc(d.Links, func(x, y devices.Link) int {
			if x.Peer < y.Peer {
				return -1
			}
			return 1
		}) {
			t.Errorf("the links of %s are not ordered by peer, or name one twice", d.ID)
		}
		for _, l := range d.Links {
			if !known[l.Peer] || l.Peer == d.ID {
				t.Errorf("%s has a link to %q", d.ID, l.Peer)
			}
			told[end{d.ID, l.Peer}] = joint{l.Kind, l.Count}
		}
	}
	for e, j := range told {
		if back := told[end{e.to, e.from}]; back != j {
			t.Errorf("%s has %v to %s, which has %v back", e.from, j, e.to, back)
		}
	}
}

func sample(t *testing.T, b devices.Backend) {
	known := map[string]devices.Device{}
	for _, d := range all(t, b) {
		known[d.ID] = d
	}
	samples, err := b.Sample(t.Context(), devices.Usage|devices.Condition|devices.Processes)
	if err != nil || len(samples) == 0 {
		t.Fatalf("sample: %v, %v", samples, err)
	}
	seen := map[string]bool{}
	for _, s := range samples {
		d, ok := known[s.DeviceID]
		if !ok || s.Time.IsZero() || seen[s.DeviceID] {
			t.Errorf("sample %+v is of an unknown device, or without a time, or the second", s)
		}
		seen[s.DeviceID] = true
		if d.Health == fleetv1.Lost {
			t.Errorf("%s is lost and has been measured", s.DeviceID)
		}
		for name, ratio := range map[string]*float64{
			"utilisation": s.Utilisation, "overall utilisation": s.OverallUtilisation, "memory utilisation": s.MemoryUtilisation,
		} {
			if ratio != nil && (*ratio < 0 || *ratio > 1) {
				t.Errorf("%s %v of %s is no ratio", name, *ratio, s.DeviceID)
			}
		}
		if s.MemoryUsedBytes != nil && *s.MemoryUsedBytes > d.MemoryBytes {
			t.Errorf("%s uses %d of %d bytes", s.DeviceID, *s.MemoryUsedBytes, d.MemoryBytes)
		}
		for name, v := range counts(&s) {
			if v < 0 {
				t.Errorf("%s of %s is %d: absent figures are nil", name, s.DeviceID, v)
			}
		}
		for _, p := range s.Processes {
			if p.PID <= 0 {
				t.Errorf("process %+v on %s", p, s.DeviceID)
			}
		}
	}
}

// counts answers the sample's integers that are there, by field.
func counts(s *devices.Sample) map[string]int64 {
	out := map[string]int64{}
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		if n, ok := v.Field(i).Interface().(*int64); ok && n != nil {
			out[v.Type().Field(i).Name] = *n
		}
	}
	return out
}

// group of each field of a sample; what is in none here is of the condition.
var group = map[string]devices.Figures{
	"Utilisation": devices.Usage, "OverallUtilisation": devices.Usage, "MemoryUtilisation": devices.Usage, "MemoryUsedBytes": devices.Usage,
	"MemoryFreeBytes": devices.Usage, "MemoryReservedBytes": devices.Usage, "TemperatureC": devices.Usage,
	"PowerWatts": devices.Usage, "ClockHz": devices.Usage, "MemoryClockHz": devices.Usage, "Throttled": devices.Usage,
	"Processes": devices.Processes,
}

// figures that weren't asked for are absent: they aren't zero, and the driver wasn't bothered.
func figures(t *testing.T, b devices.Backend) {
	all(t, b)
	for _, what := range []devices.Figures{devices.Usage, devices.Condition, devices.Processes} {
		samples, err := b.Sample(t.Context(), what)
		if err != nil {
			t.Fatalf("sample %d: %v", what, err)
		}
		for _, s := range samples {
			v := reflect.ValueOf(s)
			for i := range v.NumField() {
				name := v.Type().Field(i).Name
				of, ok := group[name]
				if !ok {
					of = devices.Condition
				}
				if name != "DeviceID" && name != "Time" && of != what && !v.Field(i).IsNil() {
					t.Errorf("asked for %d, %s of %s was answered", what, name, s.DeviceID)
				}
			}
		}
	}
}

func endedContext(t *testing.T, b devices.Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Discover(ctx); err == nil {
		t.Error("discover ignored its ended context")
	}
	if _, err := b.Sample(ctx, devices.Usage); err == nil {
		t.Error("sample ignored its ended context")
	}
}

// watch ends when its context does, while other calls go on beside it.
func watch(t *testing.T, b devices.Backend) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- b.Watch(ctx, func(devices.Signal) {}) }()
	found := all(t, b)
	if _, err := b.Sample(t.Context(), devices.Usage); err != nil {
		t.Errorf("sample beside watch: %v", err)
	}
	select {
	case err := <-done:
		t.Fatalf("watching %d devices ended: %v", len(found), err)
	default:
	}
	cancel()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("watch does not end with its context")
	}
	all(t, b) // it took nothing along
}

func all(t *testing.T, b devices.Backend) []devices.Device {
	t.Helper()
	found, err := b.Discover(t.Context())
	if err != nil || len(found) == 0 {
		t.Fatalf("discover: %v, %v", found, err)
	}
	return found
}

func opened(t *testing.T, open func(t *testing.T) devices.Backend) devices.Backend {
	t.Helper()
	b := open(t)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}
