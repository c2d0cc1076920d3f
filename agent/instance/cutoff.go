package instance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/drover-fleet/drover/agent/journal"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	// connectGrace is how long an agent that starts late tries to reach a scheduler before it stops what it should
	// have stopped already.
	connectGrace = 3 * time.Second
	// contactEvery is how often it is journalled that a scheduler is connected, while something hangs on it.
	contactEvery = 10 * time.Second
	// checkEvery is how often the time is looked at while no scheduler is connected: a timer doesn't count the time
	// for which the host is suspended.
	checkEvery = time.Second
	// defaultReplaceAfter is OnDisconnect.replace_after_seconds when it is unset.
	defaultReplaceAfter = 60 * time.Second
)

// cutOff knows since when there has been no scheduler. Times are the host's since its boot.
type cutOff struct {
	changed chan struct{} // a token after connected changed

	mu        sync.Mutex
	connected bool
	rebooted  bool // and no scheduler was connected since
	lost      time.Duration
	began     time.Duration // when this agent did
}

// begin takes over from the agent before this one.
func (c *cutOff) begin(last journal.Contact, bootID string, now time.Duration) (rebooted bool) {
	c.changed = make(chan struct{}, 1)
	c.began, c.lost = now, now
	if last.BootID == bootID {
		c.lost = last.At
	}
	c.rebooted = last.BootID != "" && last.BootID != bootID
	return c.rebooted
}

// Connected notes that a scheduler has welcomed the agent, or that it is gone. The loss is on the disk when it returns.
func (g *Manager) Connected(yes bool) {
	c := &g.cutOff
	c.mu.Lock()
	if c.connected == yes {
		c.mu.Unlock()
		return
	}
	rebooted := c.rebooted
	c.connected, c.rebooted = yes, false
	c.lost = g.cfg.Uptime()
	c.mu.Unlock()
	g.keepContact()
	notify(c.changed)
	if rebooted {
		for _, m := range g.all() {
			notify(m.wake)
		}
	}
}

// keepContact journals that there is, or was until now, a scheduler.
func (g *Manager) keepContact() {
	err := g.cfg.Journal.SetContact(journal.Contact{BootID: g.cfg.BootID, At: g.cfg.Uptime()})
	if err != nil && !errors.Is(err, journal.ErrClosed) {
		g.cfg.Logger.Error("the contact with the schedulers can't be journalled", "error", err)
	}
}

// watchContact stops what must not outlive the contact with the schedulers.
func (g *Manager) watchContact(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.cutOff.changed:
		case <-timer.C:
		}
		next := time.Hour
		if bound := g.bound(); len(bound) > 0 {
			next = checkEvery
			if g.cutOff.isConnected() {
				next = contactEvery
				g.keepContact()
			}
			for _, m := range bound {
				m.cutOffAfter(g.cutOff.age(g.cfg.Uptime()))
			}
		}
		timer.Reset(next)
	}
}

func (c *cutOff) isConnected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected
}

// age is for how long there has been no scheduler: not at all while one is connected, nor while an agent that has
// just started may reach one.
func (c *cutOff) age(now time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connected || c.rebooted || now < c.began+connectGrace {
		return 0
	}
	return now - c.lost
}

// bound are the instances that are not kept without a scheduler, and have not been stopped yet.
func (g *Manager) bound() []*machine {
	var all []*machine
	for _, m := range g.all() {
		m.mu.Lock()
		if !keptAlone(m.rec.Instance.GetSpec()) && !m.rec.CutOff && !leftDevices(m.rec.Instance.Observed.State) {
			all = append(all, m)
		}
		m.mu.Unlock()
	}
	return all
}

// keptAlone says whether an instance runs on for as long as its node is cut off.
func keptAlone(s *fleetv1.InstanceSpec) bool {
	return s.GetOnDisconnect() == nil || s.GetOnDisconnect().Keep == nil || s.GetOnDisconnect().GetKeep()
}

// needsScheduler says that the instance must not be started before a scheduler is connected: after a reboot nobody
// knows for how long there was none.
func (m *machine) needsScheduler() bool {
	c := &m.g.cutOff
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rebooted && !keptAlone(m.rec.Instance.GetSpec())
}

// cutOffAfter stops the instance for good when there has been no scheduler for as long as it may run without.
func (m *machine) cutOffAfter(age time.Duration) {
	after := defaultReplaceAfter
	if s := m.rec.Instance.GetSpec().GetOnDisconnect(); s != nil && s.ReplaceAfterSeconds != nil {
		after = time.Duration(s.GetReplaceAfterSeconds()) * time.Second
	}
	if age == 0 || age < after {
		return
	}
	m.mu.Lock()
	m.rec.CutOff = true
	m.noteLocked(fleetv1.EventWarning, "InstanceCutOff", fmt.Sprintf("its node has had no scheduler for %s: it is stopped", after))
	// Without waiting for the disk: if the journal can't be written the instance must stop all the same.
	m.wished()
	m.g.cfg.Logger.Warn("stopping an instance: no scheduler could be reached", "instance", m.id, "for", after)
}
