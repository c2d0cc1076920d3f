package jobs

import (
	"github.com/prometheus/client_golang/prometheus"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// bounds answers the upper bounds of TaskProgress.latency_buckets in seconds; docs/metrics.md has them for agents too.
func bounds() []float64 {
	return []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}
}

// latency sums what tasks tell of their requests, each since it started.
type latency struct {
	buckets []int64 // one more than bounds
	sum     float64 // seconds
}

// add takes in what a task has told since it told before. One that has begun anew has told nothing before.
func (l *latency) add(before, now *fleetv1.TaskProgress) {
	buckets := now.GetLatencyBuckets()
	if len(buckets) != len(bounds())+1 {
		return // of another version
	}
	if l.buckets == nil {
		l.buckets = make([]int64, len(buckets))
	}
	old := before.GetLatencyBuckets()
	begun := len(old) != len(buckets)
	for i := range old {
		begun = begun || i < len(buckets) && old[i] > buckets[i]
	}
	for i, n := range buckets {
		if !begun {
			n -= old[i]
		}
		l.buckets[i] += max(0, n)
	}
	sum := now.GetLatencySumSeconds()
	if !begun {
		sum -= before.GetLatencySumSeconds()
	}
	l.sum += max(0, sum)
}

// Describe sends nothing: which jobs there are is known when they are asked for.
func (c *Coordinator) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector: the jobs that run, on the leader alone.
func (c *Coordinator) Collect(out chan<- prometheus.Metric) {
	t := c.current()
	if t == nil {
		return
	}
	t.mu.Lock()
	runs := make([]*run, 0, len(t.runs))
	for _, r := range t.runs {
		runs = append(runs, r)
	}
	t.mu.Unlock()
	view := c.cfg.State.View()
	for _, r := range runs {
		p, _ := r.progress(view)
		r.collect(out, p)
	}
}

func (r *run) collect(out chan<- prometheus.Metric, p *fleetv1.JobProgress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	labels := prometheus.Labels{"job": r.book.job.GetMeta().GetName(), "project": r.book.job.GetMeta().GetProject()}
	send := func(kind prometheus.ValueType, name, help string, value float64, more ...string) {
		desc := prometheus.NewDesc(name, help, more[:len(more)/2], labels)
		out <- prometheus.MustNewConstMetric(desc, kind, value, more[len(more)/2:]...)
	}
	for word, n := range map[string]int64{"successful": p.GetSuccessful(), "failed": p.GetFailed(), "left": p.GetLeft(), "in-hand": p.GetInHand()} {
		send(prometheus.GaugeValue, "drover_job_items", "Items of a job that runs: committed ones by result, those that are listed and not committed, and how many of these tasks have in hand.", float64(n), "state", word)
	}
	for word, n := range map[string]int64{"input": p.GetInputBytes(), "output": p.GetOutputBytes()} {
		send(prometheus.CounterValue, "drover_job_bytes_total", "Bytes of the inputs and results of committed items.", float64(n), "direction", word)
	}
	send(prometheus.GaugeValue, "drover_job_items_per_second", "Items that end in a second, of all tasks, over the last 10 s.", p.GetRate())
	send(prometheus.GaugeValue, "drover_job_tasks", "Tasks that were heard of in the last 15 s.", float64(len(r.book.holders)))
	send(prometheus.CounterValue, "drover_job_leases_lost_total", "Chunks of items taken from tasks that fell silent or are gone, in this leadership.", float64(r.book.lost))
	if r.latency.buckets == nil {
		return
	}
	counts, total := map[float64]uint64{}, uint64(0)
	for i, n := range r.latency.buckets {
		total += uint64(n)
		if i < len(bounds()) {
			counts[bounds()[i]] = total
		}
	}
	desc := prometheus.NewDesc("drover_job_request_duration_seconds", "Requests of a job's tasks to their model, by how long they took.", nil, labels)
	out <- prometheus.MustNewConstHistogram(desc, total, r.latency.sum, counts)
}
