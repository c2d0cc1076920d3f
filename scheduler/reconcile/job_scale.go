package reconcile

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Bounds of scaling.
const (
	askLess   = time.Minute      // that tasks have waited for a node before fewer are asked for
	moreAfter = 5 * time.Minute  // before more are asked for again
	workEvery = 30 * time.Second // between two changes for what is left to do: an instance costs its start
	yieldStep = 10 * time.Second // between two tasks that a job gives up for another project's
)

// scaling bounds how many tasks a job asks for.
type scaling struct {
	most    int32     // 0 for what the job allows
	until   time.Time // when most is over
	scaled  time.Time // when it asked for another number last
	yielded time.Time // when another job was last asked to yield for this one
}

// tasks is how many tasks to ask for: as many as have enough to do and may find a node.
func (s *jobStep) tasks() int32 {
	spec, now := s.job.GetSpec(), s.next.GetStatus().GetTasks()
	most := max(1, spec.GetInstances())
	least := most
	if spec.GetMinInstances() > 0 {
		least = min(least, spec.GetMinInstances())
	}
	want := most
	if n := s.cfg.Work.TasksFor(s.id()); n > 0 {
		want = int32(min(int64(n), int64(most)))
		if want < now && now-want < max(1, now/4) {
			want = now // not for so little
		}
		if at := s.m.scaled.Add(workEvery); now > 0 && want != now && s.now.Before(at) {
			want = now
			s.later.at(s.id(), at)
		}
	} else if now > 0 {
		want = now
	}
	if s.m.most > 0 && s.now.Before(s.m.until) {
		want = min(want, s.m.most)
		s.later.at(s.id(), s.m.until)
	} else if s.m.most > 0 {
		s.m.most, want = 0, max(want, min(most, want+1))
	}
	return max(least, min(want, most))
}

// scale asks for more tasks or fewer.
func (s *jobStep) scale() {
	s.noteWaiting()
	st, version := s.next.Status, s.svc.GetSpec().GetVersions()[0]
	st.Tasks = s.tasks()
	if st.GetTasks() == version.GetInstances() {
		return
	}
	s.m.scaled = s.now
	next := proto.CloneOf(s.svc)
	next.Spec.Versions[0].Instances = st.GetTasks()
	next.Meta.Generation++
	s.mutations = append(s.mutations, state.Put(s.svc.GetMeta().GetRevision(), next))
	s.tell(fleetv1.EventNormal, "JobScaled", fmt.Sprintf("from %d to %s", version.GetInstances(), count(int(st.GetTasks()), "task", "tasks")))
}

// noteWaiting has a job whose tasks wait for a node yet ask for less, and others yield to it first.
func (s *jobStep) noteWaiting() {
	for _, v := range s.svc.GetStatus().GetVersions() {
		if v.GetWaitingSince() == nil {
			continue
		}
		s.yield()
		at := v.GetWaitingSince().AsTime().Add(askLess)
		if s.now.Before(at) {
			s.later.at(s.id(), at)
			continue
		}
		if s.m.most == 0 || !s.now.Before(s.m.until) || v.GetPlaced() < s.m.most {
			s.m.most, s.m.until = max(1, v.GetPlaced()), s.now.Add(moreAfter)
		}
	}
}

// yield has a job of a project that holds more than its share of the pool's job tasks give up one of them, for a job
// that waits and whose project holds less. Shares are equal among the projects that have jobs there.
func (s *jobStep) yield() {
	if at := s.m.yielded.Add(yieldStep); s.now.Before(at) {
		s.later.at(s.id(), at)
		return
	}
	pool, mine := s.job.GetSpec().GetPool(), s.job.GetMeta().GetProject()
	held, total := map[string]int32{mine: 0}, int32(0)
	var jobs []*fleetv1.Job
	for _, svc := range s.view.Services("") {
		job := s.view.JobByID(svc.GetSpec().GetJobId())
		if svc.GetSpec().GetJobId() == "" || job == nil || svc.GetSpec().GetPool() != pool || svc.GetDesired().GetState() != fleetv1.DesiredRunning {
			continue
		}
		var placed int32
		for _, v := range svc.GetStatus().GetVersions() {
			placed += v.GetPlaced()
		}
		held[job.GetMeta().GetProject()] += placed
		total += placed
		jobs = append(jobs, job)
	}
	share := total / int32(len(held))
	var from *fleetv1.Job
	for _, job := range jobs {
		least := job.GetSpec().GetMinInstances()
		if least == 0 || held[job.GetMeta().GetProject()] <= share || job.GetStatus().GetTasks() <= least {
			continue
		}
		if from == nil || job.GetStatus().GetTasks() > from.GetStatus().GetTasks() {
			from = job
		}
	}
	if from == nil || held[mine] >= share {
		return
	}
	id := from.GetMeta().GetId()
	if s.memory[id] == nil {
		s.memory[id] = &jobMemory{}
	}
	m := s.memory[id]
	m.most, m.until = from.GetStatus().GetTasks()-1, s.now.Add(moreAfter)
	s.m.yielded = s.now
	s.later.at(id, s.now)
	s.later.at(s.id(), s.now.Add(yieldStep))
}
