package devices_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/fake"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// scripted answers what the test put into it.
type scripted struct {
	vendor string
	mu     sync.Mutex
	found  []devices.Device
	err    error
	hang   bool // until the context ends
	calls  []string
	watch  func(context.Context, func(devices.Signal)) error
	sample func(devices.Figures) []devices.Sample
}

func (s *scripted) Vendor() string { return s.vendor }

func (s *scripted) call(ctx context.Context, name string) error {
	s.mu.Lock()
	s.calls = append(s.calls, name)
	hang, err := s.hang, s.err
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (s *scripted) count(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if c == name {
			n++
		}
	}
	return n
}

func (s *scripted) set(found []devices.Device, err error, hang bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found, s.err, s.hang = found, err, hang
}

func (s *scripted) Discover(ctx context.Context) ([]devices.Device, error) {
	if err := s.call(ctx, "discover"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found, nil
}

func (s *scripted) Sample(ctx context.Context, what devices.Figures) ([]devices.Sample, error) {
	if err := s.call(ctx, fmt.Sprintf("sample %d", what)); err != nil {
		return nil, err
	}
	if s.sample == nil {
		return nil, nil
	}
	return s.sample(what), nil
}

func (s *scripted) Watch(ctx context.Context, f func(devices.Signal)) error {
	if s.watch != nil {
		return s.watch(ctx, f)
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s *scripted) Close() error { return s.call(context.Background(), "close") }

func device(vendor, id string) devices.Device {
	return devices.Device{ID: id, Vendor: vendor, Model: "M", MemoryBytes: 1, Health: fleetv1.Healthy}
}

// running runs a registry within a synctest bubble, for the rest of the test.
func running(t *testing.T, logger *slog.Logger, backends ...devices.Backend) *devices.Registry {
	t.Helper()
	r := devices.NewRegistry(logger, backends...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return r
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func healths(r *devices.Registry) string {
	var out []string
	for _, d := range r.Devices() {
		out = append(out, d.ID+" "+d.Health)
	}
	return strings.Join(out, ", ")
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestLostAndUnresponsive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []devices.Device{device("v", "a"), device("v", "b")}
		b := &scripted{vendor: "v", found: all}
		r := running(t, silent(), b)
		step := func(d time.Duration, wantChange bool, want string) {
			t.Helper()
			after(d)
			changed := false
			select {
			case <-r.Changed():
				changed = true
			default:
			}
			if changed != wantChange {
				t.Errorf("changed: %t", changed)
			}
			if got := healths(r); got != want {
				t.Errorf("devices %s, want %s", got, want)
			}
		}
		step(0, true, "a Healthy, b Healthy")
		step(time.Minute, false, "a Healthy, b Healthy")
		b.set(all[:1], nil, false)
		step(time.Minute, true, "a Healthy, b Lost")
		b.set(nil, errors.New("crashed"), false)
		step(6*time.Second, false, "a Healthy, b Lost") // a failure or two may be a moment's
		step(6*time.Second, true, "a Unresponsive, b Lost")
		step(10*time.Minute, false, "a Unresponsive, b Lost")
		b.set(all, nil, false)
		step(time.Minute, true, "a Healthy, b Healthy")
		b.set(nil, fmt.Errorf("v: %w", devices.ErrUnresponsive), false)
		step(5*time.Second, true, "a Unresponsive, b Unresponsive") // at the first failure
		b.set(nil, nil, false)
		step(time.Minute, true, "a Lost, b Lost")
		b.set(all, nil, false)
		step(time.Minute, true, "a Healthy, b Healthy")
	})
}

func TestFailingIsNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := &scripted{vendor: "v", err: errors.New("broken"), watch: func(context.Context, func(devices.Signal)) error { return errors.New("no watch") }}
		r := running(t, slog.New(slog.NewTextHandler(&log, nil)), b)
		after(time.Hour)
		if n := b.count("discover"); n < 60 || n > 70 {
			t.Errorf("asked %d times in an hour", n)
		}
		if lines := strings.Count(log.String(), "\n"); lines != 2 {
			t.Errorf("%d lines in the log:\n%s", lines, log.String())
		}
		if v := r.Vendors()[0]; v.Answered || v.Failures != v.Calls || v.Name != "v" {
			t.Errorf("vendor %+v", v)
		}
		b.set(nil, nil, false) // so that it closes
	})
}

// A vendor that hangs, even one that misses its deadlines, delays no other.
func TestVendorsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := &scripted{vendor: "stuck", hang: true}
		well := &scripted{vendor: "well", found: []devices.Device{device("well", "w")}}
		r := running(t, silent(), stuck, well)
		start := time.Now()
		r.Settle(t.Context(), 2*time.Second)
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("settled after %s", took)
		}
		after(time.Minute - 2*time.Second)
		if n := well.count("sample 1"); n < 9 {
			t.Errorf("%d samples in a minute", n)
		}
		if n := stuck.count("discover"); n > 3 {
			t.Errorf("the stuck one was asked %d times", n)
		}
		if got := healths(r); got != "w Healthy" {
			t.Error(got)
		}
		stuck.set([]devices.Device{device("stuck", "s")}, nil, false)
		after(time.Minute)
		if got := healths(r); got != "s Healthy, w Healthy" {
			t.Error(got)
		}
		start = time.Now()
		r.Settle(t.Context(), 2*time.Second)
		if took := time.Since(start); took != 0 {
			t.Errorf("settling again took %s", took)
		}
		stuck.set(nil, nil, true)
		after(time.Minute)
		if got := healths(r); got != "s Unresponsive, w Healthy" {
			t.Error(got)
		}
		stuck.set(nil, nil, false) // so that it closes
	})
}

