package jobs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/test/machine"
)

// pids are the first processes of the containers that run.
func (l *lab) pids() []int {
	l.t.Helper()
	var all []int
	for _, c := range l.Containers() {
		if c.State == runtime.StateRunning && c.Pid > 0 {
			all = append(all, c.Pid)
		}
	}
	return all
}

func TestInstanceIsKilledMidItem(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{})
	const items = 120
	l.items(items, every("sleep:100ms"))
	l.submit("job", func(s *fleetv1.JobSpec) { s.Instances, s.MaxConcurrency = 2, 2 })
	l.underway("job", 5)
	for range 2 {
		pids := l.pids()
		if len(pids) == 0 {
			t.Fatal("no container runs")
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		l.Within(limit, "its containers run again", func() error {
			for _, pid := range l.pids() {
				for _, old := range pids {
					if pid == old {
						return fmt.Errorf("process %d is there", pid)
					}
				}
			}
			if n := len(l.pids()); n < len(pids) {
				return fmt.Errorf("%d run", n)
			}
			return nil
		})
	}
	l.ends("job", fleetv1.JobCompleted, 2*limit)
	l.check("job", items, nil)
}

func TestPoisonedItemFailsAlone(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{})
	const items, poison = 40, 17
	l.items(items, func(i int) string {
		if i == poison {
			return "exit"
		}
		return "sleep:20ms"
	})
	l.submit("job", func(s *fleetv1.JobSpec) { retries := int32(1); s.ModelRetries = &retries })
	l.ends("job", fleetv1.JobCompleted, 2*limit)
	l.check("job", items, func(i int) string {
		if i == poison {
			return "container"
		}
		return ""
	})
}

func TestAgentIsKilled(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{})
	const items = 100
	l.items(items, every("sleep:50ms"))
	l.submit("job", func(s *fleetv1.JobSpec) { s.MaxConcurrency = 2 })
	l.underway("job", 5)
	before := l.pids()
	l.Agent.Kill()
	l.StartAgent()
	if after := l.pids(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the containers' processes were %v, now %v", before, after)
	}
	l.ends("job", fleetv1.JobCompleted, 2*limit)
	l.check("job", items, nil)
	l.noPacks("job")
}

// packs are the results beside a job's output that wait for their names.
func (l *lab) packs(jobName string) []string {
	l.t.Helper()
	all, err := filepath.Glob(filepath.Join(l.shared, "out-"+jobName, ".drover", "*", "pack-*"))
	l.must(err)
	return all
}

// noPacks checks that nothing stays of them when the job is Completed, and that what a retry needs does.
func (l *lab) noPacks(jobName string) {
	l.t.Helper()
	if left := l.packs(jobName); len(left) > 0 {
		l.t.Errorf("packs that nobody needs are there: %v", left)
	}
	index, err := filepath.Glob(filepath.Join(l.shared, "out-"+jobName, ".drover", "*", "input-*"))
	if err != nil || len(index) == 0 {
		l.t.Errorf("the index is gone: %v", err)
	}
}

// Results are committed and can't be given their names; then the agent that has them is killed, and somebody deletes the packs.
func TestPacksAreDeleted(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{})
	const items = 60
	l.items(items, every("sleep:50ms"))
	l.submit("job", func(s *fleetv1.JobSpec) { s.MaxConcurrency = 2 })
	block := filepath.Join(l.shared, "out-job", "infer-result-0")
	l.must(os.WriteFile(block, nil, 0o600))
	l.underway("job", 5)
	l.Agent.Kill()
	packs := l.packs("job")
	if len(packs) == 0 {
		t.Fatal("there are no packs")
	}
	for _, path := range append(packs, block) {
		l.must(os.Remove(path))
	}
	l.StartAgent()
	l.ends("job", fleetv1.JobCompleted, 2*limit)
	l.check("job", items, nil)
	l.noPacks("job")
	if out, errs, code := l.Drover("job", "events", "job"); code != 0 || !strings.Contains(out, "JobResultsLost") {
		t.Errorf("its events: %s%s", out, errs)
	}
}

func TestLeaderIsKilled(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{Schedulers: 3})
	const items = 150
	l.items(items, every("sleep:50ms"))
	l.submit("job", func(s *fleetv1.JobSpec) { s.MaxConcurrency = 2 })
	l.underway("job", 5)
	leader := l.Schedulers.Leader()
	leader.Kill()
	defer leader.Start()
	other := l.Schedulers.Others(leader)[0]
	l.Client = other.Client
	l.ends("job", fleetv1.JobCompleted, 2*limit)
	l.check("job", items, nil)
}

