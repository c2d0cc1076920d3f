package instance

import (
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Tasks run the items of jobs in instances; *task.Manager is one. Its methods return at once.
type Tasks interface {
	// Serve tells how an instance stands: at which address its container answers, "" while it gets no requests.
	Serve(inst *fleetv1.Instance, address string)
	// Leave has it end the items that have begun, and answers how long that takes at most; left is called then, once.
	Leave(inst *fleetv1.Instance, left func()) time.Duration
	// Drop forgets an instance of which no container is left.
	Drop(instance string)
}

// worksOnJob says that the instance is given items: of a gang it's rank 0.
func worksOnJob(inst *fleetv1.Instance) bool {
	return inst.GetSpec().GetJobId() != "" && inst.GetSpec().GetGang().GetRank() == 0
}

// tellTask tells how the instance stands, after a step. While it drains, what has begun still gets answers.
func (m *machine) tellTask() {
	if m.g.cfg.Tasks == nil || !worksOnJob(m.rec.Instance) {
		return
	}
	inst := m.snapshot()
	address := ""
	switch o := inst.GetObserved(); o.GetState() {
	case fleetv1.InstanceFailed, fleetv1.InstanceReclaiming, fleetv1.InstanceReaped:
		m.g.cfg.Tasks.Drop(m.id)
		return
	case fleetv1.InstanceRunning:
		if o.GetReady() {
			address = m.address
		}
	case fleetv1.InstanceDraining:
		address = m.address
	}
	m.g.cfg.Tasks.Serve(inst, address)
}

// leaveTask has the instance's task end what it has begun.
func (m *machine) leaveTask() {
	m.taskUntil = time.Time{}
	if m.g.cfg.Tasks == nil || !worksOnJob(m.rec.Instance) {
		return
	}
	attempt := m.attempt()
	m.mu.Lock()
	m.taskLeft = 0
	m.mu.Unlock()
	most := m.g.cfg.Tasks.Leave(m.snapshot(), func() { m.mail(func() { m.taskLeft = attempt }) })
	m.taskUntil = time.Now().Add(most)
}

// untilTaskLeft answers how long the container must still serve its task, at most.
func (m *machine) untilTaskLeft() time.Duration {
	m.mu.Lock()
	left := m.taskLeft == m.rec.Instance.Observed.Attempt
	m.mu.Unlock()
	if left {
		return 0
	}
	return time.Until(m.taskUntil)
}
