package rate

import (
	"context"
	"sync"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Run tells owners what was admitted here until ctx ends. It is called once.
func (l *Limiter) Run(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	timer := time.NewTicker(tick)
	defer timer.Stop()
	swept := l.cfg.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
			l.regroup()
			l.giveBack()
			if now := l.cfg.Now(); now.Sub(swept) >= sweepTime {
				swept = now
				l.sweep()
			}
		}
		for id, batch := range l.batches() {
			calls.Go(func() { l.exchange(ctx, id, batch) })
		}
	}
}

// said is what an owner is told of a counter, with what pending and spent were then, and the account's epoch.
type said struct {
	c              *counter
	n              *fleetv1.LookupCount
	pending, spent uint32
	epoch          int
}

// batches takes from the queue what can be told now, by owner. Who has failed is called without anything, to see whether it
// is back.
func (l *Limiter) batches() map[string][]said {
	l.mu.Lock()
	defer l.mu.Unlock()
	slot := l.slot(l.cfg.Now())
	out := map[string][]said{}
	var rest []*counter
	for _, c := range l.queue {
		a := l.accountLocked(c.account.name)
		switch {
		case a.owner == l.cfg.Self:
			c.queued = false
		case l.flying[a.owner] || len(out[a.owner]) >= maxCounts:
			rest = append(rest, c)
		default:
			c.queued = false
			out[a.owner] = append(out[a.owner], l.sayLocked(c, slot))
		}
	}
	l.queue = rest
	for id, since := range l.failed {
		if !l.flying[id] && l.cfg.Now().Sub(since) >= retryTime {
			out[id] = nil
		}
	}
	for id := range out {
		l.flying[id] = true
	}
	return out
}

func (l *Limiter) sayLocked(c *counter, slot int64) said {
	n := &fleetv1.LookupCount{Account: c.account.name, User: c.user, Taken: c.pending, Held: c.granted, Wants: c.wanted || c.pending+c.spent > 0}
	if !c.told {
		before := c.used
		before.takeBack(slot, c.pending)
		n.Known = before.ages(slot)
	}
	if !n.Wants {
		n.Held, n.Returned, c.granted = 0, c.granted, 0
		delete(l.holding, c)
	}
	c.wanted = false
	return said{c, n, c.pending, c.spent, c.account.epoch}
}

// exchange tells one owner, and takes over what it answers.
func (l *Limiter) exchange(ctx context.Context, id string, batch []said) {
	req := &fleetv1.CountLookupsRequest{}
	for _, s := range batch {
		req.Counts = append(req.Counts, s.n)
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	resp, err := l.cfg.Call(ctx, id, req)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.flying, id)
	if err != nil || len(resp.GetAllowances()) != len(batch) {
		l.failed[id] = l.cfg.Now()
		for _, s := range batch {
			if s.c.pending+s.c.spent > 0 {
				l.queueLocked(s.c)
			}
		}
		return
	}
	delete(l.failed, id)
	slot := l.slot(l.cfg.Now())
	for i, s := range batch {
		if a := s.c.account; a.owner != id || a.epoch != s.epoch {
			continue // it has another owner by now
		}
		l.tookLocked(s, resp.GetAllowances()[i], slot)
	}
	if len(l.queue) > 0 {
		l.signal()
	}
}

func (l *Limiter) tookLocked(s said, a *fleetv1.LookupAllowance, slot int64) {
	c := s.c
	c.told = true
	c.pending -= min(c.pending, s.pending)
	c.spent -= min(c.spent, s.spent)
	c.granted += a.GetGranted()
	c.used.set(slot, a.GetUsed())
	c.used.add(slot, c.pending)
	if c.granted > 0 {
		l.holding[c] = true
	}
	if c.pending+c.spent > 0 {
		l.queueLocked(c)
	}
}

// giveBack queues the grants that nobody uses.
func (l *Limiter) giveBack() {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.holding {
		switch {
		case c.granted == 0:
			delete(l.holding, c)
		case now.Sub(c.last) >= holdTime:
			l.queueLocked(c)
		}
	}
}

// sweep forgets who has not looked anything up for a minute.
func (l *Limiter) sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweepLocked(l.slot(l.cfg.Now()))
}

func (l *Limiter) sweepLocked(slot int64) {
	l.swept = slot
	idle := func(c *counter) bool {
		return c == nil || !c.queued && c.pending+c.granted == 0 && c.used.sum(slot) == 0
	}
	for name, a := range l.accounts {
		for user, u := range a.users {
			if idle(u) {
				delete(a.users, user)
				l.users--
			}
		}
		if len(a.users) == 0 && idle(a.own) {
			delete(l.accounts, name)
		}
	}
}
