package sim

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Report is what a run did. All of it but Timing depends on the Config alone.
type Report struct {
	Simulated            time.Duration
	Nodes                int
	Services, Jobs, Done int // Jobs of the Services, Done of the Jobs
	Placements           int // instances; the members of a gang count each
	Gangs                int
	Preempted            int
	Deposed              int // leaders that lost an entry, or its answer
	MostPreempted        int // instances of one service
	InVain               int // placements in room made by preemption, of no more priority than who still waits for it
	Drains               int
	Drained              Waits          // of the drains: those that ended with the node empty
	Waiting              int            // instances that wait at the end; a gang is one
	Refused              map[string]int // parts of plans, by reason
	Waits                []Waits
	// Load is the mean share of the devices that were held, Fragmentation the mean share of the free ones that
	// are on nodes with others, so that no instance with 8 devices can have them; both by samples each 10 min.
	Load, Fragmentation float64
	Entries             uint64
	LogBytes            int64
	LogSum, SnapshotSum string // SHA-256
	SnapshotBytes       int64
	Checks              int
	// Faults are the invariants that don't hold; the first few.
	Faults []string
	Timing Timing
}

// Waits is how long instances of one size waited for their nodes, or how long something else took.
type Waits struct {
	Size                string
	Count               int
	P50, P90, P99, Most time.Duration
}

// Timing is by the real clock; zero without one.
type Timing struct {
	Passes         int
	P50, P99, Most time.Duration // of a pass of the loops that had something to do
	Total          time.Duration // of all passes
	Wall           time.Duration // of the run
}

// meter measures a run.
type meter struct {
	w       *world
	r       Report
	waits   map[string][]time.Duration
	drains  []time.Duration
	passes  []time.Duration
	began   time.Time
	samples int
	checks  int
}

func newMeter(w *world) *meter {
	m := &meter{w: w, waits: map[string][]time.Duration{}}
	m.r.Refused = map[string]int{}
	if w.cfg.Stopwatch != nil {
		m.began = w.cfg.Stopwatch()
	}
	return m
}

// pass times one step of the loops.
func (m *meter) pass() (stop func()) {
	clock := m.w.cfg.Stopwatch
	if clock == nil {
		return func() {}
	}
	from, index := clock(), m.w.log.index
	return func() {
		if m.w.log.index != index {
			m.passes = append(m.passes, clock().Sub(from))
		}
	}
}

// applied counts what a command did.
func (m *meter) applied(cmd *fleetv1.Command, result state.Result) {
	switch op := cmd.GetOp().(type) {
	case *fleetv1.Command_Plan:
		refused := map[int]bool{}
		for _, r := range result.Rejections {
			refused[r.Part] = true
			m.r.Refused[string(r.Reason)]++
		}
		for i, p := range op.Plan.GetParts() {
			if refused[i] {
				continue
			}
			m.r.Placements += len(p.GetInstances())
			m.r.Preempted += len(p.GetPreemptions())
			if len(p.GetInstances()) > 1 {
				m.r.Gangs++
			}
		}
	case *fleetv1.Command_Write:
		for _, mut := range op.Write.GetMutations() {
			if mut.GetExpectRevision() == 0 && mut.GetPut().GetService() != nil && len(result.Rejections) == 0 {
				m.r.Services++
			}
		}
	}
}

// waited notes that an instance has been placed. Those that a quota kept waiting are counted apart.
func (m *meter) waited(svc *fleetv1.Service, d time.Duration, quota bool) {
	v := svc.GetSpec().GetVersions()[0]
	n := m.w.store.View().Flavor(v.GetFlavor()).GetSpec().GetAccelerator().GetCount()
	size := fmt.Sprintf("%d", n)
	if v.GetNodes() > 1 {
		size = "gang"
	}
	if quota {
		size = "any, over quota"
	}
	m.waits[size] = append(m.waits[size], d)
}

// drained notes that a node has been emptied.
func (m *meter) drained(d time.Duration) { m.drains = append(m.drains, d) }

// sampleUntil measures the fleet, and has everything checked, until then.
func (m *meter) sampleUntil(end time.Time) {
	const every = 10 * time.Minute
	for at := m.w.start.Add(every); !at.After(end); at = at.Add(every) {
		m.w.at(at, m.sample)
	}
	for at := m.w.start.Add(m.w.cfg.CheckEvery); !at.After(end); at = at.Add(m.w.cfg.CheckEvery) {
		m.w.at(at, func() { m.w.due = true })
	}
}

func (m *meter) sample() {
	all, free, broken := 0, 0, 0
	view := m.w.store.View()
	for _, a := range m.w.agents {
		n, here := view.Node(a.name), 0
		for _, d := range n.GetFacts().GetDevices() {
			if m.w.ledger.holders[held{a.name, d.GetId()}] == "" && usable(n, d) {
				here++
			}
		}
		all += devices
		free += here
		if here < devices {
			broken += here
		}
	}
	m.r.Load += float64(all-free) / float64(all)
	if free > 0 {
		m.r.Fragmentation += float64(broken) / float64(free)
	}
	m.samples++
}

