package place

import (
	"math"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// trial is an opening that was planned, on an index that supposes it.
type trial struct {
	opening *opening
	suppose *supposition
	fresh   bool    // the node was not closed before
	free    vacancy // there, afterwards
	step    DefragStep
	gain    int
}

// try plans the moves of an opening, nil when they do not make room.
func (d *defrag) try(o *opening) *trial {
	d.trials++
	_, closed := d.closed[o.node]
	t := &trial{opening: o, suppose: d.index.suppose(), fresh: !closed, step: DefragStep{Node: o.node.name}}
	d.close(t.suppose, o.node)
	t.free = d.closed[o.node]
	before := d.room(o.node)
	for _, i := range o.moves {
		t.suppose.leave(i)
		r := d.request(i)
		target := d.target(r)
		if target == nil {
			d.revert(t)
			return nil
		}
		t.step.Moves = append(t.step.Moves, Move{InstanceID: i.GetMeta().GetId(), Source: o.node.name, Target: target.name, Devices: len(i.GetSpec().GetDeviceIds()),
			ImagePresent: d.index.images[r.Image][target], StartMillis: d.start(i)})
		t.free = t.free.plus(d.share(o.node, i))
	}
	after, _ := d.rooms(o.node, t.free, -1)
	if t.gain = after - before; t.gain <= 0 {
		d.revert(t)
		return nil
	}
	freed := o.node.usable
	if d.ask.Flavor != nil {
		_, rest := d.rooms(o.node, t.free, before)
		freed = d.fit(o.node).choose(rest.devices, o.node.last)
	}
	for ; !freed.empty(); freed = freed.without(one(freed.first())) {
		t.step.DeviceIDs = append(t.step.DeviceIDs, o.node.ids[freed.first()])
	}
	return t
}

// share is what an instance holds of its node.
func (d *defrag) share(n *node, i *fleetv1.Instance) *vacancy {
	s := i.GetSpec()
	return &vacancy{s.GetCpuMillis(), s.GetMemoryBytes(), s.GetDiskBytes(), n.held(i).and(n.usable), 0}
}

// maxTargets is how many targets are tried that would lose room.
const maxTargets = 8

// target takes a node for a replacement, nil when there is none on which no room is lost.
func (d *defrag) target(r *Request) *node {
	x := d.index
	kept := slices.Clone(x.kept)
	defer func() { x.kept = kept }()
	c := x.class(r, identify(r))
	for range maxTargets {
		if c.shape == nil {
			return nil
		}
		x.catchUp(c.shape, c.pool)
		if !x.place(r, c) {
			return nil
		}
		t := &x.taken[len(x.taken)-1]
		n := x.slots[t.slot]
		now := d.free(n)
		before, _ := d.rooms(n, now.plus(&vacancy{r.CPUMillis, r.MemoryBytes, r.DiskBytes, t.devices, 0}), -1)
		if d.room(n) == before {
			return n
		}
		x.kept = append(x.kept, keptForNobody(n))
		x.undo(len(x.taken) - 1)
	}
	return nil
}

// keptForNobody keeps a node from every request.
func keptForNobody(n *node) kept { return kept{node: n, priority: math.MaxInt32} }

// revert takes a trial back.
func (d *defrag) revert(t *trial) {
	t.suppose.undo()
	if t.fresh {
		delete(d.closed, t.opening.node)
	}
}

// accept makes a trial the next step.
func (d *defrag) accept(t *trial) {
	d.suppose.adopt(t.suppose)
	d.closed[t.opening.node] = t.free
	for _, i := range t.opening.moves {
		d.moved[i.GetMeta().GetId()] = true
	}
	d.plan.Steps = append(d.plan.Steps, t.step)
	d.plan.RoomAfter += t.gain
}
