package reconcile

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// fakeWork says of all jobs what the test says.
type fakeWork struct {
	mu      sync.Mutex
	tasks   int
	busy    bool
	trouble string
	untidy  bool   // packs are being removed
	asked   func() // when it's asked whether a job is idle
	moved   func(string)
}

func (w *fakeWork) TasksFor(string) int { w.mu.Lock(); defer w.mu.Unlock(); return w.tasks }
func (w *fakeWork) Idle(string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asked != nil {
		w.asked()
	}
	return !w.busy
}
func (w *fakeWork) Tidied(string) bool               { w.mu.Lock(); defer w.mu.Unlock(); return !w.untidy }
func (w *fakeWork) Trouble(string) string            { w.mu.Lock(); defer w.mu.Unlock(); return w.trouble }
func (w *fakeWork) OnProgress(f func(string)) func() { w.moved = f; return func() {} }
func (w *fakeWork) set(job string, change func(*fakeWork)) {
	w.mu.Lock()
	change(w)
	w.mu.Unlock()
	w.moved(job)
}

// jobs calls f in a bubble with a cluster and the work of its jobs.
func jobs(t *testing.T, nodes int, f func(*cluster, *fakeWork)) {
	synctest.Test(t, func(t *testing.T) {
		c, w := newCluster(t, nodes), &fakeWork{}
		c.work = w
		defer c.lead()()
		c.settled()
		f(c, w)
	})
}

// submit makes a job of so many items as the API would; its ID is its name and "id".
func (c *cluster) submit(name string, items int64, change ...func(*fleetv1.Job)) {
	c.t.Helper()
	meta := &fleetv1.Meta{Name: name, Id: name + "id", Project: "default", CreateTime: timestamppb.Now()}
	job := &fleetv1.Job{Meta: meta, Desired: &fleetv1.JobDesired{State: fleetv1.DesiredRunning, Run: 1, Caller: "me"},
		Spec: &fleetv1.JobSpec{Pool: "p", Model: "m", ModelVersion: "0.0.1", Flavor: "one", Instances: 2, MinInstances: 1, Env: map[string]string{"A": "b"}}}
	for _, f := range change {
		f(job)
	}
	c.must(job)
	c.must(&fleetv1.JobLedger{Meta: proto.CloneOf(job.GetMeta()), Items: items, Listed: true, Parts: []*fleetv1.InputPart{{Items: items, Object: "o"}}})
	c.settled()
}

func (c *cluster) job(id string) *fleetv1.Job { return c.store.View().JobByID(id) }

func (c *cluster) jobService(name string) *fleetv1.Service {
	return c.store.View().Service(c.job(name+"id").GetMeta().GetProject(), "job."+name)
}

// changeJob writes a job as the API would.
func (c *cluster) changeJob(id string, f func(*fleetv1.Job)) {
	c.t.Helper()
	job := proto.CloneOf(c.job(id))
	f(job)
	if r := c.put(job, job.GetMeta().GetRevision()); len(r.Rejections) > 0 {
		c.t.Fatalf("change: %v", r.Rejections)
	}
	c.settled()
}

func (c *cluster) jobCommit(jc *fleetv1.JobCommit) {
	c.t.Helper()
	c.mu.Lock()
	r := c.applyLocked(&fleetv1.Command{Time: timestamppb.Now(), Op: &fleetv1.Command_JobCommit{JobCommit: jc}})
	c.mu.Unlock()
	if len(r.Rejections) > 0 {
		c.t.Fatalf("commit: %v", r.Rejections)
	}
	c.settled()
}

// chunkOf are items that have ended, all but the first successfully.
func chunkOf(from, to int64) *fleetv1.Chunk {
	return &fleetv1.Chunk{From: from, To: to, Task: "0", Attempt: "a", Successful: to - from - 1, Failed: 1}
}

func (c *cluster) expectJob(id, want, reason string) *fleetv1.JobStatus {
	c.t.Helper()
	st := c.job(id).GetStatus()
	if st.GetState() != want || !strings.Contains(st.GetReason(), reason) {
		c.t.Fatalf("the job is %s (%s), want %s (%s); events %v", st.GetState(), st.GetReason(), want, reason, c.reasons())
	}
	return st
}

func (c *cluster) eventText(reason string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.GetReason() == reason {
			return e.GetMessage()
		}
	}
	return ""
}

