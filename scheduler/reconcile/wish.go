package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

const (
	// explainAgain is how long the reason of a request that waits on stays as it is at first, whatever changes; each
	// time it is twice as long, up to explainAtLeast. Where many wait in a large cluster it is longer: to explain one
	// costs a look at every node, and takes about a hundredth of pausePerLook for each.
	explainAgain   = time.Second
	explainAtLeast = 5 * time.Minute
	pausePerLook   = 100 * time.Microsecond
	longestReason  = time.Hour
	// tellAgain is how long nothing more is told of a version that waits, however its reason changes.
	tellAgain = 10 * time.Minute
	// A line that is longer than longLine isn't planned again at once when something becomes free.
	longLine     = 50
	pausePerWish = 200 * time.Microsecond
	// quotaHold is how long the instances of a project are not placed after the store found its quota exhausted.
	quotaHold = 30 * time.Second
)

// wish is what a version of a service lacks. It lives as long as something is missing; of what it remembers, since
// and reservation are in the service's status as well.
type wish struct {
	svc        *fleetv1.Service
	version    *fleetv1.ServiceVersion
	flavor     *fleetv1.Flavor
	model      *fleetv1.Model
	generation uint64
	request    place.Request // without what differs between the instances
	base       *fleetv1.InstanceSpec
	share      state.Usage // of one
	missing    int
	burst      int      // how many are tried while some wait; 0 for few
	targets    []string // nodes that the first of them prefer

	fresh     bool      // not planned since it changed
	due       time.Time // when it is planned again even if nothing becomes free; zero for never
	hold      time.Time // it is not planned before
	overQuota bool      // that is because the store refused it

	since          time.Time // it waits since then; zero when it does not
	reason, remedy string
	explain        time.Time     // when the planner is asked again why
	patience       time.Duration // with the reason
	told           time.Time
	reservation    *fleetv1.Reservation
	rooms          []*room   // that are being made for it
	vain           int       // rooms that were made in vain
	ask            time.Time // when the planner is asked next to make room
	askPause       time.Duration
	chosen         state.Usage // what the planner chose last counts as
	doubt          time.Time   // when the share is no longer taken for what it chose last; zero when it isn't

	// In the present plan: what was missing and shown before it; how many are asked for and how many the quota keeps out, by which limit; whether some of
	// those asked for fit nowhere; and whether the store refused some.
	lacked        int
	shown         shown
	asked, denied int
	excess        string
	unfit         bool
	keptOut       bool // by what is kept for others
	mistaken      bool // what the planner chose exceeds the quota
	refused       bool
}

// waits may be called on nil: nothing is missing.
func (w *wish) waits() bool { return w != nil && w.reason != "" }

func (w *wish) service() string { return w.svc.GetMeta().GetId() }

// shown is what a service's status shows of a wish.
type shown struct {
	reason      string
	since       time.Time
	reservation *fleetv1.Reservation
}

func (w *wish) shows() shown { return shown{w.reason, w.since, w.reservation} }

// nodes is how many one logical instance spans.
func (w *wish) nodes() int { return max(1, int(w.version.GetNodes())) }

func (w *wish) key() string { return versionKey(w.version.GetModel(), w.version.GetModelVersion()) }

// wishOf is the wish of a version, or nil.
func (l *serviceLoop) wishOf(svc *fleetv1.Service, v *versionCensus) *wish {
	if v.missing() <= 0 {
		return nil
	}
	return l.remembered(svc.GetMeta().GetId()).wishes[v.key]
}

// unwish forgets what a service lacks.
func (l *serviceLoop) unwish(id string) {
	if m := l.memory[id]; m != nil {
		for _, w := range m.wishes {
			delete(l.wishes, w)
		}
		m.wishes = nil
	}
}

