package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-fleet/drover/agent/task"
)

// tasks collects drover_task_*.
type tasks struct {
	src                                                      Sources
	items, retries, input, output, inFlight, limit, duration *prometheus.Desc
}

func newTasks(src Sources) *tasks {
	labels := []string{"node", "project", "job", "model", "version", "instance"}
	d := func(name, help string, more ...string) *prometheus.Desc {
		return desc("task_"+name, help, append(append([]string{}, labels...), more...)...)
	}
	return &tasks{
		src:      src,
		items:    d("items_total", "Items that have ended, by result.", "result"),
		retries:  d("retries_total", "Requests that were sent again."),
		input:    d("input_bytes_total", "Read of inputs whose items have ended."),
		output:   d("output_bytes_total", "Results of items that have ended."),
		inFlight: d("requests_in_flight", "Requests that the container works on."),
		limit:    d("requests_limit", "Requests that may be in flight at present."),
		duration: d("request_duration_seconds", "From sending a request to the end of its answer, or to its failure."),
	}
}

// Describe implements prometheus.Collector.
func (c *tasks) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.items, c.retries, c.input, c.output, c.inFlight, c.limit, c.duration} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *tasks) Collect(ch chan<- prometheus.Metric) {
	for _, p := range c.src.Tasks() {
		labels := func(more ...string) []string {
			return append([]string{c.src.Node, p.Project, strings.TrimPrefix(p.Service, "job."), p.Model, p.Version, p.Instance}, more...)
		}
		counter(ch, c.items, float64(p.GetSuccessful()), labels("successful")...)
		counter(ch, c.items, float64(p.GetFailed()), labels("failed")...)
		counter(ch, c.retries, float64(p.GetRetries()), labels()...)
		counter(ch, c.input, float64(p.GetInputBytes()), labels()...)
		counter(ch, c.output, float64(p.GetOutputBytes()), labels()...)
		gauge(ch, c.inFlight, float64(p.GetInFlight()), labels()...)
		gauge(ch, c.limit, float64(p.GetConcurrency()), labels()...)
		ch <- latencies(c.duration, p, labels())
	}
}

// latencies answers the histogram of a task's requests.
func latencies(d *prometheus.Desc, p task.Progress, labels []string) prometheus.Metric {
	buckets, count := map[float64]uint64{}, uint64(0)
	bounds := task.Bounds()
	for i, n := range p.GetLatencyBuckets() {
		count += uint64(n)
		if i < len(bounds) {
			buckets[bounds[i]] = count
		}
	}
	m, err := prometheus.NewConstHistogram(d, count, p.GetLatencySumSeconds(), buckets, labels...)
	if err != nil {
		return prometheus.NewInvalidMetric(d, err)
	}
	return m
}
