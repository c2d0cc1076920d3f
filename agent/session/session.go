package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/agent/journal"
	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Instances is what a session works for; *instance.Manager is one.
type Instances interface {
	Apply(set *fleetv1.AssignmentSet) error
	MarkAll()
	Changed() <-chan struct{}
	Take() ([]*fleetv1.InstanceReport, error)
	Ack(reports []*fleetv1.InstanceReport)
	Pulls() []*fleetv1.PullProgress
	// Connected is told of every welcome, and of its end.
	Connected(yes bool)
}

// Config is what a Client needs; every field but one of Identity and TokenFile is required.
type Config struct {
	Node string
	// Schedulers answers the addresses to try. There may be none yet.
	Schedulers func() []string
	// Identity is this node's, with TLS; nil without it.
	Identity *identity.Keeper
	// TokenFile is read at every dial, so that a new token needs no restart; only without TLS.
	TokenFile string
	Logger    *slog.Logger
	Instances Instances
	Header    func() journal.Header
	Facts     func() *fleetv1.NodeFacts
	// Samples answers what the devices measured last.
	Samples func() []*fleetv1.DeviceSample
	// FactsChanged holds a token after Facts changed. Facts that changed before something came to be reported are
	// sent before it.
	FactsChanged <-chan struct{}
	// Relay serves one ordered relay; ctx and inputs end with its stream. Its error is sent to the caller.
	Relay func(ctx context.Context, order *fleetv1.RelayOrder, inputs <-chan *fleetv1.ExecInput, send func(*fleetv1.RelayRequest) error) error
}

const (
	dialTimeout = 10 * time.Second
	firstPause  = 100 * time.Millisecond
	lastPause   = 5 * time.Second
	maxRelays   = 64
)

// Client is the agent's end of the sessions. It must be made by New.
type Client struct {
	cfg       Config
	connected atomic.Bool
	conn      atomic.Pointer[grpc.ClientConn] // of the session, after its welcome
	events    nodeEvents
}

// New makes a Client that does nothing before Run.
func New(cfg Config) *Client {
	return &Client{cfg: cfg, events: nodeEvents{some: make(chan struct{}, 1)}}
}

// Connected tells whether a scheduler has welcomed the agent and the session lives.
func (c *Client) Connected() bool { return c.connected.Load() }

// NodeEvent reports something about the node itself. Without a scheduler the last 100 are kept.
func (c *Client) NodeEvent(kind, reason, message string) { c.events.add(kind, reason, message) }

var leaderHint = regexp.MustCompile(`the leader is at (\S+)$`)

// Run keeps a session until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	pause, next, hint := firstPause, 0, ""
	for ctx.Err() == nil {
		address := hint
		if all := c.cfg.Schedulers(); address == "" && len(all) > 0 {
			address = all[next%len(all)]
			next++
		}
		welcomed, err := c.session(ctx, address)
		c.connected.Store(false)
		if ctx.Err() != nil {
			break
		}
		hint = ""
		if found := leaderHint.FindStringSubmatch(status.Convert(err).Message()); found != nil && found[1] != address {
			hint = found[1]
		}
		if welcomed {
			pause = firstPause
		}
		c.cfg.Logger.Warn("no session with a scheduler", "scheduler", address, "error", err)
		now := pause
		if hint != "" { // there is a leader: who waits for long now loses the node's lease
			now = firstPause
		} else {
			pause = min(pause*2, lastPause)
		}
		timer := time.NewTimer(now/2 + rand.N(now))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return ctx.Err()
}

