package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// Stats measures containers; runtime.Runtime does.
type Stats interface {
	Stats(ctx context.Context, id string) (runtime.Stats, error)
}

// Devices knows accelerators; *devices.Registry does.
type Devices interface {
	Devices() []devices.Device
	Readings() []devices.Reading
	SignalCounts() []devices.SignalCount
	Vendors() []devices.Vendor
}

// Sources are where figures come from; every field is required.
type Sources struct {
	Version       string
	DataDir       string
	Runtime       Stats
	Devices       Devices
	Instances     func() []*fleetv1.Instance
	JournalWrites func() uint64
	Connected     func() bool
	Generation    func() uint64
	Logger        *slog.Logger
	// LinesDropped is told how many log lines of an instance's present container were dropped in all, when
	// that has grown.
	LinesDropped func(instance string, lines uint64)
	// Host replaces the host's collector, in tests.
	Host prometheus.Collector
}

// Metrics is the agent's registry.
type Metrics struct {
	registry  *prometheus.Registry
	instances *instances
}

const (
	fresh    = time.Second
	patience = 5 * time.Second
)

// New registers all collectors.
func New(src Sources) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), instances: newInstances(src)}
	if src.Host == nil {
		src.Host = newHost(src.DataDir, src.Logger)
	}
	m.registry.MustRegister(src.Host, m.instances, newDeviceCollector(src.Devices, src.Instances), newAgent(src), newBuildInfo(src.Version))
	return m
}

// Handler serves the text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 20 * time.Second})
}

// Sample measures the instances, so that dropped lines are noticed without a scrape.
func (m *Metrics) Sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m.instances.sample(ctx)
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("drover_"+name, help, labels, nil)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