// wish notes what a service lacks.
func (l *serviceLoop) wish(seen *look, now time.Time) {
	m := l.remembered(seen.id)
	old := m.wishes
	l.unwish(seen.id)
	for _, v := range seen.census.versions {
		if v.missing() <= 0 {
			continue
		}
		w := old[v.key]
		if w == nil {
			w = &wish{fresh: true}
			if st := statusOf(seen.svc, v.key); st.GetWaitingSince() != nil {
				w.since, w.reservation, w.told = st.GetWaitingSince().AsTime(), st.GetReservation(), now
			}
		}
		l.update(w, seen, v, now)
		if old[v.key] == nil {
			w.resume(seen.view)
		}
		if m.wishes == nil {
			m.wishes = map[string]*wish{}
		}
		m.wishes[v.key], l.wishes[w] = w, true
	}
	for key, w := range old {
		if m.wishes[key] == nil && (w.reservation != nil || len(w.rooms) > 0) {
			l.freed = true // what was kept for it
		}
	}
}

// update brings a wish up to date.
func (l *serviceLoop) update(w *wish, seen *look, v *versionCensus, now time.Time) {
	flavor := seen.view.Flavor(v.spec.GetFlavor())
	model := seen.view.Model(seen.svc.GetMeta().GetProject(), v.spec.GetModel(), v.spec.GetModelVersion())
	changed := w.svc == nil || w.generation != seen.svc.GetMeta().GetGeneration() || w.flavor != flavor || w.model != model
	w.fresh = w.fresh || changed || v.missing() > w.missing
	w.svc, w.missing = seen.svc, v.missing()
	if changed {
		w.explain, w.ask, w.askPause, w.rooms, w.vain = time.Time{}, time.Time{}, 0, nil, 0
		w.version, w.flavor, w.model, w.generation = v.spec, flavor, model, seen.svc.GetMeta().GetGeneration()
		if flavor != nil && model != nil {
			w.request = place.NewRequest(seen.id, seen.svc.GetSpec(), v.spec, flavor, model)
			w.share, w.doubt = shareOf(&w.request), time.Time{}
			w.base = l.specOf(seen.svc, v.spec, flavor, model)
		}
	}
	f := l.remembered(seen.id).failures[v.key]
	w.request.Avoid = f.avoid(now)
	w.targets = nil
	for _, u := range v.leave[:min(len(v.leave), w.missing)] {
		leave := u.members[0].GetDesired().GetLeave()
		w.targets = append(w.targets, leave.GetTarget())
		if leave.GetCause() != fleetv1.LeaveDrain { // else the node is cordoned
			if w.request.Avoid == nil {
				w.request.Avoid = map[string]bool{}
			}
			w.request.Avoid[u.members[0].GetSpec().GetNode()] = true
		}
	}
	if hold := f.until(); now.Before(hold) && hold.After(w.hold) {
		w.hold = hold
	}
	if !w.due.IsZero() && !now.Before(w.due) {
		w.due, l.freed = time.Time{}, true
	}
	l.wakeAt(seen.id, w.due)
	if now.Before(w.hold) {
		l.wakeAt(seen.id, w.hold)
	}
}

// quotaChanged has wishes that the store refused for a quota planned again.
func (l *serviceLoop) quotaChanged() {
	for w := range l.wishes {
		if w.overQuota {
			w.overQuota, w.hold = false, time.Time{}
		}
	}
	l.freed = true
}

// mistook notes that the planner chose devices for the wish that its project may not have. Until others may be chosen,
// it counts as asking for those.
func (l *serviceLoop) mistook(w *wish, now time.Time) {
	w.share, w.doubt = w.chosen, now.Add(quotaHold)
	w.due = earlier(w.due, w.doubt)
	l.wakeAt(w.service(), w.due)
	l.freed = true // what was chosen is free for others
}

// held says whether the wish isn't planned now.
func (w *wish) held(now time.Time) bool { return now.Before(w.hold) }

// unplanned says whether there is something to plan now.
func (l *serviceLoop) unplanned(now time.Time) bool {
	waits := false
	for w := range l.wishes {
		if w.missing > 0 && !w.held(now) {
			if w.fresh {
				return true
			}
			waits = true
		}
	}
	l.freed = l.freed && waits
	return l.freed && !now.Before(l.planAgain())
}

