package member

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// announce sees to this scheduler standing in the store and in the Raft configuration as it is.
func (m *Members) announce(ctx context.Context) {
	if m.cfg.Raft.IsLeader() {
		if m.cfg.State.View().Cluster() == nil {
			return // not bootstrapped yet
		}
		if err := m.add(ctx, m.cfg.Self); err != nil {
			m.cfg.Logger.Warn("this scheduler could not write itself down", "error", err)
		}
		return
	}
	if m.known() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*m.cfg.ProbeTimeout)
	defer cancel()
	if err := m.ask(ctx); err != nil {
		m.refused(err)
		return
	}
	m.refused(nil)
}

// known says that the store and the configuration show this scheduler as it is.
func (m *Members) known() bool {
	stored := m.cfg.State.View().Scheduler(m.id)
	if !same(stored, m.cfg.Self) {
		return false
	}
	return slices.ContainsFunc(m.cfg.Raft.Members(), func(r raftMember) bool {
		return r.ID == m.id && r.Addr == m.cfg.Self.GetRaftAddress()
	})
}

// same says that two schedulers differ in nothing but their meta, names included.
func same(a, b *fleetv1.Scheduler) bool {
	x, y := proto.CloneOf(a), proto.CloneOf(b)
	if x == nil || y == nil || x.GetMeta().GetName() != y.GetMeta().GetName() {
		return false
	}
	x.Meta, y.Meta = nil, nil
	return proto.Equal(x, y)
}

// ask asks the leader to be added, wherever it is.
func (m *Members) ask(ctx context.Context) error {
	if all := m.cfg.Raft.Members(); len(all) == 1 && all[0].ID == m.id {
		return nil // there is nobody else: it leads soon, and writes itself down
	}
	var errs []error
	tried := map[string]bool{m.cfg.Self.GetGrpcAddress(): true}
	addrs := m.candidates()
	for len(addrs) > 0 {
		addr := addrs[0]
		addrs = addrs[1:]
		if addr == "" || tried[addr] {
			continue
		}
		tried[addr] = true
		leader, err := m.askAt(ctx, addr)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
		case leader == "":
			return nil
		default:
			addrs = append([]string{leader}, addrs...)
		}
	}
	if len(errs) == 0 {
		return errors.New("no other scheduler knows the leader")
	}
	return errors.Join(errs...)
}

// candidates are the gRPC addresses where the leader may be, the likeliest first.
func (m *Members) candidates() []string {
	_, leader := m.Leader()
	addrs := []string{leader}
	for _, s := range m.cfg.State.View().Schedulers() {
		addrs = append(addrs, s.GetGrpcAddress())
	}
	if g := m.gossip(); g != nil {
		for _, s := range g.All() {
			addrs = append(addrs, s.GetGrpcAddress())
		}
	}
	addrs = append(addrs, m.cfg.Seeds()...)
	return slices.DeleteFunc(addrs, func(a string) bool { return a == "" || a == m.cfg.Self.GetGrpcAddress() })
}

// askAt asks at one address; leader is where to ask instead.
func (m *Members) askAt(ctx context.Context, addr string) (leader string, err error) {
	conn, err := m.peers.Conn(addr)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.ProbeTimeout)
	defer cancel()
	resp, err := fleetv1.NewPeerServiceClient(conn).AddMember(ctx, &fleetv1.AddMemberRequest{
		Scheduler: m.cfg.Self, ClusterId: m.cfg.State.View().Cluster().GetMeta().GetId()})
	return resp.GetLeaderAddress(), err
}

// refused logs why this scheduler isn't taken in, once for each reason.
func (m *Members) refused(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	m.mu.Lock()
	news := text != m.refusal
	m.refusal = text
	m.mu.Unlock()
	switch {
	case !news:
	case err == nil:
		m.cfg.Logger.Info("the leader knows this scheduler as it is now")
	default:
		m.cfg.Logger.Warn("this scheduler could not tell the leader of itself, trying on; one that an operator has removed needs an empty data directory and a join file", "error", err)
	}
}

// AddMember implements fleetv1.PeerServiceServer.
func (m *Members) AddMember(ctx context.Context, req *fleetv1.AddMemberRequest) (*fleetv1.AddMemberResponse, error) {
	peer, err := m.peer(ctx)
	if err != nil {
		return nil, err
	}
	s := req.GetScheduler()
	if id := s.GetMeta().GetId(); id != peer {
		return nil, status.Errorf(codes.PermissionDenied, "the certificate is that of scheduler %s, which can't add scheduler %s", peer, id)
	}
	if err := m.acceptable(req); err != nil {
		return nil, err
	}
	if !m.cfg.Raft.IsLeader() {
		_, leader := m.Leader()
		if leader == "" || leader == m.cfg.Self.GetGrpcAddress() {
			return nil, status.Error(codes.Unavailable, "the schedulers have no leader at the moment: try again in a few seconds")
		}
		return &fleetv1.AddMemberResponse{LeaderAddress: leader}, nil
	}
	if err := m.add(ctx, s); err != nil {
		return nil, err
	}
	m.outdated(s)
	resp := &fleetv1.AddMemberResponse{Scheduler: m.cfg.State.View().Scheduler(peer)}
	for _, r := range m.cfg.Raft.Members() {
		resp.Voter = resp.Voter || r.ID == peer && r.Voter
	}
	return resp, nil
}

