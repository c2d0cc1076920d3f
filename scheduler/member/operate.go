package member

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// States of a member as List tells them.
const (
	StateAlive       = "alive"
	StateCatchingUp  = "catching-up"
	StateUnreachable = "unreachable"
	StateUnknown     = "unknown"
)

// List tells how every scheduler is, as this one sees it: by name, then ID.
func (m *Members) List() []*fleetv1.Member {
	now, wall, view, seen := time.Now(), m.cfg.Clock.Wall(), m.cfg.State.View(), m.sightings()
	least, _ := m.least()
	var all []*fleetv1.Member
	for _, r := range m.cfg.Raft.Members() {
		s := view.Scheduler(r.ID)
		if r.ID == m.id {
			s = m.cfg.Self
		}
		out := &fleetv1.Member{
			Id: r.ID, Name: s.GetMeta().GetName(), Address: r.Addr, Role: "non-voter", Leader: r.Leader, State: StateUnknown,
			GrpcAddress: s.GetGrpcAddress(), HttpAddress: s.GetHttpAddress(), GossipAddress: s.GetGossipAddress(),
			Version: s.GetVersion(), CommandVersion: s.GetCommandVersion(),
		}
		if r.Voter {
			out.Role = "voter"
		}
		g := m.gossip()
		if g != nil {
			_, out.GossipAlive = g.Heard(r.ID)
		}
		if r.ID == m.id {
			out.State, out.AppliedIndex, out.LastContact = StateAlive, view.Index(), timestamppb.New(wall)
			if g != nil {
				out.GossipKeys = g.Keys()
			}
		} else if s, ok := seen[r.ID]; ok {
			m.describe(out, s, r, least, now, wall)
		}
		all = append(all, out)
	}
	slices.SortFunc(all, func(a, b *fleetv1.Member) int {
		return strings.Compare(a.GetName()+"/"+a.GetId(), b.GetName()+"/"+b.GetId())
	})
	return all
}

// describe adds what probes have found out.
func (m *Members) describe(out *fleetv1.Member, s sighting, r raftMember, least uint32, now, wall time.Time) {
	if s.answer == nil {
		if s.silent(now) >= m.cfg.UnreachableAfter {
			out.State = StateUnreachable
		}
		return
	}
	told := s.answer.GetScheduler()
	out.Version, out.CommandVersion, out.GossipKeys = told.GetVersion(), told.GetCommandVersion(), s.answer.GetGossipKeys()
	by, _ := m.offset(s)
	out.AppliedIndex, out.Lag, out.ClockOffsetMillis = s.answer.GetAppliedIndex(), s.lag, by.Milliseconds()
	out.LastContact = timestamppb.New(wall.Add(-now.Sub(s.last)))
	switch {
	case s.silent(now) >= m.cfg.UnreachableAfter:
		out.State = StateUnreachable
		return
	case s.lag > m.cfg.MaxLag:
		out.State = StateCatchingUp
	default:
		out.State = StateAlive
	}
	if why := m.unready(s, least, now); !r.Voter {
		out.Note = why
		if why == "" {
			out.Note = "spare: votes once that makes an odd number of voters"
		}
	} else if !m.keepsTime(s) {
		out.Note = "clock out of line"
	}
}

// find is the member of an ID, the beginning of one, or a name.
func (m *Members) find(word string) (*fleetv1.Member, error) {
	if word == "" {
		return nil, status.Error(codes.InvalidArgument, "member: is missing")
	}
	var found []*fleetv1.Member
	for _, one := range m.List() {
		if one.GetId() == word {
			return one, nil
		}
		if one.GetName() == word || strings.HasPrefix(one.GetId(), word) {
			found = append(found, one)
		}
	}
	switch len(found) {
	case 0:
		return nil, status.Errorf(codes.NotFound, "there is no scheduler %q: `drover cluster members` lists them", word)
	case 1:
		return found[0], nil
	}
	return nil, status.Errorf(codes.InvalidArgument, "member: %q may be scheduler %s or %s: give the ID", word, found[0].GetId(), found[1].GetId())
}

// Remove takes a member out of the cluster and has its certificate revoked, in the name of the caller, and under the
// request ID, of as. Only the leader can.
func (m *Members) Remove(ctx context.Context, word string, force bool, as *fleetv1.Command) (*fleetv1.Member, error) {
	one, err := m.find(word)
	if err != nil {
		return nil, err
	}
	if one.GetId() == m.id {
		return nil, status.Errorf(codes.FailedPrecondition, "scheduler %s leads: hand over first with `drover cluster transfer-leader`", m.name(m.id))
	}
	m.changing.Lock()
	defer m.changing.Unlock()
	voters, alive := 0, 0
	for _, st := range m.standings() {
		if st.voter && st.id != one.GetId() {
			voters++
			if st.alive {
				alive++
			}
		}
	}
	if one.GetRole() == "voter" && alive < majority(voters) && !force {
		return nil, status.Errorf(codes.FailedPrecondition,
			"without scheduler %s only %d of %d voters answer, which is no majority: the cluster would stand still; start the others first, or say --force",
			m.name(one.GetId()), alive, voters)
	}
	// Revoked first: a scheduler that was removed, and isn't revoked, asks to be added again.
	if m.cfg.Revoke != nil {
		if err := m.cfg.Revoke(ctx, one.GetId()); err != nil {
			return nil, err
		}
	}
	if err := m.take(ctx, one.GetId(), "removed by "+as.GetCaller(), as); err != nil {
		return nil, err
	}
	m.cfg.Logger.Warn("scheduler removed", "scheduler", one.GetName(), "id", one.GetId(), "caller", as.GetCaller())
	return one, nil
}

