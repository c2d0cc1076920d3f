package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/raftstore"
)

const (
	// once marks a call that was passed on.
	once = "drover-passed-on"
	// elsewhere is in the trailer of a call that was passed on to a scheduler that didn't lead: nothing was done.
	elsewhere = "drover-not-leader"
)

// A call waits for a leader as long as leaderWait, looking each leaderPoll: long enough for one that hands over.
const (
	leaderWait = time.Second
	leaderPoll = 20 * time.Millisecond
)

// patience bounds a unary call whose caller has set no deadline.
const patience = time.Minute

// Config is what a Forwarder is made of. All fields are needed.
type Config struct {
	// Leads says that this scheduler leads.
	Leads func() bool
	// ReadIndex waits until the store holds everything committed before.
	ReadIndex func(ctx context.Context) error
	// Leader is the gRPC address of the leader, empty when there is none that could be asked.
	Leader func() string
	// Conn is a connection to another scheduler, made with Sent as its stats handler.
	Conn func(addr string) (*grpc.ClientConn, error)
	// As gives a call to another scheduler the caller of ctx.
	As func(ctx context.Context) (context.Context, error)
	// Staleness is how old the store may be; known is false when that can't be said.
	Staleness func() (age time.Duration, known bool)
}

// Forwarder has the interceptors of the operators' API. They stand behind authentication and within what turns errors
// into statuses.
type Forwarder struct {
	cfg     Config
	methods map[string]method
}

// New makes a Forwarder.
func New(cfg Config) *Forwarder { return &Forwarder{cfg: cfg, methods: methods()} }

// Unary is the interceptor of unary calls.
func (f *Forwarder) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	m, ok := f.methods[info.FullMethod]
	if !ok {
		return next(ctx, req)
	}
	for start := time.Now(); ; {
		resp, again, err := f.unary(ctx, m, req, info, next)
		if !again || time.Since(start) > leaderWait {
			return resp, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(leaderPoll):
		}
	}
}

// unary answers a call here or passes it on; again says that nothing was done because the leader has changed.
func (f *Forwarder) unary(ctx context.Context, m method, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, again bool, _ error) {
	conn, ctx, err := f.route(ctx, m)
	if err != nil {
		return nil, false, err
	}
	if conn == nil {
		resp, err := next(ctx, req)
		return resp, false, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	ctx, sent := track(ctx)
	resp := m.answer()
	var trailer metadata.MD
	if err := conn.Invoke(ctx, info.FullMethod, req, resp, grpc.Trailer(&trailer)); err != nil {
		unsent := !sent.left.Load() && status.Code(err) == codes.Unavailable
		return nil, unsent || len(trailer.Get(elsewhere)) > 0, outcome(m, sent, err)
	}
	return resp, false, nil
}

// Stream is the interceptor of streams.
func (f *Forwarder) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if m, ok := f.methods[info.FullMethod]; ok {
		return f.pass(srv, ss, info, m, next)
	}
	return next(srv, ss)
}

// pass has the leader serve a stream, or serves it where this scheduler leads.
func (f *Forwarder) pass(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, m method, next grpc.StreamHandler) error {
	conn, ctx, err := f.route(ss.Context(), m)
	if err != nil {
		return err
	}
	if conn == nil {
		return next(srv, ss)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, sent := track(ctx)
	cs, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: m.down, ClientStreams: m.up}, info.FullMethod)
	if err != nil {
		return outcome(m, sent, err)
	}
	go func() { // ends when this handler has
		if err := requests(ss, cs, m); err != nil {
			cancel()
		}
	}()
	for {
		msg := m.answer()
		if err := cs.RecvMsg(msg); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			if ss.Context().Err() != nil {
				return ss.Context().Err()
			}
			return outcome(m, sent, err)
		}
		if err := ss.SendMsg(msg); err != nil {
			return err
		}
	}
}

// requests copies what the caller sends. Why the other end takes no more is told by what it answers.
func requests(from grpc.ServerStream, to grpc.ClientStream, m method) error {
	for {
		msg := m.request()
		if err := from.RecvMsg(msg); err != nil {
			if errors.Is(err, io.EOF) {
				return to.CloseSend()
			}
			return err
		}
		switch err := to.SendMsg(msg); {
		case errors.Is(err, io.EOF): // the other end has answered, or gone
			return nil
		case err != nil:
			return err
		}
	}
}

