package devices_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/fake"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// used is what a scripted device measures.
type used struct {
	mu        sync.Mutex
	memory    int64
	processes []int
	nothing   bool // it has neither figure
	hidden    struct{ processes, memory bool }
	absent    bool // it isn't measured at all
}

func (u *used) set(memory int64, processes ...int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.memory, u.processes = memory, processes
}

// hide leaves figures out.
func (u *used) hide(processes, memory bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hidden.processes, u.hidden.memory = processes, memory
}

func (u *used) sample(id string) func(devices.Figures) []devices.Sample {
	return func(what devices.Figures) []devices.Sample {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.absent {
			return nil
		}
		s := devices.Sample{DeviceID: id, Time: time.Now()}
		if memory := u.memory; what&devices.Usage != 0 && !u.nothing && !u.hidden.memory {
			s.MemoryUsedBytes = &memory
		}
		if what&devices.Processes != 0 && !u.nothing && !u.hidden.processes {
			s.Processes = []devices.Process{}
			for _, pid := range u.processes {
				s.Processes = append(s.Processes, devices.Process{PID: pid})
			}
		}
		return []devices.Sample{s}
	}
}

const (
	mib  = 1 << 20
	room = 80 << 30
)

// ledger is who holds what.
type ledger struct {
	mu   sync.Mutex
	held map[string]string
}

func (l *ledger) set(id, holder string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]string{}
	}
	l.held[id] = holder
	if holder == "" {
		delete(l.held, id)
	}
}

func (l *ledger) answer() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.held)
}

// reclaimable runs a registry on one scripted device "a" of 80 GiB.
func reclaimable(t *testing.T, f func(t *testing.T, r *devices.Registry, b *scripted, u *used, l *ledger)) {
	t.Helper()
	reclaimableFrom(t, &used{memory: 100 * mib}, f)
}