// Transfer makes another voter the leader and answers it; an empty word takes the one that is most up to date. Only
// the leader can.
func (m *Members) Transfer(ctx context.Context, word string) (*fleetv1.Member, error) {
	if word == "" {
		word = m.successor(m.keepsTime)
		if word == "" {
			return nil, status.Error(codes.FailedPrecondition, "no other voter answers and keeps time: there is nobody to hand over to")
		}
	}
	one, err := m.find(word)
	switch {
	case err != nil:
		return nil, err
	case one.GetId() == m.id:
		return one, nil
	case one.GetRole() != "voter":
		return nil, status.Errorf(codes.FailedPrecondition, "scheduler %s has no vote", m.name(one.GetId()))
	case one.GetState() != StateAlive:
		return nil, status.Errorf(codes.FailedPrecondition, "scheduler %s is %s: it can't take over", m.name(one.GetId()), one.GetState())
	case (time.Duration(one.GetClockOffsetMillis()) * time.Millisecond).Abs() > m.cfg.MaxClockOffset:
		return nil, status.Errorf(codes.FailedPrecondition, "the clock of scheduler %s is off: it must not lead", m.name(one.GetId()))
	}
	if err := m.cfg.Raft.TransferLeadership(ctx, one.GetId()); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	m.cfg.Logger.Info("handed over the leadership", "to", m.name(one.GetId()))
	one = proto.CloneOf(one)
	one.Leader = true
	return one, nil
}

// HandOver makes another voter the leader if this scheduler leads and there is one that could.
func (m *Members) HandOver(ctx context.Context) error {
	if !m.cfg.Raft.IsLeader() {
		return nil
	}
	id := m.successor(m.keepsTime)
	if id == "" {
		return nil
	}
	return m.cfg.Raft.TransferLeadership(ctx, id)
}

// rotateWait is for how long RotateKey waits.
const rotateWait = 20 * time.Second

// RotateKey makes a new gossip key and waits until every member uses it and the old one is forgotten. With as nil it
// only waits. Only the leader can; a later leader goes on.
func (m *Members) RotateKey(ctx context.Context, as *fleetv1.Command) (id string, err error) {
	if m.cfg.NewGossipKey == nil {
		return "", status.Error(codes.FailedPrecondition, "this cluster has no gossip: it runs without TLS")
	}
	feed := m.cfg.State.Subscribe()
	defer feed.Close()
	cluster := m.cfg.State.View().Cluster()
	keys := cluster.GetGossipKeys()
	switch {
	case len(keys) == 0:
		return "", status.Error(codes.Unavailable, "the first gossip key isn't made yet: try again in a moment")
	case len(keys) == 1 && as != nil:
		k, err := m.cfg.NewGossipKey()
		if err != nil {
			return "", err
		}
		if err := m.setKeys(ctx, cluster, append(slices.Clone(keys), k), as); err != nil {
			return "", status.Errorf(codes.Unavailable, "write the new gossip key: %v", err)
		}
		id = k.GetId()
	default: // under way already, or done
		id = keys[len(keys)-1].GetId()
	}
	ctx, cancel := context.WithTimeout(ctx, rotateWait)
	defer cancel()
	if deadline, ok := ctx.Deadline(); ok { // so that the caller learns who is waited for
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-time.Until(deadline)/10))
		defer cancel()
	}
	for {
		if keys := m.cfg.State.View().Cluster().GetGossipKeys(); len(keys) == 1 && keys[0].GetId() == id {
			return id, nil
		}
		if _, _, err := feed.Next(ctx); err != nil {
			return "", status.Errorf(codes.FailedPrecondition, "gossip key %s is made and is taken into use as soon as every member has it: waiting for %s",
				id, m.waitedFor(id))
		}
	}
}

// waitedFor names the members that don't have a gossip key yet.
func (m *Members) waitedFor(key string) string {
	if who := m.lacking(func(held []string) bool { return slices.Contains(held, key) }); who != "" {
		return who
	}
	return "the leader's next step"
}

// ClockInLine waits for a verdict about this scheduler's clock, as long as limit at most, and answers whether it may
// lead: no majority contradicts it.
func (m *Members) ClockInLine(ctx context.Context, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(m.cfg.ProbeInterval / 5)
	defer tick.Stop()
	for {
		if v, _ := m.clockVerdict(); v != clockUnknown {
			return v == clockInLine
		}
		select {
		case <-ctx.Done():
			return true
		case <-tick.C:
		}
	}
}