// route decides who answers: this scheduler when conn is nil, else the one at its other end, under the context that is
// answered.
func (f *Forwarder) route(ctx context.Context, m method) (conn *grpc.ClientConn, _ context.Context, err error) {
	stale, bound, err := wish(ctx)
	switch {
	case err != nil:
		return nil, ctx, err
	case stale && m.stale:
		return nil, ctx, f.stamp(ctx, bound)
	case f.cfg.Leads() && m.write:
		return nil, ctx, nil // which looks at the read index itself
	case f.cfg.Leads():
		return nil, ctx, f.cfg.ReadIndex(ctx)
	}
	if len(metadata.ValueFromIncomingContext(ctx, once)) > 0 {
		return nil, ctx, errors.Join(&raftstore.NotLeaderError{}, grpc.SetTrailer(ctx, metadata.Pairs(elsewhere, "1")))
	}
	leader := f.awaitLeader(ctx)
	switch {
	case leader == "" && f.cfg.Leads(): // meanwhile
		return f.route(ctx, m)
	case leader == "":
		return nil, ctx, &raftstore.NotLeaderError{}
	}
	if conn, err = f.cfg.Conn(leader); err != nil {
		return nil, ctx, status.Error(codes.Unavailable, err.Error())
	}
	out, err := f.cfg.As(ctx)
	if err != nil {
		return nil, ctx, err
	}
	return conn, metadata.AppendToOutgoingContext(out, once, "1"), nil
}

// awaitLeader answers where another scheduler leads, empty when none does within leaderWait or this one has begun to.
func (f *Forwarder) awaitLeader(ctx context.Context) string {
	deadline := time.NewTimer(leaderWait)
	defer deadline.Stop()
	for {
		if leader := f.cfg.Leader(); leader != "" || f.cfg.Leads() {
			return leader
		}
		select {
		case <-ctx.Done():
			return ""
		case <-deadline.C:
			return ""
		case <-time.After(leaderPoll):
		}
	}
}

// wish is what the caller wants of a read; bound is 0 when he takes any age.
func wish(ctx context.Context) (stale bool, bound time.Duration, err error) {
	for _, v := range metadata.ValueFromIncomingContext(ctx, fleetv1.MetadataConsistency) {
		switch v {
		case fleetv1.ConsistencyStale:
			stale = true
		case fleetv1.ConsistencyLinearizable:
		default:
			return false, 0, status.Errorf(codes.InvalidArgument, "%s: %q: want %s or %s", fleetv1.MetadataConsistency, v,
				fleetv1.ConsistencyLinearizable, fleetv1.ConsistencyStale)
		}
	}
	for _, v := range metadata.ValueFromIncomingContext(ctx, fleetv1.MetadataMaxStale) {
		ms, err := strconv.ParseInt(v, 10, 32)
		if err != nil || ms < 1 {
			return false, 0, status.Errorf(codes.InvalidArgument, "%s: %q: want milliseconds, at least 1", fleetv1.MetadataMaxStale, v)
		}
		bound = time.Duration(ms) * time.Millisecond
	}
	return stale, bound, nil
}

// stamp says in the response's headers how old the answer may be, or refuses to give it.
func (f *Forwarder) stamp(ctx context.Context, bound time.Duration) error {
	age, known := f.cfg.Staleness()
	if bound > 0 && (!known || age > bound) {
		old := "of unknown age: it has heard no leader since it started"
		if known {
			old = fmt.Sprintf("%v old", age.Round(time.Millisecond))
		}
		return status.Errorf(codes.Unavailable, "what this scheduler knows is %s, and at most %v was asked for", old, bound)
	}
	text := fleetv1.StalenessUnknown
	if known {
		text = strconv.FormatInt(age.Milliseconds(), 10)
	}
	return grpc.SetHeader(ctx, metadata.Pairs(fleetv1.MetadataStaleness, text))
}

// outcome is the error of a call that was passed on.
func outcome(m method, sent *sending, err error) error {
	if m.write && sent.lost() {
		if code := status.Code(err); code == codes.Unavailable || code == codes.Canceled || code == codes.DeadlineExceeded {
			return fmt.Errorf("%w: the leader was lost: %w", raftstore.ErrUnknown, err)
		}
	}
	if !sent.answered.Load() && status.Code(err) == codes.Unavailable {
		return &raftstore.NotLeaderError{}
	}
	return err
}
