package scheduler

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/events"
	"github.com/drover-fleet/drover/scheduler/lookup/dns"
)

// GRPCAddr is the address that gRPC is served at.
func (s *Server) GRPCAddr() string { return s.grpcListener.Addr().String() }

// HTTPAddr is the address that HTTP is served at.
func (s *Server) HTTPAddr() string { return s.httpListener.Addr().String() }

// DNSAddr is the address that DNS is served at, empty when it isn't.
func (s *Server) DNSAddr() string {
	if s.dnsListener == nil {
		return ""
	}
	return s.dnsListener.Addr().String()
}

// listenDNS takes the ports of DNS when it is configured: the same number for TCP and UDP.
func (s *Server) listenDNS() (err error) {
	if s.cfg.DNSAddr == "" {
		return nil
	}
	if s.dnsListener, err = net.Listen("tcp", s.cfg.DNSAddr); err != nil {
		return err
	}
	s.dnsPackets, err = new(net.ListenConfig).ListenPacket(s.stopping, "udp", s.dnsListener.Addr().String())
	return err
}

func (s *Server) dns() *dns.Server {
	return dns.New(dns.Config{Table: s.table, Packets: s.dnsPackets, MaxAge: s.cfg.LookupMaxAge,
		Listener: bound(s.dnsListener, s.limits.dnsConnections, "")})
}

// RaftAddr is the address at which other schedulers reach this one.
func (s *Server) RaftAddr() string { return s.raft.Addr() }

// Leads says that this scheduler leads: the cluster is bootstrapped, and its loops run.
func (s *Server) Leads() bool { return s.leading.Load() }

// Ready is closed when this scheduler serves for the first time: it leads, with the cluster bootstrapped, or follows a
// leader and is up to date.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Healthy is nil while this process does its work, whether it leads or not.
func (s *Server) Healthy() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Status is one line for people.
func (s *Server) Status() string {
	role := "waits for a leader"
	if s.leading.Load() {
		role = "leads"
	} else if id, addr := s.members.Leader(); id != "" && id != s.raft.ID() {
		role = "follows " + addr
		if age, known := s.members.Staleness(); !known || age > staleAfter {
			role += ", of which it hears nothing"
		}
	}
	st := s.counts()
	return fmt.Sprintf("%s; %d of %d nodes ready; %d services, %d instances", role,
		st.nodes[fleetv1.NodeReady], sum(st.nodes), sum(st.services), sum(st.instances))
}

// counts are the numbers of objects by state.
type counts struct{ nodes, services, instances map[string]int }

func (s *Server) counts() counts {
	view := s.state.View()
	c := counts{map[string]int{}, map[string]int{}, map[string]int{}}
	for _, n := range view.Nodes() {
		c.nodes[n.GetStatus().GetState()]++
	}
	for _, v := range view.Services("") {
		if v.GetSpec().GetJobId() != "" {
			continue // it is its job's affair
		}
		c.services[v.GetStatus().GetState()]++
	}
	for _, i := range view.Instances() {
		c.instances[i.GetObserved().GetState()]++
	}
	return c
}

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

// ClusterStatus implements api.Members.
func (s *Server) ClusterStatus() *fleetv1.GetClusterStatusResponse {
	st := s.raft.Status()
	resp := &fleetv1.GetClusterStatusResponse{
		LeaderId: st.LeaderID, LeaderAddress: st.LeaderAddr, Term: st.Term, CommitIndex: st.CommitIndex, AppliedIndex: st.AppliedIndex,
		Version: s.version(), StartTime: timestamppb.New(s.started),
	}
	for _, m := range st.Members {
		role := "non-voter"
		if m.Voter {
			role = "voter"
		}
		resp.Members = append(resp.Members, &fleetv1.Member{Id: m.ID, Address: m.Addr, Role: role, Leader: m.Leader})
	}
	return resp
}

// version of this program.
func (s *Server) version() string {
	if s.cfg.Version != "" {
		return s.cfg.Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// authenticate finds the caller of a look-up.
func (s *Server) authenticate(r *http.Request) (auth.Caller, error) {
	c, err := s.auth.Request(r, nil)
	if err == nil {
		guestOf(r.Context()).recognise()
	}
	return c, err
}

// handler serves look-ups, metrics and health. Look-ups come first: they are the ones that are many.
func (s *Server) handler(m *metrics) http.Handler {
	exposition := m.handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			s.table.ServeHTTP(w, r)
			return
		}
		if guestOf(r.Context()).ages() { // or it would be closed in the midst of an answer
			w.Header().Set("Connection", "close")
		}
		switch r.URL.Path {
		case "/metrics":
			exposition.ServeHTTP(w, r)
		case "/healthz":
			if err := s.Healthy(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, s.Status())
		default:
			http.NotFound(w, r)
		}
	})
}

// endOnStop ends streams when this scheduler stops: watchers would keep it from stopping. Agents' sessions end with
// the leadership, which ends before.
func (s *Server) endOnStop(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if info.FullMethod == fleetv1.AgentService_Session_FullMethodName {
		return next(srv, ss)
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() {
		cancel(status.Error(codes.Unavailable, "this scheduler is stopping: try again"))
	})()
	return next(srv, &endingStream{ss, ctx})
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *endingStream) Context() context.Context { return s.ctx }

// eventQueries turns the API's filters into queries of the event store.
type eventQueries struct{ store *events.Store }

func (q eventQueries) List(ctx context.Context, f *fleetv1.EventFilter) ([]*fleetv1.Event, error) {
	return q.store.List(ctx, query(f))
}

func (q eventQueries) Watch(ctx context.Context, f *fleetv1.EventFilter, send func([]*fleetv1.Event) error) error {
	return q.store.Watch(ctx, query(f), send)
}

func query(f *fleetv1.EventFilter) events.Query {
	q := events.Query{Kind: f.GetKind(), Name: f.GetName(), Project: f.GetProject(), Limit: int(f.GetLimit()), Problems: f.GetProblems()}
	if f.GetSince() != nil {
		q.Since = f.GetSince().AsTime()
	}
	return q
}
