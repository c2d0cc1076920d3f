package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// world is a real store with a hub on it that leads.
type world struct {
	t     *testing.T
	store *state.Store
	hub   *Hub

	mu        sync.Mutex
	index     uint64
	proposals int
	gate      chan struct{} // when set, proposals wait for it
	fail      error
	reasons   []string
}

func run(t *testing.T, f func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, store: state.New()}
		w.hub = New(Config{State: w.store, Proposer: w, Leader: func() string { return "10.0.0.9:7400" },
			HeartbeatInterval: 2 * time.Second, LeaseDuration: 10 * time.Second})
		w.write(state.Put(0, &fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c1"}}))
		w.hub.Lead(context.Background())
		defer w.hub.Resign()
		f(w)
		w.hub.Resign()
		synctest.Wait()
	})
}

func (w *world) Propose(ctx context.Context, cmd *fleetv1.Command) (state.Result, error) {
	w.mu.Lock()
	gate, fail := w.gate, w.fail
	w.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return state.Result{}, ctx.Err()
		}
	}
	if fail != nil {
		return state.Result{}, fail
	}
	return w.apply(cmd), nil
}

func (w *world) apply(cmd *fleetv1.Command) state.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	w.proposals++
	r, events := w.store.Apply(w.index, cmd)
	for _, e := range events {
		w.reasons = append(w.reasons, e.GetReason())
	}
	return r
}

func (w *world) write(m ...*fleetv1.Mutation) {
	w.t.Helper()
	if r := w.apply(&fleetv1.Command{Introduced: 1, Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: m}}}); len(r.Rejections) > 0 {
		w.t.Fatal(r.Rejections)
	}
}

func (w *world) place(id, node string) {
	w.t.Helper()
	w.write(state.Put(0, &fleetv1.Instance{Meta: &fleetv1.Meta{Id: id, Name: id}, Spec: &fleetv1.InstanceSpec{Node: node, ServiceId: "s"}, Desired: &fleetv1.InstanceDesired{State: "running"}}))
}

// pipe is one end of a stream whose other end is the test.
type pipe[In, Out any] struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelFunc
	in     chan *In
	out    chan *Out
	ended  chan error
}