// reclaimableFrom begins with what the device measures.
func reclaimableFrom(t *testing.T, u *used, f func(t *testing.T, r *devices.Registry, b *scripted, u *used, l *ledger)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		b := &scripted{vendor: "v", found: []devices.Device{{ID: "a", Vendor: "v", Health: fleetv1.Healthy, MemoryBytes: room}}, sample: u.sample("a")}
		r := devices.NewRegistry(silent(), b)
		r.Held = l.answer
		l.set("a", "i")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		f(t, r, b, u, l)
		b.set(nil, nil, false)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// reclaim answers what the registry says of "a" within 5 s.
func reclaim(t *testing.T, r *devices.Registry) string {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return r.Reclaim(ctx, []string{"a"})["a"]
}

func TestReclaim(t *testing.T) {
	reclaimable(t, func(t *testing.T, r *devices.Registry, _ *scripted, u *used, l *ledger) {
		for _, c := range []struct {
			memory    int64
			processes []int
			want      string
		}{
			{100 * mib, nil, ""},
			{100 * mib, []int{4711}, "process 4711 still uses it"},
			{100 * mib, []int{1, 2}, "processes 1, 2 still use it"},
			{100 * mib, []int{1, 2, 3, 4, 5}, "processes 1, 2, 3 and 2 more still use it"},
			{8 << 30, nil, ""}, // no baseline: a tenth is allowed
			{9 << 30, nil, "9216 MiB of its memory are in use without a process; idle it uses at most 8192 MiB"},
		} {
			u.set(c.memory, c.processes...)
			if got := reclaim(t, r); got != c.want { // no time passes: it asked the driver now
				t.Errorf("%d MiB and processes %v: %q, want %q", c.memory/mib, c.processes, got, c.want)
			}
		}
		l.set("a", "")
		u.set(50 * mib)
		after(10 * time.Second)
		l.set("a", "j")
		u.set(306 * mib)
		if got := reclaim(t, r); got != "" {
			t.Errorf("at the baseline and some: %s", got)
		}
		u.set(307 * mib)
		if got := reclaim(t, r); !strings.Contains(got, "idle it uses at most 306 MiB") {
			t.Errorf("above the baseline: %q", got)
		}
		if got := r.Reclaim(t.Context(), nil); len(got) != 0 {
			t.Errorf("nothing to reclaim: %v", got)
		}
	})
}

func TestReclaimWithoutFigures(t *testing.T) {
	reclaimableFrom(t, &used{nothing: true}, func(t *testing.T, r *devices.Registry, _ *scripted, u *used, _ *ledger) {
		if got := reclaim(t, r); got != "" {
			t.Errorf("figures that the driver doesn't have are held against it: %s", got)
		}
		u.absent = true
		if got := reclaim(t, r); got != "it can't be measured" {
			t.Errorf("not measured: %q", got)
		}
	})
}

// A figure that was there and isn't says nothing: the device may be in use.
func TestReclaimWithFiguresThatWent(t *testing.T) {
	reclaimable(t, func(t *testing.T, r *devices.Registry, _ *scripted, u *used, l *ledger) {
		l.set("a", "") // so that it has a baseline
		after(10 * time.Second)
		l.set("a", "j")
		u.hide(true, false)
		if got := reclaim(t, r); !strings.Contains(got, "its processes, which") {
			t.Errorf("without processes: %q", got)
		}
		u.hide(false, true)
		if got := reclaim(t, r); !strings.Contains(got, "its use of memory, which") {
			t.Errorf("without memory: %q", got)
		}
		u.hide(false, false)
		if got := reclaim(t, r); got != "" {
			t.Errorf("with both again: %s", got)
		}
	})
}

// What was on a device while nobody held it is the host's, and isn't waited for: a display server, for one.
func TestHostsOwnProcesses(t *testing.T) {
	reclaimable(t, func(t *testing.T, r *devices.Registry, b *scripted, u *used, l *ledger) {
		u.set(100*mib, 7) // it came while the device was held
		after(time.Minute)
		if got := reclaim(t, r); got != "process 7 still uses it" {
			t.Errorf("came with its holder: %q", got)
		}
		l.set("a", "")
		after(time.Minute)
		l.set("a", "j")
		u.set(100*mib, 7, 8)
		if got := reclaim(t, r); got != "process 8 still uses it" {
			t.Errorf("one of two: %q", got)
		}
		u.set(100*mib, 7)
		if got := reclaim(t, r); got != "" {
			t.Errorf("the host's: %q", got)
		}
		b.set(nil, nil, true) // while the driver is silent nothing is forgotten
		after(10 * time.Minute)
		b.set([]devices.Device{{ID: "a", Vendor: "v", Health: fleetv1.Healthy, MemoryBytes: room}}, nil, false)
		after(2 * time.Minute)
		if got := reclaim(t, r); got != "" {
			t.Errorf("after the driver was silent: %q", got)
		}
		u.set(100 * mib)
		after(time.Minute)
		u.set(100*mib, 7) // its number is another's now
		if got := reclaim(t, r); got != "process 7 still uses it" {
			t.Errorf("after the host's process has ended: %q", got)
		}
	})
}

// What is left on a device in quarantine doesn't become the host's.
func TestLeftoversAreNotTheHosts(t *testing.T) {
	reclaimable(t, func(t *testing.T, r *devices.Registry, _ *scripted, u *used, l *ledger) {
		u.set(100*mib, 7)
		after(time.Minute)
		r.Quarantine("a", devices.Quarantine{Reason: reclaim(t, r)})
		l.set("a", "")
		after(time.Hour)
		if !r.Devices()[0].Quarantined {
			t.Fatal("released while it is in use")
		}
		u.mu.Lock()
		u.absent = true
		u.mu.Unlock()
		after(time.Minute)
		if !r.Devices()[0].Quarantined {
			t.Error("released while it can't be measured")
		}
		u.mu.Lock()
		u.absent, u.processes = false, nil
		u.mu.Unlock()
		after(time.Minute)
		if r.Devices()[0].Quarantined {
			t.Error("not released")
		}
	})
}

func TestReclaimOfSilentAndLost(t *testing.T) {
	reclaimable(t, func(t *testing.T, r *devices.Registry, b *scripted, u *used, _ *ledger) {
		u.set(room, 7)
		b.set(nil, nil, true)
		start := time.Now()
		if got := reclaim(t, r); !strings.Contains(got, "the driver doesn't answer") || time.Since(start) != 5*time.Second {
			t.Errorf("a driver that hangs: %q after %s", got, time.Since(start))
		}
		after(time.Minute)
		start = time.Now()
		if got := reclaim(t, r); !strings.Contains(got, "the driver doesn't answer") {
			t.Errorf("a driver that hung: %q after %s", got, time.Since(start))
		}
		b.set([]devices.Device{}, nil, false) // it answers, without the device
		after(2 * time.Minute)
		if got := healths(r); got != "a Lost" {
			t.Fatal(got)
		}
		if got := reclaim(t, r); got != "" {
			t.Errorf("a lost device: %s", got)
		}
		if got := r.Reclaim(t.Context(), []string{"nobody's"}); len(got) != 0 {
			t.Errorf("a device that no driver lists: %v", got)
		}
	})
}

func TestReclaimBeforeDrivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &scripted{vendor: "v", hang: true}
		r := running(t, silent(), b)
		if got := reclaim(t, r); got != "no driver has told of it yet" {
			t.Errorf("%q", got)
		}
		b.set(nil, nil, false)
	})
}

