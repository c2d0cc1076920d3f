package session

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// maxUnacked is how many reports of one session may wait for their commit; the agent is not read from
// while there are more.
const maxUnacked = 64

// maxOrders is how many relay orders may wait to be sent to one agent.
const maxOrders = 64

// helloTimeout is how long an agent may take for the first message of a stream.
const helloTimeout = 10 * time.Second

type agentStream = grpc.BidiStreamingServer[fleetv1.SessionRequest, fleetv1.SessionResponse]

// session is one agent's stream.
type session struct {
	hub    *Hub
	stream agentStream
	node   string

	ctx  context.Context // ends with the session
	stop context.CancelCauseFunc
	room chan struct{} // a token per report that may wait
	jobs sync.WaitGroup

	sent    sentSet // the sender's
	trusted *fleetv1.Trust

	mu        sync.Mutex
	greeting  bool // the welcome has not been sent, and must be the first
	sending   bool // there is a sender
	changed   bool // the assignment set may be newer than what was sent
	trust     bool // whom to believe may differ from what was sent
	paced     bool // the pace is newer
	acks      []uint64
	orders    []*fleetv1.RelayOrder
	reports   []*fleetv1.StatusReport // waiting for their proposal
	reporting bool                    // a proposal is in flight
}

// Session implements fleetv1.AgentServiceServer.
func (h *Hub) Session(stream agentStream) error {
	if t := h.current(); t == nil || t.ctx.Err() != nil {
		return h.notLeader()
	}
	first, err := within(stream.Context(), helloTimeout, stream.Recv)
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if err := checkHello(hello); err != nil {
		return err
	}
	if err := h.checkPeer(stream.Context(), hello.GetNodeName()); err != nil {
		return err
	}
	s := &session{hub: h, stream: stream, node: hello.GetNodeName(), greeting: true, room: make(chan struct{}, maxUnacked)}
	s.ctx, s.stop = context.WithCancelCause(stream.Context())
	defer h.drop(s)
	defer s.end(nil)
	// Not on this goroutine, which waits for the end of the session on a stack that never gets smaller than half of what
	// registering takes: 8 KiB for each agent.
	welcomed := make(chan error)
	go func() { welcomed <- h.welcome(s, hello) }()
	if err := <-welcomed; err != nil {
		return err
	}

	// The two ends of the stream may block in it; they return when this handler has.
	go s.receive()
	s.mu.Lock()
	s.greeting, s.changed, s.trust = false, true, true
	s.startSending()
	s.mu.Unlock()
	<-s.ctx.Done()
	s.mu.Lock()
	s.reporting = true // no job starts any more
	s.mu.Unlock()
	s.jobs.Wait()
	err = context.Cause(s.ctx)
	if errors.Is(err, context.Canceled) {
		return status.FromContextError(err).Err()
	}
	return err
}

// welcome registers the node, makes s its session and greets the agent.
func (h *Hub) welcome(s *session, hello *fleetv1.Hello) error {
	cluster := h.cfg.State.View().Cluster()
	if cluster == nil {
		return status.Error(codes.Unavailable, "the cluster has not been bootstrapped yet")
	}
	id := cluster.GetMeta().GetId()
	if held := hello.GetClusterId(); held != "" && held != id {
		return status.Errorf(codes.FailedPrecondition, "node %q holds assignments of cluster %s, this is cluster %s", s.node, held, id)
	}
	if held, now := hello.GetRestoreEpoch(), cluster.GetRestoreEpoch(); held > now {
		return status.Errorf(codes.FailedPrecondition, "node %q holds assignments of restore epoch %d, this cluster is at %d: it was restored anew "+
			"by a scheduler whose clock is behind", s.node, held, now)
	}
	t, err := h.adopt(s)
	if err != nil {
		return err
	}
	// Before the node becomes Ready, so that nobody takes it for one that has gone silent. The pace may change before
	// the agent is greeted: then it is told next.
	p := h.pace.Load()
	h.leases.renew(s.node, p)
	nodeID, err := h.register(s.ctx, s.node, hello.GetFacts())
	if err != nil {
		return err
	}
	if t.ctx.Err() != nil {
		return h.notLeader()
	}
	return s.stream.Send(&fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Welcome{Welcome: &fleetv1.Welcome{
		ClusterId: id, NodeId: nodeID,
		HeartbeatMillis: p.heartbeat.Milliseconds(), LeaseMillis: p.lease.Milliseconds(), PaceNumber: p.number,
	}}})
}

