package reconcile

import (
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
)

// turnOf is whose it is to have a reservation in the wish's pool.
func (l *serviceLoop) turnOf(w *wish) *place.Turn {
	pool := w.svc.GetSpec().GetPool()
	if l.turns[pool] == nil {
		l.turns[pool] = &place.Turn{}
	}
	return l.turns[pool]
}

// noteTurns takes in who has a reservation after a plan, and has a turn that may end soon be looked at then.
func (l *serviceLoop) noteTurns(line []*wish, now time.Time) {
	holders, keptOut := map[*place.Turn]*wish{}, map[*place.Turn]bool{}
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