// session dials, greets and works until the session ends.
func (c *Client) session(ctx context.Context, address string) (welcomed bool, err error) {
	conn, err := c.dial(address)
	if err != nil {
		return false, err
	}
	var relays sync.WaitGroup
	defer relays.Wait()
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	greeting := time.AfterFunc(dialTimeout, func() { cancel(fmt.Errorf("%s sent no welcome within %s", address, dialTimeout)) })
	defer greeting.Stop()
	client := fleetv1.NewAgentServiceClient(conn)
	stream, err := client.Session(ctx)
	if err != nil {
		return false, cause(ctx, err)
	}
	have := c.cfg.Header()
	err = stream.Send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{
		NodeName: c.cfg.Node, Facts: c.cfg.Facts(), ClusterId: have.ClusterID, RestoreEpoch: have.RestoreEpoch, Generation: have.Generation,
	}}})
	if err != nil {
		_, err = stream.Recv() // tells why
		return false, cause(ctx, err)
	}
	first, err := stream.Recv()
	if err != nil {
		return false, cause(ctx, err)
	}
	welcome := first.GetWelcome()
	if err := checkWelcome(welcome, have); err != nil {
		return false, fmt.Errorf("%s: %w", address, err)
	}
	if !greeting.Stop() {
		return false, cause(ctx, ctx.Err())
	}
	c.cfg.Logger.Info("connected to a scheduler", "scheduler", address, "cluster", welcome.GetClusterId())
	s := &session{c: c, stream: stream, client: client, relays: &relays, acks: make(chan uint64, 1), tell: make(chan struct{}, 1),
		paces: make(chan *fleetv1.Pace, 1), sampled: map[string]time.Time{}}
	defer c.begin(conn)()
	received := make(chan struct{})
	go func() {
		defer close(received)
		cancel(s.receive(ctx))
	}()
	sendErr := s.send(ctx, &fleetv1.Pace{Number: welcome.GetPaceNumber(), HeartbeatMillis: welcome.GetHeartbeatMillis(), LeaseMillis: welcome.GetLeaseMillis()})
	if errors.Is(sendErr, io.EOF) { // the receiver learns why
		<-received
	}
	cancel(sendErr)
	<-received
	return true, context.Cause(ctx)
}

// begin tells all who want to know that a scheduler is connected, and end that it no longer is.
func (c *Client) begin(conn *grpc.ClientConn) (end func()) {
	c.conn.Store(conn)
	c.connected.Store(true)
	c.cfg.Instances.Connected(true)
	c.cfg.Instances.MarkAll()
	return func() {
		c.conn.Store(nil)
		c.cfg.Instances.Connected(false)
	}
}

func checkWelcome(w *fleetv1.Welcome, have journal.Header) error {
	if w == nil || w.GetHeartbeatMillis() < 1 {
		return errors.New("the scheduler did not begin with a welcome")
	}
	if have.ClusterID != "" && w.GetClusterId() != have.ClusterID {
		return fmt.Errorf("the scheduler belongs to cluster %s and this node to %s", w.GetClusterId(), have.ClusterID)
	}
	return nil
}

// cause prefers why the context was ended over what that did to a call.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// session is one stream after its welcome.
type session struct {
	c      *Client
	client fleetv1.AgentServiceClient
	stream grpc.BidiStreamingClient[fleetv1.SessionRequest, fleetv1.SessionResponse]
	acks   chan uint64
	tell   chan struct{} // a token after a set was journalled: its generation goes into a heartbeat
	paces  chan *fleetv1.Pace
	relays *sync.WaitGroup
	open   atomic.Int32
	pace   *fleetv1.Pace // the sender's alone
	// sampled is when each device's sample that was sent last is of; the sender's alone.
	sampled map[string]time.Time
}

// every is how often heartbeats are sent.
func (s *session) every() time.Duration {
	return time.Duration(s.pace.GetHeartbeatMillis()) * time.Millisecond
}

// send is the only sender of the stream.
func (s *session) send(ctx context.Context, pace *fleetv1.Pace) error {
	s.pace = pace
	beat := time.NewTimer(s.every())
	defer beat.Stop()
	s.c.events.again()
	var (
		unacked    *fleetv1.StatusReport
		id, events uint64
	)
	for {
		changed, noted := s.c.cfg.Instances.Changed(), s.c.events.some
		if unacked != nil {
			changed, noted = nil, nil
		}
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case ack := <-s.acks:
			if unacked != nil && ack >= unacked.GetId() {
				s.c.cfg.Instances.Ack(unacked.GetInstances())
				s.c.events.drop(events)
				unacked = nil
			}
			continue
		case s.pace = <-s.paces:
			beat.Reset(rand.N(s.every())) // all agents are told at the same time
			continue
		case <-beat.C:
			beat.Reset(s.every())
			err = s.heartbeat()
		case <-s.tell:
			err = s.heartbeat()
		case <-s.c.cfg.FactsChanged:
			err = s.facts()
		case <-changed:
		case <-noted:
		}
		if err != nil {
			return err
		}
		if unacked != nil {
			continue
		}
		if unacked, events, err = s.report(id + 1); err != nil {
			return err
		}
		if unacked != nil {
			id++
		}
	}
}

