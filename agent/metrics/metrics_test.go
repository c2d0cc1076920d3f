package metrics_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-fleet/drover/agent/metrics"
	"github.com/drover-fleet/drover/agent/task"
	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// fixed answers the same figures for every container.
type fixed struct{ dropped uint64 }

func (f *fixed) Stats(context.Context, string) (runtime.Stats, error) {
	v := func(n uint64) *uint64 { return &n }
	return runtime.Stats{ // the network is absent: it must be left out
		CPUNanos: v(2_500_000_000), MemoryBytes: v(1 << 20), MemoryLimit: v(4 << 20), DiskReadBytes: v(7), LogDroppedLines: v(f.dropped),
	}, nil
}

// known is a registry that found these.
type known struct {
	devices  []devices.Device
	readings []devices.Reading
	signals  []devices.SignalCount
	vendors  []devices.Vendor
}

func (k *known) Devices() []devices.Device           { return k.devices }
func (k *known) Readings() []devices.Reading         { return k.readings }
func (k *known) SignalCounts() []devices.SignalCount { return k.signals }
func (k *known) Vendors() []devices.Vendor           { return k.vendors }

// two devices: one that is held and has every figure, one that is free and lost.
func two(now time.Time) *known {
	return &known{
		devices: []devices.Device{
			{ID: "d0", Vendor: "nvidia", Model: "H100-80GB", MemoryBytes: 80, Health: fleetv1.Unhealthy, Action: fleetv1.ActionDrain},
			{ID: "d1", Vendor: "nvidia", Model: "H100-80GB", Index: 1, Health: fleetv1.Lost},
		},
		readings: []devices.Reading{reading("d0", now), {Sample: devices.Sample{DeviceID: "unknown", PowerWatts: new(float64)}}},
		signals: []devices.SignalCount{
			{DeviceID: "d0", Kind: devices.SignalXID, Code: 79, Count: 2}, {DeviceID: "d0", Kind: devices.SignalLost, Count: 1},
			{Kind: devices.SignalXID, Code: 13, Count: 3}, {DeviceID: "gone", Kind: devices.SignalReset, Count: 1},
		},
		vendors: []devices.Vendor{{Name: "nvidia", Answered: true, Took: 250 * time.Millisecond, Calls: 9, Failures: 1}, {Name: "ascend"}},
	}
}

// reading has every figure that there is, of now, 60 and 30 seconds ago.
func reading(id string, now time.Time) devices.Reading {
	ratio := func(f float64) *float64 { return &f }
	n := func(n int64) *int64 { return &n }
	pending, failed := true, false
	return devices.Reading{
		Sample: devices.Sample{
			DeviceID: id, Time: now, Utilisation: ratio(0.25), OverallUtilisation: ratio(0.5), MemoryUtilisation: ratio(0.125),
			MemoryUsedBytes: n(30), MemoryFreeBytes: n(45), MemoryReservedBytes: n(5), TemperatureC: ratio(61), PowerWatts: ratio(412.5),
			ClockHz: n(1_980_000_000), MemoryClockHz: n(2_619_000_000), Throttled: []string{"power cap"},
			ECCCorrectedVolatile: n(1), ECCUncorrectedVolatile: n(2), ECCCorrectedAggregate: n(3), ECCUncorrectedAggregate: n(4),
			RemappedCorrected: n(5), RemappedUncorrected: n(6), RemapPending: &pending, RemapFailed: &failed, RetiredPages: n(7),
			PCIeReplays: n(8), LinkTransmitBytes: n(9), LinkReceiveBytes: n(10), LinksDown: n(11), HealthCode: n(0),
			Processes: []devices.Process{{PID: 1}},
		},
		ConditionTime: now.Add(-time.Minute), ProcessesTime: now.Add(-30 * time.Second),
	}
}

func holder(id string, epoch uint64, state string, deviceIDs ...string) *fleetv1.Instance {
	return &fleetv1.Instance{
		Meta:     &fleetv1.Meta{Id: id, Project: "default"},
		Spec:     &fleetv1.InstanceSpec{ServiceName: "iris", Model: "m", ModelVersion: "0.0.1", DeviceIds: deviceIDs, Epoch: epoch},
		Observed: &fleetv1.InstanceObserved{State: state, Attempt: 3, Pid: 9, Ready: true, Health: fleetv1.Healthy},
	}
}