// end ends the session; the agent sees err. Later calls do nothing.
func (s *session) end(err error) { s.stop(err) }

// sentSet is which assignment set was sent last.
type sentSet struct {
	any                          bool
	epoch, generation, confirmed uint64
}

// assignmentsChanged makes the sender look at the node again. It never blocks.
func (s *session) assignmentsChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = true
	s.startSending()
}

// trustChanged makes the sender look at whom agents are to believe. It never blocks.
func (s *session) trustChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trust = true
	s.startSending()
}

// paceChanged makes the sender tell the agent of the pace. It never blocks.
func (s *session) paceChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paced = true
	s.startSending()
}

// order queues a relay order; false when too many wait already.
func (s *session) order(o *fleetv1.RelayOrder) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.orders) >= maxOrders || s.ctx.Err() != nil {
		return false
	}
	s.orders = append(s.orders, o)
	s.startSending()
	return true
}

// receive reads the agent's messages until the stream ends.
func (s *session) receive() {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = status.Error(codes.Canceled, "the agent closed its session")
			}
			s.end(err)
			return
		}
		if err := s.take(m); err != nil {
			s.end(err)
			return
		}
	}
}

// take acts on one message.
func (s *session) take(m *fleetv1.SessionRequest) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx) // replaced: an old session must not renew the lease
	}
	s.hub.leases.renew(s.node, nil)
	switch m := m.GetMessage().(type) {
	case *fleetv1.SessionRequest_Heartbeat:
		s.hub.leases.confirm(s.node, m.Heartbeat.GetPaceNumber())
		s.hub.pulls.update(s.node, m.Heartbeat.GetPulls())
		s.hub.samples.update(s.node, m.Heartbeat.GetDeviceSamples())
	case *fleetv1.SessionRequest_Report:
		select {
		case s.room <- struct{}{}:
			s.report(m.Report)
		case <-s.ctx.Done():
		}
	case *fleetv1.SessionRequest_Facts:
		if m.Facts == nil {
			return status.Error(codes.InvalidArgument, "facts: must be set")
		}
		_, err := s.hub.register(s.ctx, s.node, m.Facts)
		return err
	case *fleetv1.SessionRequest_Hello:
		return status.Error(codes.InvalidArgument, "hello: only the first message may be one")
	default:
		// An agent newer than this scheduler may say things that it does not know.
		s.hub.cfg.Logger.Warn("unknown message from agent", "node", s.node)
	}
	return nil
}

// startSending sees to what has been marked being sent. The caller holds mu. Most of the time there is nothing to
// send, and no goroutine for it.
func (s *session) startSending() {
	if !s.greeting && !s.sending && s.ctx.Err() == nil {
		s.sending = true
		go s.send()
	}
}

// send writes what has been marked until nothing is or the session ends.
func (s *session) send() {
	for {
		s.mu.Lock()
		changed, trust, paced, acks, orders := s.changed, s.trust, s.paced, s.acks, s.orders
		s.changed, s.trust, s.paced, s.acks, s.orders = false, false, false, nil, nil
		if !changed && !trust && !paced && len(acks)+len(orders) == 0 || s.ctx.Err() != nil {
			s.sending = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		var out []*fleetv1.SessionResponse
		if trust {
			if now := s.hub.cfg.Trust(); now != nil && !proto.Equal(now, s.trusted) {
				s.trusted = now
				out = append(out, &fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Trust{Trust: now}})
			}
		}
		if paced {
			p := s.hub.pace.Load()
			s.hub.leases.promise(s.node, p)
			out = append(out, p.message())
		}
		if changed {
			set := Assignments(s.hub.cfg.State.View(), s.node)
			if now := (sentSet{true, set.GetRestoreEpoch(), set.GetGeneration(), set.GetRemovalsConfirmed()}); now != s.sent {
				s.sent = now
				out = append(out, &fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Assignments{Assignments: set}})
			}
		}
		for _, id := range acks {
			out = append(out, &fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Ack{Ack: &fleetv1.ReportAck{Id: id}}})
		}
		for _, o := range orders {
			out = append(out, &fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Relay{Relay: o}})
		}
		for _, m := range out {
			if err := s.stream.Send(m); err != nil {
				s.end(err)
				return
			}
		}
	}
}

