package metrics_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/drover-fleet/drover/agent/metrics"
	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// TestEveryFamilyIsWellNamed runs the checks of `promtool check metrics` over a scrape with every family.
func TestEveryFamilyIsWellNamed(t *testing.T) {
	src := fleet()
	src.Host, src.DataDir = nil, t.TempDir()
	for page, want := range map[string]int{
		scrape(t, metrics.New(src)): 0,
		"# HELP drover_host_up_minutes_total How long.\n# TYPE drover_host_up_minutes_total gauge\ndrover_host_up_minutes_total 1\n": 2,
	} {
		problems, err := promlint.New(strings.NewReader(page)).Lint()
		if err != nil || len(problems) != want {
			t.Errorf("%d problems, want %d: %v, %v", len(problems), want, problems, err)
		}
	}
}

// told answers, of the series of a family, which instances stand for each device.
func told(page, family string) map[string][]string {
	out := map[string][]string{}
	label := func(line, name string) string {
		_, value, _ := strings.Cut(line, name+`="`)
		value, _, _ = strings.Cut(value, `"`)
		return value
	}
	for _, line := range series(page) {
		if strings.HasPrefix(line, family+"{") {
			out[label(line, "uuid")] = append(out[label(line, "uuid")], label(line, "instance"))
		}
	}
	return out
}

// strict fails the test when something is left out of a scrape.
func strict(t *testing.T, src metrics.Sources) metrics.Sources {
	var complaints bytes.Buffer
	src.Logger = slog.New(slog.NewTextHandler(&complaints, nil))
	t.Cleanup(func() {
		if complaints.Len() > 0 {
			t.Errorf("the scrape was incomplete: %s", complaints.String())
		}
	})
	return src
}

func TestTwoInstancesClaimADevice(t *testing.T) {
	for name, c := range map[string]struct {
		all  []*fleetv1.Instance
		want []string // holders of d0 and d1
	}{
		"the younger plan has it": {[]*fleetv1.Instance{
			holder("old", 7, fleetv1.InstanceStopping, "d0", "d1"), holder("new", 9, fleetv1.InstanceAccepted, "d0"),
		}, []string{"new", "old"}},
		"in whatever order": {[]*fleetv1.Instance{
			holder("new", 9, fleetv1.InstanceAccepted, "d0"), holder("old", 7, fleetv1.InstanceStopping, "d0", "d1"),
		}, []string{"new", "old"}},
		"of one plan": {[]*fleetv1.Instance{
			holder("a", 7, fleetv1.InstanceRunning, "d0"), holder("b", 7, fleetv1.InstanceRunning, "d0"),
		}, []string{"a", ""}},
		"one claims it twice":      {[]*fleetv1.Instance{holder("a", 7, fleetv1.InstanceRunning, "d0", "d0")}, []string{"a", ""}},
		"what was reaped has none": {[]*fleetv1.Instance{holder("a", 7, fleetv1.InstanceReaped, "d0")}, []string{"", ""}},
		"what failed still does":   {[]*fleetv1.Instance{holder("a", 7, fleetv1.InstanceFailed, "d0")}, []string{"a", ""}},
		"a device that isn't here": {[]*fleetv1.Instance{holder("a", 7, fleetv1.InstanceRunning, "elsewhere")}, []string{"", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			page := scrape(t, metrics.New(strict(t, sources(two(time.Now()), c.all...))))
			if got := told(page, "drover_device_sample_age_seconds"); !slices.Equal(got["d0"], slices.Repeat(c.want[:1], 3)) || len(got) != 1 {
				t.Errorf("the readings are told for %q, want thrice %q", got, c.want[0])
			}
			for i, id := range []string{"d0", "d1"} {
				if got := told(page, "drover_device_health")[id]; !slices.Equal(got, slices.Repeat(c.want[i:i+1], 4)) {
					t.Errorf("the health of %s is told for %q, want four times %q", id, got, c.want[i])
				}
			}
		})
	}
}

