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

// defaultReschedule is ServiceSpec.reschedule_after_seconds when it is unset.
const defaultReschedule = 60 * time.Second

// census is one look at a service's instances.
type census struct {
	versions []*versionCensus
	// stop are to be asked to stop, ending have been; remove are to be deleted from the store.
	stop   []fate
	ending []*fleetv1.Instance
	remove []*fleetv1.Instance
	// parted have been asked to stop on nodes that are away: they end when their node is back, and the
	// service doesn't wait for that.
	parted []*fleetv1.Instance
	// look is when the next instance counts as lost or parted; zero when none will.
	look time.Time
}

// versionCensus is one version's share.
type versionCensus struct {
	key   string
	spec  *fleetv1.ServiceVersion
	want  int
	kept  []member // that are to run on
	ready int
}

// member is an instance that is to run on.
type member struct {
	*fleetv1.Instance
	ready     bool // serves
	reachable bool // its node is
}

// fate is an instance that is to be stopped, and why.
type fate struct {
	*fleetv1.Instance
	reason string
	failed bool // it gave up
}

func versionKey(model, version string) string { return model + "@" + version }

func (v *versionCensus) missing() int { return v.want - len(v.kept) }

func (v *versionCensus) allReady() bool { return v.ready >= v.want && len(v.kept) == v.want }

// take looks at the instances of a service. svc is nil when it no longer exists: then all must go.
func take(view state.ReadView, svc *fleetv1.Service, id string, now time.Time) *census {
	c := &census{}
	byKey := map[string]*versionCensus{}
	if svc.GetDesired().GetState() == fleetv1.DesiredRunning {
		for _, v := range svc.GetSpec().GetVersions() {
			key := versionKey(v.GetModel(), v.GetModelVersion())
			if byKey[key] == nil {
				byKey[key] = &versionCensus{key: key, spec: v}
				c.versions = append(c.versions, byKey[key])
			}
			byKey[key].want += int(v.GetInstances())
		}
	}
	for _, inst := range view.InstancesOfService(id) {
		c.sort(view, svc, inst, byKey, now)
	}
	for _, v := range c.versions {
		c.cut(v)
	}
	return c
}

// sort decides what becomes of one instance.
func (c *census) sort(view state.ReadView, svc *fleetv1.Service, inst *fleetv1.Instance, byKey map[string]*versionCensus, now time.Time) {
	node := view.Node(inst.GetSpec().GetNode())
	version := byKey[versionKey(inst.GetSpec().GetModel(), inst.GetSpec().GetModelVersion())]
	reachable := node.GetStatus().GetState() == fleetv1.NodeReady
	switch {
	case node == nil || inst.GetObserved().GetState() == fleetv1.InstanceReaped:
		c.remove = append(c.remove, inst)
	case inst.GetDesired().GetState() == fleetv1.DesiredStopped && (!reachable && c.away(node, min(patience(svc), defaultReschedule), now) || outlived(svc, inst)):
		c.parted = append(c.parted, inst)
	case inst.GetDesired().GetState() == fleetv1.DesiredStopped:
		c.ending = append(c.ending, inst)
	case svc.GetDesired().GetState() != fleetv1.DesiredRunning:
		c.stop = append(c.stop, fate{inst, "the service is to be " + cmp.Or(svc.GetDesired().GetState(), fleetv1.DesiredDeleted), false})
	case version == nil:
		c.stop = append(c.stop, fate{inst, "the service no longer has this version", false})
	case inst.GetObserved().GetState() == fleetv1.InstanceFailed:
		c.stop = append(c.stop, fate{inst, "it failed: " + cmp.Or(inst.GetObserved().GetReason(), "no reason was given"), true})
	case inst.GetObserved().GetState() == fleetv1.InstanceReclaiming: // stopped on its node by hand
		c.stop = append(c.stop, fate{inst, "it has ended on its node", false})
	case reachable && state.FailedDevice(node, inst) != "":
		c.stop = append(c.stop, fate{inst, state.FailedDevice(node, inst), true})
	case !reachable && c.away(node, patience(svc), now):
		c.stop = append(c.stop, fate{inst, "its node " + node.GetMeta().GetName() + " is unreachable", false})
	default:
		version.kept = append(version.kept, member{inst, reachable && inst.GetObserved().GetReady(), reachable})
	}
}

// patience is how long an instance on an unreachable node is waited for before it is replaced.
func patience(svc *fleetv1.Service) time.Duration {
	if spec := svc.GetSpec(); spec != nil && spec.RescheduleAfterSeconds != nil {
		return time.Duration(spec.GetRescheduleAfterSeconds()) * time.Second
	}
	return defaultReschedule
}

// outlived says that the service was found Stopped without the instance having ended: a node that is back
// doesn't make it Stopping again.
func outlived(svc *fleetv1.Service, inst *fleetv1.Instance) bool {
	st := svc.GetStatus()
	return st.GetState() == fleetv1.ServiceStopped && !inst.GetMeta().GetCreateTime().AsTime().After(st.GetStateTime().AsTime())
}

// away says whether the unreachable node has been so for long enough, and otherwise notes when it will have been.
func (c *census) away(node *fleetv1.Node, after time.Duration, now time.Time) bool {
	at := node.GetStatus().GetStateTime().AsTime().Add(after)
	if !now.Before(at) {
		return true
	}
	if c.look.IsZero() || at.Before(c.look) {
		c.look = at
	}
	return false
}

// cut stops what a version has too many of: those that do not serve first, then the newest.
func (c *census) cut(v *versionCensus) {
	slices.SortFunc(v.kept, func(a, b member) int {
		if a.ready != b.ready {
			if a.ready {
				return -1
			}
			return 1
		}
		return cmp.Or(a.GetMeta().GetCreateTime().AsTime().Compare(b.GetMeta().GetCreateTime().AsTime()),
			cmp.Compare(a.GetMeta().GetId(), b.GetMeta().GetId()))
	})
	for len(v.kept) > v.want {
		last := v.kept[len(v.kept)-1]
		v.kept = v.kept[:len(v.kept)-1]
		c.stop = append(c.stop, fate{last.Instance, fmt.Sprintf("the service was scaled to %d", v.want), false})
	}
	for _, m := range v.kept {
		if m.ready {
			v.ready++
		}
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