func sources(known metrics.Devices, all ...*fleetv1.Instance) metrics.Sources {
	return metrics.Sources{
		Version: "v1", Node: "n1", Declared: map[string]int{"nvidia": 8}, Runtime: &fixed{}, Devices: known,
		Instances:     func() []*fleetv1.Instance { return all },
		Tasks:         func() []task.Progress { return nil },
		JournalWrites: func() uint64 { return 5 }, Connected: func() bool { return true }, Generation: func() uint64 { return 42 }, Expires: func() time.Time { return time.Unix(1000, 0) },
		Logger: slog.New(slog.DiscardHandler), LinesDropped: func(string, uint64) {},
		Host: prometheus.NewRegistry(), // the host's own figures differ everywhere
	}
}

func scrape(t testing.TB, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// series are the lines of a page that aren't comments.
func series(page string) []string {
	var kept []string
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "#") {
			kept = append(kept, strings.TrimSpace(line))
		}
	}
	return kept
}

func TestGoldenScrape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the ages of samples don't depend on the machine
		told := uint64(0)
		src := sources(two(time.Now()), holder("i", 1, fleetv1.InstanceRunning, "d0"))
		src.Runtime = &fixed{dropped: 3}
		src.Tasks = func() []task.Progress {
			buckets := make([]int64, len(task.Bounds())+1)
			buckets[0], buckets[len(buckets)-1] = 6, 1
			return []task.Progress{{
				Labels: task.Labels{Project: "p", Service: "job.nightly", Model: "m", Version: "0.0.1", Instance: "i"},
				TaskProgress: &fleetv1.TaskProgress{
					Successful: 5, Failed: 1, Retries: 2, InputBytes: 70, OutputBytes: 30, InFlight: 3, Concurrency: 4, LatencyBuckets: buckets, LatencySumSeconds: 301.5,
				},
			}}
		}
		src.LinesDropped = func(_ string, n uint64) { told += n }
		time.Sleep(4 * time.Second)
		var kept []string
		for _, line := range series(scrape(t, metrics.New(src))) {
			if !strings.Contains(line, "go_version") && !strings.HasPrefix(line, "drover_agent_goroutines") && !strings.HasPrefix(line, "drover_agent_memory") {
				kept = append(kept, line)
			}
		}
		want, err := os.ReadFile("testdata/scrape.txt")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(kept, "\n") + "\n"; got != string(want) {
			t.Errorf("scrape differs from testdata/scrape.txt:\n%s", got)
		}
		if told != 3 {
			t.Errorf("%d dropped lines were told, want 3", told)
		}
	})
}

func TestHostFigures(t *testing.T) {
	src := sources(&known{})
	src.Host, src.DataDir = nil, t.TempDir()
	page := scrape(t, metrics.New(src))
	for _, name := range []string{"drover_host_cpu_seconds_total{mode=\"idle\"}", "drover_host_memory_bytes ", "drover_host_data_disk_bytes ", "drover_host_network_receive_bytes_total{"} {
		if !strings.Contains(page, "\n"+name) {
			t.Errorf("the scrape lacks %s", name)
		}
	}
}

// fleet is a full node: each of 16 devices has every figure and is held by an instance of its own.
func fleet() metrics.Sources {
	found := &known{vendors: []devices.Vendor{{Name: "nvidia", Answered: true, Took: time.Millisecond, Calls: 9}}}
	var all []*fleetv1.Instance
	for i := range 16 {
		id := fmt.Sprintf("GPU-%08d-8b1e-4f0a-9c55-3f6e0d6f7a10", i)
		found.devices = append(found.devices, devices.Device{ID: id, Vendor: "nvidia", Model: "H100-80GB", Index: i, MemoryBytes: 80 << 30, Health: fleetv1.Healthy})
		found.readings = append(found.readings, reading(id, time.Now()))
		all = append(all, holder(fmt.Sprintf("%08d-8b1e-4f0a-9c55-3f6e0d6f7a10", i), 1, fleetv1.InstanceRunning, id))
	}
	return sources(found, all...)
}

func BenchmarkScrape(b *testing.B) {
	m := metrics.New(fleet())
	samples := 0
	for b.Loop() {
		samples += strings.Count(scrape(b, m), "\n")
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/line")
}
