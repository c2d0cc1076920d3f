package reconcile

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

// maxPlanned is how many instances are planned at once, so that who comes meanwhile isn't kept waiting by a big
// service. Those that wait don't count: of each version few are tried, and more as long as all of them fit.
const (
	maxPlanned  = 8192
	firstBurst  = 2
	burstGrowth = 16

	maxUnderway = 3 // entries of a plan
)

// place plans what services lack, all in one plan and in their order, and commits it. It answers the services whose
// status it concerns.
func (l *serviceLoop) place(ctx context.Context, now time.Time) (concerned []string) {
	if ctx.Err() != nil || !l.unplanned(now) {
		return nil
	}
	line := l.line(now)
	l.freed, l.planned = false, now
	if len(line) > 0 {
		view := l.refresh()
		l.keepRooms()
		c := &commits{loop: l, ctx: ctx, now: now}
		quota := &allowance{view: view, used: map[string]*state.Usage{}}
		room := maxPlanned
		for _, w := range line {
			wanted := min(w.missing, max(0, room/w.nodes()))
			if w.waits() {
				wanted = min(w.missing, max(w.burst, firstBurst))
			}
			w.asked, w.excess = quota.admit(w, wanted)
			w.denied = wanted - w.asked
			if !w.waits() {
				room -= w.asked * w.nodes()
				w.fresh = w.fresh || wanted == 0 // it is its turn in the next plan
			}
		}
		l.plan(c, view, line, quota)
		// What found no node leaves its share of the quota to others, of which some may find none either.
		for again := true; again; {
			again = false
			for _, w := range line {
				if w.asked = 0; w.denied > 0 && !w.unfit && !w.mistaken {
					w.asked, w.excess = quota.admit(w, w.denied)
					w.denied -= w.asked
					again = again || w.asked > 0
				}
			}
			if again {
				l.plan(c, view, line, quota)
			}
		}
		l.noteTurns(line, now)
		l.preempt(c, view, line, quota, now)
		c.finish()
	}
	return append(concerned, l.conclude(line, now)...)
}

// conclude notes what came of the wishes, and answers the services whose status has to tell it.
func (l *serviceLoop) conclude(line []*wish, now time.Time) (concerned []string) {
	for _, w := range line {
		if w.missing == 0 && !w.refused {
			w.satisfied()
		}
		if w.denied > 0 && !w.unfit {
			w.fresh = false
			w.reserve(nil, now)
			w.wait(w.excess, "", now)
		}
		if w.mistaken {
			l.mistook(w, now)
		}
		if w.missing < w.lacked || w.refused || w.shows() != w.shown {
			l.stale(w.service())
			concerned = append(concerned, w.service())
		}
	}
	return concerned
}

// plan asks the planner for what the wishes ask for, and commits what it finds.
func (l *serviceLoop) plan(c *commits, view state.ReadView, line []*wish, quota *allowance) {
	placements := l.index.Plan(l.requests(line, c.now))
	for _, w := range line {
		if w.asked > 0 {
			l.take(c, view, w, placements[:w.asked], quota)
			placements = placements[w.asked:]
		}
	}
}

// refresh brings the index up to date.
func (l *serviceLoop) refresh() state.ReadView {
	l.poll()
	view := l.cfg.State.View()
	if l.index == nil {
		l.index = place.NewIndex(view)
	} else {
		l.index.Refresh(view, l.changes)
	}
	l.changes = nil
	return view
}

// requests are those of the wishes, one after the other.
func (l *serviceLoop) requests(line []*wish, now time.Time) []place.Request {
	var out []place.Request
	for _, w := range line {
		out = slices.Grow(out, w.asked)
		r := w.request
		r.Waited = !w.since.IsZero() && now.Sub(w.since) >= l.cfg.ReserveAfter
		r.Yields = l.turnOf(w).Rests(now)
		r.Reserved = w.reservation.GetNodes()
		for i := range w.asked {
			if r.Prefer = ""; i < len(w.targets) {
				r.Prefer = w.targets[i]
			}
			out = append(out, r)
		}
	}
	return out
}