func TestJobCompletes(t *testing.T) {
	jobs(t, 2, func(c *cluster, w *fakeWork) {
		c.submit("j", 10)
		st := c.expectJob("jid", fleetv1.JobRunning, "")
		svc := c.jobService("j")
		if v := svc.GetSpec().GetVersions()[0]; svc.GetSpec().GetJobId() != "jid" || v.GetInstances() != 2 || !v.GetPreemptible() || v.GetEnv()["A"] != "b" || st.GetServiceId() != svc.GetMeta().GetId() || st.GetTasks() != 2 {
			t.Fatalf("its service is %v", svc)
		}
		for _, inst := range c.store.View().Instances() {
			if inst.GetSpec().GetJobId() != "jid" || !inst.GetSpec().GetPreemptible() {
				t.Errorf("instance %v is of no job", inst)
			}
		}
		c.quiet()
		c.jobCommit(&fleetv1.JobCommit{JobId: "jid", Chunks: []*fleetv1.Chunk{chunkOf(0, 10)}, Seal: []string{"0"}})
		c.expectJob("jid", fleetv1.JobRunning, "")
		w.set("jid", func(w *fakeWork) { w.untidy = true })
		c.jobCommit(&fleetv1.JobCommit{JobId: "jid", Written: []*fleetv1.Manifest{{Task: "0"}}})
		c.after(15 * time.Second)
		c.expectJob("jid", fleetv1.JobRunning, "")
		w.set("jid", func(w *fakeWork) { w.trouble = "packs can't be removed" })
		c.after(15 * time.Second)
		c.expectJob("jid", fleetv1.JobRunning, "packs can't be removed")
		w.set("jid", func(w *fakeWork) { w.untidy, w.trouble = false, "" })
		c.after(time.Second)
		if st := c.expectJob("jid", fleetv1.JobCompleted, ""); st.GetEndTime() == nil || st.GetRun() != 1 || st.GetServiceId() != "" {
			t.Errorf("its status is %v", st)
		}
		if c.jobService("j") != nil || len(c.store.View().Instances()) != 0 {
			t.Error("its service is still there")
		}
		c.told("JobStarted", "JobCompleted")
		if got := c.eventText("JobCompleted"); !strings.HasPrefix(got, "10 items: 9 successful, 1 failed, after 1m") {
			t.Errorf("told: %s", got)
		}
		c.quiet()
	})
}

func TestJobStopsAndStarts(t *testing.T) {
	jobs(t, 2, func(c *cluster, w *fakeWork) {
		c.submit("j", 10)
		w.set("jid", func(w *fakeWork) { w.busy = true })
		c.changeJob("jid", func(j *fleetv1.Job) { j.Desired.State = fleetv1.DesiredStopped })
		c.after(10 * time.Second)
		c.expectJob("jid", fleetv1.JobRunning, "being ended")
		c.jobCommit(&fleetv1.JobCommit{JobId: "jid", Chunks: []*fleetv1.Chunk{chunkOf(0, 4)}})
		w.set("jid", func(w *fakeWork) { w.busy = false })
		c.settled()
		c.expectJob("jid", fleetv1.JobRunning, "being ended") // a manifest is still to be written
		c.jobCommit(&fleetv1.JobCommit{JobId: "jid", Seal: []string{"0"}, Written: []*fleetv1.Manifest{{Task: "0"}}})
		c.expectJob("jid", fleetv1.JobStopped, "")
		if got := c.eventText("JobStopped"); !strings.HasPrefix(got, "stopped by me; 10 items: 3 successful, 1 failed, 6 left") {
			t.Errorf("told: %s", got)
		}
		c.quiet()
		c.changeJob("jid", func(j *fleetv1.Job) { j.Desired.State, j.Desired.Run = fleetv1.DesiredRunning, 2 })
		if st := c.expectJob("jid", fleetv1.JobRunning, ""); st.GetRun() != 2 || st.GetEndTime() != nil || c.jobService("j") == nil {
			t.Errorf("its status is %v", st)
		}
	})
}

