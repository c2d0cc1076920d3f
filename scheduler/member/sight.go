package member

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// sighting is what probes have found out about another scheduler. Its times are monotonic.
type sighting struct {
	flying bool      // a probe is under way
	first  time.Time // it was looked for
	grace  time.Time // from when on its silence counts for DeadAfter: this leadership's begin
	last   time.Time // it answered; zero when it never has
	asked  time.Time // when the probe that it answered last was sent
	well   time.Time // since when it has been as a voter should be; zero while it isn't
	addr   string    // that answered last
	answer *fleetv1.ProbeResponse
	wall   time.Time // what its wall clock showed at timed
	timed  time.Time // zero when no answer was quick enough to compare clocks by
	lag    uint64
	term   uint64 // in which it answered
}

// probeAll asks every scheduler that isn't being asked already. The probes end by themselves.
func (m *Members) probeAll(ctx context.Context) {
	view := m.cfg.State.View()
	for _, r := range m.cfg.Raft.Members() {
		if r.ID == m.id {
			continue
		}
		addrs := m.addresses(view.Scheduler(r.ID), r.ID)
		m.mu.Lock()
		s := m.seen[r.ID]
		if s == nil {
			s = &sighting{first: time.Now(), grace: time.Now()}
			m.seen[r.ID] = s
		}
		start := !s.flying && len(addrs) > 0
		if start {
			s.flying = true
		}
		m.mu.Unlock()
		if start {
			m.work.Go(func() { m.probe(ctx, r.ID, s, addrs) })
		}
	}
	m.peers.forget(time.Now().Add(-idle))
}

// addresses at which a scheduler may be reached: what the store says, then what gossip does.
func (m *Members) addresses(stored *fleetv1.Scheduler, id string) []string {
	var addrs []string
	if a := stored.GetGrpcAddress(); a != "" {
		addrs = append(addrs, a)
	}
	if g := m.gossip(); g != nil {
		if heard, _ := g.Heard(id); heard.GetGrpcAddress() != "" && !slices.Contains(addrs, heard.GetGrpcAddress()) {
			addrs = append(addrs, heard.GetGrpcAddress())
		}
	}
	return addrs
}

// probe asks one scheduler at its addresses until one answers.
func (m *Members) probe(ctx context.Context, id string, s *sighting, addrs []string) {
	var errs []error
	for _, addr := range addrs {
		err := m.probeAt(ctx, id, s, addr)
		if err == nil {
			errs = nil
			break
		}
		errs = append(errs, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.flying = false
	if len(errs) > 0 {
		s.well = time.Time{}
		m.cfg.Logger.Debug("a scheduler doesn't answer", "scheduler", id, "error", errors.Join(errs...))
	}
}

func (m *Members) probeAt(ctx context.Context, id string, s *sighting, addr string) error {
	conn, err := m.peers.Conn(addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.ProbeTimeout)
	defer cancel()
	leads := m.cfg.Raft.IsLeader()
	index := m.cfg.State.View().Index()
	asked := time.Now()
	answer, err := fleetv1.NewPeerServiceClient(conn).Probe(ctx, &fleetv1.ProbeRequest{
		SchedulerId: m.id, Leads: leads, Term: m.cfg.Raft.Term(), AppliedIndex: index})
	if err != nil {
		return fmt.Errorf("probe %s: %w", addr, err)
	}
	if got := answer.GetScheduler().GetMeta().GetId(); got != id {
		return fmt.Errorf("probe %s: scheduler %q answers", addr, got)
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	s.last, s.asked, s.answer, s.addr, s.term = now, asked, answer, addr, answer.GetTerm()
	if half := now.Sub(asked) / 2; half <= m.cfg.MaxClockOffset/4 {
		s.wall, s.timed = answer.GetTime().AsTime().Add(half), now
	}
	s.lag = index - min(index, answer.GetAppliedIndex())
	if s.lag > m.cfg.MaxLag || !m.keepsTime(*s) {
		s.well = time.Time{}
	} else if s.well.IsZero() {
		s.well = now
	}
	return nil
}

// sightings copies what is known of the others.
func (m *Members) sightings() map[string]sighting {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]sighting, len(m.seen))
	for id, s := range maps.All(m.seen) {
		out[id] = *s
	}
	return out
}

// offset is by how much a scheduler's wall clock is ahead of ours now, if it hasn't jumped since its last answer: a jump
// of ours is seen at once. ok is false when its clock was not compared lately.
func (m *Members) offset(s sighting) (by time.Duration, ok bool) {
	now, wall := time.Now(), m.cfg.Clock.Wall()
	if s.timed.IsZero() || now.Sub(s.timed) >= m.cfg.UnreachableAfter {
		return 0, false
	}
	return s.wall.Add(now.Sub(s.timed)).Sub(wall), true
}

// keepsTime says that a scheduler's clock isn't known to be off from ours.
func (m *Members) keepsTime(s sighting) bool {
	by, _ := m.offset(s)
	return by.Abs() <= m.cfg.MaxClockOffset
}

// silent is for how long a scheduler has not answered, or not been looked for.
func (s sighting) silent(now time.Time) time.Duration {
	if s.last.Before(s.first) {
		return now.Sub(s.first)
	}
	return now.Sub(s.last)
}

// Probe implements fleetv1.PeerServiceServer.
func (m *Members) Probe(ctx context.Context, req *fleetv1.ProbeRequest) (*fleetv1.ProbeResponse, error) {
	peer, err := m.peer(ctx)
	if err != nil {
		return nil, err
	}
	view := m.cfg.State.View()
	if req.GetLeads() && peer == req.GetSchedulerId() && req.GetTerm() >= m.cfg.Raft.Term() {
		m.fresh.told(time.Now(), req.GetAppliedIndex(), view.Index())
	}
	leader, _ := m.cfg.Raft.Leader()
	resp := &fleetv1.ProbeResponse{
		Scheduler: m.cfg.Self, ClusterId: view.Cluster().GetMeta().GetId(), Time: timestamppb.New(m.cfg.Clock.Wall()),
		Leads: m.cfg.Raft.IsLeader(), Term: m.cfg.Raft.Term(), LeaderId: leader, AppliedIndex: view.Index(),
	}
	if g := m.gossip(); g != nil {
		resp.GossipKeys = g.Keys()
	}
	return resp, nil
}

// Staleness is how old this scheduler's picture may be; known is false when no leader has been heard since it started.
// The leader's is 0 while a majority has answered it within a second.
func (m *Members) Staleness() (age time.Duration, known bool) {
	now := time.Now()
	if !m.cfg.Raft.IsLeader() {
		since := m.fresh.since(m.cfg.State.View().Index())
		return now.Sub(since), !since.IsZero()
	}
	term := m.cfg.Raft.Term()
	var asked []time.Time
	m.mu.Lock()
	voters := 0
	for _, r := range m.cfg.Raft.Members() {
		if !r.Voter {
			continue
		}
		voters++
		if s := m.seen[r.ID]; r.ID == m.id {
			asked = append(asked, now)
		} else if s != nil && s.term <= term {
			asked = append(asked, s.asked)
		}
	}
	m.mu.Unlock()
	slices.SortFunc(asked, func(a, b time.Time) int { return b.Compare(a) })
	if need := majority(voters); len(asked) >= need {
		if age = now.Sub(asked[need-1]); age <= leaderGrace {
			age = 0
		}
		return age, !asked[need-1].IsZero()
	}
	return 0, false
}

// leaderGrace is for how long a leader that was confirmed still passes for one without saying so: no longer than Raft
// takes to elect another.
const leaderGrace = time.Second
