package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// defaultReplace is OnDisconnect.replace_after_seconds when it is unset.
const defaultReplace = 60 * time.Second

// census is one look at a service's instances.
type census struct {
	instances int
	versions  []*versionCensus
	// stop are to be asked to stop, ending have been; remove are to be deleted from the store.
	stop   []fate
	ending []*fleetv1.Instance
	remove []*fleetv1.Instance
	// parted have been asked to stop on nodes that are away: they end when their node is back, and the
	// service doesn't wait for that.
	parted []*fleetv1.Instance
	// look is when the next instance counts as lost or parted, or its time to leave is over; zero when none will.
	look time.Time
}

// versionCensus is one version's share. It counts logical instances: a gang is one.
type versionCensus struct {
	key  string
	spec *fleetv1.ServiceVersion
	want int
	kept []member // that are to run on, those that leave included
	// What stays and what leaves once it is replaced, of what is kept.
	stay, leave []unit
	ready       int // at most want
}

// member is an instance that is to run on.
type member struct {
	*fleetv1.Instance
	ready     bool // serves
	reachable bool // its node is
}

// unit is one logical instance: a single one, or the members of a gang.
type unit struct {
	members []member
	ready   bool // every member is
}

// fate is an instance that is to be stopped, and why.
type fate struct {
	*fleetv1.Instance
	reason string
	failed bool // it gave up
}

func versionKey(model, version string) string { return model + "@" + version }

// missing is how many are to be placed: what leaves is replaced first.
func (v *versionCensus) missing() int { return v.want - len(v.stay) }

// placed is how many of those that are wanted have a node.
func (v *versionCensus) placed() int { return min(v.want, len(v.stay)+len(v.leave)) }

func (v *versionCensus) allReady() bool { return v.ready >= v.want }

// counting takes a census.
type counting struct {
	*census
	view  state.ReadView
	svc   *fleetv1.Service
	now   time.Time
	byKey map[string]*versionCensus
	nodes map[string]seenNode
	gangs map[string]*gang // by ID
	gone  absences
	order []string // of the gangs
}

// seenNode is what matters of a node; it is nil when it is gone.
type seenNode struct {
	*fleetv1.Node
	fails bool // one of its devices does
}

// gang is what was found of one.
type gang struct {
	version *versionCensus
	members []member
	broken  string // why it can't go on; empty when it can
}

// take looks at the instances of a service. svc is nil when it no longer exists: then all must go.
func take(view state.ReadView, svc *fleetv1.Service, id string, now time.Time, gone absences) *census {
	all := view.InstancesOfService(id)
	c := &counting{census: &census{instances: len(all)}, view: view, svc: svc, now: now, gone: gone, byKey: map[string]*versionCensus{},
		nodes: map[string]seenNode{}, gangs: map[string]*gang{}}
	if svc.GetDesired().GetState() == fleetv1.DesiredRunning {
		for _, v := range svc.GetSpec().GetVersions() {
			key := versionKey(v.GetModel(), v.GetModelVersion())
			if c.byKey[key] == nil {
				c.byKey[key] = &versionCensus{key: key, spec: v}
				c.versions = append(c.versions, c.byKey[key])
			}
			c.byKey[key].want += int(v.GetInstances())
		}
	}
	for _, inst := range all {
		c.sort(inst)
	}
	c.assemble()
	for _, v := range c.versions {
		c.cut(v)
	}
	return c.census
}

func (c *counting) node(name string) seenNode {
	n, ok := c.nodes[name]
	if !ok {
		node := c.view.Node(name)
		n = seenNode{node, state.AnyFails(node)}
		c.nodes[name] = n
	}
	return n
}

