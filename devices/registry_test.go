package devices_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/fake"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// scripted answers what the test put into it.
type scripted struct {
	found []devices.Device
	err   error
}

func (s *scripted) Vendor() string                                     { return "fake" }
func (s *scripted) Discover(context.Context) ([]devices.Device, error) { return s.found, s.err }
func (s *scripted) Sample(context.Context) ([]devices.Sample, error)   { return nil, s.err }
func (s *scripted) Close() error                                       { return nil }

func TestLostAndUnresponsive(t *testing.T) {
	b := &scripted{found: []devices.Device{
		{ID: "a", Vendor: "fake", Health: fleetv1.Healthy}, {ID: "b", Vendor: "fake", Index: 1, Health: fleetv1.Healthy},
	}}
	r := devices.NewRegistry(slog.New(slog.DiscardHandler), b)
	step := func(wantChange bool, healths ...string) {
		t.Helper()
		r.Discover(t.Context())
		select {
		case <-r.Changed():
			if !wantChange {
				t.Error("a change was announced and there is none")
			}
		default:
			if wantChange {
				t.Error("the change was not announced")
			}
		}
		got := r.Devices()
		if len(got) != len(healths) {
			t.Fatalf("devices %+v", got)
		}
		for i, h := range healths {
			if got[i].Health != h {
				t.Errorf("%s is %s, want %s", got[i].ID, got[i].Health, h)
			}
		}
	}
	all := b.found
	step(true, fleetv1.Healthy, fleetv1.Healthy)
	step(false, fleetv1.Healthy, fleetv1.Healthy)
	b.found = all[:1]
	step(true, fleetv1.Healthy, fleetv1.Lost)
	b.err = errors.New("driver hangs")
	step(true, fleetv1.Unresponsive, fleetv1.Lost)
	b.found, b.err = all, nil
	step(true, fleetv1.Healthy, fleetv1.Healthy)
}

func TestRunSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := fake.Parse("2xH100-80GB")
		if err != nil {
			t.Fatal(err)
		}
		r := devices.NewRegistry(slog.New(slog.DiscardHandler), b)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		first := r.Samples()
		time.Sleep(6 * time.Second)
		synctest.Wait()
		second := r.Samples()
		if len(first) != 2 || len(second) != 2 || !second[0].Time.After(first[0].Time) {
			t.Errorf("samples %v then %v", first, second)
		}
		b.SetHealth(r.Devices()[0].ID, fleetv1.Unhealthy, "ECC")
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if d := r.Devices()[0]; d.Health != fleetv1.Unhealthy || d.Reason != "ECC" {
			t.Errorf("device %+v", d)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
