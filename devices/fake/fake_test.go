package fake_test

import (
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/devicestest"
	"github.com/drover-fleet/drover/devices/fake"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestConformance(t *testing.T) {
	devicestest.Run(t, func(t *testing.T) devices.Backend {
		b, err := fake.Parse("8xH100-80GB")
		if err != nil {
			t.Fatal(err)
		}
		all, err := b.Discover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.SetHealth(all[3].ID, fleetv1.Unresponsive, "test")
		return b
	})
}

func TestParse(t *testing.T) {
	for text, ok := range map[string]bool{
		"8xH100-80GB": true, "1xMI-300x-1024GB": true, "": false, "x": false, "0xH100-80GB": false, "65xH100-80GB": false,
		"8xH100": false, "8x80GB": false, "8x-80GB": false, "8xH100-0GB": false, "8xH 100-80GB": false, "8xH100-80": false, "H100-80GB": false,
	} {
		if b, err := fake.Parse(text); (err == nil) != ok {
			t.Errorf("Parse(%q) = %+v, %v", text, b, err)
		}
	}
}

func TestSamplesAreDeterministic(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	use := func(at time.Time) []float64 {
		b, err := fake.Parse("2xH100-80GB")
		if err != nil {
			t.Fatal(err)
		}
		b.Now = func() time.Time { return at }
		samples, err := b.Sample(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return []float64{*samples[0].Utilisation, *samples[1].Utilisation}
	}
	a, same, later := use(at), use(at), use(at.Add(time.Minute))
	if a[0] != same[0] || a[0] == later[0] || a[0] == a[1] {
		t.Errorf("utilisation %v, the same %v, a minute later %v", a, same, later)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("8xH100-80GB")
	f.Add("x-GB")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := fake.Parse(text)
		if err != nil {
			return
		}
		if d, err := b.Discover(t.Context()); err != nil || len(d) == 0 {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	})
}
