//go:build bench

package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
	"github.com/drover-fleet/drover/test/machine"
)

const (
	firstLight     = "first-light" // name of the report
	deployRounds   = 30
	lookupRounds   = 7
	lookupRequests = 100_000 // a round
	lookupService  = "lookup"
	lookupCount    = 8 // endpoints
	idleTime       = 60 * time.Second
	idleService    = "idle"
	idleCount      = 2 // instances
	scrapes        = 200
	patience       = 2 * time.Minute
)

// TestFigures measures all figures, prints the table, and writes it down.
func TestFigures(t *testing.T) {
	if !containerdtest.OwnNetwork(t) {
		printed(t, firstLight)
		return
	}
	// The defaults, which test/machine shortens for tests; how long an endpoint is served after its withdrawal
	// stays short, for it is waited for between deployments.
	t.Setenv("DROVER_HEARTBEAT_INTERVAL", "2s")
	t.Setenv("DROVER_LEASE_DURATION", "10s")
	b := &bench{t: t, m: machine.Start(t, machine.Options{}), report: &report{name: firstLight, title: "Figures"}}
	info, err := b.m.Runtime.Info(t.Context())
	b.must(err)
	b.report.describe(info.Version)
	b.prepare()
	b.deployments()
	before, err := count()
	b.must(err)
	b.deploy(idleService, "small", idleCount)
	b.m.WaitEndpoints(patience, idleService, idleCount)
	b.idle()
	b.scraping()
	b.processes(before)
	b.lookups()
	b.size()
	b.must(b.report.write())
}

// printed shows what the measurement, a process of its own, has written.
func printed(t *testing.T, report string) {
	if t.Failed() || t.Skipped() {
		return
	}
	r, err := readReport(report)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Print(r.text())
}

// bench is a run.
type bench struct {
	t      *testing.T
	m      *machine.Machine
	report *report
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// group is figures that can be measured without the others.
type group struct {
	name    string
	measure func()
}

// measureGroups measures each group in a test of its own. When all have been asked for, and none has failed, it prints the table
// and writes it down.
func (b *bench) measureGroups(groups []group) {
	whole, measured := b.t, 0
	for _, g := range groups {
		whole.Run(g.name, func(t *testing.T) {
			before := len(b.report.Figures)
			b.t = t
			g.measure()
			measured++
			for _, f := range b.report.Figures[before:] {
				t.Log(strings.Join(f.cells(), " | "))
			}
		})
	}
	if measured < len(groups) {
		return
	}
	if err := b.report.write(); err != nil {
		whole.Fatal(err)
	}
	fmt.Print(b.report.text())
}

// benchmark runs a package's own benchmark once, and answers the submatches of each line of its output that is a result.
func (b *bench) benchmark(name, pkg string, result *regexp.Regexp, flags ...string) (results [][]string) {
	args := append([]string{"test", "-run", "^$", "-bench", "^" + name + "$", "-count", "1"}, flags...)
	out, err := exec.CommandContext(b.t.Context(), "go", append(args, "github.com/drover-fleet/drover/"+pkg)...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("run %s of %s: %v\n%s", name, pkg, err, out)
	}
	for line := range strings.Lines(string(out)) {
		if m := result.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
			results = append(results, m)
		}
	}
	return results
}

// prepare makes what services need: one flavor as large as the bare client's container, one small.
func (b *bench) prepare() {
	ctx, c := b.t.Context(), b.m.Client
	for name, spec := range map[string]*fleetv1.FlavorSpec{
		"one": {CpuMillis: cpuMillis, MemoryBytes: memoryBytes}, "small": {CpuMillis: 100, MemoryBytes: 64 << 20},
	} {
		_, err := c.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: name}, Spec: spec}})
		b.must(err)
	}
	_, err := c.Pools.CreatePool(ctx, &fleetv1.CreatePoolRequest{Pool: &fleetv1.Pool{Meta: &fleetv1.Meta{Name: "bench"},
		Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Nodes: []string{b.m.Node}}}})
	b.must(err)
	_, err = c.Models.CreateModel(ctx, &fleetv1.CreateModelRequest{Model: &fleetv1.Model{Meta: &fleetv1.Meta{Name: "app"},
		Spec: &fleetv1.ModelSpec{Image: b.m.Image, Api: &fleetv1.ModelAPI{Port: containerPort},
			Health: &fleetv1.HealthCheck{CheckMethod: "HTTP", Url: healthPath, PeriodSeconds: 10, TimeoutSeconds: 5}}}})
	b.must(err)
}

func (b *bench) deploy(name, flavor string, instances int32) {
	b.t.Helper()
	_, err := b.m.Client.Services.DeployService(b.t.Context(), &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: name},
		Spec: &fleetv1.ServiceSpec{Pool: "bench", GracePeriodSeconds: proto.Int32(5), Versions: []*fleetv1.ServiceVersion{
			{Model: "app", Flavor: flavor, Instances: instances}}},
	}})
	b.must(err)
}

