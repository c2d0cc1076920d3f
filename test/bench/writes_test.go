//go:build bench

package bench

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
)

const (
	writesReport = "writes"
	writeRounds  = 5
)

// TestWriteFigures measures the log: acknowledged writes, next to a bare Raft with the same log.
func TestWriteFigures(t *testing.T) {
	b := &bench{t: t, report: &report{name: writesReport, title: "Figures of the log"}}
	b.report.describeMachine()
	b.writes()
	b.must(b.report.write())
	fmt.Print(b.report.text())
}

// writeLine is a result of scheduler/raftstore's own benchmark.
var writeLine = regexp.MustCompile(`^BenchmarkWrites/voters=(\d+)/writers=(\d+)/(drover|bare)\S*\s.*?([\d.]+) cpu-µs/op\s+([\d.]+) writes/s`)

// writes runs the benchmark round by round, each with all kinds one after the other.
func (b *bench) writes() {
	type kind struct{ voters, writers string }
	rates, costs := map[kind]map[string][]float64{}, map[kind]map[string][]float64{}
	var kinds []kind
	for range writeRounds {
		for _, m := range b.benchmark("BenchmarkWrites", "scheduler/raftstore", writeLine, "-benchtime", "1s") {
			cost, err := strconv.ParseFloat(m[4], 64)
			b.must(err)
			rate, err := strconv.ParseFloat(m[5], 64)
			b.must(err)
			k := kind{m[1], m[2]}
			if rates[k] == nil {
				kinds = append(kinds, k)
				rates[k], costs[k] = map[string][]float64{}, map[string][]float64{}
			}
			rates[k][m[3]] = append(rates[k][m[3]], rate)
			costs[k][m[3]] = append(costs[k][m[3]], cost)
		}
	}
	if len(kinds) != 6 {
		b.t.Fatalf("the log's benchmarks have given %v", kinds)
	}
	add := func(name, unit string, values map[string][]float64, g *goal) {
		bare := spreadOf(values["bare"])
		b.report.add(figure{Name: name, Unit: unit, Measured: spreadOf(values["drover"]), Bare: &bare, Goal: g, N: writeRounds})
	}
	for _, k := range kinds {
		name := fmt.Sprintf("voters: %s, writers: %s: ", k.voters, k.writers)
		add(name+"acknowledged writes", "1/s", rates[k], &goal{AtLeast: 0.7})
		add(name+"processor time of a write", "µs", costs[k], nil)
	}
}
