package instance

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Changed holds a token while Take has something; it is for one reader.
func (g *Manager) Changed() <-chan struct{} { return g.changed }

func (g *Manager) mark(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.markLocked(id)
}

func (g *Manager) markLocked(id string) {
	g.dirty[id] = true
	notify(g.changed)
}

// MarkAll makes the next Take report every instance: a session begins.
func (g *Manager) MarkAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id := range g.machines {
		g.markLocked(id)
	}
}

// Take answers reports of all instances that changed since they were last taken. What the agent before this one
// left ready is reported once it has been compared with what is there: that is no word of today.
func (g *Manager) Take() ([]*fleetv1.InstanceReport, error) {
	g.mu.Lock()
	var due []*machine
	for id := range g.dirty {
		if m := g.machines[id]; m != nil && m.reportable() {
			due = append(due, m)
		}
	}
	clear(g.dirty)
	g.mu.Unlock()
	slices.SortFunc(due, func(a, b *machine) int { return cmp.Compare(a.id, b.id) })
	var reports []*fleetv1.InstanceReport
	for i, m := range due {
		r, err := m.report()
		if err != nil {
			for _, m := range due[i:] {
				g.mark(m.id)
			}
			return reports, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

func (m *machine) reportable() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.known || !m.rec.Instance.Observed.Ready
}

// Ack says that reports are committed: their events need not be sent again.
func (g *Manager) Ack(reports []*fleetv1.InstanceReport) {
	for _, r := range reports {
		if m := g.find(r.GetInstanceId()); m != nil {
			m.acknowledge(r.GetObserved().GetSequence())
		}
	}
}

// Instances answers copies of all instances, ordered by name.
func (g *Manager) Instances() []*fleetv1.Instance {
	var all []*fleetv1.Instance
	for _, m := range g.all() {
		all = append(all, m.snapshot())
	}
	slices.SortFunc(all, func(a, b *fleetv1.Instance) int {
		return cmp.Or(cmp.Compare(a.GetMeta().GetName(), b.GetMeta().GetName()), cmp.Compare(a.GetMeta().GetId(), b.GetMeta().GetId()))
	})
	return all
}

// Pulls answers the progress of running pulls.
func (g *Manager) Pulls() []*fleetv1.PullProgress {
	var pulls []*fleetv1.PullProgress
	for _, m := range g.all() {
		m.mu.Lock()
		if m.pull != nil {
			pulls = append(pulls, proto.CloneOf(m.pull))
		}
		m.mu.Unlock()
	}
	return pulls
}

// Note adds an event to an instance.
func (g *Manager) Note(id, kind, reason, message string) {
	if m := g.find(id); m != nil {
		m.update(func(*fleetv1.InstanceObserved) { m.noteLocked(kind, reason, message) })
	}
}
