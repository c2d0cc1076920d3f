package task

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// verdictWait is how long after a broken connection it is waited for to hear that the container exited.
const verdictWait = 2 * time.Second

// errGivenBack says that an item isn't this task's any more, before anything of it was sent.
var errGivenBack = errors.New("given back")

// key is a request of an item: the number of the first of its rows, 0 where it has none.
type key struct {
	item int64
	row  int
}

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.item, o.item), cmp.Compare(k.row, o.row))
}

// turn is a request's permission to be sent.
type turn struct {
	key     key
	chunk   *chunk
	alone   bool          // nothing else may be in flight: it was when a container exited
	over    chan struct{} // closed when it's granted or given back
	granted bool
	address string // to send it to
	exits   int    // of the container, until then
}

// turn waits until the request may be sent. Whoever gets one hands it to release.
func (d *driver) turn(ctx context.Context, c *chunk, k key) (*turn, error) {
	d.mu.Lock()
	t := &turn{key: k, chunk: c, alone: d.suspects[k] > 0, over: make(chan struct{})}
	at, _ := slices.BinarySearchFunc(d.waiting, k, func(o *turn, k key) int { return o.key.compare(k) })
	d.waiting = slices.Insert(d.waiting, at, t)
	d.giveBackLocked()
	d.grantLocked()
	d.mu.Unlock()
	select {
	case <-t.over:
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.granted {
		return t, nil
	}
	d.waiting = slices.DeleteFunc(d.waiting, func(o *turn) bool { return o == t })
	d.grantLocked()
	return nil, cmp.Or(ctx.Err(), errGivenBack)
}

// grantLocked lets those go first whose items come first, but alone who must be.
func (d *driver) grantLocked() {
	for len(d.waiting) > 0 && d.address != "" && !d.alone {
		i := slices.IndexFunc(d.waiting, func(t *turn) bool { return t.alone })
		switch {
		case i >= 0 && d.inFlight > 0:
			return
		case i < 0 && d.inFlight >= d.pace.limit:
			return
		}
		i = max(i, 0)
		t := d.waiting[i]
		d.waiting = slices.Delete(d.waiting, i, i+1)
		t.granted, t.address, t.exits = true, d.address, d.exits
		t.chunk.called = max(t.chunk.called, t.key.item+1)
		d.alone = t.alone
		d.inFlight++
		d.pace.used(d.inFlight)
		close(t.over)
	}
}

// giveBackLocked ends the waiting of items that are behind the end of their chunk, and haven't been sent.
func (d *driver) giveBackLocked() {
	d.waiting = slices.DeleteFunc(d.waiting, func(t *turn) bool {
		back := t.chunk.ctx.Err() != nil || t.key.item >= t.chunk.to && t.key.item >= t.chunk.called
		if back {
			close(t.over)
		}
		return back
	})
}

// release ends a turn. took is 0 when the request says nothing about the model.
func (d *driver) release(t *turn, took time.Duration, overloaded bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inFlight--
	if t.alone {
		d.alone = false
	}
	if took > 0 {
		now := time.Now()
		d.pace.answered(now, took, overloaded)
		d.tally.answered(now, took)
	}
	d.feedLocked()
}

// crashed tells whether the container exited while the turn lasted, or soon after. If so, its request is sent alone from
// now on; times is how often it was in flight when that happened.
func (d *driver) crashed(ctx context.Context, t *turn) (yes bool, times int) {
	timer := time.NewTimer(verdictWait)
	defer timer.Stop()
	for {
		d.mu.Lock()
		changed := d.changed
		if d.exits != t.exits {
			d.suspects[t.key]++
			times = d.suspects[t.key]
			d.mu.Unlock()
			return true, times
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return false, 0
		case <-timer.C:
			return false, 0
		case <-changed:
		}
	}
}

// settled forgets that a request was suspected.
func (d *driver) settled(k key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.suspects, k)
}

// cutAfter gives back what comes after an item at which the container exited again and again: what is known by then
// is kept, though the instance may be given up for its many exits.
func (d *driver) cutAfter(c *chunk, item int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.state == fleetv1.ChunkRunning {
		c.cutHere(item + 1)
		d.giveBackLocked()
	}
}