// report sends what is to be reported, if anything is: else it answers nil. events is the sequence of the last one
// of the node's that is in it.
func (s *session) report(id uint64) (report *fleetv1.StatusReport, events uint64, err error) {
	report = &fleetv1.StatusReport{Id: id}
	if report.Instances, err = s.c.cfg.Instances.Take(); err != nil {
		return nil, 0, fmt.Errorf("take reports: %w", err)
	}
	if report.NodeEvents, events = s.c.events.all(); len(report.Instances)+len(report.NodeEvents) == 0 {
		return nil, 0, nil
	}
	// What is reported may rest on facts that changed before: the scheduler learns those first.
	select {
	case <-s.c.cfg.FactsChanged:
		if err := s.facts(); err != nil {
			return nil, 0, err
		}
	default:
	}
	return report, events, s.stream.Send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Report{Report: report}})
}

func (s *session) facts() error {
	return s.stream.Send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Facts{Facts: s.c.cfg.Facts()}})
}

func (s *session) heartbeat() error {
	return s.stream.Send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Heartbeat{Heartbeat: &fleetv1.Heartbeat{
		Generation: s.c.cfg.Header().Generation, Pulls: s.c.cfg.Instances.Pulls(), DeviceSamples: s.newSamples(),
		PaceNumber: s.pace.GetNumber(),
	}}})
}

// newSamples answers the samples that this session hasn't sent.
func (s *session) newSamples() []*fleetv1.DeviceSample {
	var out []*fleetv1.DeviceSample
	for _, sample := range s.c.cfg.Samples() {
		at := sample.GetTime().AsTime()
		if !s.sampled[sample.GetDeviceId()].Equal(at) {
			s.sampled[sample.GetDeviceId()] = at
			out = append(out, sample)
		}
	}
	return out
}

// receive is the only receiver; it answers why the stream ended.
func (s *session) receive(ctx context.Context) error {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		switch {
		case m.GetAssignments() != nil:
			if err := s.c.cfg.Instances.Apply(m.GetAssignments()); err != nil {
				s.c.cfg.Logger.Error("an assignment set is not followed", "generation", m.GetAssignments().GetGeneration(), "error", err)
				return err
			}
			select {
			case s.tell <- struct{}{}:
			default:
			}
		case m.GetAck() != nil:
			select {
			case s.acks <- m.GetAck().GetId():
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case m.GetPace().GetHeartbeatMillis() > 0:
			select {
			case s.paces <- m.GetPace():
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case m.GetRelay() != nil:
			s.relay(ctx, m.GetRelay())
		case m.GetTrust() != nil && s.c.cfg.Identity != nil:
			if err := s.c.cfg.Identity.SetTrust(m.GetTrust()); err != nil {
				s.c.cfg.Logger.Error("whom to believe has changed, and can't be kept", "error", err)
			}
		}
	}
}

// relay opens the stream that an order asks for, and serves it beside the session.
func (s *session) relay(ctx context.Context, order *fleetv1.RelayOrder) {
	if s.open.Add(1) > maxRelays {
		s.open.Add(-1)
		s.c.cfg.Logger.Warn("too many relays are open; one more is refused")
		return
	}
	s.relays.Go(func() {
		defer s.open.Add(-1)
		if err := s.serveRelay(ctx, order); err != nil && ctx.Err() == nil {
			s.c.cfg.Logger.Warn("a relay failed", "instance", order.GetInstanceId(), "error", err)
		}
	})
}

func (s *session) serveRelay(ctx context.Context, order *fleetv1.RelayOrder) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.client.Relay(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&fleetv1.RelayRequest{RelayId: order.GetRelayId()}); err != nil {
		return err
	}
	inputs, served, ended := make(chan *fleetv1.ExecInput), make(chan struct{}), make(chan struct{})
	go func() { // ends with the stream, which cancel ends at the latest
		defer close(ended)
		defer cancel()
		defer close(inputs)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case inputs <- m.GetInput():
			case <-served:
			}
		}
	}()
	err = s.c.cfg.Relay(ctx, order, inputs, stream.Send)
	close(served)
	if err != nil && ctx.Err() == nil {
		err = stream.Send(&fleetv1.RelayRequest{Error: err.Error()})
	}
	if ctx.Err() != nil { // the caller has gone
		err = nil
	}
	err = errors.Join(err, stream.CloseSend())
	timer := time.NewTimer(dialTimeout)
	defer timer.Stop()
	select { // until the scheduler has taken everything and ends the stream
	case <-ended:
	case <-timer.C:
		cancel()
		<-ended
	}
	return err
}