// sort decides what becomes of one instance.
func (c *counting) sort(inst *fleetv1.Instance) {
	svc, node := c.svc, c.node(inst.GetSpec().GetNode())
	version := c.byKey[versionKey(inst.GetSpec().GetModel(), inst.GetSpec().GetModelVersion())]
	reachable := node.GetStatus().GetState() == fleetv1.NodeReady
	var broken string
	switch {
	case node.Node == nil || inst.GetObserved().GetState() == fleetv1.InstanceReaped:
		c.remove = append(c.remove, inst)
		broken = "has ended"
	case inst.GetDesired().GetState() == fleetv1.DesiredStopped && (!reachable && c.away(node.Node, min(patience(svc), defaultReplace)) || outlived(svc, inst)):
		c.parted = append(c.parted, inst)
		broken = "is to stop"
	case inst.GetDesired().GetState() == fleetv1.DesiredStopped:
		c.ending = append(c.ending, inst)
		broken = "is to stop"
	case svc.GetDesired().GetState() != fleetv1.DesiredRunning:
		c.stop = append(c.stop, fate{inst, "the service is to be " + cmp.Or(svc.GetDesired().GetState(), fleetv1.DesiredDeleted), false})
		return
	case version == nil:
		c.stop = append(c.stop, fate{inst, "the service no longer has this version", false})
		return
	case inst.GetObserved().GetState() == fleetv1.InstanceFailed:
		c.stop = append(c.stop, fate{inst, "it failed: " + cmp.Or(inst.GetObserved().GetReason(), "no reason was given"), true})
		broken = "has failed"
	case inst.GetObserved().GetState() == fleetv1.InstanceReclaiming: // stopped on its node by hand
		c.stop = append(c.stop, fate{inst, "it has ended on its node", false})
		broken = "has ended on its node"
	case reachable && node.fails && state.FailedDevice(node.Node, inst) != "":
		broken = state.FailedDevice(node.Node, inst)
		c.stop = append(c.stop, fate{inst, broken, true})
	case !reachable && c.lost(node.Node, inst):
		broken = "is lost: its node " + node.GetMeta().GetName() + " is unreachable"
		c.stop = append(c.stop, fate{inst, "its node " + node.GetMeta().GetName() + " is unreachable", false})
	case inst.GetSpec().GetGang() == nil:
		version.kept = append(version.kept, member{inst, reachable && inst.GetObserved().GetReady(), reachable})
		return
	}
	if inst.GetSpec().GetGang() != nil {
		c.join(inst, version, reachable, broken)
	}
}

// join notes a member of a gang; with broken it isn't kept.
func (c *counting) join(inst *fleetv1.Instance, version *versionCensus, reachable bool, broken string) {
	id := inst.GetSpec().GetGang().GetId()
	g := c.gangs[id]
	if g == nil {
		g = &gang{version: version}
		c.gangs[id] = g
		c.order = append(c.order, id)
	}
	if broken == "" {
		g.members = append(g.members, member{inst, reachable && inst.GetObserved().GetReady(), reachable})
	} else if g.broken == "" {
		g.broken = inst.GetMeta().GetName() + " " + broken
	}
}

// assemble makes units of what is kept. A gang that has lost a member is stopped as a whole.
func (c *counting) assemble() {
	for _, v := range c.versions {
		for i, m := range v.kept {
			v.add(unit{v.kept[i : i+1 : i+1], m.ready})
		}
	}
	for _, id := range c.order {
		g := c.gangs[id]
		if len(g.members) == 0 {
			continue
		}
		if size := int(g.members[0].GetSpec().GetGang().GetSize()); g.broken == "" && len(g.members) < size {
			g.broken = fmt.Sprintf("only %d of its %d members are left", len(g.members), size)
		}
		if g.broken != "" {
			for _, m := range g.members {
				c.stop = append(c.stop, fate{m.Instance, "its gang is replaced as a whole: " + g.broken, false})
			}
			continue
		}
		slices.SortFunc(g.members, func(a, b member) int {
			return cmp.Compare(a.GetSpec().GetGang().GetRank(), b.GetSpec().GetGang().GetRank())
		})
		g.version.kept = append(g.version.kept, g.members...)
		g.version.add(unit{g.members, !slices.ContainsFunc(g.members, func(m member) bool { return !m.ready })})
	}
}

func (v *versionCensus) add(u unit) {
	if slices.ContainsFunc(u.members, func(m member) bool { return m.GetDesired().GetLeave() != nil }) {
		v.leave = append(v.leave, u)
	} else {
		v.stay = append(v.stay, u)
	}
}

