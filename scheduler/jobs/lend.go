package jobs

import (
	"sort"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// lend leases what a task has room for.
func (b *book) lend(h *holder, room int64, now time.Time) []*fleetv1.TaskChunk {
	var out []*fleetv1.TaskChunk
	has := 0
	for _, l := range h.leases {
		if !l.packed {
			has++
		}
	}
	for ; has < running && room > 0; has++ {
		from, to := b.free()
		if from == to {
			if has == 0 {
				b.take(h, now)
			}
			break
		}
		to = min(to, from+room, from+b.size(h))
		l := b.add(h, &fleetv1.Chunk{From: from, To: to, Task: h.task, Attempt: b.newAttempt()}, now)
		room -= to - from
		out = append(out, l.answer())
	}
	return out
}

// size is how many items a task is given at once: near the end fewer, so that all end together, but about a second's work:
// each chunk waits for a commit, and what is slow is shared out by take.
func (b *book) size(h *holder) int64 {
	free := b.left() - b.held
	if !b.ledger.GetListed() {
		return h.size
	}
	return max(1, min(h.size, max(h.size/4, free/int64(2*max(1, len(b.holders))))))
}

// free is the first run of items that nobody has, within one part of the input; empty when there is none.
func (b *book) free() (from, to int64) {
	items, committed := b.ledger.GetItems(), state.Ranges(b.ledger.GetCommitted())
	for at := b.low; at < items; {
		from, to = committed.Next(at, items)
		i := b.after(from)
		for ; i < len(b.leases) && b.leases[i].GetFrom() <= from; i++ {
			from = b.leases[i].GetTo()
		}
		if i < len(b.leases) {
			to = min(to, b.leases[i].GetFrom())
		}
		if b.low = from; from < to {
			return from, min(to, b.partEnd(from))
		}
		if from == at { // nothing behind it either
			break
		}
		at = from
	}
	b.low = items
	return items, items
}

// partEnd is where the part of the input ends that has the item.
func (b *book) partEnd(item int64) int64 {
	parts := b.ledger.GetParts()
	i := sort.Search(len(parts), func(i int) bool { return parts[i].GetFrom() > item }) - 1
	return parts[i].GetFrom() + parts[i].GetItems()
}

// take asks the task that would be the last to end for some of what it hasn't begun: a share by how fast both are.
// Who has nothing gets it once that task has given it up.
func (b *book) take(h *holder, now time.Time) {
	var slowest *lease
	var most time.Duration
	for _, l := range b.leases {
		rest := l.GetTo() - l.GetFrom() - l.done
		if l.packed || l.holder == h || rest <= 0 {
			continue
		}
		if l.asked {
			return // one is on its way
		}
		if d := l.needs(rest, now); d > most {
			slowest, most = l, d
		}
	}
	if most <= takeAfter {
		return
	}
	rest := slowest.GetTo() - slowest.GetFrom() - slowest.done
	theirs, ours := max(slowest.holder.progress.GetRate(), 0.01), max(h.progress.GetRate(), 0.01)
	share := max(1, int64(float64(rest)*ours/(ours+theirs)))
	slowest.asked, slowest.ask = true, slowest.GetTo()-share
}

// needs is how long a lease will take to its end, as it goes.
func (l *lease) needs(rest int64, now time.Time) time.Duration {
	rate := l.holder.progress.GetRate()
	if rate <= 0 {
		return now.Sub(l.began)
	}
	return time.Duration(float64(rest) / rate * float64(time.Second))
}

// wanted is how many tasks have enough to do with what is left; 0 while that isn't known.
func (b *book) wanted() int {
	if !b.ledger.GetListed() {
		return 0
	}
	if len(b.holders) == 0 { // it isn't known how long an item takes
		return int(max(1, b.left()))
	}
	var each int64
	for _, h := range b.holders {
		each += running * h.size
	}
	each = max(1, each/int64(len(b.holders)))
	return int(max(1, (b.left()+each-1)/each))
}
