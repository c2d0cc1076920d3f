package metrics

import (
	goruntime "runtime"

	"github.com/prometheus/client_golang/prometheus"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// agent collects drover_agent_*: the agent itself.
type agent struct {
	src                                                    Sources
	goroutines, heap, writes, connected, generation, count *prometheus.Desc
	expires                                                *prometheus.Desc
}

func newAgent(src Sources) *agent {
	return &agent{
		src:        src,
		goroutines: desc("agent_goroutines", "Goroutines of the agent."),
		heap:       desc("agent_memory_bytes", "Memory that the agent got from the system."),
		writes:     desc("agent_journal_writes_total", "Transactions written to the journal."),
		connected:  desc("agent_connected", "1 while a scheduler is connected."),
		generation: desc("agent_assignment_generation", "Generation of the assignment set in the journal."),
		expires:    desc("agent_certificate_expire_time_seconds", "Unix time at which the node's certificate expires; absent without one."),
		count:      desc("agent_instances", "Instances in the journal, by observed state.", "state"),
	}
}

func (c *agent) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.goroutines, c.heap, c.writes, c.connected, c.generation, c.count, c.expires} {
		ch <- d
	}
}

func (c *agent) collect(ch chan<- prometheus.Metric, all []*fleetv1.Instance) {
	var m goruntime.MemStats
	goruntime.ReadMemStats(&m)
	gauge(ch, c.goroutines, float64(goruntime.NumGoroutine()))
	gauge(ch, c.heap, float64(m.Sys))
	counter(ch, c.writes, float64(c.src.JournalWrites()))
	gauge(ch, c.connected, truth(c.src.Connected()))
	gauge(ch, c.generation, float64(c.src.Generation()))
	if at := c.src.Expires(); !at.IsZero() {
		gauge(ch, c.expires, float64(at.Unix()))
	}
	states := map[string]int{}
	for _, in := range all {
		states[in.GetObserved().GetState()]++
	}
	for state, n := range states {
		gauge(ch, c.count, float64(n), state)
	}
}

func newBuildInfo(version string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "drover_build_info", Help: "1, with what the program was built from.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": goruntime.Version(), "component": "agent"},
	})
	info.Set(1)
	return info
}
