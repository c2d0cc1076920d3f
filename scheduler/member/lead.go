package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

type raftMember = raftstore.Member

// writeTimeout bounds one change of the store or of the configuration; the next round tries again.
const writeTimeout = 10 * time.Second

// compareClocks finds out whether this scheduler's wall clock is right.
func (m *Members) compareClocks() {
	by, jumped := m.cfg.Clock.Jumped()
	v, ahead := m.clockVerdict()
	alone := len(m.cfg.Raft.Members()) <= 1
	if jumped && (v == clockInLine || alone) {
		m.cfg.Clock.Accept()
		m.cfg.Logger.Warn("the wall clock has jumped: followed", "by", by.Round(time.Millisecond))
	}
	m.mu.Lock()
	bar, loud := m.barred, jumped && v == clockUnknown && !alone && !m.lonely
	m.lonely = jumped && v == clockUnknown
	switch v {
	case clockInLine:
		bar = false
	case clockOutOfLine:
		bar = true
	}
	changed := bar != m.barred
	m.barred = bar
	m.mu.Unlock()
	if loud {
		m.cfg.Logger.Error("the wall clock has jumped and no majority of voters says which time is right: not followed", "by", by.Round(time.Millisecond))
	}
	switch {
	case changed && bar:
		m.cfg.Logger.Error("this scheduler's clock is out of line with the majority's: it will not lead until it is back", "ahead", ahead.Round(time.Millisecond))
	case changed:
		m.cfg.Logger.Warn("this scheduler's clock is in line with the majority's again")
	}
	m.bar(bar && !m.cfg.Raft.IsLeader()) // a leader needs its timeouts until it has handed over
}

// bar keeps this scheduler from standing for election, or lets it again.
func (m *Members) bar(bar bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if bar == m.held {
		return
	}
	if err := m.cfg.Raft.BarFromStanding(bar); err != nil {
		m.cfg.Logger.Error("the clock's verdict could not be heeded, trying again", "error", err)
		return
	}
	m.held = bar
}

func (m *Members) clockVerdict() (verdict, time.Duration) {
	seen := m.sightings()
	var offsets []time.Duration
	voters := 0
	for _, r := range m.cfg.Raft.Members() {
		if !r.Voter {
			continue
		}
		voters++
		if r.ID == m.id {
			continue
		}
		if by, ok := m.offset(seen[r.ID]); ok {
			offsets = append(offsets, by)
		}
	}
	return judge(offsets, voters, m.cfg.MaxClockOffset)
}

// lead does what only the leader does.
func (m *Members) lead(ctx context.Context) {
	now := time.Now()
	m.mu.Lock()
	leads := m.cfg.Raft.IsLeader()
	switch {
	case !leads:
		m.leading = false
		clear(m.timing)
	case !m.leading:
		m.leading = true
		for _, s := range m.seen {
			s.grace, s.well = now, time.Time{}
		}
	}
	barred := m.barred
	m.mu.Unlock()
	if !leads || m.cfg.State.View().Cluster() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	steps := []func(context.Context) error{m.tellClocks}
	if barred {
		steps = append(steps, m.stepDown)
	} else {
		steps = append(steps, m.learn, m.rotate, m.reform)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil && m.cfg.Raft.IsLeader() && ctx.Err() == nil {
			m.cfg.Logger.Warn("a step of keeping the schedulers together failed, trying again", "error", err)
		}
	}
}

// learn writes down what members have told of themselves, and gives Raft the addresses where they are now.
func (m *Members) learn(ctx context.Context) error {
	var errs []error
	for id, s := range m.sightings() {
		told := s.answer.GetScheduler()
		if told == nil || time.Since(s.last) > m.cfg.UnreachableAfter || !slices.ContainsFunc(m.cfg.Raft.Members(), func(r raftMember) bool { return r.ID == id }) {
			continue
		}
		errs = append(errs, m.add(ctx, told))
	}
	return errors.Join(errs...)
}

// reform makes the next change of who is a member and who votes.
func (m *Members) reform(ctx context.Context) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	if err := m.sweep(ctx); err != nil {
		return err
	}
	c := next(m.standings(), m.cfg.MinVoters)
	switch {
	case c.promote != "":
		for _, r := range m.cfg.Raft.Members() {
			if r.ID == c.promote {
				if err := m.cfg.Raft.AddVoter(ctx, r.ID, r.Addr); err != nil {
					return err
				}
				m.cfg.Logger.Info("scheduler has a vote now", "scheduler", m.name(c.promote), "reason", c.why)
				return m.tell(ctx, c.promote, fleetv1.EventNormal, "SchedulerPromoted", "it has a vote now: "+c.why)
			}
		}
	case c.remove != "":
		m.cfg.Logger.Warn("removing a scheduler", "scheduler", m.name(c.remove), "reason", c.why)
		return m.take(ctx, c.remove, "removed by the leader: "+c.why, byItself())
	}
	return nil
}

// sweep deletes the objects of schedulers that are no members: a leader was lost between removing one and saying so.
// The caller holds changing, under which a new member's object is written before it is one.
func (m *Members) sweep(ctx context.Context) error {
	members := m.cfg.Raft.Members()
	w := &fleetv1.Write{}
	for _, s := range m.cfg.State.View().Schedulers() {
		if !slices.ContainsFunc(members, func(r raftMember) bool { return r.ID == s.GetMeta().GetId() }) {
			w.Mutations = append(w.Mutations, state.Delete(s.GetMeta().GetRevision(), state.SchedulerKey(s.GetMeta().GetId())))
			w.Events = append(w.Events, schedulerEvent(s, fleetv1.EventWarning, "SchedulerRemoved", "it is no member"))
		}
	}
	if len(w.Mutations) == 0 {
		return nil
	}
	return m.write(ctx, w)
}