// outdated forgets what a scheduler answered when it was elsewhere: it would be taken for news.
func (m *Members) outdated(now *fleetv1.Scheduler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if seen := m.seen[now.GetMeta().GetId()]; seen != nil && seen.answer != nil && !same(seen.answer.GetScheduler(), now) {
		seen.answer, seen.timed, seen.well = nil, time.Time{}, time.Time{}
	}
}

// acceptable finds what makes a scheduler impossible to add.
func (m *Members) acceptable(req *fleetv1.AddMemberRequest) error {
	s := req.GetScheduler()
	if s.GetMeta().GetName() == "" {
		return status.Error(codes.InvalidArgument, "scheduler.meta.name: is missing")
	}
	for _, a := range []struct{ field, addr string }{
		{"raft_address", s.GetRaftAddress()}, {"grpc_address", s.GetGrpcAddress()}, {"http_address", s.GetHttpAddress()},
	} {
		if host, port, err := net.SplitHostPort(a.addr); err != nil || host == "" || port == "" || port == "0" {
			return status.Errorf(codes.InvalidArgument, "scheduler.%s: %q is not host:port", a.field, a.addr)
		}
		if host, _, _ := net.SplitHostPort(a.addr); net.ParseIP(host).IsUnspecified() {
			return status.Errorf(codes.InvalidArgument, "scheduler.%s: %s says on which address to listen, not where others reach it: set advertise_address",
				a.field, a.addr)
		}
	}
	cluster := m.cfg.State.View().Cluster().GetMeta().GetId()
	if req.GetClusterId() != "" && req.GetClusterId() != cluster {
		return status.Errorf(codes.FailedPrecondition, "the scheduler belongs to cluster %s, this is cluster %s: give it an empty data directory to let it join",
			req.GetClusterId(), cluster)
	}
	return nil
}

// add writes a scheduler down and puts it into the Raft configuration, where it keeps a vote that it has.
func (m *Members) add(ctx context.Context, s *fleetv1.Scheduler) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	id, addr := s.GetMeta().GetId(), s.GetRaftAddress()
	for _, r := range m.cfg.Raft.Members() {
		if r.Addr == addr && r.ID != id {
			return status.Errorf(codes.AlreadyExists, "Raft address %s is that of scheduler %s: remove that one first with `drover cluster remove`", addr, m.name(r.ID))
		}
	}
	if err := m.record(ctx, s); err != nil {
		return status.Errorf(codes.Unavailable, "write the scheduler down: %v", err)
	}
	for _, r := range m.cfg.Raft.Members() {
		if r.ID == id && r.Addr == addr {
			return nil
		}
	}
	if err := m.cfg.Raft.AddNonvoter(ctx, id, addr); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	m.cfg.Logger.Info("scheduler is a member", "scheduler", m.name(id), "raft", addr)
	return nil
}

// record writes a scheduler into the store where it differs.
func (m *Members) record(ctx context.Context, s *fleetv1.Scheduler) error {
	view := m.cfg.State.View()
	stored := view.Scheduler(s.GetMeta().GetId())
	if same(stored, s) {
		return nil
	}
	now := timestamppb.New(m.cfg.Clock.Now())
	next, reason, message := proto.CloneOf(s), "SchedulerChanged", "it told its present addresses and version"
	if stored == nil {
		reason, message = "SchedulerAdded", fmt.Sprintf("it joined at %s", s.GetRaftAddress())
		next.Meta = &fleetv1.Meta{Id: s.GetMeta().GetId(), Account: fleetv1.Default, Project: fleetv1.Default, Generation: 1,
			CreateTime: now, CreatedBy: "scheduler"}
	} else {
		next.Meta = proto.CloneOf(stored.GetMeta())
		next.Meta.Generation++
	}
	next.Meta.Name = s.GetMeta().GetName()
	return m.write(ctx, &fleetv1.Write{
		Mutations: []*fleetv1.Mutation{state.Put(stored.GetMeta().GetRevision(), next)},
		Events:    []*fleetv1.Event{schedulerEvent(next, fleetv1.EventNormal, reason, message)},
	})
}

// write commits in the name of the scheduler.
func (m *Members) write(ctx context.Context, w *fleetv1.Write) error {
	return m.writeAs(ctx, w, byItself())
}

// byItself is who asks when nobody does.
func byItself() *fleetv1.Command { return &fleetv1.Command{Caller: "scheduler"} }

// writeAs commits in the name of the caller, and under the request ID, of as.
func (m *Members) writeAs(ctx context.Context, w *fleetv1.Write, as *fleetv1.Command) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	cmd := &fleetv1.Command{Time: timestamppb.New(m.cfg.Clock.Now()), Caller: as.GetCaller(), RequestId: as.GetRequestId(),
		RequestScope: as.GetRequestScope(), RequestDigest: as.GetRequestDigest(), Op: &fleetv1.Command_Write{Write: w}}
	cmd.Introduced = state.Introduced(cmd)
	result, err := m.cfg.Proposer.Propose(ctx, cmd)
	if err == nil && len(result.Rejections) > 0 {
		err = errors.New(result.Rejections[0].Detail)
	}
	return err
}

// schedulerEvent tells something about a scheduler.
func schedulerEvent(s *fleetv1.Scheduler, kind, reason, message string) *fleetv1.Event {
	return &fleetv1.Event{Type: kind, Reason: reason, Message: message,
		Objects: []*fleetv1.ObjectRef{{Kind: fleetv1.KindScheduler, Id: s.GetMeta().GetId(), Name: s.GetMeta().GetName()}}}
}