func TestOddNames(t *testing.T) {
	odd := []string{"a\"b\\c\nd", "\xff\xfe", "ünï-☃", "", "a b{c=\"d\"}", strings.Repeat("x", 10_000), "\xff"}
	found := &known{}
	for i, id := range odd {
		found.devices = append(found.devices, devices.Device{ID: id, Vendor: "v\xff", Model: "m\n\"", Index: i, MemoryBytes: 1, Health: fleetv1.Healthy})
		found.readings = append(found.readings, reading(id, time.Now()))
		found.signals = append(found.signals, devices.SignalCount{DeviceID: id, Kind: "\xff", Code: -1, Count: 1})
	}
	in := holder("i\xff", 1, fleetv1.InstanceRunning, odd...)
	in.Spec.ServiceName = "s\xff\n"
	page := scrape(t, metrics.New(strict(t, sources(found, in))))
	for _, family := range []string{"drover_device_memory_bytes", "drover_device_power_watts", "drover_device_signals_total"} {
		if got := strings.Count(page, "\n"+family+"{"); got != len(odd) {
			t.Errorf("%s has %d series, want %d", family, got, len(odd))
		}
	}
	if !strings.Contains(page, `uuid="\"\\xff\\xfe\""`) || !strings.Contains(page, `uuid="a\"b\\c\nd"`) {
		t.Error("the IDs are not shown as they are")
	}
	if problems, err := promlint.New(strings.NewReader(page)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// twice tells one series two times.
type twice struct{ *prometheus.Desc }

func (c twice) Describe(ch chan<- *prometheus.Desc) { ch <- c.Desc }

func (c twice) Collect(ch chan<- prometheus.Metric) {
	for range 2 {
		ch <- prometheus.MustNewConstMetric(c.Desc, prometheus.GaugeValue, 1)
	}
}

// TestDuplicatesCostOnlyThemselves: no source of a series is trusted to tell it once.
func TestDuplicatesCostOnlyThemselves(t *testing.T) {
	found := two(time.Now())
	found.devices = append(found.devices, found.devices[0])
	found.readings = append(found.readings, found.readings[0])
	found.signals = append(found.signals, found.signals[0])
	found.vendors = append(found.vendors, found.vendors[0])
	src := sources(found, holder("i", 1, fleetv1.InstanceRunning, "d0"), holder("i", 1, fleetv1.InstanceRunning, "d0"))
	src.Host = twice{prometheus.NewDesc("drover_host_memory_bytes", "Twice.", nil, nil)}
	var complaints bytes.Buffer
	src.Logger = slog.New(slog.NewTextHandler(&complaints, nil))
	page := scrape(t, metrics.New(src))
	all := series(page)
	for i, line := range all {
		name, _, _ := strings.Cut(line, "} ")
		if i > 0 && strings.HasPrefix(all[i-1], name+"} ") {
			t.Errorf("%s stands twice", name)
		}
	}
	for _, name := range []string{"drover_host_memory_bytes 1", "drover_device_power_watts{", "drover_device_xids_total{", "drover_device_scrape_success{", "drover_instance_ready{", "drover_agent_connected 1"} {
		if !strings.Contains(page, "\n"+name) {
			t.Errorf("the scrape lacks %s", name)
		}
	}
	if got := strings.Count(complaints.String(), "metrics are incomplete"); got != 1 || !strings.Contains(complaints.String(), "drover_host_memory_bytes") {
		t.Errorf("%d lines in the log, want one that names the families: %s", got, complaints.String())
	}
}

// TestOneLedgerReading: whoever holds a device is the same in every family, whatever happens meanwhile.
func TestOneLedgerReading(t *testing.T) {
	found := two(time.Now())
	src, reads := strict(t, sources(found)), 0
	src.Instances = func() []*fleetv1.Instance {
		reads++
		if reads == 1 {
			return []*fleetv1.Instance{holder("first", 1, fleetv1.InstanceRunning, "d0")}
		}
		return []*fleetv1.Instance{holder("second", 2, fleetv1.InstanceRunning, "d0")}
	}
	if page := scrape(t, metrics.New(src)); strings.Contains(page, `="second"`) || !strings.Contains(page, `drover_instance_ready{instance="first"`) || reads != 1 {
		t.Errorf("the ledger was read %d times:\n%s", reads, page)
	}
}

// hanging never answers.
type hanging struct{ asked chan string }

func (hanging) Vendor() string { return "nvidia" }
func (hanging) Close() error   { return nil }

func (h hanging) Discover(ctx context.Context) ([]devices.Device, error) {
	h.asked <- "discover"
	<-ctx.Done()
	return nil, ctx.Err()
}

func (h hanging) Sample(context.Context, devices.Figures) ([]devices.Sample, error) {
	h.asked <- "sample"
	return nil, nil
}

func (hanging) Watch(ctx context.Context, _ func(devices.Signal)) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestScrapeAsksNoDriver(t *testing.T) {
	asked := make(chan string, 10)
	r := devices.NewRegistry(slog.New(slog.DiscardHandler), hanging{asked})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	<-asked
	page := scrape(t, metrics.New(strict(t, sources(r))))
	if !strings.Contains(page, `drover_device_scrapes_total{node="n1",vendor="nvidia"} 0`) || strings.Contains(page, "drover_device_scrape_success") {
		t.Errorf("a driver that hasn't answered yet is told as if it had:\n%s", page)
	}
	if len(asked) > 0 {
		t.Errorf("the driver was asked to %s", <-asked)
	}
}