// planAgain is when those that wait may be planned again.
func (l *serviceLoop) planAgain() time.Time {
	if len(l.wishes) < longLine {
		return l.planned
	}
	return l.planned.Add(min(longestPause, time.Duration(len(l.wishes))*pausePerWish))
}

// waiting is the set of services of which instances wait.
func (l *serviceLoop) waiting() map[string]bool {
	ids := map[string]bool{}
	for w := range l.wishes {
		ids[w.service()] = true
	}
	return ids
}

// line answers the wishes that are to be planned, in their order: by priority, then by how long they wait.
func (l *serviceLoop) line(now time.Time) []*wish {
	var line []*wish
	for w := range l.wishes {
		w.lacked, w.shown = w.missing, w.shows()
		w.asked, w.denied, w.excess, w.unfit, w.keptOut, w.mistaken, w.refused = 0, 0, "", false, false, false, false
		switch {
		case w.missing <= 0 || w.held(now):
		case w.flavor == nil || w.model == nil:
			w.fresh = false
			w.wait(fmt.Sprintf("flavor %q or model %s %s does not exist", w.version.GetFlavor(), w.version.GetModel(), w.version.GetModelVersion()), "", now)
		default:
			if !w.doubt.IsZero() && !now.Before(w.doubt) {
				w.share, w.doubt = shareOf(&w.request), time.Time{}
			}
			line = append(line, w)
		}
	}
	slices.SortFunc(line, func(a, b *wish) int {
		return cmp.Or(cmp.Compare(b.version.GetPriority(), a.version.GetPriority()), a.waitsSince(now).Compare(b.waitsSince(now)),
			cmp.Compare(a.svc.GetMeta().GetName(), b.svc.GetMeta().GetName()), cmp.Compare(a.service(), b.service()), cmp.Compare(a.key(), b.key()))
	})
	return line
}

func (w *wish) waitsSince(now time.Time) time.Time {
	if w.since.IsZero() {
		return now
	}
	return w.since
}

// wait notes that instances wait, and why.
func (w *wish) wait(reason, remedy string, now time.Time) {
	if w.since.IsZero() {
		w.since = now
	}
	w.reason, w.remedy = reason, remedy
	w.explain, w.patience = time.Time{}, 0
}

// satisfied notes that nothing waits any more.
func (w *wish) satisfied() {
	w.since, w.due, w.explain, w.reason, w.remedy, w.reservation, w.rooms = time.Time{}, time.Time{}, time.Time{}, "", "", nil, nil
}

// reserve notes what is kept free; the time stays while the nodes do.
func (w *wish) reserve(r *fleetv1.Reservation, now time.Time) {
	same := r != nil && w.reservation != nil && slices.Equal(r.GetNodes(), w.reservation.GetNodes())
	switch {
	case r == nil:
		w.reservation = nil
	case same && r.GetDetail() == w.reservation.GetDetail():
	case same:
		w.reservation = &fleetv1.Reservation{Nodes: r.GetNodes(), Detail: r.GetDetail(), Since: w.reservation.GetSince()}
	default:
		w.reservation = &fleetv1.Reservation{Nodes: r.GetNodes(), Detail: r.GetDetail(), Since: timestamppb.New(now)}
	}
}

// explain asks the planner why the rest of the wish waits, if it is time to.
func (l *serviceLoop) explain(w *wish, now time.Time) {
	if w.explain.IsZero() || !now.Before(w.explain) {
		why, patience := l.index.Explain(&w.request), w.patience
		w.wait(why.GetSummary(), strings.Join(why.GetRemedies(), "; "), now)
		looks := pausePerLook * time.Duration(len(l.wishes)*len(l.cfg.State.View().Nodes()))
		w.patience = max(min(2*patience, explainAtLeast), explainAgain, min(looks, longestReason))
		w.explain, w.due = now.Add(w.patience), time.Time{}
	} else {
		w.due = w.explain // something has changed meanwhile
	}
	if now.Sub(w.since) < l.cfg.ReserveAfter {
		w.due = earlier(w.due, w.since.Add(l.cfg.ReserveAfter))
	}
	l.wakeAt(w.service(), w.due)
}