// take commits what the planner found for a wish, and notes why the rest waits.
func (l *serviceLoop) take(c *commits, view state.ReadView, w *wish, placements []place.Placement, quota *allowance) {
	var kept *fleetv1.Reservation
	placed, unfit := 0, false
	for i, p := range placements {
		if len(p.Members) == 0 {
			kept, unfit, w.keptOut = p.Reservation, true, p.KeptOut
			quota.giveBack(w, len(placements)-i)
			break
		}
		if excess := quota.charge(w, p.Members); excess != "" {
			w.denied, w.excess, w.mistaken = w.denied+1, excess, true
			continue
		}
		c.add(l.part(view, w, p.Members, c.now), w)
		l.moveIn(w, p.Members)
		placed++
	}
	w.missing -= placed
	l.leaveRooms(w, w.missing)
	w.targets = w.targets[min(placed, len(w.targets)):]
	w.unfit = unfit
	w.fresh = !w.unfit && w.missing > w.denied
	w.burst = min(maxPlanned, max(w.burst, firstBurst)*burstGrowth)
	if w.unfit {
		w.burst = 0
		w.reserve(kept, c.now)
		l.explain(w, c.now)
	}
}

// commits commits the parts of a plan in entries of bounded size. One goroutine uses it.
type commits struct {
	loop *serviceLoop
	ctx  context.Context
	now  time.Time

	parts  []*fleetv1.PlanPart
	wishes []*wish
	size   int

	underway int // entries that are being committed
	done     chan outcome
}

// outcome is that of one entry.
type outcome struct {
	parts  []*fleetv1.PlanPart
	wishes []*wish
	result state.Result
	err    error
}

func (c *commits) add(part *fleetv1.PlanPart, w *wish) {
	c.parts, c.wishes, c.size = append(c.parts, part), append(c.wishes, w), c.size+proto.Size(part)
	if c.size >= maxEntryBytes || len(c.parts) >= maxEntryParts {
		c.flush()
	}
}

// flush proposes what has been added. While it is being committed the caller may go on, if the loop is to work
// ahead: the parts of a plan don't depend on each other, so entries may overtake one another.
func (c *commits) flush() {
	o := outcome{parts: c.parts, wishes: c.wishes}
	c.parts, c.wishes, c.size = nil, nil, 0
	if len(o.parts) == 0 {
		return
	}
	propose := func() outcome {
		o.result, o.err = c.loop.propose(c.ctx, &fleetv1.Command{Op: &fleetv1.Command_Plan{Plan: &fleetv1.Plan{Parts: o.parts}}})
		return o
	}
	if !c.loop.ahead {
		c.loop.committed(propose(), c)
		return
	}
	if c.done == nil {
		c.done = make(chan outcome, maxUnderway)
	}
	if c.underway == maxUnderway {
		c.wait()
	}
	c.underway++
	go func() { c.done <- propose() }() // ends when ctx does; finish waits for it
}

// wait takes in the outcome of one entry.
func (c *commits) wait() {
	c.loop.committed(<-c.done, c)
	c.underway--
}

// finish waits until everything is committed.
func (c *commits) finish() {
	c.flush()
	for c.underway > 0 {
		c.wait()
	}
}

// committed takes in how an entry fared: what failed or was refused is planned again after a while.
func (l *serviceLoop) committed(o outcome, c *commits) {
	again := func(w *wish, after time.Duration) {
		w.fresh, w.refused, w.hold, w.ask = true, true, c.now.Add(after), time.Time{}
		l.wakeAt(w.service(), w.hold)
	}
	if o.err != nil {
		if c.ctx.Err() == nil {
			l.cfg.Logger.Warn("plan not committed", "parts", len(o.parts), "error", o.err)
		}
		for i, w := range o.wishes {
			w.missing += instancesOf(o.parts[i])
			again(w, retryDelay)
		}
		return
	}
	for _, r := range o.result.Rejections {
		w := o.wishes[r.Part]
		w.missing += instancesOf(o.parts[r.Part])
		l.cfg.Logger.Debug("placement refused", "service", w.service(), "reason", r.Reason, "detail", r.Detail)
		if r.Reason == state.RejectQuota {
			w.wait(r.Detail, "", c.now)
			w.overQuota = true
			again(w, quotaHold)
			continue
		}
		again(w, retryDelay)
	}
	if n := len(o.result.Rejections); n > 0 {
		l.cfg.Logger.Info("placements refused", "parts", n, "of", len(o.parts), "for example", o.result.Rejections[0].Detail)
	}
}

// instancesOf is how many logical instances a part places.
func instancesOf(p *fleetv1.PlanPart) int { return min(1, len(p.GetInstances())) }