// report ends the measurement: it reads the log back.
func (m *meter) report() (*Report, error) {
	w, r := m.w, &m.r
	r.Simulated, r.Nodes, r.Entries, r.LogBytes = w.now.Sub(w.start), len(w.agents), w.log.index, w.log.bytes
	r.Jobs, r.Checks = len(w.jobs), m.checks
	for id := range w.jobs {
		if w.store.View().ServiceByID(id) == nil {
			r.Done++
		}
	}
	for _, a := range w.ledger.services {
		r.Waiting += len(a.since)
	}
	if m.samples > 0 {
		r.Load, r.Fragmentation = r.Load/float64(m.samples), r.Fragmentation/float64(m.samples)
	}
	for size, all := range m.waits {
		r.Waits = append(r.Waits, summary(size, all))
	}
	if len(m.drains) > 0 {
		r.Drained = summary("", m.drains)
	}
	slices.SortFunc(r.Waits, func(a, b Waits) int { return cmp.Compare(a.Size, b.Size) })
	var err error
	if r.LogSum, err = w.log.sum(); err != nil {
		return nil, err
	}
	if r.SnapshotSum, r.SnapshotBytes, err = digest(w.store); err != nil {
		return nil, err
	}
	again, err := w.log.replay()
	if err != nil {
		return nil, err
	}
	if sum, _, err := digest(again); err != nil || sum != r.SnapshotSum {
		w.fault("replaying the log gives another snapshot (%v)", err)
	}
	r.Faults = w.faults
	m.timing()
	return r, nil
}

func (m *meter) timing() {
	if m.w.cfg.Stopwatch == nil {
		return
	}
	t := &m.r.Timing
	t.Wall, t.Passes = m.w.cfg.Stopwatch().Sub(m.began), len(m.passes)
	for _, d := range m.passes {
		t.Total += d
	}
	slices.Sort(m.passes)
	if len(m.passes) > 0 {
		t.P50, t.P99, t.Most = quantile(m.passes, .5), quantile(m.passes, .99), m.passes[len(m.passes)-1]
	}
}

// summary sorts what it sums up, which isn't empty.
func summary(of string, all []time.Duration) Waits {
	slices.Sort(all)
	return Waits{of, len(all), quantile(all, .5), quantile(all, .9), quantile(all, .99), all[len(all)-1]}
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))]
}

// Table writes the report for people.
func (r *Report) Table(to io.Writer) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(out, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("simulated", "%s, %d nodes of %d devices", r.Simulated, r.Nodes, devices)
	row("services", "%d, of them %d jobs, of which %d ran to their end", r.Services, r.Jobs, r.Done)
	row("placements", "%d instances, of them %d gangs", r.Placements, r.Gangs)
	if r.Deposed > 0 {
		row("leaders deposed", "%d", r.Deposed)
	}
	row("preempted", "%d instances, at most %d of one service; %d times the room was taken by another", r.Preempted, r.MostPreempted, r.InVain)
	row("drains", "%d, of which %d emptied their node: p50 %s  p99 %s  most %s", r.Drains, r.Drained.Count, round(r.Drained.P50), round(r.Drained.P99), round(r.Drained.Most))
	row("waiting at the end", "%d", r.Waiting)
	var refused []string
	for reason, n := range r.Refused {
		refused = append(refused, fmt.Sprintf("%s %d", reason, n))
	}
	slices.Sort(refused)
	row("plan parts refused", "%s", cmp.Or(strings.Join(refused, ", "), "none"))
	row("load", "%.1f %% of the devices held, in the mean", r.Load*100)
	row("fragmentation", "%.1f %% of the free devices on nodes that are not free, in the mean", r.Fragmentation*100)
	for _, w := range r.Waits {
		row("wait, devices "+w.Size, "p50 %s  p90 %s  p99 %s  most %s  (%d placed)", round(w.P50), round(w.P90), round(w.P99), round(w.Most), w.Count)
	}
	row("log", "%d entries, %.1f MiB, sha256 %.16s", r.Entries, float64(r.LogBytes)/(1<<20), r.LogSum)
	row("snapshot", "%.1f MiB, sha256 %.16s", float64(r.SnapshotBytes)/(1<<20), r.SnapshotSum)
	row("checks of everything", "%d", r.Checks)
	if t := r.Timing; t.Passes > 0 {
		row("passes", "%d, p50 %s  p99 %s  most %s, together %s", t.Passes, round(t.P50), round(t.P99), round(t.Most), round(t.Total))
		row("took", "%s, %.0f times as fast as time", round(t.Wall), float64(r.Simulated)/float64(max(t.Wall, 1)))
	}
	for _, f := range r.Faults {
		row("FAULT", "%s", f)
	}
	return out.Flush()
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Microsecond)
}
