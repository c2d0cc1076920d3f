package metrics_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-fleet/drover/agent/metrics"
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

func (*fixed) Devices() []devices.Device {
	return []devices.Device{{ID: "d0", Vendor: "fake", Model: "H100-80GB", MemoryBytes: 80, Health: fleetv1.Healthy}}
}

func (*fixed) Readings() []devices.Reading {
	use, replays, pending := 0.25, int64(4), true
	return []devices.Reading{
		{
			Sample: devices.Sample{
				DeviceID: "d0", Time: time.Unix(100, 0), Utilisation: &use, PCIeReplays: &replays, RemapPending: &pending,
				Throttled: []string{}, Processes: []devices.Process{{PID: 1}},
			},
			ConditionTime: time.Unix(60, 0),
		},
		{Sample: devices.Sample{DeviceID: "unknown", Utilisation: &use}},
	}
}

func (*fixed) SignalCounts() []devices.SignalCount {
	return []devices.SignalCount{{DeviceID: "d0", Kind: devices.SignalXID, Code: 79, Count: 2}}
}

func (*fixed) Vendors() []devices.Vendor {
	return []devices.Vendor{{Name: "fake", Answered: true, Took: 250 * time.Millisecond, Calls: 9, Failures: 1}}
}

func sources(stats *fixed, dropped func(string, uint64)) metrics.Sources {
	instance := &fleetv1.Instance{
		Meta:     &fleetv1.Meta{Id: "i", Project: "default"},
		Spec:     &fleetv1.InstanceSpec{ServiceName: "iris", Model: "m", ModelVersion: "0.0.1", DeviceIds: []string{"d0"}},
		Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 3, Pid: 9, Ready: true, Health: fleetv1.Healthy},
	}
	return metrics.Sources{
		Version: "v1", Runtime: stats, Devices: stats, Instances: func() []*fleetv1.Instance { return []*fleetv1.Instance{instance} },
		JournalWrites: func() uint64 { return 5 }, Connected: func() bool { return true }, Generation: func() uint64 { return 42 },
		Logger: slog.New(slog.DiscardHandler), LinesDropped: dropped,
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

func TestGoldenScrape(t *testing.T) {
	stats := &fixed{dropped: 3}
	told := uint64(0)
	src := sources(stats, func(_ string, n uint64) { told += n })
	src.Host = prometheus.NewRegistry() // the host's own figures differ everywhere
	var kept []string
	for line := range strings.Lines(scrape(t, metrics.New(src))) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "go_version") &&
			!strings.HasPrefix(line, "drover_agent_goroutines") && !strings.HasPrefix(line, "drover_agent_memory") {
			kept = append(kept, line)
		}
	}
	want, err := os.ReadFile("testdata/scrape.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(kept, ""); got != string(want) {
		t.Errorf("scrape differs from testdata/scrape.txt:\n%s", got)
	}
	if told != 3 {
		t.Errorf("%d dropped lines were told, want 3", told)
	}
}

func TestHostFigures(t *testing.T) {
	src := sources(&fixed{}, func(string, uint64) {})
	src.DataDir = t.TempDir()
	page := scrape(t, metrics.New(src))
	for _, name := range []string{"drover_host_cpu_seconds_total{mode=\"idle\"}", "drover_host_memory_bytes ", "drover_host_data_disk_bytes ", "drover_host_network_receive_bytes_total{"} {
		if !strings.Contains(page, "\n"+name) {
			t.Errorf("the scrape lacks %s", name)
		}
	}
}

func BenchmarkScrape(b *testing.B) {
	src := sources(&fixed{}, func(string, uint64) {})
	src.DataDir = b.TempDir()
	m := metrics.New(src)
	samples := 0
	for b.Loop() {
		samples += strings.Count(scrape(b, m), "\n")
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/line")
}
