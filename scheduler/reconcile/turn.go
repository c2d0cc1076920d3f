package reconcile

import (
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// turnOf is whose it is to have a reservation in the wish's pool.
func (l *serviceLoop) turnOf(w *wish) *Turn {
	pool := w.svc.GetSpec().GetPool()
	if l.turns[pool] == nil {
		l.turns[pool] = &Turn{}
	}
	return l.turns[pool]
}

// noteTurns takes in who has a reservation after a plan, and has a turn that may end soon be looked at then.
func (l *serviceLoop) noteTurns(line []*wish, now time.Time) {
	holders, keptOut := map[*Turn]*wish{}, map[*Turn]bool{}
	for _, w := range line {
		t := l.turnOf(w)
		if w.unfit && w.reservation != nil && len(w.rooms) == 0 {
			holders[t] = w
		}
		keptOut[t] = keptOut[t] || w.keptOut
	}
	for _, t := range l.turns {
		name, kept := "", (*fleetv1.Reservation)(nil)
		if w := holders[t]; w != nil {
			name, kept = w.service()+" "+w.key(), w.reservation
		}
		t.Note(name, kept, keptOut[t], now)
		if w, at := holders[t], t.Ends(); w != nil && !at.IsZero() {
			w.due = earlier(w.due, at)
			l.wakeAt(w.service(), w.due)
		}
	}
}

// Turn bounds what a pool's reservation costs. It ends when nothing has become free for long while others
// were kept out. Then the pool rests: what is reserved yields to others for a multiple of the time. Who is
// first in line has a turn twice as long the next time, so that one is long enough at last. Its zero value is ready; its
// owner decides what time it is.
type Turn struct {
	holder, detail string
	ended          int       // turns of the holder that brought nothing
	began, stalls  time.Time // others are kept out since, and without progress since; zero when nobody is
	rest           time.Time // until when the pool rests
}

const (
	firstTurn  = time.Minute
	lastTurn   = 12 // turns grow no longer after so many
	restLonger = 10 // than the turn was
)

// Rests says whether what is reserved yields now.
func (t *Turn) Rests(now time.Time) bool {
	if !t.stalls.IsZero() && now.Sub(t.stalls) >= t.length() {
		t.rest = now.Add(restLonger * now.Sub(t.began))
		t.began, t.stalls = time.Time{}, time.Time{}
		t.ended++
	}
	return now.Before(t.rest)
}

func (t *Turn) length() time.Duration { return firstTurn << min(t.ended, lastTurn) }

// Note takes in what was reserved for whom in a plan, nil for nothing, and whether that kept others out.
func (t *Turn) Note(holder string, r *fleetv1.Reservation, keptOut bool, now time.Time) {
	if r == nil || !keptOut {
		t.began, t.stalls = time.Time{}, time.Time{}
	}
	if r == nil {
		return
	}
	if holder != t.holder {
		t.holder, t.ended, t.began = holder, 0, time.Time{}
	}
	if !keptOut {
		return
	}
	if t.began.IsZero() {
		t.began, t.stalls = now, now
	} else if r.GetDetail() != t.detail {
		t.stalls = now
	}
	t.detail = r.GetDetail()
}

// Ends is when the turn ends unless something becomes free; zero while nobody is kept out. Nothing has to be
// planned when a rest is over: what is reserved is kept from those who come next.
func (t *Turn) Ends() time.Time {
	if t.stalls.IsZero() {
		return time.Time{}
	}
	return t.stalls.Add(t.length())
}