// A failing driver is not asked again for those who reclaim: they learn what is known.
func TestReclaimIsNoStorm(t *testing.T) {
	reclaimable(t, func(t *testing.T, r *devices.Registry, b *scripted, _ *used, _ *ledger) {
		b.set(nil, errors.New("crashed"), false)
		after(10 * time.Minute)
		before := b.count("discover") + b.count("sample 5")
		for range 100 {
			if got := reclaim(t, r); !strings.Contains(got, "crashed") {
				t.Fatalf("%q", got)
			}
		}
		if n := b.count("discover") + b.count("sample 5") - before; n > 0 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestQuarantine(t *testing.T) {
	reclaimable(t, func(t *testing.T, r *devices.Registry, b *scripted, u *used, l *ledger) {
		u.set(room/2, 4711)
		r.Quarantine("a", devices.Quarantine{Reason: "process 4711 still uses it"})
		select {
		case <-r.Changed():
		default:
			t.Error("a quarantine is no change")
		}
		d := r.Devices()[0]
		if !d.Quarantined || d.Health != fleetv1.Unhealthy || d.Action != "drain" || d.Reason != "quarantined: process 4711 still uses it" || d.Evict {
			t.Errorf("%+v", d)
		}
		l.set("a", "")
		after(time.Hour)
		if !r.Devices()[0].Quarantined {
			t.Error("released while it is in use")
		}
		u.set(room / 2)
		after(time.Hour)
		if !r.Devices()[0].Quarantined {
			t.Error("released, or taken for its baseline, while its memory is in use")
		}
		b.set([]devices.Device{}, nil, false)
		after(time.Minute)
		if d := r.Devices()[0]; !d.Quarantined || d.Health != fleetv1.Lost || !strings.Contains(d.Reason, "no longer lists it") {
			t.Errorf("lost in quarantine: %+v", d)
		}
		b.set([]devices.Device{{ID: "a", Vendor: "v", Health: fleetv1.Healthy, MemoryBytes: room}}, nil, false)
		u.set(mib)
		after(time.Minute)
		if d := r.Devices()[0]; d.Quarantined || d.Health != fleetv1.Healthy || d.Action != "" || d.Reason != "" || len(r.Quarantined()) > 0 {
			t.Errorf("not released: %+v", d)
		}
	})
}

// What counts as free is kept with the quarantine, for an agent that is started then knows no baseline.
func TestQuarantineKeepsItsLimit(t *testing.T) {
	reclaimable(t, func(t *testing.T, r *devices.Registry, _ *scripted, u *used, l *ledger) {
		l.set("a", "")
		after(10 * time.Second)
		r.Quarantine("a", devices.Quarantine{Reason: "x"})
		if got := r.Quarantined()["a"]; got.LimitBytes != 356*mib {
			t.Errorf("%+v", got)
		}
		r.Quarantine("a", devices.Quarantine{Reason: "x", LimitBytes: 90 * mib}) // as an earlier agent knew it
		after(time.Minute)
		if !r.Devices()[0].Quarantined {
			t.Error("released above its limit")
		}
		u.set(90 * mib)
		after(time.Minute)
		if r.Devices()[0].Quarantined {
			t.Error("not released at its limit")
		}
	})
}

// What fake devices show follows the ledger, and a holder whose container is gone doesn't count.
func TestFakeFollowsLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := fake.Parse("2xH100-80GB")
		if err != nil {
			t.Fatal(err)
		}
		l := &ledger{}
		r := devices.NewRegistry(silent(), b)
		r.Held = l.answer
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		id := r.Devices()[1].ID
		l.set(id, "i")
		after(time.Minute)
		idle, busy := r.Readings()[0], r.Readings()[1]
		if *idle.Utilisation != 0 || *idle.MemoryUsedBytes > 1<<30 || len(idle.Processes) != 0 || *busy.Utilisation == 0 || *busy.MemoryUsedBytes < 10<<30 || len(busy.Processes) != 1 {
			t.Errorf("idle %+v, busy %+v", idle.Sample, busy.Sample)
		}
		if got := r.Reclaim(ctx, []string{id}); len(got) > 0 {
			t.Errorf("not free: %v", got)
		}
		if err := b.Inject(1, "leak"); err != nil {
			t.Fatal(err)
		}
		if got := r.Reclaim(ctx, []string{id}); got[id] != "process 1000001 still uses it" {
			t.Errorf("after a leak: %v", got)
		}
		if err := b.Inject(1, "recover"); err != nil {
			t.Fatal(err)
		}
		if got := r.Reclaim(ctx, []string{id}); len(got) > 0 {
			t.Errorf("after the leak: %v", got)
		}
		l.set(id, "j")
		after(time.Minute)
		if busy := r.Readings()[1]; len(busy.Processes) != 1 {
			t.Errorf("the next holder: %+v", busy.Sample)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSlicesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slice := func(id string) devices.Device {
			d := device("v", id)
			d.ParentID = "whole"
			return d
		}
		whole, other := device("v", "whole"), device("v", "other")
		b := &scripted{vendor: "v", found: []devices.Device{whole, other, slice("s1"), slice("s2")}}
		l := &ledger{}
		l.set("s2", "i")
		r := devices.NewRegistry(silent(), b)
		r.Held = l.answer
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		r.Quarantine("s1", devices.Quarantine{Reason: "x"})
		<-r.Changed()
		step := func(want string) {
			t.Helper()
			after(time.Minute)
			if got := healths(r); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		b.set([]devices.Device{whole, other, slice("s3")}, nil, false)
		step("other Healthy, s2 Lost, s3 Healthy, whole Healthy")
		select {
		case <-r.Changed():
		default:
			t.Error("no change")
		}
		if len(r.Quarantined()) > 0 {
			t.Error("a slice that is gone is in quarantine")
		}
		if got := r.Reclaim(ctx, []string{"s2"}); len(got) > 0 {
			t.Errorf("a slice that is gone: %v", got)
		}
		l.set("s2", "")
		step("other Healthy, s3 Healthy, whole Healthy")
		lost := whole
		lost.Health = fleetv1.Lost
		b.set([]devices.Device{lost, other}, nil, false)
		step("other Healthy, s3 Lost, whole Lost")
		b.set([]devices.Device{other}, nil, false)
		step("other Healthy, s3 Lost, whole Lost")
		b.set([]devices.Device{whole, other}, nil, false)
		step("other Healthy, whole Healthy")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestShortfall(t *testing.T) {
	all := []devices.Device{
		{ID: "1", Vendor: "nvidia"}, {ID: "2", Vendor: "nvidia", Health: fleetv1.Lost}, {ID: "3", Vendor: "nvidia", ParentID: "1"},
		{ID: "4", Vendor: "ascend", Health: fleetv1.Unhealthy},
	}
	got := devices.Shortfall(map[string]int{"nvidia": 2, "ascend": 1}, all)
	if want := []string{"fewer devices than declared: 1 of nvidia where 2 are declared"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := devices.Shortfall(nil, all); len(got) > 0 {
		t.Errorf("nothing is declared: %q", got)
	}
}