func TestCadence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &scripted{vendor: "v", found: []devices.Device{device("v", "a")}}
		running(t, silent(), b)
		after(time.Minute + time.Second)
		usage, processes, condition := devices.Usage, devices.Processes, devices.Condition
		for name, want := range map[string]int{
			"discover":                                       3,
			fmt.Sprint("sample ", usage):                     10,
			fmt.Sprint("sample ", usage|processes):           1,
			fmt.Sprint("sample ", usage|processes|condition): 2,
		} {
			if got := b.count(name); got != want {
				t.Errorf("%s: %d times, want %d", name, got, want)
			}
		}
	})
}

func TestReadingsMergeByGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Bool
		b := &scripted{vendor: "v", found: []devices.Device{device("v", "a")}}
		b.sample = func(what devices.Figures) []devices.Sample {
			use, count := 0.5, int64(3)
			s := devices.Sample{DeviceID: "a", Time: time.Now()}
			if gone.Load() {
				return nil
			}
			if what&devices.Usage != 0 {
				s.Utilisation = &use
			}
			if what&devices.Condition != 0 {
				s.PCIeReplays = &count
			}
			if what&devices.Processes != 0 {
				s.Processes = []devices.Process{{PID: 7}}
			}
			return []devices.Sample{s, {DeviceID: "unknown", Time: time.Now()}}
		}
		start := time.Now()
		r := running(t, silent(), b)
		after(36 * time.Second)
		got := r.Readings()
		if len(got) != 1 || got[0].Utilisation == nil || got[0].PCIeReplays == nil || len(got[0].Processes) != 1 || got[0].DeviceID != "a" {
			t.Fatalf("readings %+v", got)
		}
		for name, times := range map[string][2]time.Time{
			"usage": {got[0].Time, start.Add(35 * time.Second)}, "processes": {got[0].ProcessesTime, start.Add(30 * time.Second)},
			"condition": {got[0].ConditionTime, start},
		} {
			if !times[0].Equal(times[1]) {
				t.Errorf("%s is of %s, want %s", name, times[0], times[1])
			}
		}
		gone.Store(true)
		after(10 * time.Second)
		if got = r.Readings(); len(got) != 1 || got[0].Utilisation != nil || !got[0].Time.IsZero() || got[0].PCIeReplays == nil {
			t.Errorf("usage can't be measured: %+v", got)
		}
		after(time.Minute)
		if got = r.Readings(); len(got) != 0 {
			t.Errorf("nothing can be measured: %+v", got)
		}
	})
}

func TestSignals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := fake.Parse("2xH100-80GB;12s:1:lost")
		if err != nil {
			t.Fatal(err)
		}
		r := running(t, silent(), b)
		after(12 * time.Second)
		select {
		case s := <-r.Signals():
			if s.Kind != devices.SignalLost || s.DeviceID != r.Devices()[1].ID || s.Time.IsZero() {
				t.Errorf("signal %+v", s)
			}
		default:
			t.Fatal("no signal")
		}
		if d := r.Devices()[1]; d.Health != fleetv1.Lost {
			t.Errorf("the signal made no one look: %+v", d)
		}
		if n := len(r.Readings()); n != 1 {
			t.Errorf("%d readings", n)
		}
		if got := r.SignalCounts(); len(got) != 1 || got[0].Count != 1 || got[0].Kind != devices.SignalLost {
			t.Errorf("counts %+v", got)
		}
	})
}

// A storm of signals that no one reads stops nothing, and makes for neither a storm of lines nor of looks.
func TestSignalStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := &scripted{vendor: "v", found: []devices.Device{device("v", "a")}}
		b.watch = func(ctx context.Context, f func(devices.Signal)) error {
			for range 10_000 {
				f(devices.Signal{DeviceID: "a", Kind: devices.SignalXID, Code: 13})
				select {
				case <-ctx.Done():
				case <-time.After(time.Millisecond):
				}
			}
			<-ctx.Done()
			return ctx.Err()
		}
		r := running(t, slog.New(slog.NewTextHandler(&log, nil)), b)
		after(11 * time.Second)
		if got := r.SignalCounts(); len(got) != 1 || got[0].Count != 10_000 {
			t.Errorf("counts %+v", got)
		}
		waiting := 0
		for range 10_000 {
			select {
			case <-r.Signals():
				waiting++
			default:
			}
		}
		if waiting != 256 {
			t.Errorf("%d signals waited", waiting)
		}
		if n := b.count("discover"); n < 5 || n > 13 {
			t.Errorf("%d looks in 11 s", n)
		}
		if lines := strings.Count(log.String(), "\n"); lines > 15 {
			t.Errorf("%d lines:\n%s", lines, log.String())
		}
	})
}

func TestDevicesWithoutTheirOwnID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &scripted{vendor: "v", found: []devices.Device{
			device("v", "twin"), device("v", "twin"), device("v", ""), device("other", "b"), device("v", "good"),
		}}
		r := running(t, silent(), b)
		if got := healths(r); got != "good Healthy" {
			t.Error(got)
		}
	})
}

func TestCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &scripted{vendor: "v"}
		r := devices.NewRegistry(silent(), b, &scripted{vendor: "w"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		b.set(nil, errors.New("stuck fast"), false)
		cancel()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "close v devices: stuck fast") {
			t.Errorf("ended with %v", err)
		}
		if !slices.Contains(b.calls, "close") {
			t.Error("not closed")
		}
	})
}
