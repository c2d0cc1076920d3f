//go:build bench

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/test/machine"
)

const (
	jobReport      = "jobs"
	jobItems       = 200_000 // enough for the commits at a job's end, one a second, to be a small part of its time
	resumedItems   = 10_000
	jobConcurrency = 64
	jobCPU         = 400 // millicores of an instance: four of them find room on two cores
	jobKeys        = 1_000_000
	killItems      = 120_000 // of 200 ms: some minutes
)

// TestJobFigures measures batch jobs, prints the table, and writes it down.
func TestJobFigures(t *testing.T) {
	b := &bench{t: t, report: &report{name: jobReport, title: "Figures of batch jobs"}}
	b.report.describeMachine()
	b.measureGroups([]group{{"items", b.jobItems}, {"keys", b.jobKeys}, {"kills", b.jobKills}, {"resume", b.jobResumes}})
}

// jobBench is a machine with a directory that its scheduler and its agent share.
type jobBench struct {
	*bench
	dir string
}

func (b *bench) newJobs() *jobBench {
	b.t.Helper()
	j := &jobBench{bench: b, dir: b.t.TempDir()}
	dirs := map[string]any{"storage_dirs": []string{j.dir}}
	b.m = machine.Start(b.t, machine.Options{AgentConfig: dirs, SchedulerConfig: dirs})
	b.m.PrepareBatch(jobCPU)
	return j
}

// inputs writes so many items, a thousand in a directory, each of which the model does the same with.
func (j *jobBench) inputs(name string, items int, do string) (paths []string) {
	j.t.Helper()
	for i := range items {
		dir := filepath.Join(j.dir, name, strconv.Itoa(i/1000))
		if i%1000 == 0 {
			j.must(os.MkdirAll(dir, 0o755))
		}
		body, err := json.Marshal(map[string]any{"id": i, "do": do})
		j.must(err)
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("%07d.json", i)))
		j.must(os.WriteFile(paths[i], body, 0o644))
	}
	syscall.Sync() // else the first result that is to be durable waits for all of these
	return paths
}

func (j *jobBench) submit(name, input string, instances int32) {
	j.t.Helper()
	output := filepath.Join(j.dir, "out-"+name)
	j.must(os.MkdirAll(output, 0o755))
	_, err := j.m.Client.Jobs.SubmitJob(j.t.Context(), &fleetv1.SubmitJobRequest{Job: &fleetv1.Job{Meta: &fleetv1.Meta{Name: name}, Spec: &fleetv1.JobSpec{
		Pool: "all", Model: "answers", Flavor: "small", Instances: instances, RequestPath: "/predict", MaxConcurrency: jobConcurrency,
		Input: "file://" + filepath.Join(j.dir, input) + "/", Output: "file://" + output + "/"}}})
	j.must(err)
}

func (j *jobBench) get(name string) *fleetv1.GetJobResponse {
	ctx, cancel := context.WithTimeout(j.t.Context(), 5*time.Second)
	defer cancel()
	resp, err := j.m.Client.Jobs.GetJob(ctx, &fleetv1.GetJobRequest{Name: name})
	if err != nil {
		return nil // a scheduler that starts
	}
	return resp
}

// wait polls the job each 20 ms until it is as it should be.
func (j *jobBench) wait(name string, holds func(*fleetv1.GetJobResponse) bool) *fleetv1.GetJobResponse {
	j.t.Helper()
	for deadline := time.Now().Add(20 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if got := j.get(name); got != nil && holds(got) {
			return got
		}
	}
	j.t.Fatalf("job %s: %v", name, j.get(name))
	return nil
}

// run runs a job and answers how long it took from its first instance's readiness on.
func (j *jobBench) run(name, input string, instances int32, items int) time.Duration {
	j.t.Helper()
	j.submit(name, input, instances)
	j.wait(name, func(g *fleetv1.GetJobResponse) bool { return g.GetJob().GetStatus().GetState() == fleetv1.JobRunning })
	start := time.Now()
	g := j.wait(name, func(g *fleetv1.GetJobResponse) bool { return ended(g) })
	took := time.Since(start)
	if n := g.GetProgress().GetSuccessful(); int(n) != items {
		j.t.Fatalf("%d of %d items were successful: %v", n, items, g)
	}
	return took
}

