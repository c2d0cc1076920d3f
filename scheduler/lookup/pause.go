package lookup

import "time"

// A service of more than bigService instances isn't rendered again before pausePer for each have passed, unless an
// endpoint may have to go: while tens of thousands become ready, rendering all of them for each batch of reports would
// take a processor.
const (
	bigService = 500
	pausePer   = 40 * time.Microsecond
)

// services are those to be rendered, by ID; true for those of which an endpoint may have to go, now.
type services map[string]bool

// pause is until when the answer of a big service stays, and whether it has to be rendered then.
type pause struct {
	until time.Time
	due   bool
}

// pause begins the pause of a service that was rendered, if it is a big one.
func (t *Table) pause(id string, instances int) {
	if instances > bigService {
		t.big[id] = &pause{until: time.Now().Add(time.Duration(instances) * pausePer)}
	}
}

// paused says that a service must not be rendered yet, and notes that it has to be.
func (t *Table) paused(id string) bool {
	p := t.big[id]
	if p == nil || time.Until(p.until) <= 0 {
		return false
	}
	p.due = true
	return true
}

// nextDue is how long it takes until a service is due, if nothing happens before.
func (t *Table) nextDue() time.Duration {
	next := time.Hour
	for _, p := range t.big {
		next = min(next, max(0, time.Until(p.until)))
	}
	return next
}

// due are the services whose pause is over and that have to be rendered. Pauses that are over are forgotten.
func (t *Table) due() services {
	dirty := services{}
	for id, p := range t.big {
		if time.Until(p.until) > 0 {
			continue
		}
		delete(t.big, id)
		if p.due {
			dirty[id] = true
		}
	}
	return dirty
}
