package scheduler

import (
	"context"
	"errors"
	"net/http"
	"path"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/member"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

// metrics of this scheduler, in a registry of its own.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_scheduler_calls_total", Help: "gRPC calls that have ended, by method and code."}, []string{"method", "code"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "drover_build_info", Help: "What was built; always 1.", ConstLabels: buildLabels(s.version())})
	build.Set(1)
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, m.calls, s.proposals.total, s.proposals.seconds, s.jobs, &snapshotCollector{s})
	return m
}

func buildLabels(version string) prometheus.Labels {
	labels := prometheus.Labels{"version": version, "revision": "", "go_version": ""}
	if info, ok := debug.ReadBuildInfo(); ok {
		labels["go_version"] = info.GoVersion
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				labels["revision"] = setting.Value
			}
		}
	}
	return labels
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

func (m *metrics) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	m.ended(info.FullMethod, err)
	return resp, err
}

func (m *metrics) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	err := next(srv, ss)
	m.ended(info.FullMethod, err)
	return err
}

func (m *metrics) ended(method string, err error) {
	m.calls.WithLabelValues(path.Base(method), status.Code(err).String()).Inc()
}

// proposals is the Raft store, measured.
type proposals struct {
	raft    *raftstore.Store
	gate    func(*fleetv1.Command) error // refuses what a voter doesn't know
	flying  atomic.Int64
	total   *prometheus.CounterVec
	seconds prometheus.Histogram
}

func newProposals(raft *raftstore.Store) *proposals {
	return &proposals{
		raft: raft,
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_scheduler_proposals_total", Help: "Commands proposed to the Raft log, by result."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "drover_scheduler_proposal_duration_seconds", Help: "From the proposal of a command to its application.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10}}),
	}
}

// Propose commits a command.
func (p *proposals) Propose(ctx context.Context, cmd *fleetv1.Command) (state.Result, error) {
	start := time.Now()
	p.flying.Add(1)
	defer p.flying.Add(-1)
	var result state.Result
	err := p.gate(cmd)
	if err != nil && cmd.GetRequestScope() != "" { // while a voter is older, a request ID counts for all
		cmd.RequestScope = ""
		cmd.Introduced = state.Introduced(cmd)
		err = p.gate(cmd)
	}
	if err == nil {
		result, err = p.raft.Propose(ctx, cmd)
	}
	word := "applied"
	var notLeader *raftstore.NotLeaderError
	switch {
	case errors.Is(err, raftstore.ErrUnknown):
		word = "unknown"
	case errors.As(err, &notLeader):
		word = "not-leader"
	case err != nil:
		word = "failed"
	case result.Repeated:
		word = "repeated"
	case len(result.Rejections) > 0:
		word = "rejected"
	}
	p.total.WithLabelValues(word).Inc()
	if err == nil {
		p.seconds.Observe(time.Since(start).Seconds())
	}
	return result, err
}

// IsLeader is the log's.
func (p *proposals) IsLeader() bool { return p.raft.IsLeader() }

// ReadIndex waits until the store holds everything committed before.
func (p *proposals) ReadIndex(ctx context.Context) error { return p.raft.ReadIndex(ctx) }

// snapshotCollector reads gauges off the server when it is scraped.
type snapshotCollector struct{ s *Server }

