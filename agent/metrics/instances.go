package metrics

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// figure is one measurement of a container.
type figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	unit float64 // of the base unit
	of   func(runtime.Stats) *uint64
}

// instances collects drover_instance_*.
type instances struct {
	src                              Sources
	ready, healthy, restarts, memory *prometheus.Desc
	figures                          []figure

	mu      sync.Mutex
	at      time.Time
	stats   map[string]runtime.Stats // by instance
	dropped map[string]uint64        // by container, so that a new attempt counts from zero
}

func newInstances(src Sources) *instances {
	labels := []string{"node", "project", "service", "model", "version", "instance"}
	d := func(name, help string) *prometheus.Desc { return desc("instance_"+name, help, labels...) }
	const count, level = prometheus.CounterValue, prometheus.GaugeValue
	return &instances{
		src: src, stats: map[string]runtime.Stats{}, dropped: map[string]uint64{},
		ready:    d("ready", "1 while its endpoint may be handed out."),
		healthy:  d("healthy", "1 while it passes its health check."),
		restarts: d("restarts_total", "Restarts of the instance, asked for or not."),
		memory:   d("memory_limit_ratio", "Memory in use as a part of its limit."),
		figures: []figure{
			{d("cpu_seconds_total", "CPU time used."), count, 1e-9, func(s runtime.Stats) *uint64 { return s.CPUNanos }},
			{d("memory_bytes", "Memory in use, without inactive file cache."), level, 1, func(s runtime.Stats) *uint64 { return s.MemoryBytes }},
			{d("disk_read_bytes_total", "Read from disks."), count, 1, func(s runtime.Stats) *uint64 { return s.DiskReadBytes }},
			{d("disk_written_bytes_total", "Written to disks."), count, 1, func(s runtime.Stats) *uint64 { return s.DiskWriteBytes }},
			{d("network_receive_bytes_total", "Received."), count, 1, func(s runtime.Stats) *uint64 { return s.NetReceiveBytes }},
			{d("network_transmit_bytes_total", "Sent."), count, 1, func(s runtime.Stats) *uint64 { return s.NetTransmitBytes }},
			{d("processes", "Processes and threads."), level, 1, func(s runtime.Stats) *uint64 { return s.Pids }},
			{d("log_lines_dropped_total", "Lines that its logger could not write."), count, 1, func(s runtime.Stats) *uint64 { return s.LogDroppedLines }},
		},
	}
}

func (c *instances) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.ready, c.healthy, c.restarts, c.memory} {
		ch <- d
	}
	for _, f := range c.figures {
		ch <- f.desc
	}
}

func (c *instances) collect(ctx context.Context, ch chan<- prometheus.Metric, all []*fleetv1.Instance) {
	stats := c.sample(ctx, all)
	for _, in := range all {
		o, spec := in.GetObserved(), in.GetSpec()
		labels := []string{c.src.Node, in.GetMeta().GetProject(), spec.GetServiceName(), spec.GetModel(), spec.GetModelVersion(), in.GetMeta().GetId()}
		gauge(ch, c.ready, truth(o.GetReady()), labels...)
		gauge(ch, c.healthy, truth(o.GetHealth() == fleetv1.Healthy), labels...)
		counter(ch, c.restarts, float64(max(o.GetAttempt(), 1)-1), labels...)
		st, measured := stats[in.GetMeta().GetId()]
		if !measured {
			continue
		}
		for _, f := range c.figures {
			if v := f.of(st); v != nil {
				send(ch, f.desc, f.kind, float64(*v)*f.unit, labels)
			}
		}
		if st.MemoryBytes != nil && st.MemoryLimit != nil && *st.MemoryLimit > 0 {
			gauge(ch, c.memory, float64(*st.MemoryBytes)/float64(*st.MemoryLimit), labels...)
		}
	}
}

// sample measures what runs, unless that was done within the last second. The answer is not changed later.
func (c *instances) sample(ctx context.Context, all []*fleetv1.Instance) map[string]runtime.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) < fresh {
		return c.stats
	}
	stats, dropped := map[string]runtime.Stats{}, map[string]uint64{}
	for _, in := range all {
		id := in.GetMeta().GetId()
		if in.GetObserved().GetPid() == 0 {
			continue
		}
		container := id + "-" + strconv.FormatUint(uint64(in.GetObserved().GetAttempt()), 10)
		st, err := c.src.Runtime.Stats(ctx, container)
		if err != nil {
			c.src.Logger.Debug("an instance can't be measured", "instance", id, "error", err)
			dropped[container] = c.dropped[container]
			continue
		}
		stats[id] = st
		if st.LogDroppedLines == nil {
			continue
		}
		dropped[container] = *st.LogDroppedLines
		if *st.LogDroppedLines > c.dropped[container] {
			c.src.LinesDropped(id, *st.LogDroppedLines)
		}
	}
	c.stats, c.dropped, c.at = stats, dropped, time.Now()
	return stats
}