// outlived says that the service was found Stopped without the instance having ended: a node that is back
// doesn't make it Stopping again.
func outlived(svc *fleetv1.Service, inst *fleetv1.Instance) bool {
	st := svc.GetStatus()
	return st.GetState() == fleetv1.ServiceStopped && !inst.GetMeta().GetCreateTime().AsTime().After(st.GetStateTime().AsTime())
}

// away says whether the unreachable node has been so for long enough, and otherwise notes when it will have been.
func (c *counting) away(node *fleetv1.Node, after time.Duration) bool {
	return c.passed(node.GetStatus().GetStateTime().AsTime().Add(after))
}

// passed says whether the time has come, and otherwise notes to look again then.
func (c *counting) passed(at time.Time) bool {
	if !c.now.Before(at) {
		return true
	}
	c.look = earlier(c.look, at)
	return false
}

// cut stops what a version has too many of: those that do not serve first, then the newest. What leaves goes once
// enough of what stays serves, or at its deadline when it is preemptible.
func (c *counting) cut(v *versionCensus) {
	before := len(v.stay) + len(v.leave)
	if len(v.stay) > v.want {
		best(v.stay)
		for _, u := range v.stay[v.want:] {
			c.end(u, fmt.Sprintf("the service was scaled to %d", v.want))
		}
		v.stay = v.stay[:v.want]
	}
	serving := countReady(v.stay)
	if len(v.leave) > 0 {
		best(v.leave)
		v.leave = slices.DeleteFunc(v.leave, func(u unit) bool {
			over := c.overdue(u)
			if over {
				c.end(u, "the deadline to leave has passed, and it is preemptible")
			}
			return over
		})
		for len(v.leave) > max(0, v.want-serving) {
			last := len(v.leave) - 1
			c.end(v.leave[last], "it has been replaced: "+left(v.leave[last]))
			v.leave = v.leave[:last]
		}
	}
	v.ready = min(v.want, serving+countReady(v.leave))
	if len(v.stay)+len(v.leave) < before {
		v.kept = nil
		for _, units := range [][]unit{v.stay, v.leave} {
			for _, u := range units {
				v.kept = append(v.kept, u.members...)
			}
		}
	}
}

// best orders units: those that serve first, then the oldest.
func best(units []unit) {
	slices.SortFunc(units, func(a, b unit) int {
		if a.ready != b.ready {
			if a.ready {
				return -1
			}
			return 1
		}
		x, y := a.members[0].GetMeta(), b.members[0].GetMeta()
		return cmp.Or(x.GetCreateTime().AsTime().Compare(y.GetCreateTime().AsTime()), cmp.Compare(x.GetId(), y.GetId()))
	})
}

func countReady(units []unit) int {
	n := 0
	for _, u := range units {
		if u.ready {
			n++
		}
	}
	return n
}

// overdue says whether a unit's time to leave is over. Only what is preemptible is held to it.
func (c *counting) overdue(u unit) bool {
	over := false
	for _, m := range u.members {
		at := m.GetDesired().GetLeave().GetDeadline()
		over = at != nil && m.GetSpec().GetPreemptible() && c.passed(at.AsTime()) || over
	}
	return over
}

// left says why a unit left.
func left(u unit) string {
	for _, m := range u.members {
		if leave := m.GetDesired().GetLeave(); leave != nil {
			return leave.GetCause()
		}
	}
	return ""
}

// end has all members of a unit asked to stop.
func (c *census) end(u unit, reason string) {
	for _, m := range u.members {
		c.stop = append(c.stop, fate{m.Instance, reason, false})
	}
}

// left is how many instances a service that is to end still waits for.
func (c *census) left() int {
	n := len(c.stop) + len(c.ending) + len(c.remove)
	for _, v := range c.versions {
		n += len(v.kept)
	}
	return n
}

// counts sums over the versions.
func (c *census) counts() (want, ready int) {
	for _, v := range c.versions {
		want, ready = want+v.want, ready+v.ready
	}
	return want, ready
}

func (c *census) allReady() bool {
	for _, v := range c.versions {
		if !v.allReady() {
			return false
		}
	}
	return true
}

func sortedKeys(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }
