//go:build bench

package bench

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/test/sim/quality"
	"github.com/drover-fleet/drover/test/sim/trace"
)

const (
	placementReport = "placement"
	planRepeats     = 5
)

// TestPlacementFigures measures placement, prints the table, and writes it down.
func TestPlacementFigures(t *testing.T) {
	b := &bench{t: t, report: &report{name: placementReport, title: "Figures of placement"}}
	b.report.describeMachine()
	b.measureGroups([]group{{"planner", b.planning}, {"one scheduler", b.throughput}, {"three schedulers", b.threeSchedulers}, {"steady state", b.steady}, {"quality", b.quality}})
}

// planLine is a result of scheduler/place's own benchmark.
var planLine = regexp.MustCompile(`^BenchmarkPlan/(\S+)\s.*?(\d+) placements/cpu-s`)

// planning runs the planner's own benchmarks, which place on and free from one index on one core: all of them, then
// all again, so that each ratio is of a small and a large fleet at nearly the same time.
func (b *bench) planning() {
	rates := map[string][]float64{}
	var names []string
	for range planRepeats {
		for _, m := range b.benchmark("BenchmarkPlan", "scheduler/place", planLine, "-benchtime", "300ms", "-cpu", "1") {
			v, err := strconv.ParseFloat(m[2], 64)
			b.must(err)
			if rates[m[1]] == nil {
				names = append(names, m[1])
			}
			rates[m[1]] = append(rates[m[1]], v)
		}
	}
	goals := map[string]*goal{}
	for _, full := range []string{"empty", "full"} {
		goals["10000/"+full+"/plain"] = &goal{AtLeast: 1_000_000}
		goals["10000/"+full+"/all"] = &goal{AtLeast: 200_000}
	}
	for _, name := range names {
		part := strings.Split(name, "/")
		b.report.add(figure{Name: fmt.Sprintf("planner: %s nodes, %s, %s", part[0], map[string]string{"empty": "empty", "full": "90 % full"}[part[1]],
			map[string]string{"plain": "plain", "all": "with spread, image and domains"}[part[2]]), Unit: "1/s of a core",
			Measured: spreadOf(rates[name]), Goal: goals[name], N: planRepeats})
	}
	for _, kind := range []string{"empty/plain", "empty/all", "full/plain", "full/all"} {
		small, large := rates["1000/"+kind], rates["50000/"+kind]
		if len(small) != planRepeats || len(large) != planRepeats {
			b.t.Fatalf("the planner's benchmarks have %d and %d of %s", len(small), len(large), kind)
		}
		ratios := make([]float64, planRepeats)
		for i := range ratios {
			ratios[i] = small[i] / large[i]
		}
		b.report.add(figure{Name: "planner: cost of a placement, 50000 nodes against 1000, " + strings.ReplaceAll(kind, "full", "90 % full"), Unit: "×",
			Measured: spreadOf(ratios), Goal: &goal{AtMost: 1.3}, N: planRepeats})
	}
}

// Sizes of the comparison with first-fit.
const (
	churnNodes, churnChanges = 1000, 20_000
	queueNodes, queueHours   = 100, 24
	smallCases               = 2000
)

// quality compares the planner with first-fit, and with the optimum where that can be searched for.
func (b *bench) quality() {
	policies := [2]func(nodes int) (quality.Policy, error){
		func(n int) (quality.Policy, error) { return quality.NewPlanner(n) },
		func(n int) (quality.Policy, error) { return quality.NewFirstFit(n), nil },
	}
	var pieces [2]quality.Fragmentation
	var shares [2]quality.Shares
	for i, policy := range policies {
		p, err := policy(churnNodes)
		b.must(err)
		pieces[i], err = quality.Fragment(p, quality.Churn{Seed: 1, Nodes: churnNodes, Load: 0.85, Changes: churnChanges})
		b.must(err)
		shares[i], err = quality.Compare(1, smallCases, policy)
		b.must(err)
	}
	compare := func(name, unit string, ours, first float64, n int) {
		bare := one(first)
		b.report.add(figure{Name: "quality: " + name, Unit: unit, Measured: one(ours), Bare: &bare, N: n})
	}
	compare(fmt.Sprintf("free devices that an 8-device request can't have, %d nodes at %.0f %% load", churnNodes, 100*pieces[0].Load), "%",
		100*pieces[0].Unusable, 100*pieces[1].Unusable, churnChanges)
	compare("requests that found no room there", "‰", 1000*float64(pieces[0].Refused)/float64(pieces[0].Asked), 1000*float64(pieces[1].Refused)/float64(pieces[1].Asked), churnChanges)
	compare("small cases: devices placed, of those that the optimum places", "%", 100*shares[0].Placed, 100*shares[1].Placed, smallCases)
	compare("small cases: nodes left whole, of those that the optimum leaves", "%", 100*shares[0].Whole, 100*shares[1].Whole, smallCases)
	compare("small cases as good as the optimum", "%", 100*shares[0].Best, 100*shares[1].Best, smallCases)
	for _, load := range []float64{0.65, 0.8} {
		jobs := quality.Jobs(trace.Synthetic(trace.Options{Seed: 5, Nodes: queueNodes, Hours: queueHours, JobLoad: load}))
		var delays [2]quality.Delays
		for i, policy := range policies {
			p, err := policy(queueNodes)
			b.must(err)
			delays[i], err = quality.Queue(p, slices.Clone(jobs))
			b.must(err)
		}
		name := fmt.Sprintf("queueing on a trace of %d nodes, load %g: ", queueNodes, load)
		for _, d := range []struct {
			what        string
			ours, first float64
		}{
			{"mean", delays[0].Mean.Seconds(), delays[1].Mean.Seconds()},
			{"99th of 100", delays[0].P99.Seconds(), delays[1].P99.Seconds()},
			{"mean of jobs of 8 devices or more", delays[0].BigMean.Seconds(), delays[1].BigMean.Seconds()},
			{"99th of 100 of those", delays[0].BigP99.Seconds(), delays[1].BigP99.Seconds()},
		} {
			compare(name+d.what, "s", d.ours, d.first, delays[0].Jobs)
		}
	}
}