// The agent stands still until its items have been given to another node, and goes on with them: two tasks believe that they
// hold the same chunk, and the results of one of them count.
func TestTwoTasksHaveTheSameItems(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{})
	const items = 60
	l.items(items, every("sleep:200ms"))
	l.submit("job", func(s *fleetv1.JobSpec) { s.Instances, s.MinInstances, s.MaxConcurrency = 2, 1, 2 })
	l.underway("job", 3)
	l.simulate("n2")
	l.Agent.Signal(syscall.SIGSTOP)
	stopped := true
	defer func() {
		if stopped {
			l.Agent.Signal(syscall.SIGCONT)
		}
	}()
	l.until("job", "another node has all items", 2*limit, func(j *fleetv1.GetJobResponse) bool {
		p := j.GetProgress()
		return p.GetSuccessful()+p.GetFailed() == items || p.GetLeft() > 0 && onlyOn(j, "n2")
	})
	l.Agent.Signal(syscall.SIGCONT)
	stopped = false
	l.ends("job", fleetv1.JobCompleted, 2*limit)
	l.check("job", items, nil)
}

// onlyOn says that all items in hand are with tasks on a node.
func onlyOn(j *fleetv1.GetJobResponse, node string) bool {
	held := false
	for _, task := range j.GetTasks() {
		if task.GetItemsInHand() > 0 && task.GetNode() != node {
			return false
		}
		held = held || task.GetItemsInHand() > 0
	}
	return held
}

func TestJobIsPreempted(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{AgentConfig: map[string]any{"devices": []string{"fake:1xH100-80GB"}}})
	_, err := l.Client.Flavors.CreateFlavor(t.Context(), &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "gpu"},
		Spec: &fleetv1.FlavorSpec{CpuMillis: 50, MemoryBytes: 64 << 20, Accelerator: &fleetv1.Accelerator{Count: 1}}}})
	l.must(err)
	l.Prepare(machine.Deployment{Name: "urgent", Accel: 1})
	const items = 80
	l.items(items, every("sleep:100ms"))
	l.submit("job", func(s *fleetv1.JobSpec) { s.Flavor, s.MaxConcurrency = "gpu", 2 })
	l.underway("job", 3)
	_, err = l.Client.Services.DeployService(t.Context(), &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{Meta: &fleetv1.Meta{Name: "urgent"},
		Spec: &fleetv1.ServiceSpec{Pool: "all", Versions: []*fleetv1.ServiceVersion{{Model: "urgent", Flavor: "urgent", Instances: 1, Priority: 50}}}}})
	l.must(err)
	l.WaitService(2*limit, "urgent", fleetv1.ServiceRunning)
	l.until("job", "it waits", limit, func(j *fleetv1.GetJobResponse) bool { return j.GetProgress().GetInHand() == 0 })
	l.Delete("urgent")
	l.ends("job", fleetv1.JobCompleted, 2*limit)
	l.check("job", items, nil)
}

func TestJobIsStoppedAndStarted(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{})
	const items = 120
	l.items(items, every("sleep:50ms"))
	l.submit("job", func(s *fleetv1.JobSpec) { s.MaxConcurrency = 2 })
	l.underway("job", 5)
	_, err := l.Client.Jobs.StopJob(t.Context(), &fleetv1.StopJobRequest{Name: "job"})
	l.must(err)
	stopped := l.ends("job", fleetv1.JobStopped, 2*limit).GetProgress()
	if stopped.GetLeft() == 0 {
		t.Fatalf("nothing was left when it had stopped: %v", stopped)
	}
	done := int(stopped.GetSuccessful() + stopped.GetFailed())
	if lines := l.manifests(filepath.Join(l.shared, "out-job")); len(lines) != done {
		t.Errorf("%d items are done, and %d stand in the manifests", done, len(lines))
	}
	before := l.results()
	_, err = l.Client.Jobs.StartJob(t.Context(), &fleetv1.StartJobRequest{Name: "job"})
	l.must(err)
	l.ends("job", fleetv1.JobCompleted, 2*limit)
	l.check("job", items, nil)
	for path, was := range before {
		if info, err := os.Stat(path); err != nil || !info.ModTime().Equal(was) {
			t.Errorf("%s was made again: %v", path, err)
		}
	}
}

// results are when each result was written.
func (l *lab) results() map[string]time.Time {
	l.t.Helper()
	all := map[string]time.Time{}
	for _, line := range l.manifests(filepath.Join(l.shared, "out-job")) {
		path := l.path(line.Location)
		info, err := os.Stat(path)
		l.must(err)
		all[path] = info.ModTime()
	}
	return all
}

func TestJobIsDeletedWhileItRuns(t *testing.T) {
	t.Parallel()
	l := newLab(t, machine.Options{})
	const items = 200
	l.items(items, every("sleep:50ms"))
	l.submit("job", func(s *fleetv1.JobSpec) { s.MaxConcurrency = 2 })
	l.underway("job", 5)
	_, err := l.Client.Jobs.DeleteJob(t.Context(), &fleetv1.DeleteJobRequest{Name: "job"})
	l.must(err)
	l.Within(2*limit, "the job, and its containers, are gone", func() error {
		if _, err := l.job("job"); err == nil || !strings.Contains(err.Error(), "job") {
			return fmt.Errorf("it is there: %w", err)
		}
		if n := len(l.Containers()); n > 0 {
			return fmt.Errorf("%d containers", n)
		}
		return nil
	})
	dir := filepath.Join(l.shared, "out-job")
	for source, line := range l.manifests(dir) {
		l.sameAnswer(l.path(source), l.path(line.Location))
	}
}
