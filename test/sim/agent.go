package sim

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/session"
)

// How long things take on a node; the package's doc has the distributions.
const (
	orderDelay   = 5 * time.Millisecond
	reportGrid   = 100 * time.Millisecond
	reclaimTime  = time.Second
	reapTime     = 200 * time.Millisecond
	factsPause   = time.Minute
	crashMean    = 30 * 24 * time.Hour
	crashHorizon = 2 * 24 * time.Hour
)

// agent is one node's. Its local instances are what its containers do, whether it is linked or not.
type agent struct {
	w            *world
	n            int
	name         string
	facts        *fleetv1.NodeFacts // never changed, but replaced
	up, linked   bool
	boots, ports int
	cuts         int
	generation   uint64
	ordered      bool // a new set is on its way
	local        map[string]*local
	out          []*local // what is to be reported
	reporting    bool
	told         time.Time // when facts about images were last sent
	telling      bool
	images       []string
}

// local is an instance on its node.
type local struct {
	spec    *fleetv1.InstanceSpec
	desired *fleetv1.InstanceDesired
	id      string
	seen    *fleetv1.InstanceObserved // never changed, but replaced
	step    int                       // counts what it begins: an older one is not ended
	waits   bool                      // in out
}

// order has the node's assignments sent.
func (a *agent) order() {
	if a.ordered || !a.linked {
		return
	}
	a.ordered = true
	a.w.after(orderDelay, func() {
		a.ordered = false
		if a.linked {
			a.assign(session.Assignments(a.w.store.View(), a.name))
		}
	})
}