func open[In, Out any](handler func(grpc.BidiStreamingServer[In, Out]) error) *pipe[In, Out] {
	p := &pipe[In, Out]{in: make(chan *In), out: make(chan *Out, 100), ended: make(chan error, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	go func() {
		err := handler(p)
		p.cancel() // as grpc does
		p.ended <- err
	}()
	return p
}

func (p *pipe[In, Out]) Context() context.Context { return p.ctx }

func (p *pipe[In, Out]) Recv() (*In, error) {
	select {
	case m, ok := <-p.in:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

func (p *pipe[In, Out]) Send(m *Out) error {
	select {
	case p.out <- m:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// got answers all that the handler has sent by now.
func (p *pipe[In, Out]) got() []*Out {
	synctest.Wait()
	var all []*Out
	for {
		select {
		case m := <-p.out:
			all = append(all, m)
		default:
			return all
		}
	}
}

type agentEnd = pipe[fleetv1.SessionRequest, fleetv1.SessionResponse]

func facts() *fleetv1.NodeFacts { return &fleetv1.NodeFacts{BootId: "b1", Arch: "amd64"} }

// agent opens a session and checks the welcome; the first set is left in out.
func (w *world) agent(node string, f *fleetv1.NodeFacts) *agentEnd {
	w.t.Helper()
	p := open(w.hub.Session)
	p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{NodeName: node, Facts: f}}}
	synctest.Wait()
	m := <-p.out
	if m.GetWelcome().GetClusterId() != "c1" || m.GetWelcome().GetLeaseMillis() != 10000 {
		w.t.Fatalf("welcome %v", m)
	}
	return p
}

func (p *pipe[In, Out]) code() codes.Code {
	synctest.Wait()
	select {
	case err := <-p.ended:
		return status.Code(err)
	default:
		return codes.OK
	}
}

func report(p *agentEnd, id uint64, instance string, sequence uint64) {
	p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Report{Report: &fleetv1.StatusReport{Id: id,
		Instances: []*fleetv1.InstanceReport{{InstanceId: instance, Observed: &fleetv1.InstanceObserved{State: "Running", Attempt: 1, Sequence: sequence}}}}}}
}

func heartbeat(p *agentEnd, pulls ...*fleetv1.PullProgress) {
	p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Heartbeat{Heartbeat: &fleetv1.Heartbeat{Pulls: pulls}}}
}

func TestRegistrationWritesOnlyWhatChanged(t *testing.T) {
	run(t, func(w *world) {
		w.agent("n1", facts())
		id, before := w.store.View().Node("n1").GetMeta().GetId(), w.proposals
		p := w.agent("n1", facts())
		heartbeat(p)
		synctest.Wait()
		if w.proposals != before {
			t.Errorf("%d log entries for a reconnect and a heartbeat", w.proposals-before)
		}
		f := facts()
		f.BootId = "b2"
		p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Facts{Facts: f}}
		synctest.Wait()
		n := w.store.View().Node("n1")
		if n.GetFacts().GetBootId() != "b2" || n.GetMeta().GetId() != id || strings.Join(w.reasons, " ") != "NodeRegistered NodeReturned" {
			t.Errorf("%v %v", n, w.reasons)
		}
	})
}

func TestAssignmentsFollowTheStore(t *testing.T) {
	run(t, func(w *world) {
		p := w.agent("n1", facts())
		if sets := p.got(); len(sets) != 1 || len(sets[0].GetAssignments().GetInstances()) != 0 {
			t.Fatalf("first set %v", sets)
		}
		w.agent("n2", facts())
		w.place("i2", "n2")
		if sets := p.got(); len(sets) != 0 {
			t.Errorf("another node's change sent %v", sets)
		}
		w.place("i1", "n1")
		sets := p.got()
		if len(sets) != 1 || sets[0].GetAssignments().GetGeneration() != w.index || len(sets[0].GetAssignments().GetInstances()) != 1 {
			t.Errorf("sent %v at index %d", sets, w.index)
		}
	})
}

// An agent that does not read holds up nobody, and gets the newest set when it reads again.
func TestSlowAgentHoldsUpNobody(t *testing.T) {
	run(t, func(w *world) {
		slow, other := w.agent("n1", facts()), w.agent("n2", facts())
		slow.got()
		other.got()
		placed := 0
		for range cap(slow.out) + 50 {
			placed++
			w.place(fmt.Sprint("i", placed), "n1")
			synctest.Wait()
		}
		w.place("other", "n2")
		if sets := other.got(); len(sets) != 1 || len(sets[0].GetAssignments().GetInstances()) != 1 {
			t.Errorf("the other agent got %v", sets)
		}
		report(slow, 1, "i1", 1)
		heartbeat(slow)
		synctest.Wait()
		if !w.hub.LeaseValid("n1") || w.store.View().Instance("i1").GetObserved().GetState() != "Running" {
			t.Error("what it says is not heard")
		}
		var last *fleetv1.AssignmentSet
		acked := false
		all := slow.got()
		all = append(all, slow.got()...) // what it was too slow for until now
		for _, m := range all {
			if m.GetAssignments() != nil {
				last = m.GetAssignments()
			}
			acked = acked || m.GetAck().GetId() == 1
		}
		if len(last.GetInstances()) != placed || !acked || len(all) > cap(slow.out)+3 {
			t.Errorf("%d messages, the last set has %d of %d instances, report acknowledged: %v", len(all), len(last.GetInstances()), placed, acked)
		}
	})
}

func TestSecondSessionReplacesTheFirst(t *testing.T) {
	run(t, func(w *world) {
		first := w.agent("n1", facts())
		second := w.agent("n1", facts())
		if c := first.code(); c != codes.Aborted {
			t.Errorf("first ended with %v", c)
		}
		w.place("i1", "n1")
		if sets := second.got(); len(sets) == 0 || second.code() != codes.OK {
			t.Error("the second session does not work")
		}
	})
}

func TestReportsAreAcknowledgedWhenCommitted(t *testing.T) {
	run(t, func(w *world) {
		p := w.agent("n1", facts())
		w.agent("n2", facts())
		w.place("i1", "n1")
		w.place("i2", "n2")
		p.got()
		w.gate = make(chan struct{})
		before := w.proposals
		report(p, 1, "i1", 1)
		synctest.Wait()
		for id := uint64(2); id <= 5; id++ {
			report(p, id, "i1", id)
		}
		report(p, 6, "i2", 1) // another node's
		if got := p.got(); len(got) != 0 {
			t.Fatalf("acknowledged before the commit: %v", got)
		}
		close(w.gate)
		got := p.got()
		if len(got) != 6 || got[5].GetAck().GetId() != 6 || w.proposals-before != 2 {
			t.Errorf("%d proposals, acknowledged %v", w.proposals-before, got)
		}
		if v := w.store.View(); v.Instance("i1").GetObserved().GetSequence() != 5 || v.Instance("i2").GetObserved() != nil {
			t.Errorf("stored %v, %v", v.Instance("i1"), v.Instance("i2"))
		}
		w.fail = errors.New("outcome unknown")
		report(p, 7, "i1", 6)
		if got := p.got(); len(got) != 0 || p.code() != codes.Unavailable {
			t.Errorf("after a failed commit: %v", got)
		}
	})
}

func TestLeases(t *testing.T) {
	run(t, func(w *world) {
		var calls []string
		defer w.hub.OnLease(func(n string) {
			if !w.hub.LeaseValid(n) {
				n = "-" + n
			}
			calls = append(calls, n)
		})()
		p, _ := w.agent("n1", facts()), w.agent("n2", facts())
		time.Sleep(6 * time.Second)
		heartbeat(p)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if !w.hub.LeaseValid("n1") || w.hub.LeaseValid("n2") || w.hub.LeaseValid("n3") {
			t.Error("leases are wrong after 12 s")
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if p.code() != codes.Unavailable {
			t.Error("the session of a node without a lease goes on: its agent doesn't know that it is cut off")
		}
		w.agent("n1", facts())
		synctest.Wait()
		if got := strings.Join(calls, " "); got != "n1 n2 -n2 -n1 n1" {
			t.Errorf("calls %s", got)
		}
		if got := time.Since(w.hub.LastHeartbeat("n1")); got != 0 {
			t.Errorf("last heartbeat %v ago", got)
		}
	})
}

func TestNewLeaderGrantsFullLeases(t *testing.T) {
	run(t, func(w *world) {
		p := w.agent("n1", facts())
		w.write(state.Put(0, &fleetv1.Node{Meta: &fleetv1.Meta{Name: "gone", Id: "g"}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeUnreachable}}))
		time.Sleep(9 * time.Second)
		w.hub.Resign()
		if c := p.code(); c != codes.Unavailable {
			t.Errorf("session ended with %v", c)
		}
		if !w.hub.LeaseValid("n1") || w.hub.LeaseValid("gone") {
			t.Error("a follower goes by the node's state")
		}
		p = open(w.hub.Session)
		synctest.Wait()
		if err := <-p.ended; status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "10.0.0.9:7400") {
			t.Errorf("follower answers %v", err)
		}
		w.hub.Lead(context.Background())
		w.hub.Lead(context.Background())
		time.Sleep(10*time.Second + greetTime - 1)
		synctest.Wait()
		if !w.hub.LeaseValid("n1") || w.hub.LeaseValid("gone") {
			t.Error("leases of a new leader are wrong")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if w.hub.LeaseValid("n1") {
			t.Error("the lease did not end")
		}
	})
}

func TestBadHellos(t *testing.T) {
	run(t, func(w *world) {
		for _, c := range []struct {
			hello *fleetv1.Hello
			want  codes.Code
		}{
			{nil, codes.InvalidArgument},
			{&fleetv1.Hello{NodeName: "a b", Facts: facts()}, codes.InvalidArgument},
			{&fleetv1.Hello{NodeName: strings.Repeat("x", 65), Facts: facts()}, codes.InvalidArgument},
			{&fleetv1.Hello{NodeName: "n1"}, codes.InvalidArgument},
			{&fleetv1.Hello{NodeName: "n1", Facts: facts(), ClusterId: "other"}, codes.FailedPrecondition},
		} {
			p := open(w.hub.Session)
			p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: c.hello}}
			if got := p.code(); got != c.want {
				t.Errorf("%v: %v, want %v", c.hello, got, c.want)
			}
		}
		p := open(w.hub.Session)
		time.Sleep(11 * time.Second)
		if got := p.code(); got != codes.DeadlineExceeded {
			t.Errorf("silence: %v", got)
		}
		if len(w.store.View().Nodes()) != 0 {
			t.Error("a refused agent was registered")
		}
	})
}