// TestJobStopsAfterTheLastCommit: what is committed while the loop looks at a job that stops gets its manifest first.
func TestJobStopsAfterTheLastCommit(t *testing.T) {
	jobs(t, 1, func(c *cluster, w *fakeWork) {
		c.submit("j", 10)
		w.set("jid", func(w *fakeWork) { w.busy = true })
		c.changeJob("jid", func(j *fleetv1.Job) { j.Desired.State = fleetv1.DesiredStopped })
		w.set("jid", func(w *fakeWork) {
			w.busy = false
			w.asked = func() {
				w.asked = nil
				c.mu.Lock()
				defer c.mu.Unlock()
				c.applyLocked(&fleetv1.Command{Time: timestamppb.Now(), Op: &fleetv1.Command_JobCommit{JobCommit: &fleetv1.JobCommit{JobId: "jid", Chunks: []*fleetv1.Chunk{chunkOf(0, 5)}}}})
			}
		})
		c.settled()
		c.expectJob("jid", fleetv1.JobRunning, "")
		c.jobCommit(&fleetv1.JobCommit{JobId: "jid", Seal: []string{"0"}})
		c.jobCommit(&fleetv1.JobCommit{JobId: "jid", Written: []*fleetv1.Manifest{{Task: "0"}}})
		c.expectJob("jid", fleetv1.JobStopped, "")
	})
}

func TestJobIsStoppedByForce(t *testing.T) {
	jobs(t, 1, func(c *cluster, w *fakeWork) {
		c.submit("j", 10)
		w.set("jid", func(w *fakeWork) { w.busy = true })
		c.changeJob("jid", func(j *fleetv1.Job) { j.Desired.State = fleetv1.DesiredStopped })
		c.after(stopTimeout - time.Second)
		c.expectJob("jid", fleetv1.JobRunning, "being ended")
		c.after(2 * time.Second)
		c.expectJob("jid", fleetv1.JobStopped, "")
	})
}

func TestJobFails(t *testing.T) {
	jobs(t, 1, func(c *cluster, w *fakeWork) {
		c.submit("j", 10)
		c.jobCommit(&fleetv1.JobCommit{JobId: "jid", Failure: "input file:///in/ is gone"})
		c.expectJob("jid", fleetv1.JobFailed, "input file:///in/ is gone")
		if got := c.eventText("JobFailed"); !strings.HasPrefix(got, "input file:///in/ is gone; 10 items: 0 successful, 0 failed, 10 left") {
			t.Errorf("told: %s", got)
		}
		if c.jobService("j") != nil {
			t.Error("its service is still there")
		}
		c.quiet()
	})
}

func TestJobWhoseTasksDontComeUpFails(t *testing.T) {
	jobs(t, 1, func(c *cluster, w *fakeWork) {
		c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			if next.GetState() == fleetv1.InstanceRunning {
				next.Ready, next.Health = false, fleetv1.Unhealthy
			}
			return next
		})
		c.submit("j", 10, func(j *fleetv1.Job) { j.Spec.TimeoutMinutes = 3 })
		c.after(2 * time.Minute)
		c.expectJob("jid", fleetv1.JobDeploying, "")
		c.after(2 * time.Minute)
		c.expectJob("jid", fleetv1.JobFailed, "don't come up")
	})
}

func TestJobIsDeleted(t *testing.T) {
	jobs(t, 1, func(c *cluster, w *fakeWork) {
		c.submit("j", 10)
		w.set("jid", func(w *fakeWork) { w.busy = true })
		c.changeJob("jid", func(j *fleetv1.Job) { j.Desired.State = fleetv1.DesiredDeleted })
		c.after(reasonEvery)
		c.expectJob("jid", fleetv1.JobRunning, "being ended")
		w.set("jid", func(w *fakeWork) { w.busy = false })
		c.settled()
		v := c.store.View()
		if v.JobByID("jid") != nil || v.JobLedger("jid") != nil || len(v.Services("")) != 0 || len(v.Instances()) != 0 {
			t.Errorf("something is left: %v", v.Services(""))
		}
		c.told("JobDeleted")
	})
}

