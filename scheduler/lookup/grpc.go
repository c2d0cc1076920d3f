package lookup

import (
	"context"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
)

// Service answers look-ups over gRPC. Its callers have been authenticated.
type Service struct {
	fleetv1.UnimplementedLookupServiceServer
	t *Table
}

// Service answers from the same table.
func (t *Table) Service() *Service { return &Service{t: t} }

// asked is what both methods ask for.
type asked interface {
	GetProject() string
	GetService() string
	GetMaxStaleSeconds() int64
	GetNetwork() string
}

// find admits a call and finds its service.
func (s *Service) find(ctx context.Context, req asked) (c auth.Caller, e *entry, q question, no *refusal) {
	c, ok := auth.FromContext(ctx)
	if !ok {
		return c, nil, q, refuse(http.StatusUnauthorized, "nobody has been authenticated")
	}
	if no = s.t.take(c); no != nil { // whatever is asked
		return c, nil, q, no
	}
	seconds := req.GetMaxStaleSeconds()
	switch {
	case req.GetService() == "":
		return c, nil, q, refuse(http.StatusBadRequest, "service: is missing: want a name or an ID")
	case seconds < 0 || seconds > maxBound:
		return c, nil, q, refuse(http.StatusBadRequest, "max_stale_seconds: %d is out of range 0–%d", seconds, maxBound)
	}
	q.bound = time.Duration(seconds) * time.Second
	remote := ""
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	if q.network, no = s.t.networkOf(req.GetNetwork(), remote); no != nil {
		return c, nil, q, no
	}
	project := req.GetProject()
	if project == "" {
		project = c.Project
	}
	e, no = s.t.find(c, project, req.GetService())
	return c, e, q, no
}

// Get implements fleetv1.LookupServiceServer.
func (s *Service) Get(ctx context.Context, req *fleetv1.LookupServiceGetRequest) (*fleetv1.LookupServiceGetResponse, error) {
	c, e, q, no := s.find(ctx, req)
	wait := time.Duration(req.GetWaitSeconds()) * time.Second
	switch {
	case no != nil:
		return nil, no
	case req.GetWaitSeconds() < 0 || req.GetWaitSeconds() > int64(maxWait/time.Second):
		return nil, refuse(http.StatusBadRequest, "wait_seconds: %d is out of range 0–%d", req.GetWaitSeconds(), int64(maxWait/time.Second))
	case req.GetIndex() == 0 && wait > 0:
		return nil, refuse(http.StatusBadRequest, "index: is missing: wait_seconds needs the index of an answer that is known")
	}
	known := func(a *answer) bool { return a.refusal == nil && a.page.resp.GetIndex() <= req.GetIndex() }
	if wait > 0 && known(e.answer.Load()) {
		release, no := s.t.hold(c, false)
		if no != nil {
			return nil, no
		}
		defer release()
		s.t.await(ctx, e, wait, known)
		if err := s.t.cfg.Valid(ctx); err != nil {
			return nil, err
		}
	}
	age, fresh := s.t.cfg.Staleness()
	if no := tooOld(age, fresh, q.bound); no != nil {
		return nil, no
	}
	a := e.answer.Load()
	if a.refusal != nil {
		return nil, a.refusal
	}
	return &fleetv1.LookupServiceGetResponse{Answer: a.in(q.network).resp, Staleness: s.t.staleness()}, nil
}

// Watch implements fleetv1.LookupServiceServer.
func (s *Service) Watch(req *fleetv1.LookupServiceWatchRequest, stream grpc.ServerStreamingServer[fleetv1.LookupServiceWatchResponse]) error {
	ctx := stream.Context()
	e, q, release, no := s.begin(ctx, req)
	if no != nil {
		return no
	}
	defer release()
	return s.t.follow(ctx, e, q, func() error { return s.t.cfg.Valid(ctx) }, messages{s.t, stream})
}

// begin admits a watch. It stands alone for the stacks of ten thousand watches not to hold what it needs.
func (s *Service) begin(ctx context.Context, req *fleetv1.LookupServiceWatchRequest) (*entry, question, func(), *refusal) {
	c, e, q, no := s.find(ctx, req)
	if no != nil {
		return nil, q, nil, no
	}
	release, no := s.t.hold(c, false)
	return e, q, release, no
}

// messages are a watch over gRPC. A client that doesn't read makes send wait, and is sent the last answer then; what lies
// between is bounded by gRPC's flow control.
type messages struct {
	t      *Table
	stream grpc.ServerStreamingServer[fleetv1.LookupServiceWatchResponse]
}

// send encodes an answer for the first of its watches, with the staleness of that moment; what is stale is encoded for
// each. All streams have the same codec, and none compresses: no compressor is registered.
func (m messages) send(p *page) error {
	answer := &fleetv1.LookupServiceWatchResponse{Answer: p.resp, Staleness: m.t.staleness()}
	if answer.GetStaleness().GetStale() {
		return m.stream.Send(answer)
	}
	p.encoding.Do(func() {
		p.message = &grpc.PreparedMsg{}
		p.failed = p.message.Encode(m.stream, answer)
	})
	if p.failed != nil {
		return p.failed
	}
	return m.stream.SendMsg(p.message)
}

func (m messages) stale(bool) error {
	return m.stream.Send(&fleetv1.LookupServiceWatchResponse{Staleness: m.t.staleness()})
}

// alive sends nothing: gRPC's own pings find connections that are dead.
func (m messages) alive() error { return nil }
