package session

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// relayTimeout is how long an agent may take to open a relay that was ordered.
const relayTimeout = 10 * time.Second

// Relay is the scheduler's end of one log or exec stream of an agent. Recv and Send may be called by one
// goroutine each; Close by any, more than once. Recv answers io.EOF when the agent has finished, and an
// error once the relay is closed.
type Relay interface {
	Recv() (*fleetv1.RelayRequest, error)
	Send(*fleetv1.RelayResponse) error
	Close()
}

type relayStream = grpc.BidiStreamingServer[fleetv1.RelayRequest, fleetv1.RelayResponse]

// relays pairs what was ordered with the streams that agents open.
type relays struct {
	max int

	mu   sync.Mutex
	byID map[string]*relay // ordered and open ones
}

// relay is one of them.
type relay struct {
	node   string
	opened chan struct{} // closed when stream and first are set
	done   chan struct{} // closed by Close
	close  sync.Once
	forget func()

	taken  bool // guarded by relays.mu: the agent has come
	stream relayStream
	first  *fleetv1.RelayRequest // read ahead; nil when Recv has answered it
}

func (r *relays) init(most int) { r.max, r.byID = most, map[string]*relay{} }

// OpenRelay asks the node's agent for a stream and waits until it comes, at most 10 s. The caller must
// Close it; it is closed by itself when ctx ends. The order's relay_id is set here. Errors are gRPC status
// errors: Unavailable when the node has no session, ResourceExhausted when too many relays are open,
// DeadlineExceeded when the agent does not come.
func (h *Hub) OpenRelay(ctx context.Context, node string, order *fleetv1.RelayOrder) (Relay, error) {
	s := h.session(node)
	if s == nil {
		return nil, status.Errorf(codes.Unavailable, "node %q is not connected", node)
	}
	order = proto.Clone(order).(*fleetv1.RelayOrder)
	order.RelayId = newID()
	r, err := h.relays.add(order.GetRelayId(), node)
	if err != nil {
		return nil, err
	}
	if !s.order(order) {
		r.Close()
		return nil, status.Errorf(codes.Unavailable, "node %q does not take orders", node)
	}
	timer := time.NewTimer(relayTimeout)
	defer timer.Stop()
	select {
	case <-r.opened:
		context.AfterFunc(ctx, r.Close)
		return r, nil
	case <-timer.C:
		err = status.Errorf(codes.DeadlineExceeded, "node %q did not answer within %s", node, relayTimeout)
	case <-s.ctx.Done():
		err = status.Errorf(codes.Unavailable, "node %q lost its connection", node)
	case <-ctx.Done():
		err = status.FromContextError(ctx.Err()).Err()
	}
	r.Close()
	return nil, err
}

// Relay implements fleetv1.AgentServiceServer.
func (h *Hub) Relay(stream relayStream) error {
	first, err := within(stream.Context(), helloTimeout, stream.Recv)
	if err != nil {
		return err
	}
	if node := h.relays.nodeOf(first.GetRelayId()); node != "" {
		if err := h.checkPeer(stream.Context(), node); err != nil {
			return err
		}
	}
	r := h.relays.take(first.GetRelayId())
	if r == nil {
		return status.Error(codes.NotFound, "no such relay is waited for")
	}
	defer r.Close()
	r.stream, r.first = stream, first
	close(r.opened)
	select {
	case <-r.done:
		return nil
	case <-stream.Context().Done():
		return status.FromContextError(stream.Context().Err()).Err()
	}
}

func (r *relays) add(id, node string) (*relay, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.byID) >= r.max {
		return nil, status.Errorf(codes.ResourceExhausted, "%d log and exec streams are open already", r.max)
	}
	one := &relay{node: node, opened: make(chan struct{}), done: make(chan struct{})}
	one.forget = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.byID, id)
	}
	r.byID[id] = one
	return one, nil
}

// nodeOf is the node that an ordered relay is waited for from, or "".
func (r *relays) nodeOf(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one := r.byID[id]; one != nil {
		return one.node
	}
	return ""
}

// take gives out an ordered relay once.
func (r *relays) take(id string) *relay {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.byID[id]
	if one == nil || one.taken {
		return nil
	}
	one.taken = true
	return one
}

func (r *relay) Recv() (*fleetv1.RelayRequest, error) {
	if m := r.first; m != nil {
		r.first = nil
		return m, nil
	}
	return r.stream.Recv()
}

func (r *relay) Send(m *fleetv1.RelayResponse) error { return r.stream.Send(m) }

func (r *relay) Close() {
	r.close.Do(func() {
		r.forget()
		close(r.done)
	})
}