func TestJobScalesWithItsWork(t *testing.T) {
	jobs(t, 2, func(c *cluster, w *fakeWork) {
		c.submit("j", 10, func(j *fleetv1.Job) { j.Spec.Instances, j.Spec.MinInstances = 6, 2 })
		if st := c.expectJob("jid", fleetv1.JobRunning, ""); st.GetTasks() != 6 {
			t.Fatalf("%d tasks are asked for", st.GetTasks())
		}
		for _, step := range []struct {
			enough int
			tasks  int32
		}{{4, 4}, {1, 2}, {3, 3}, {100, 6}} { // at least 2, at most 6
			w.set("jid", func(w *fakeWork) { w.tasks = step.enough })
			c.after(workEvery)
			if n := c.job("jid").GetStatus().GetTasks(); n != step.tasks || c.jobService("j").GetSpec().GetVersions()[0].GetInstances() != n {
				t.Errorf("with enough to do for %d, %d tasks are asked for", step.enough, n)
			}
		}
		if n := c.count("JobScaled"); n != 4 {
			t.Errorf("%d changes are told of", n)
		}
		c.changeJob("jid", func(j *fleetv1.Job) { j.Spec.Instances = 3 })
		if n := c.jobService("j").GetSpec().GetVersions()[0].GetInstances(); n != 3 {
			t.Errorf("%d tasks are asked for, of 3 at most", n)
		}
		w.set("jid", func(w *fakeWork) { w.tasks = 1 })
		c.settled()
		if n := c.job("jid").GetStatus().GetTasks(); n != 3 {
			t.Errorf("at once after a change %d tasks are asked for", n)
		}
		c.after(workEvery)
		if n := c.job("jid").GetStatus().GetTasks(); n != 2 {
			t.Errorf("some time after a change %d tasks are asked for", n)
		}
	})
}

func TestJobAsksForLessWhenItWaits(t *testing.T) {
	jobs(t, 1, func(c *cluster, w *fakeWork) { // a node takes 4
		c.submit("j", 100, func(j *fleetv1.Job) { j.Spec.Instances, j.Spec.MinInstances = 6, 1 })
		if st := c.expectJob("jid", fleetv1.JobRunning, ""); st.GetTasks() != 6 || st.GetReason() == "" {
			t.Fatalf("its status is %v", st)
		}
		c.after(askLess + 10*time.Second)
		if n := c.job("jid").GetStatus().GetTasks(); n != 4 {
			t.Errorf("%d tasks are asked for, and 4 fit", n)
		}
		c.quiet()
		c.addNode("n2")
		c.after(moreAfter)
		if n := c.job("jid").GetStatus().GetTasks(); n <= 4 {
			t.Errorf("%d tasks are asked for, and more fit", n)
		}
	})
}

func TestJobsOfProjectsShare(t *testing.T) {
	jobs(t, 1, func(c *cluster, w *fakeWork) { // a node takes 4
		c.must(&fleetv1.Model{Meta: &fleetv1.Meta{Name: "m", Id: "m2", Project: "other"}, Spec: &fleetv1.ModelSpec{Version: "0.0.1", Image: "r/m:1"},
			Status: &fleetv1.ModelStatus{State: fleetv1.ModelNormal, ImageDigest: "sha256:1", Arches: []string{"amd64"}}})
		c.submit("j", 100, func(j *fleetv1.Job) { j.Spec.Instances, j.Spec.MinInstances = 4, 1 })
		c.submit("k", 100, func(j *fleetv1.Job) { j.Meta.Project, j.Spec.Instances, j.Spec.MinInstances = "other", 4, 1 })
		c.after(30 * time.Second)
		j, k := readyTasks(c.jobService("j")), readyTasks(c.jobService("k"))
		if j != 2 || k != 2 {
			t.Errorf("one project has %d tasks, the other %d", j, k)
		}
		c.after(30 * time.Second)
		if j, k := readyTasks(c.jobService("j")), readyTasks(c.jobService("k")); j != 2 || k != 2 {
			t.Errorf("later one project has %d tasks, the other %d", j, k)
		}
	})
}

// TestServiceOfNoJob: what a restore left of a job that was deleted meanwhile goes.
func TestServiceOfNoJob(t *testing.T) {
	jobs(t, 1, func(c *cluster, w *fakeWork) {
		c.add("s", 1, func(s *fleetv1.Service) { s.Spec.JobId = "gone" })
		c.settled()
		if c.service() != nil {
			t.Errorf("it is %v", c.service().GetStatus())
		}
		c.quiet()
	})
}

// TestJobsAreHeldAfterRestore: nothing is placed before an operator has confirmed what nodes may remove.
func TestJobsAreHeldAfterRestore(t *testing.T) {
	jobs(t, 1, func(c *cluster, w *fakeWork) {
		cluster := proto.CloneOf(c.store.View().Cluster())
		cluster.RestoreEpoch = 7
		if r := c.put(cluster, cluster.GetMeta().GetRevision()); len(r.Rejections) > 0 || !state.RemovalsHeld(c.store.View()) {
			t.Fatalf("not held: %v", r.Rejections)
		}
		c.submit("j", 10)
		if c.jobService("j") != nil {
			t.Error("it has a service")
		}
	})
}