func ended(g *fleetv1.GetJobResponse) bool {
	state := g.GetJob().GetStatus().GetState()
	return state == fleetv1.JobCompleted || state == fleetv1.JobFailed
}

// plainly does the same work with a plain client: it reads each input, posts it to one of the containers, and writes the answer.
func (j *jobBench) plainly(name string, paths []string, addresses []string) time.Duration {
	j.t.Helper()
	out := filepath.Join(j.dir, "plain-"+name)
	j.must(os.MkdirAll(out, 0o755))
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: jobConcurrency}}
	defer hc.CloseIdleConnections()
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	start := time.Now()
	for n := range len(addresses) * jobConcurrency {
		address := addresses[n%len(addresses)]
		all.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(paths) {
					return
				}
				if err := plain(hc, address, paths[i], filepath.Join(out, strconv.Itoa(i))); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	if err := failed.Load(); err != nil {
		j.t.Fatal(*err)
	}
	return took
}

func plain(hc *http.Client, address, in, out string) error {
	body, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	resp, err := hc.Post("http://"+address+"/predict", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(out, answer, 0o644)
}

// addresses are those of the containers that run.
func (j *jobBench) addresses() (all []string) {
	j.t.Helper()
	for _, c := range j.m.Containers() {
		if c.State == runtime.StateRunning {
			all = append(all, fmt.Sprintf("%s:%d", c.IP, containerPort))
		}
	}
	return all
}

// jobItems compares jobs with a plain client that does the same work.
func (b *bench) jobItems() {
	j := b.newJobs()
	for _, model := range []struct{ name, do string }{{"0 ms", ""}, {"20 ms", "sleep:20ms"}} {
		input := strings.ReplaceAll(model.name, " ", "")
		paths := j.inputs(input, jobItems, model.do)
		for _, instances := range []int32{1, 4} {
			name := fmt.Sprintf("%s-%d", input, instances)
			job := j.run(name, input, instances, jobItems)
			j.m.Within(patience, "its containers are gone", func() error {
				if n := len(j.m.Containers()); n > 0 {
					return fmt.Errorf("%d are there", n)
				}
				return nil
			})
			_, err := b.m.Client.Services.DeployService(b.t.Context(), &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{Meta: &fleetv1.Meta{Name: "plain"},
				Spec: &fleetv1.ServiceSpec{Pool: "all", Versions: []*fleetv1.ServiceVersion{{Model: "answers", Flavor: "small", Instances: instances}}}}})
			b.must(err)
			b.m.WaitService(patience, "plain", fleetv1.ServiceRunning)
			bare := j.plainly(name, paths, j.addresses())
			b.m.Delete("plain")
			what := fmt.Sprintf("%d items, a model that answers in %s, %d instances: ", jobItems, model.name, instances)
			rates := [2]spread{one(jobItems / job.Seconds()), one(jobItems / bare.Seconds())}
			b.report.add(figure{Name: what + "rate", Unit: "1/s", Measured: rates[0], Bare: &rates[1], Goal: &goal{AtLeast: 0.9}, N: 1})
			b.report.add(figure{Name: what + "added to an item", Unit: "µs", Measured: one(float64((job - bare).Microseconds()) / jobItems), N: 1})
		}
	}
}