// Describe sends nothing: which states exist is known when they are counted.
func (c *snapshotCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *snapshotCollector) Collect(out chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, name, help string, value float64, label, labelValue string) {
		var labels prometheus.Labels
		if label != "" {
			labels = prometheus.Labels{label: labelValue}
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, labels), kind, value)
	}
	gauge := func(name, help string, value float64) { send(prometheus.GaugeValue, name, help, value, "", "") }
	if c.s.keeper != nil && !c.s.keeper.Expires().IsZero() {
		gauge("drover_scheduler_certificate_expire_time_seconds", "Unix time at which this scheduler's certificate expires; absent without TLS.", float64(c.s.keeper.Expires().Unix()))
	}
	raft := c.s.raft.Status()
	leads := 0.0
	if c.s.leading.Load() {
		leads = 1
	}
	gauge("drover_scheduler_leader", "1 while this scheduler leads.", leads)
	gauge("drover_scheduler_raft_term", "Present Raft term.", float64(raft.Term))
	gauge("drover_scheduler_raft_commit_index", "Raft index of the last committed entry.", float64(raft.CommitIndex))
	gauge("drover_scheduler_raft_applied_index", "Raft index of the last entry in the store.", float64(raft.AppliedIndex))
	gauge("drover_scheduler_raft_snapshot_index", "Raft index of the last snapshot.", float64(raft.LastSnapshotIndex))
	c.members(gauge)
	gauge("drover_scheduler_proposals_in_flight", "Commands that wait for their outcome.", float64(c.s.proposals.flying.Load()))
	feeds, behind := c.s.state.Feeds()
	gauge("drover_scheduler_feeds", "Followers of the store: loops, look-up, watchers.", float64(feeds))
	gauge("drover_scheduler_feed_lag", "Change sets that the slowest follower of the store has not taken.", float64(behind))
	gauge("drover_scheduler_events_queued", "Events that wait for the disk.", float64(c.s.events.Queued()))
	send(prometheus.CounterValue, "drover_scheduler_events_dropped_total", "Events lost because the disk did not keep up.",
		float64(c.s.events.Dropped()), "", "")
	lookups := c.s.limiter.Counts()
	for result, n := range map[string]uint64{"admitted": lookups.Admitted, "account-limit": lookups.RefusedAccount, "user-limit": lookups.RefusedUser} {
		send(prometheus.CounterValue, "drover_scheduler_lookups_total", "Look-ups of known callers, by what the limits said.", float64(n), "result", result)
	}
	gauge("drover_scheduler_lookup_users", "Users whose look-ups are counted here at present.", float64(lookups.Users))
	gauge("drover_scheduler_lookup_watches", "Watches of look-ups, and look-ups that wait, open on this scheduler.", float64(c.s.limits.watches()))
	connected := 0
	for _, n := range c.s.state.View().Nodes() {
		if c.s.hub.Connected(n.GetMeta().GetName()) {
			connected++
		}
	}
	gauge("drover_scheduler_sessions", "Agents that are connected.", float64(connected))
	counts := c.s.counts()
	for _, set := range []struct {
		name, help string
		counts     map[string]int
	}{
		{"drover_scheduler_nodes", "Nodes by state.", counts.nodes},
		{"drover_scheduler_services", "Services by state.", counts.services},
		{"drover_scheduler_instances", "Instances by observed state; empty before the first report.", counts.instances},
	} {
		for word, n := range set.counts {
			send(prometheus.GaugeValue, set.name, set.help, float64(n), "state", word)
		}
	}
}

// members sends what is known of the other schedulers.
func (c *snapshotCollector) members(gauge func(name, help string, value float64)) {
	if age, known := c.s.members.Staleness(); known {
		gauge("drover_scheduler_staleness_seconds", "How old this scheduler's picture of the cluster may be; 0 on the leader, absent while unknown.", age.Seconds())
	}
	all := c.s.members.List()
	voters, alive, lag, offset := 0, 0, uint64(0), time.Duration(0)
	for _, m := range all {
		if m.GetRole() == "voter" {
			voters++
		}
		if m.GetState() == member.StateAlive {
			alive++
			offset = max(offset, (time.Duration(m.GetClockOffsetMillis()) * time.Millisecond).Abs())
		}
		lag = max(lag, m.GetLag())
	}
	gauge("drover_scheduler_members", "Schedulers of the cluster.", float64(len(all)))
	gauge("drover_scheduler_members_alive", "Schedulers that answer this one and are up to date, itself included.", float64(alive))
	gauge("drover_scheduler_voters", "Schedulers with a vote.", float64(voters))
	gauge("drover_scheduler_members_lag", "Log entries that the slowest other scheduler has still to apply, against this one.", float64(lag))
	gauge("drover_scheduler_clock_offset_seconds", "Largest difference between this scheduler's wall clock and that of another that is alive.", offset.Seconds())
}