func TestPullProgress(t *testing.T) {
	run(t, func(w *world) {
		var moved []string
		defer w.hub.OnPull(func(id string) { moved = append(moved, id) })()
		p := w.agent("n1", facts())
		for _, done := range []int64{1, 1, 2} {
			heartbeat(p, &fleetv1.PullProgress{InstanceId: "i", DoneBytes: done})
		}
		synctest.Wait()
		if got := w.hub.Pull("i").GetDoneBytes(); got != 2 || len(moved) != 2 {
			t.Errorf("%d bytes, told %v", got, moved)
		}
		heartbeat(p)
		synctest.Wait()
		if w.hub.Pull("i") != nil || len(moved) != 3 {
			t.Errorf("after the end: %v, told %v", w.hub.Pull("i"), moved)
		}
	})
}

func TestRelay(t *testing.T) {
	run(t, func(w *world) {
		if _, err := w.hub.OpenRelay(context.Background(), "n1", &fleetv1.RelayOrder{}); status.Code(err) != codes.Unavailable {
			t.Errorf("no session: %v", err)
		}
		p := w.agent("n1", facts())
		p.got()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		type opened struct {
			r   Relay
			err error
		}
		done := make(chan opened, 1)
		go func() {
			r, err := w.hub.OpenRelay(ctx, "n1", &fleetv1.RelayOrder{InstanceId: "i"})
			done <- opened{r, err}
		}()
		order := p.got()[0].GetRelay()
		bad := open(w.hub.Relay)
		bad.in <- &fleetv1.RelayRequest{RelayId: "guess"}
		if c := bad.code(); c != codes.NotFound {
			t.Errorf("unknown relay: %v", c)
		}
		end := open(w.hub.Relay)
		end.in <- &fleetv1.RelayRequest{RelayId: order.GetRelayId(), Error: "first"}
		o := <-done
		if o.err != nil {
			t.Fatal(o.err)
		}
		if m, err := o.r.Recv(); err != nil || m.GetError() != "first" {
			t.Errorf("received %v, %v", m, err)
		}
		if err := o.r.Send(&fleetv1.RelayResponse{}); err != nil || len(end.got()) != 1 {
			t.Errorf("send: %v", err)
		}
		cancel()
		synctest.Wait()
		if end.ctx.Err() == nil {
			t.Error("the agent's end outlives the caller's context")
		}
		if _, err := o.r.Recv(); err == nil {
			t.Error("a closed relay still receives")
		}
		go func() {
			r, err := w.hub.OpenRelay(context.Background(), "n1", &fleetv1.RelayOrder{})
			done <- opened{r, err}
		}()
		time.Sleep(11 * time.Second)
		if o := <-done; status.Code(o.err) != codes.DeadlineExceeded || len(w.hub.relays.byID) != 0 {
			t.Errorf("an agent that does not come: %v", o.err)
		}
	})
}