// jobKeys measures the scheduler's memory while it finds a million inputs.
func (b *bench) jobKeys() {
	j := b.newJobs()
	for dir := range jobKeys / 1000 {
		path := filepath.Join(j.dir, "in", strconv.Itoa(dir))
		b.must(os.MkdirAll(path, 0o755))
		for i := range 1000 {
			f, err := os.Create(filepath.Join(path, fmt.Sprintf("%07d.json", dir*1000+i)))
			b.must(err)
			b.must(f.Close())
		}
	}
	_, err := b.m.Client.Nodes.SetNodeCordon(b.t.Context(), &fleetv1.SetNodeCordonRequest{Name: b.m.Node, Cordoned: true})
	b.must(err)
	pid := b.m.Scheduler.Pid()
	idle, _, err := memory(pid)
	b.must(err)
	most := idle
	start := time.Now()
	j.submit("keys", "in", 1)
	j.wait("keys", func(g *fleetv1.GetJobResponse) bool {
		now, _, err := memory(pid)
		b.must(err)
		most = max(most, now)
		return g.GetProgress().GetListed()
	})
	took := time.Since(start)
	b.report.add(figure{Name: fmt.Sprintf("%d inputs found: the scheduler's memory above idle, at most", jobKeys), Unit: "MiB", Measured: one(mib(most - idle)), Goal: &goal{AtMost: 100}, N: 1})
	b.report.add(figure{Name: fmt.Sprintf("%d inputs found: rate", jobKeys), Unit: "1/s", Measured: one(jobKeys / took.Seconds()), N: 1})
}

// jobKills compares a job one of whose four instances is killed each minute with one that nobody disturbs.
func (b *bench) jobKills() {
	j := b.newJobs()
	j.inputs("in", killItems, "sleep:200ms")
	bare := j.run("undisturbed", "in", 4, killItems)
	stop, killer := make(chan struct{}), make(chan int)
	go func() {
		kills := 0
		every := time.NewTicker(time.Minute)
		defer every.Stop()
		for {
			select {
			case <-stop:
				killer <- kills
				return
			case <-every.C:
			}
			for _, c := range b.m.Containers() {
				if c.State == runtime.StateRunning && c.Pid > 0 {
					_ = syscall.Kill(c.Pid, syscall.SIGKILL) // it may have ended by itself
					kills++
					break
				}
			}
		}
	}()
	killed := j.run("disturbed", "in", 4, killItems)
	close(stop)
	kills := <-killer
	undisturbed := one(bare.Seconds())
	b.report.add(figure{Name: fmt.Sprintf("%d items of 200 ms, 4 instances, one killed each minute, %d in all: duration", killItems, kills), Unit: "s",
		Measured: one(killed.Seconds()), Bare: &undisturbed, Goal: &goal{AtMost: 1.15}, N: 1})
}

// jobResumes counts what is run again after agent and scheduler were killed in the middle of a job.
func (b *bench) jobResumes() {
	j := b.newJobs()
	j.inputs("in", resumedItems, "sleep:20ms")
	j.submit("job", "in", 1)
	half := j.wait("job", func(g *fleetv1.GetJobResponse) bool { return g.GetProgress().GetSuccessful() > resumedItems/2 })
	b.m.Scheduler.Kill()
	b.m.Agent.Kill()
	start := time.Now()
	b.m.StartScheduler()
	b.m.StartAgent()
	j.wait("job", func(g *fleetv1.GetJobResponse) bool {
		return g.GetProgress().GetSuccessful() > half.GetProgress().GetSuccessful()
	})
	resumed := time.Since(start)
	// The container runs through it all, and counts.
	var given int64
	j.wait("job", func(g *fleetv1.GetJobResponse) bool {
		if addresses := j.addresses(); len(addresses) > 0 {
			if n, err := j.given(addresses[0]); err == nil {
				given = max(given, n)
			}
		}
		return ended(g)
	})
	b.report.add(figure{Name: fmt.Sprintf("agent and scheduler killed at half of %d items: run again, of %d in hand", resumedItems, half.GetProgress().GetInHand()), Unit: "items",
		Measured: one(float64(given - resumedItems)), Goal: &goal{AtMost: float64(max(half.GetProgress().GetInHand(), 1))}, N: 1})
	b.report.add(figure{Name: "agent and scheduler killed: until more items are done", Unit: "s", Measured: one(resumed.Seconds()), N: 1})
}

// given asks a container how many items it was given.
func (j *jobBench) given(address string) (int64, error) {
	resp, err := http.Get("http://" + address + "/predict")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(raw), 10, 64)
}