// assign takes an assignment set.
func (a *agent) assign(set *fleetv1.AssignmentSet) {
	if set.GetGeneration() == a.generation {
		return
	}
	a.generation = set.GetGeneration()
	in := map[string]bool{}
	for _, inst := range set.GetInstances() {
		id := inst.GetMeta().GetId()
		in[id] = true
		l := a.local[id]
		if l == nil {
			l = &local{id: id, spec: inst.GetSpec(), desired: inst.GetDesired(), seen: inst.GetObserved()}
			a.local[id] = l
			if l.desired.GetState() == fleetv1.DesiredStopped {
				a.end(l, fleetv1.InstanceReaped)
			} else {
				a.begin(l, nil)
			}
			continue
		}
		was := l.desired
		if l.desired = inst.GetDesired(); l.desired.GetState() == fleetv1.DesiredStopped && was.GetState() != fleetv1.DesiredStopped {
			a.stop(l)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(a.local)) {
		if !in[id] {
			a.local[id].step++
			delete(a.local, id)
		}
	}
}

// see notes what is to be reported of an instance.
func (a *agent) see(l *local, change func(*fleetv1.InstanceObserved)) {
	l.seen = proto.CloneOf(l.seen)
	change(l.seen)
	l.seen.Sequence++
	if !l.waits {
		l.waits = true
		a.out = append(a.out, l)
	}
	a.report()
}

// report sends what waits, soon and together.
func (a *agent) report() {
	if a.reporting || !a.linked || len(a.out) == 0 {
		return
	}
	a.reporting = true
	at := a.w.now.Add(reportGrid).Truncate(reportGrid)
	a.w.at(at, func() {
		a.reporting = false
		if !a.linked {
			return
		}
		report := &fleetv1.Report{Node: a.name}
		for _, l := range a.out {
			l.waits = false
			if a.local[l.id] == l {
				report.Instances = append(report.Instances, &fleetv1.InstanceReport{InstanceId: l.id, Observed: l.seen})
			}
		}
		a.out = nil
		if len(report.GetInstances()) == 0 {
			return
		}
		// When it isn't acknowledged, the agent connects to the next leader and tells everything again.
		_, err := a.w.commit(&fleetv1.Command{Caller: "agent/" + a.name, Op: &fleetv1.Command_Report{Report: report}})
		if err != nil && !a.w.chaos.deposed {
			a.w.fault("report of %s: %v", a.name, err)
		}
	})
}

// later does the next step of an instance unless it begins another one before, or its host crashes.
func (a *agent) later(l *local, d time.Duration, do func()) {
	l.step++
	step := l.step
	a.w.after(d, func() {
		if l.step == step && a.local[l.id] == l {
			do()
		}
	})
}

// begin makes the next attempt; exit is how the last one ended.
func (a *agent) begin(l *local, exit *fleetv1.ExitStatus) {
	a.see(l, func(o *fleetv1.InstanceObserved) {
		o.State, o.Ready, o.Attempt = fleetv1.InstanceAccepted, false, o.GetAttempt()+1
		if exit != nil {
			o.LastExit = exit
		}
	})
	if _, has := slices.BinarySearch(a.images, l.spec.GetImageDigest()); has {
		a.start(l)
		return
	}
	a.see(l, func(o *fleetv1.InstanceObserved) { o.State = fleetv1.InstancePulling })
	a.later(l, a.w.normal(40*time.Second, 0.6), func() {
		a.images = withImage(a.images, l.spec.GetImageDigest())
		a.tell()
		a.start(l)
	})
}

func (a *agent) start(l *local) {
	a.later(l, a.w.normal(4*time.Second, 0.5), func() {
		if bad := a.evicted(l); bad != "" {
			a.fail(l, "device "+bad+" can't be used")
			return
		}
		a.alone(l)
		a.ports++
		a.see(l, func(o *fleetv1.InstanceObserved) {
			o.State, o.Ready, o.Health, o.StartTime = fleetv1.InstanceRunning, true, fleetv1.Healthy, timestamppb.New(a.w.now)
			o.Ip, o.Port = a.facts.GetAdvertiseAddress(), int32(30000+a.ports%2768)
		})
		if d := time.Duration(a.w.rng.ExpFloat64() * float64(crashMean)); d < crashHorizon {
			a.later(l, d, func() {
				if !a.w.over {
					a.crashed(l)
				}
			})
		}
	})
}

// alone checks that no other container of the node has a device of the one that starts.
func (a *agent) alone(l *local) {
	for _, id := range slices.Sorted(maps.Keys(a.local)) {
		o := a.local[id]
		switch o.seen.GetState() {
		case fleetv1.InstanceRunning, fleetv1.InstanceDraining, fleetv1.InstanceReclaiming:
		default:
			continue
		}
		for _, d := range o.spec.GetDeviceIds() {
			if o != l && slices.Contains(l.spec.GetDeviceIds(), d) {
				a.w.fault("instance %s starts on device %s of %s, which %s still works on", l.id, d, a.name, o.id)
			}
		}
	}
}

// crashed ends a running container: one in five can't be restarted.
func (a *agent) crashed(l *local) {
	if a.w.rng.IntN(5) == 0 {
		a.fail(l, "it was restarted 5 times and ended each time")
		return
	}
	exit := &fleetv1.ExitStatus{Code: 1, Reason: "Exited", Time: timestamppb.New(a.w.now), Attempt: l.seen.GetAttempt()}
	a.see(l, func(o *fleetv1.InstanceObserved) {
		o.State, o.Ready, o.LastExit = fleetv1.InstanceExited, false, exit
		o.Restarts++
	})
	a.later(l, time.Second, func() { a.begin(l, exit) })
}

func (a *agent) fail(l *local, reason string) {
	l.step++
	a.see(l, func(o *fleetv1.InstanceObserved) {
		o.State, o.Ready, o.Reason = fleetv1.InstanceFailed, false, reason
	})
}

// stop ends an instance in the ordered way.
func (a *agent) stop(l *local) {
	switch l.seen.GetState() {
	case fleetv1.InstanceRunning:
		a.see(l, func(o *fleetv1.InstanceObserved) { o.State, o.Ready = fleetv1.InstanceDraining, false })
		grace := time.Duration(l.spec.GetGracePeriodSeconds()) * time.Second
		exit := min(time.Duration(a.w.rng.ExpFloat64()*float64(2*time.Second)), grace)
		a.later(l, time.Duration(l.spec.GetWithdrawSeconds())*time.Second+exit, func() { a.reclaim(l) })
	case fleetv1.InstanceReaped:
	default:
		a.later(l, reapTime, func() { a.end(l, fleetv1.InstanceReaped) })
	}
}

// reclaim has the devices checked; one in a hundred times that takes long.
func (a *agent) reclaim(l *local) {
	a.see(l, func(o *fleetv1.InstanceObserved) { o.State = fleetv1.InstanceReclaiming })
	d := reclaimTime
	if a.w.rng.IntN(100) == 0 {
		d *= 20
	}
	a.later(l, d, func() { a.end(l, fleetv1.InstanceReaped) })
}

func (a *agent) end(l *local, state string) {
	l.step++
	a.see(l, func(o *fleetv1.InstanceObserved) {
		o.State, o.Ready, o.Attempt = state, false, max(o.GetAttempt(), 1)
	})
}

// evicted is a device of the instance that may not be used any more, or empty.
func (a *agent) evicted(l *local) string {
	for _, d := range a.facts.GetDevices() {
		if d.GetAction() == "evict" && slices.Contains(l.spec.GetDeviceIds(), d.GetId()) {
			return d.GetId()
		}
	}
	return ""
}

// cut breaks the link to the scheduler; crash ends what runs as well. It comes back after a time.
func (a *agent) cut(crash bool, d time.Duration) {
	if !a.linked {
		return
	}
	a.linked, a.up = false, !crash
	a.cuts++
	if crash {
		for _, l := range a.local {
			l.step++
		}
	}
	a.awaitLease()
	a.w.befall(d, func() {
		if crash {
			a.boot()
		}
		a.linked = true
		a.connect()
	})
}

// awaitLease has the lease run out unless the agent is heard of before.
func (a *agent) awaitLease() {
	cut := a.cuts
	a.w.after(lease, func() {
		if !a.linked && a.cuts == cut {
			a.w.sessions.set(a.name, true)
		}
	})
}

// boot finds nothing running, and perhaps no journal.
func (a *agent) boot() {
	a.up = true
	if a.w.chaos.befalls(a.w.chaos.Wipe) {
		a.local, a.out, a.images = map[string]*local{}, nil, nil
	}
	a.boots++
	a.facts = proto.CloneOf(a.facts)
	a.facts.BootId = fmt.Sprintf("boot-%d", a.boots)
	for _, id := range slices.Sorted(maps.Keys(a.local)) {
		l := a.local[id]
		switch {
		case l.seen.GetState() == fleetv1.InstanceReaped || l.seen.GetState() == fleetv1.InstanceFailed && l.desired.GetState() != fleetv1.DesiredStopped:
		case l.desired.GetState() == fleetv1.DesiredStopped:
			a.end(l, fleetv1.InstanceReaped)
		default:
			a.begin(l, &fleetv1.ExitStatus{Code: 255, Reason: "ShimKilled", Time: timestamppb.New(a.w.now), Attempt: l.seen.GetAttempt()})
		}
	}
}

// connect opens a session: everything is told again.
func (a *agent) connect() {
	a.w.sessions.set(a.name, false)
	a.w.register(a)
	a.generation = 0
	for _, id := range slices.Sorted(maps.Keys(a.local)) {
		a.see(a.local[id], func(*fleetv1.InstanceObserved) {})
	}
	a.order()
}

// change tells facts that have changed.
func (a *agent) change(f func(*fleetv1.NodeFacts)) {
	a.facts = proto.CloneOf(a.facts)
	f(a.facts)
	if a.linked {
		a.w.register(a)
	}
}

// tell tells which images there are, at most once a minute.
func (a *agent) tell() {
	if a.telling {
		return
	}
	a.telling = true
	a.w.at(a.told.Add(factsPause), func() {
		a.telling, a.told = false, a.w.now
		a.change(func(f *fleetv1.NodeFacts) { f.ImageDigests = a.images })
	})
}

// breakDevice makes a device fail for a time.
func (a *agent) breakDevice(i int, evict bool, d time.Duration) {
	if a.facts.GetDevices()[i].GetHealth() != fleetv1.Healthy {
		return
	}
	a.change(func(f *fleetv1.NodeFacts) {
		f.Devices[i].Health, f.Devices[i].HealthReason = fleetv1.Unhealthy, "simulated"
		if evict {
			f.Devices[i].Action = "evict"
		}
	})
	if evict {
		for _, id := range slices.Sorted(maps.Keys(a.local)) {
			l := a.local[id]
			if l.seen.GetState() == fleetv1.InstanceRunning && a.evicted(l) != "" && l.desired.GetState() != fleetv1.DesiredStopped && a.up {
				a.fail(l, "device failed")
			}
		}
	}
	a.w.befall(d, func() {
		a.change(func(f *fleetv1.NodeFacts) {
			f.Devices[i].Health, f.Devices[i].HealthReason, f.Devices[i].Action = fleetv1.Healthy, "", ""
		})
	})
}

// normal draws from a log-normal distribution.
func (w *world) normal(median time.Duration, sigma float64) time.Duration {
	return time.Duration(float64(median) * math.Exp(sigma*w.rng.NormFloat64()))
}
