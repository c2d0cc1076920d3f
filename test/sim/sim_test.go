package sim

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/drover-fleet/drover/test/sim/trace"
)

// flags of the large run.
type flags struct {
	nodes              int
	seed               uint64
	hours, trouble     float64
	services, jobsLoad float64
	trace, jobs, write string
	soak               int
}

var large = readFlags()

func readFlags() *flags {
	f := &flags{}
	flag.IntVar(&f.nodes, "sim.nodes", 0, "nodes of the large run; 0 for none")
	flag.Uint64Var(&f.seed, "sim.seed", 1, "seed of the large run")
	flag.Float64Var(&f.hours, "sim.hours", 24, "hours of the synthetic trace")
	flag.Float64Var(&f.trouble, "sim.trouble", 1, "how much more often than usual things fail")
	flag.Float64Var(&f.services, "sim.services", 0.45, "share of the devices that services ask for")
	flag.Float64Var(&f.jobsLoad, "sim.load", 0.2, "share of the devices that jobs ask for, in the mean")
	flag.StringVar(&f.trace, "sim.trace", "", "file of events to simulate instead of a synthetic trace")
	flag.StringVar(&f.jobs, "sim.jobs", "", "CSV file of jobs to simulate instead of a synthetic trace")
	flag.StringVar(&f.write, "sim.write", "", "file to which the trace is written")
	flag.IntVar(&f.soak, "sim.soak", 0, "runs of random faults, with as many seeds, of -sim.hours each; 0 for a few short ones")
	return f
}

func simulate(t *testing.T, cfg Config) *Report {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cfg.Log = f
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sound shows a report and fails for each of its faults.
func sound(t *testing.T, r *Report) {
	t.Helper()
	var b bytes.Buffer
	if err := r.Table(&b); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", b.String())
	for _, f := range r.Faults {
		t.Error(f)
	}
}

// Half a day of 200 nodes with ten times the usual trouble.
func TestHalfADay(t *testing.T) {
	r := simulate(t, Config{Seed: 1, Fleet: Fleet{Nodes: 200, Mixed: true}, Stopwatch: time.Now,
		Trace: trace.Synthetic(trace.Options{Seed: 1, Nodes: 200, Hours: 12, ServiceLoad: 0.4, JobLoad: 0.2, Trouble: 10})})
	sound(t, r)
	if r.Placements < 1000 || r.Gangs < 50 || r.Done < r.Jobs*9/10 || r.Waiting > 0 || r.Checks < 70 || r.Load < 0.3 || r.Drained.Count == 0 {
		t.Error("it was not what it should have been")
	}
}

// Two runs of one seed are one run; another seed gives another one.
func TestSeedReproducesRun(t *testing.T) {
	cfg := func(seed uint64) Config {
		return Config{Seed: seed, Fleet: Fleet{Nodes: 24, PerRack: 6, Mixed: true},
			Trace: trace.Synthetic(trace.Options{Seed: seed, Nodes: 24, Hours: 3, ServiceLoad: 0.5, JobLoad: 0.3, Trouble: 100})}
	}
	first, second, other := simulate(t, cfg(7)), simulate(t, cfg(7)), simulate(t, cfg(8))
	sound(t, first)
	if !reflect.DeepEqual(first, second) {
		t.Errorf("two runs of one seed differ:\n%+v\n%+v", first, second)
	}
	if first.LogSum == other.LogSum {
		t.Error("another seed gives the same log")
	}
}

// Leaders lose their last entry or its answer, clocks are off, hosts lose their journals, beside all that a trace holds.
func TestRandomFaults(t *testing.T) {
	seeds, hours := 3, 1.0
	if large.soak > 0 {
		seeds, hours = large.soak, large.hours
	}
	for seed := range uint64(seeds) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			r := simulate(t, Config{Seed: seed, Fleet: Fleet{Nodes: 24, PerRack: 6, Mixed: true},
				Chaos: Chaos{Depose: 0.02, Skew: 400 * time.Millisecond, Wipe: 0.3},
				Trace: trace.Synthetic(trace.Options{Seed: seed, Nodes: 24, Hours: hours, ServiceLoad: 0.5, JobLoad: 0.3, Trouble: 200})})
			sound(t, r)
			if r.Placements < 50 || r.Deposed < 5 {
				t.Error("it was not what it should have been")
			}
		})
	}
}

// The large run, of which make sim chooses the size.
func TestLarge(t *testing.T) {
	if large.nodes == 0 {
		t.Skip("-sim.nodes is not set")
	}
	events := large.events(t)
	t.Logf("%d events", len(events))
	if large.write != "" {
		f, err := os.Create(large.write)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := trace.Write(f, events); err != nil {
			t.Fatal(err)
		}
	}
	sound(t, simulate(t, Config{Seed: large.seed, Fleet: Fleet{Nodes: large.nodes, Mixed: true}, Trace: events, CheckEvery: time.Hour, Stopwatch: time.Now}))
}

func (f *flags) events(t *testing.T) []trace.Event {
	t.Helper()
	path := f.trace + f.jobs
	if path == "" {
		return trace.Synthetic(trace.Options{Seed: f.seed, Nodes: f.nodes, Hours: f.hours, ServiceLoad: f.services, JobLoad: f.jobsLoad, Trouble: f.trouble})
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if f.trace != "" {
		events, err := trace.Read(in)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return events
	}
	jobs, err := trace.ReadJobs(in)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	t.Logf("%d rows are left out: they never ran, or asked for no GPU", jobs.Skipped)
	return jobs.Events
}