func TestDeviceSamples(t *testing.T) {
	run(t, func(w *world) {
		p := w.agent("n1", facts())
		sample := func(id string, use float64) {
			p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Heartbeat{Heartbeat: &fleetv1.Heartbeat{
				DeviceSamples: []*fleetv1.DeviceSample{{DeviceId: id, Utilisation: &use}},
			}}}
			synctest.Wait()
		}
		sample("a", 0.1)
		sample("b", 0.2)
		sample("a", 0.3)
		heartbeat(p) // nothing new is no change
		synctest.Wait()
		if a, b := w.hub.DeviceSample("n1", "a"), w.hub.DeviceSample("n1", "b"); a.GetUtilisation() != 0.3 || b.GetUtilisation() != 0.2 {
			t.Errorf("a %v, b %v", a, b)
		}
		if got := w.hub.DeviceSample("n2", "a"); got != nil {
			t.Errorf("of another node: %v", got)
		}
		for i := range 2 * mostSamples {
			w.hub.samples.update("n1", []*fleetv1.DeviceSample{{DeviceId: fmt.Sprint(i)}})
		}
		if n := len(w.hub.samples.nodes["n1"]); n != mostSamples {
			t.Errorf("%d samples of one node are kept", n)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if got := w.hub.DeviceSample("n1", "a"); got != nil {
			t.Errorf("of a silent node: %v", got)
		}
	})
}