// idle measures processor time and memory with a service that nobody calls.
func (b *bench) idle() {
	type daemon struct {
		name   string
		pid    int
		memory float64 // goal, MiB
		before time.Duration
	}
	daemons := []daemon{{name: "agent", pid: b.m.Agent.Pid(), memory: 40}, {name: "scheduler", pid: b.m.Scheduler.Pid(), memory: 60}}
	for i := range daemons {
		var err error
		daemons[i].before, err = cpuTime(daemons[i].pid)
		b.must(err)
	}
	start := time.Now()
	time.Sleep(idleTime)
	for _, d := range daemons {
		used, err := cpuTime(d.pid)
		b.must(err)
		percent := 100 * float64(used-d.before) / float64(time.Since(start))
		b.report.add(figure{Name: fmt.Sprintf("%s idle, %d instances: processor, over %v", d.name, idleCount, idleTime), Unit: "% of a core",
			Measured: one(percent), Goal: &goal{AtMost: 0.5}, N: 1})
		resident, proportional, err := memory(d.pid)
		b.must(err)
		b.report.add(figure{Name: d.name + " idle: resident memory", Unit: "MiB", Measured: one(mib(resident)), Goal: &goal{AtMost: d.memory}, N: 1})
		b.report.add(figure{Name: d.name + " idle: proportional memory (PSS)", Unit: "MiB", Measured: one(mib(proportional)), N: 1})
	}
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// scraping measures what a sample of the metrics pages costs, compressed as Prometheus asks for it.
func (b *bench) scraping() {
	for _, d := range []struct {
		name, addr string
		pid        int
	}{{"agent", b.m.AgentHTTP(), b.m.Agent.Pid()}, {"scheduler", b.m.SchedulerHTTP(), b.m.Scheduler.Pid()}} {
		before, err := cpuTime(d.pid)
		b.must(err)
		samples := 0
		for range scrapes {
			n, err := scrape(b.t.Context(), "http://"+d.addr+"/metrics")
			b.must(err)
			samples += n
		}
		used, err := cpuTime(d.pid)
		b.must(err)
		b.report.add(figure{Name: fmt.Sprintf("%s: processor time per scraped sample (%d a page)", d.name, samples/scrapes), Unit: "µs",
			Measured: one(float64(used-before) / float64(time.Microsecond) / float64(samples)), N: scrapes})
	}
}

// scrape reads a page and counts its samples.
func scrape(ctx context.Context, url string) (samples int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(r) // which asks for compression
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("scrape %s: %s", url, resp.Status)
	}
	for line := range strings.Lines(string(raw)) {
		if !strings.HasPrefix(line, "#") {
			samples++
		}
	}
	return samples, err
}

// processes compares what ran before the idle service with what runs now.
func (b *bench) processes(before census) {
	now, err := count()
	b.must(err)
	per := func(what string, was, is int, g *goal) {
		b.report.add(figure{Name: "processes per container: " + what, Unit: "", Measured: one(float64(is-was) / idleCount), Goal: g, N: 1})
	}
	per("besides its own, the shim and its logger", before.others, now.others, &goal{None: true})
	per("shims", before.shims, now.shims, nil)
	per("loggers", before.loggers, now.loggers, nil)
}

// lookups compares the scheduler's look-up with a bare server.
func (b *bench) lookups() {
	b.deploy(lookupService, "small", lookupCount)
	b.m.WaitEndpoints(patience, lookupService, lookupCount)
	secret, err := os.ReadFile(b.m.AdminToken())
	b.must(err)
	token, base := strings.TrimSpace(string(secret)), "http://"+b.m.SchedulerHTTP()
	url := client.LookupURL(base, fleetv1.Default, lookupService)
	answer, err := fetch(b.t.Context(), url, token)
	b.must(err)
	addr, stop, err := startBare(b.t.TempDir(), answer)
	b.must(err)
	defer func() { b.must(stop()) }()
	var loads [2]*load
	for i, server := range []string{b.m.SchedulerHTTP(), addr} {
		loads[i], err = newLoad(b.t.Context(), server, strings.TrimPrefix(url, base), tokenHeader(token), connections)
		b.must(err)
		b.t.Cleanup(func() { _ = loads[i].Close() })
	}
	if loads[0].size != loads[1].size {
		b.t.Fatalf("an answer of the look-up has %d bytes, one of the bare server %d", loads[0].size, loads[1].size)
	}
	var rate, p50, p99 [2][]float64
	for round := range lookupRounds + 1 {
		for turn := range loads {
			i := (round + turn) % 2 // neither is always first
			latencies, took, err := loads[i].run(lookupRequests)
			b.must(err)
			if round == 0 {
				continue // warms both up
			}
			rate[i] = append(rate[i], lookupRequests/took.Seconds())
			p50[i] = append(p50[i], milliseconds(latencies[len(latencies)/2:][:1])...)
			p99[i] = append(p99[i], milliseconds(latencies[len(latencies)*99/100:][:1])...)
		}
	}
	add := func(name, unit string, values [2][]float64, g *goal) {
		bare := spreadOf(values[1])
		b.report.add(figure{Name: name, Unit: unit, Measured: spreadOf(values[0]), Bare: &bare, Goal: g, N: lookupRounds})
	}
	add(fmt.Sprintf("look-ups, %d endpoints, %d connections, rounds of %d", lookupCount, connections, lookupRequests), "1/s", rate, &goal{AtLeast: 0.8})
	add("look-up: median latency of a round", "ms", p50, nil)
	add("look-up: 99th of 100 latencies of a round", "ms", p99, nil)
	resident, _, err := memory(b.m.Scheduler.Pid())
	b.must(err)
	b.report.add(figure{Name: "scheduler after the look-ups: resident memory", Unit: "MiB", Measured: one(mib(resident)), N: 1})
}

// size measures the program as `make build` makes it, and with its symbols.
func (b *bench) size() {
	whole := filepath.Join(b.t.TempDir(), "drover")
	out, err := exec.Command("go", "build", "-trimpath", "-o", whole, "github.com/drover-fleet/drover/cmd/drover").CombinedOutput()
	if err != nil {
		b.t.Fatalf("build drover: %v\n%s", err, out)
	}
	add := func(name, path string) {
		info, err := os.Stat(path)
		b.must(err)
		b.report.add(figure{Name: "size of the program, " + name, Unit: "MiB", Measured: one(mib(info.Size())), N: 1})
	}
	add("stripped (make build)", machine.Binary(b.t))
	add("with symbols", whole)
}