// Assignments is all that the node should run by the view. The set shares its parts with the store.
func Assignments(view state.ReadView, node string) *fleetv1.AssignmentSet {
	set := &fleetv1.AssignmentSet{
		ClusterId:    view.Cluster().GetMeta().GetId(),
		RestoreEpoch: view.Cluster().GetRestoreEpoch(),
		Generation:   view.Node(node).GetStatus().GetAssignmentGeneration(),

		RemovalsConfirmed: view.Node(node).GetSpec().GetRemovalsConfirmed(),
	}
	for _, inst := range view.InstancesOnNode(node) {
		set.Instances = append(set.Instances, &fleetv1.Instance{Meta: inst.GetMeta(), Spec: inst.GetSpec(), Desired: inst.GetDesired(),
			Observed: &fleetv1.InstanceObserved{Attempt: inst.GetObserved().GetAttempt(), Sequence: inst.GetObserved().GetSequence()}})
	}
	return set
}

// report queues a report for its commit.
func (s *session) report(r *fleetv1.StatusReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, r)
	if !s.reporting && s.ctx.Err() == nil {
		s.reporting = true
		s.jobs.Go(s.commitReports)
	}
}

// commitReports proposes what has been reported, all that waits at a time, until nothing does.
func (s *session) commitReports() {
	for {
		s.mu.Lock()
		batch := s.reports
		s.reports = nil
		if len(batch) == 0 || s.ctx.Err() != nil {
			s.reporting = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if err := s.commit(batch); err != nil {
			s.end(unavailable("commit of reports", err))
			continue
		}
		s.mu.Lock()
		for _, r := range batch {
			s.acks = append(s.acks, r.GetId())
			<-s.room
		}
		s.startSending()
		s.mu.Unlock()
	}
}

// commit proposes the reports as one. Only instances of the session's own node are taken.
func (s *session) commit(batch []*fleetv1.StatusReport) error {
	view := s.hub.cfg.State.View()
	report := &fleetv1.Report{Node: s.node}
	for _, r := range batch {
		for _, inst := range r.GetInstances() {
			known := view.Instance(inst.GetInstanceId())
			if known.GetSpec().GetNode() != s.node || known.GetMeta().GetId() != inst.GetInstanceId() {
				s.hub.cfg.Logger.Debug("report of an instance that is not the node's", "node", s.node, "instance", inst.GetInstanceId())
				continue
			}
			report.Instances = append(report.Instances, inst)
		}
		report.NodeEvents = append(report.NodeEvents, r.GetNodeEvents()...)
	}
	if len(report.Instances) == 0 && len(report.NodeEvents) == 0 {
		return nil
	}
	return s.hub.commitReport(s.ctx, report)
}

// within answers what f does, or an error when that takes longer than d. f must return when ctx has ended,
// at the latest after the handler that calls within.
func within[T any](ctx context.Context, d time.Duration, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := f()
		done <- answer{v, err}
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	var zero T
	select {
	case a := <-done:
		return a.value, a.err
	case <-timer.C:
		return zero, status.Errorf(codes.DeadlineExceeded, "no first message within %s", d)
	case <-ctx.Done():
		return zero, status.FromContextError(ctx.Err()).Err()
	}
}

// checkHello refuses what no agent of ours would send.
func checkHello(hello *fleetv1.Hello) error {
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message must be a hello")
	}
	name := hello.GetNodeName()
	if name == "" || len(name) > 64 || slices.ContainsFunc([]byte(name), func(c byte) bool { return !nameByte(c) }) {
		return status.Errorf(codes.InvalidArgument, "hello.node_name: %q is not 1–64 letters, digits, '-', '_', '.'", name)
	}
	if hello.GetFacts() == nil {
		return status.Error(codes.InvalidArgument, "hello.facts: must be set")
	}
	return nil
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}
