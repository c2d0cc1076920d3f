package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/drover-fleet/drover/agent/task"
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
	Node          string         // its name
	Declared      map[string]int // how many devices of each vendor the node should have
	DataDir       string
	Runtime       Stats
	Devices       Devices
	Instances     func() []*fleetv1.Instance
	Tasks         func() []task.Progress
	JournalWrites func() uint64
	Connected     func() bool
	Generation    func() uint64
	Expires       func() time.Time // of the node's certificate; zero when it has none
	Logger        *slog.Logger
	// LinesDropped is told how many log lines of an instance's present container were dropped in all, when
	// that has grown.
	LinesDropped func(instance string, lines uint64)
	// Host replaces the host's collector, in tests.
	Host prometheus.Collector
}

// Metrics is the agent's registry.
type Metrics struct {
	registry *prometheus.Registry
	ledger   *ledger
	logger   *slog.Logger
}

const (
	fresh    = time.Second
	patience = 5 * time.Second
)

// New registers all collectors.
func New(src Sources) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), logger: src.Logger, ledger: &ledger{
		read: src.Instances, instances: newInstances(src), devices: newDeviceCollector(src), agent: newAgent(src),
	}}
	if src.Host == nil {
		src.Host = newHost(src.DataDir, src.Logger)
	}
	m.registry.MustRegister(src.Host, m.ledger, newTasks(src), newBuildInfo(src.Version))
	return m
}

// Handler serves the text format. A series that can't be told costs itself and a line in the log, never the rest
// of the scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4, Timeout: 20 * time.Second, ErrorHandling: promhttp.ContinueOnError, ErrorLog: complaints{m.logger},
	})
}

// complaints logs what a scrape had to leave out.
type complaints struct{ logger *slog.Logger }

// Println implements promhttp.Logger.
func (c complaints) Println(v ...any) {
	c.logger.Error("metrics are incomplete", "error", fmt.Sprint(v...))
}

// Sample measures the instances, so that dropped lines are noticed without a scrape.
func (m *Metrics) Sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m.ledger.instances.sample(ctx, m.ledger.read())
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("drover_"+name, help, labels, nil)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	send(ch, d, prometheus.GaugeValue, v, labels)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	send(ch, d, prometheus.CounterValue, v, labels)
}

// send tells one figure. Labels are what drivers and users wrote: bytes that aren't UTF-8, which Prometheus
// refuses, are shown escaped.
func send(ch chan<- prometheus.Metric, d *prometheus.Desc, kind prometheus.ValueType, v float64, labels []string) {
	for i, l := range labels {
		if !utf8.ValidString(l) {
			labels[i] = strconv.QuoteToASCII(l)
		}
	}
	m, err := prometheus.NewConstMetric(d, kind, v, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(d, err)
	}
	ch <- m
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