// take removes a member from the configuration, then from the store. The caller holds changing.
func (m *Members) take(ctx context.Context, id, why string, as *fleetv1.Command) error {
	if err := m.cfg.Raft.RemoveServer(ctx, id); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.seen, id)
	m.mu.Unlock()
	stored := m.cfg.State.View().Scheduler(id)
	if stored == nil {
		return nil
	}
	return m.writeAs(ctx, &fleetv1.Write{
		Mutations: []*fleetv1.Mutation{state.Delete(stored.GetMeta().GetRevision(), state.SchedulerKey(id))},
		Events:    []*fleetv1.Event{schedulerEvent(stored, fleetv1.EventWarning, "SchedulerRemoved", why)},
	}, as)
}

// tell keeps an event about a member.
func (m *Members) tell(ctx context.Context, id, kind, reason, message string) error {
	s := m.cfg.State.View().Scheduler(id)
	if s == nil {
		return nil
	}
	return m.write(ctx, &fleetv1.Write{Events: []*fleetv1.Event{schedulerEvent(s, kind, reason, message)}})
}

// standings are the members as next wants them.
func (m *Members) standings() []standing {
	now, seen := time.Now(), m.sightings()
	least, _ := m.least()
	var all []standing
	for _, r := range m.cfg.Raft.Members() {
		st := standing{id: r.ID, name: m.name(r.ID), voter: r.Voter, self: r.ID == m.id}
		if st.self {
			st.alive = true
		} else if s, ok := seen[r.ID]; ok {
			silent := s.silent(now)
			st.alive, st.dead = !s.last.IsZero() && silent < m.cfg.UnreachableAfter, min(silent, now.Sub(s.grace)) >= m.cfg.DeadAfter
			st.ready = !r.Voter && st.alive && m.unready(s, least, now) == ""
		}
		all = append(all, st)
	}
	return all
}

// unready says why a non-voter that answers may not vote yet, or "".
func (m *Members) unready(s sighting, least uint32, now time.Time) string {
	told := s.answer.GetScheduler()
	switch {
	case s.lag > m.cfg.MaxLag:
		return fmt.Sprintf("%d entries behind", s.lag)
	case s.timed.IsZero():
		return "its answers are too slow to compare clocks by"
	case !m.keepsTime(s):
		by, _ := m.offset(s)
		return fmt.Sprintf("its clock is off by %v", by.Round(time.Millisecond))
	case told.GetCommandVersion() < least:
		return fmt.Sprintf("it knows commands up to version %d, the others up to %d: upgrade it", told.GetCommandVersion(), least)
	case s.well.IsZero() || now.Sub(s.well) < m.cfg.StableFor:
		return "not well for long enough yet"
	}
	return ""
}

// tellClocks keeps an event when a member's clock has left the line or is back in it.
func (m *Members) tellClocks(ctx context.Context) error {
	v, ahead := m.clockVerdict()
	offsets := map[string]time.Duration{}
	switch v {
	case clockUnknown:
		return nil
	case clockOutOfLine:
		offsets[m.id] = ahead
	case clockInLine:
		offsets[m.id] = 0
		for id, s := range m.sightings() {
			if by, ok := m.offset(s); ok {
				offsets[id] = by
			}
		}
	}
	var errs []error
	for id, o := range offsets {
		out := o.Abs() > m.cfg.MaxClockOffset
		m.mu.Lock()
		was := m.timing[id]
		m.timing[id] = out
		m.mu.Unlock()
		if out == was {
			continue
		}
		kind, reason, message := fleetv1.EventNormal, "ClockInLine", "its clock keeps the majority's time again"
		if out {
			kind, reason, message = fleetv1.EventAbnormal, "ClockOutOfLine", fmt.Sprintf("its clock is %v ahead of the majority's: it must not lead", o.Round(time.Millisecond))
			m.cfg.Logger.Error("a scheduler's clock is out of line", "scheduler", m.name(id), "ahead", o.Round(time.Millisecond))
		}
		errs = append(errs, m.tell(ctx, id, kind, reason, message))
	}
	return errors.Join(errs...)
}

// stepDown hands the leadership to a voter whose clock the majority keeps.
func (m *Members) stepDown(ctx context.Context) error {
	_, ahead := m.clockVerdict()
	id := m.successor(func(s sighting) bool {
		by, ok := m.offset(s)
		return ok && (by+ahead).Abs() <= m.cfg.MaxClockOffset
	})
	if id == "" {
		return errors.New("the clock of this scheduler, which leads, is out of line, and no voter that keeps the majority's time answers")
	}
	m.cfg.Logger.Error("handing over the leadership: this scheduler's clock is out of line with the majority's", "to", m.name(id), "ahead", ahead.Round(time.Millisecond))
	return m.cfg.Raft.TransferLeadership(ctx, id)
}

// successor is the voter that is most up to date among those that answer and are eligible, or "".
func (m *Members) successor(eligible func(sighting) bool) string {
	now, seen := time.Now(), m.sightings()
	best := ""
	for _, r := range m.cfg.Raft.Members() {
		s, ok := seen[r.ID]
		if !ok || !r.Voter || s.answer == nil || s.silent(now) >= m.cfg.UnreachableAfter || !eligible(s) {
			continue
		}
		if best == "" || s.answer.GetAppliedIndex() > seen[best].answer.GetAppliedIndex() {
			best = r.ID
		}
	}
	return best
}
