package fake_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/devicestest"
	"github.com/drover-fleet/drover/devices/fake"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestConformance(t *testing.T) {
	devicestest.Run(t, func(t *testing.T) devices.Backend {
		b, err := fake.Parse("8xH100-80GB,8xAscend910B-64GB")
		if err != nil {
			t.Fatal(err)
		}
		all, err := b.Discover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.SetHealth(all[3].ID, fleetv1.Unresponsive, "test")
		for i, failure := range []string{"lost", "ecc", "flapping"} {
			if err := b.Inject(i, failure); err != nil {
				t.Fatal(err)
			}
		}
		return b
	})
}

func TestParse(t *testing.T) {
	for text, ok := range map[string]bool{
		"8xH100-80GB": true, "1xMI-300x-1024GB": true, "": false, "x": false, "0xH100-80GB": false, "65xH100-80GB": false,
		"8xH100": false, "8x80GB": false, "8x-80GB": false, "8xH100-0GB": false, "8xH 100-80GB": false, "8xH100-80": false, "H100-80GB": false,
		"8xH100-80GB,2xAscend910B-64GB": true, "60xH100-80GB,5xA100-40GB": false, "8xH100-80GB,": false,
		"8xH100-80GB;30s:3:lost;1m:all:xid 79;1h:0:recover": true, "1xH100-80GB;1s:0:leak": true, "1xH100-80GB;1s:0:leak 2": false, "8xH100-80GB;": false, "8xH100-80GB;30s:8:lost": false,
		"8xH100-80GB;soon:3:lost": false, "8xH100-80GB;-1s:3:lost": false, "8xH100-80GB;1s:3:burn": false,
		"8xH100-80GB;1s:3:xid": false, "8xH100-80GB;1s:3:xid -1": false, "8xH100-80GB;1s:3:lost 4": false, "8xH100-80GB;1s:3": false,
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
		samples, err := b.Sample(t.Context(), devices.Usage)
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
	f.Add("1xH100-80GB,2xA-1GB;1s:1:xid 79")
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

func TestLinks(t *testing.T) {
	b, err := fake.Parse("8xH100-80GB,8xAscend910B-64GB,8xAscend910A-32GB,2xL40-48GB")
	if err != nil {
		t.Fatal(err)
	}
	all, err := b.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		i, j int
		want devices.Link
	}{
		{0, 7, devices.Link{Kind: devices.LinkNVLink, Count: 18}},
		{8, 15, devices.Link{Kind: devices.LinkHCCS, Count: 1}},
		{16, 19, devices.Link{Kind: devices.LinkHCCS, Count: 1}},
		{16, 20, devices.Link{Kind: devices.LinkPHB}},
		{0, 8, devices.Link{Kind: devices.LinkPHB}},
		{0, 16, devices.Link{Kind: devices.LinkSYS}},
		{24, 25, devices.Link{Kind: devices.LinkPHB}},
	} {
		found := false
		for _, l := range all[c.i].Links {
			if l.Peer == all[c.j].ID {
				found = true
				if l.Kind != c.want.Kind || l.Count != c.want.Count {
					t.Errorf("%d to %d: %+v, want %+v", c.i, c.j, l, c.want)
				}
			}
		}
		if !found {
			t.Errorf("%d has no link to %d", c.i, c.j)
		}
	}
}

func TestScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := fake.Parse("4xH100-80GB;10s:0:lost;20s:1:xid 79;30s:2:ecc;40s:3:flapping;65s:all:unresponsive;100s:all:recover")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		var told []string
		done := make(chan error, 1)
		go func() {
			done <- b.Watch(ctx, func(s devices.Signal) {
				told = append(told, fmt.Sprintf("%s %d %s", s.Kind, s.Code, s.DeviceID[len(s.DeviceID)-1:]))
			})
		}()
		health := func() string {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			all, err := b.Discover(ctx)
			if err != nil {
				if !errors.Is(err, devices.ErrUnresponsive) {
					t.Error(err)
				}
				return "silent"
			}
			var words []string
			for _, d := range all {
				words = append(words, d.Health)
			}
			return strings.Join(words, " ")
		}
		for at, want := range []string{
			5: "Healthy Healthy Healthy Healthy", 15: "Lost Healthy Healthy Healthy", 25: "Lost Healthy Healthy Healthy",
			35: "Lost Healthy Unhealthy Healthy", 45: "Lost Healthy Unhealthy Unhealthy", 55: "Lost Healthy Unhealthy Healthy",
			70: "silent", 105: "Healthy Healthy Healthy Healthy",
		} {
			if want == "" {
				continue
			}
			time.Sleep(time.Until(start.Add(time.Duration(at) * time.Second)))
			if got := health(); got != want {
				t.Errorf("after %d s: %s, want %s", at, got, want)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		want := "lost 0 0, xid 79 1, ecc 0 2, fault 0 3, recovered 0 0, recovered 0 1, recovered 0 2, recovered 0 3"
		if got := strings.Join(told, ", "); got != want {
			t.Errorf("signals %s, want %s", got, want)
		}
		if b.Inject(4, "lost") == nil || b.Inject(0, "burn") == nil {
			t.Error("a bad injection is accepted")
		}
	})
}
