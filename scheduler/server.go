package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/registry"
	"github.com/drover-fleet/drover/scheduler/api"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/events"
	"github.com/drover-fleet/drover/scheduler/forward"
	"github.com/drover-fleet/drover/scheduler/gossip"
	"github.com/drover-fleet/drover/scheduler/jobs"
	"github.com/drover-fleet/drover/scheduler/lookup"
	"github.com/drover-fleet/drover/scheduler/lookup/rate"
	"github.com/drover-fleet/drover/scheduler/member"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/reconcile"
	"github.com/drover-fleet/drover/scheduler/session"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Bounds of serving.
const (
	maxMessage      = 16 << 20 // an assignment set of a node with thousands of instances
	keepaliveTime   = 30 * time.Second
	keepaliveAnswer = 10 * time.Second
	keepaliveLeast  = 5 * time.Second // between a client's pings
	readBuffer      = 1 << 10         // of a connection; a heartbeat with the samples of 8 devices is half of it
	writeBuffer     = 8 << 10         // of a connection while it is written to
	windowSize      = 1 << 20         // of a stream and of a connection
	headerTimeout   = 5 * time.Second
	idleTimeout     = 2 * time.Minute
	callTimeout     = 30 * time.Second // for one HTTP call, reading and writing
	maxHeader       = 16 << 10
	maxHeaderList   = 64 << 10        // of a gRPC call; a caller who is passed on is part of it
	handOverTimeout = 2 * time.Second // before the server ends
	stopTimeout     = 3 * time.Second // for calls under way when the server ends
	startTime       = 5 * time.Second // after which what starting has left in memory is given back
	startGC         = 50              // percent of what is kept, instead of 100, that reading log and snapshot may leave behind
)

// Server is one scheduler.
type Server struct {
	cfg       Config
	log       *slog.Logger
	started   time.Time
	state     *state.Store
	events    *events.Store
	raft      *raftstore.Store
	proposals *proposals
	hub       *session.Hub
	jobs      *jobs.Coordinator
	loops     *reconcile.Loops
	table     *lookup.Table
	limiter   *rate.Limiter // of look-ups

	keeper  *identity.Keeper // nil in a cluster without TLS
	api     *api.API
	auth    *auth.Authenticator
	trusted atomic.Pointer[agentTrust]
	clock   *member.Clock
	members *member.Members
	gossip  atomic.Pointer[gossip.Gossip] // nil until there is a key
	forward *forward.Forwarder

	grpcListener, httpListener net.Listener
	dnsListener                net.Listener // nil without DNS
	dnsPackets                 net.PacketConn
	grpc                       *grpc.Server
	health                     *health.Server
	http                       *http.Server

	usualGC  func()          // ends startGC
	stopping context.Context // ends the streams under way
	stop     context.CancelFunc

	ready   chan struct{}
	isReady sync.Once
	failed  <-chan error // the Raft store's
	leads   <-chan bool  // likewise
	asides  chan func()  // to be done while nothing is led
	limits  *limits
	leading atomic.Bool           // bootstrapped, and the loops run
	failure atomic.Pointer[error] // why this process must end
}

// New takes the ports and opens the data directory. Run must be called next; it gives everything back.
func New(cfg Config, logger *slog.Logger) (_ *Server, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("scheduler configuration: %w", err)
	}
	s := &Server{cfg: cfg, log: logger, started: time.Now(), state: state.New(), ready: make(chan struct{}), asides: make(chan func()), limits: defaultLimits()}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.usualGC = collectMore()
	defer func() {
		if err != nil {
			s.usualGC()
			err = errors.Join(err, s.release())
		}
	}()
	if s.grpcListener, err = net.Listen("tcp", cfg.GRPCAddr); err != nil {
		return nil, fmt.Errorf("listen for gRPC: %w", err)
	}
	if s.httpListener, err = net.Listen("tcp", cfg.HTTPAddr); err != nil {
		return nil, fmt.Errorf("listen for HTTP: %w", err)
	}
	if err := s.listenDNS(); err != nil {
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	if s.cfg.GossipAddr, err = gossip.FixPort(cfg.GossipAddr); err != nil {
		return nil, fmt.Errorf("listen for gossip: %w", err)
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	external, err := cfg.issuer(s.log)
	if err != nil {
		return nil, err
	}
	s.wire(external)
	return s, nil
}

// open opens what is durable.
func (s *Server) open() (err error) {
	if err := os.MkdirAll(s.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("open the data directory: %w", err)
	}
	raftConfig := raftstore.DefaultConfig()
	raftConfig.DataDir, raftConfig.Addr = s.cfg.DataDir, s.cfg.RaftAddr
	raftConfig.Bootstrap, raftConfig.Logger = s.bootstraps(), s.log
	raftConfig.SnapshotInterval = s.cfg.SnapshotInterval
	raftConfig.SnapshotThreshold, raftConfig.TrailingLogs = uint64(s.cfg.SnapshotEntries), uint64(s.cfg.TrailingEntries)
	if !s.cfg.Insecure {
		raftConfig.Stream, raftConfig.Advertise = s.secureRaft, s.cfg.raftAdvertise()
	}
	sink := &lateSink{}
	if s.raft, err = raftstore.Open(raftConfig, s.state, sink); err != nil {
		return err
	}
	if s.events, err = events.Open(filepath.Join(s.cfg.DataDir, "events.db"), events.Options{Logger: s.log}); err != nil {
		return err
	}
	sink.use(s.events)
	s.failed, s.leads = s.raft.Failed(), s.raft.LeaderChanges()
	return nil
}

// wire makes the parts that live in memory.
func (s *Server) wire(external auth.External) {
	s.proposals = newProposals(s.raft)
	s.wireMembers()
	s.hub = session.New(session.Config{
		State: s.state, Proposer: s.proposals, HeartbeatInterval: s.cfg.HeartbeatInterval, LeaseDuration: s.cfg.LeaseDuration,
		Trust: s.agentTrust, Leader: s.leaderElsewhere, Now: s.clock.Now, Logger: s.log,
	})
	s.jobs = s.newJobs()
	s.loops = reconcile.New(reconcile.Config{
		State: s.state, Proposer: s.proposals, Sessions: s.hub, Work: s.jobs, LookupMaxAge: s.cfg.LookupMaxAge, ReserveAfter: s.cfg.ReserveAfter,
		Now: s.clock.Now, Logger: s.log,
	})
	s.auth = auth.NewAuthenticator(auth.AuthenticatorConfig{View: s.state.View, Sealer: s.sealer(), External: external,
		AllowUnsigned: s.cfg.AllowUnsignedPayload, Now: s.clock.Now, Logger: s.log})
	in := auth.NewInterceptors(auth.Config{Authenticator: s.auth, Secure: !s.cfg.Insecure, Logger: s.log})
	s.table = lookup.New(lookup.Config{
		Store: s.state, LeaseValid: s.hub.LeaseValid, Staleness: s.members.Staleness, MaxAge: s.cfg.LookupMaxAge, Hold: s.limits.hold, Limiter: s.limiter,
		Authenticate: s.authenticate,
		Valid:        func(ctx context.Context) error { return in.Check(ctx, fleetv1.LookupService_Watch_FullMethodName, nil) },
	})
	s.api = s.newAPI()
	m := newMetrics(s)
	s.grpc = grpc.NewServer(
		grpc.Creds(s.grpcCredentials()),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveAnswer}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveLeast, PermitWithoutStream: true}),
		// Ten thousand agents are connected and say little: none keeps a large buffer for itself.
		grpc.ReadBufferSize(readBuffer), grpc.WriteBufferSize(writeBuffer),
		// A window that grpc need not find out by itself: for that it answers each heartbeat of each agent with a ping.
		grpc.StaticStreamWindowSize(windowSize), grpc.StaticConnWindowSize(windowSize),
		grpc.MaxConcurrentStreams(s.limits.callsPerConnection), grpc.MaxHeaderListSize(maxHeaderList),
		grpc.InTapHandle(s.limits.arrive(in, m)),
		grpc.ChainUnaryInterceptor(unaryArrived, m.unary, in.Unary, s.limits.unary, api.UnaryErrors(s.log), s.forward.Unary),
		grpc.ChainStreamInterceptor(streamArrives, m.stream, s.endOnStop, in.Stream, s.limits.stream, api.StreamErrors(s.log), s.forward.Stream),
	)
	s.api.Register(s.grpc)
	fleetv1.RegisterAgentServiceServer(s.grpc, s.hub)
	fleetv1.RegisterTaskServiceServer(s.grpc, s.jobs)
	fleetv1.RegisterPeerServiceServer(s.grpc, peerService{s.members, s})
	fleetv1.RegisterLookupServiceServer(s.grpc, s.table.Service())
	s.health = health.NewServer()
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.http = &http.Server{
		Handler: s.limits.requests(s.handler(m)), ReadHeaderTimeout: headerTimeout, ReadTimeout: callTimeout, WriteTimeout: callTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ConnContext: withGuest, BaseContext: func(net.Listener) context.Context { return s.stopping },
		ErrorLog: slog.NewLogLogger(s.log.With("port", "HTTP").Handler(), slog.LevelWarn),
	}
	if s.keeper != nil {
		s.http.TLSConfig = s.keeper.ServerTLS()
	}
}

// newAPI makes the operator's API of the parts that are there.
func (s *Server) newAPI() *api.API {
	return api.New(api.Config{
		Store: s.state, Log: s.proposals, Sessions: s.hub, Events: eventQueries{s.events}, Images: registry.New(s.cfg.Registry),
		Endpoints: s.table, Members: clusterMembers{s.members, s}, Backups: backups{s}, Identity: s.signing(), Sealer: s.sealer(), MaxServicesPerUser: s.cfg.MaxServicesPerUser,
		MaxJobsPerProject: s.cfg.MaxJobsPerProject, Jobs: s.jobs, Storage: s.storageFor,
		MaxAppsPerProject: s.cfg.MaxAppsPerProject, MaxCredentialsPerUser: s.cfg.MaxCredentialsPerUser,
		Now: s.clock.Now, Logger: s.log,
	})
}

// Run serves until ctx ends, which is no error, or until this scheduler can't go on. It is called once.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer s.hub.OnLease(s.table.NodeChanged)()
	var parts sync.WaitGroup
	part := func(name string, run func() error) {
		parts.Go(func() {
			if err := run(); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("memory", func() error { s.tidyMemory(ctx); return nil })
	part("look-up", func() error { s.table.Run(ctx); return nil })
	part("look-up limits", func() error { s.limiter.Run(ctx); return nil })
	part("credentials", func() error { s.keepUses(ctx); return nil })
	part("members", func() error { s.members.Run(ctx); return nil })
	part("health", func() error { s.followHealth(ctx); return nil })
	part("leadership", func() error { s.followLeadership(ctx, cancel); return nil })
	if s.keeper != nil {
		part("gossip", func() error { s.followGossip(ctx); return nil })
		part("trust", func() error { s.followTrust(ctx); return nil })
		part("certificate", func() error { s.keeper.Run(ctx, s.cfg.hosts(), s.renew); return nil })
	}
	if s.dnsListener != nil {
		part("DNS", func() error { return s.dns().Run(ctx) })
	}
	part("gRPC", func() error {
		return s.grpc.Serve(bound(defaultStrangers().listen(s.grpcListener, ""), s.limits.grpcConnections, ""))
	})
	part("HTTP", func() error {
		serve, goodbye := s.http.Serve, tooManyConnections
		if s.keeper != nil {
			serve, goodbye = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }, ""
		}
		if err := serve(bound(defaultStrangers().listen(s.httpListener, goodbye), s.limits.httpConnections, goodbye)); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	s.log.Info("scheduler serves", "grpc", s.GRPCAddr(), "http", s.HTTPAddr(), "raft", s.raft.Addr())
	select {
	case <-ctx.Done():
	case err := <-s.failed:
		err = fmt.Errorf("the Raft log has failed: %w", err)
		s.failure.Store(&err)
		return err // the disk may hang: nothing is waited for
	}
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	s.handOver()
	s.stopServing()
	parts.Wait()
	return errors.Join(err, s.release())
}

// collectMore has garbage collected more often, until usual is called. What is read when a scheduler starts is mostly
// garbage, and what is kept of it lies in between: the more garbage there was at once, the more memory stays taken.
func collectMore() (usual func()) {
	before := debug.SetGCPercent(startGC)
	return func() {
		if before > startGC || before < 0 { // else it was so before
			debug.SetGCPercent(before)
		}
	}
}

// tidyMemory gives the kernel back what reading the log and the snapshot has taken, which is as much again as what is kept.
func (s *Server) tidyMemory(ctx context.Context) {
	defer s.usualGC()
	timer := time.NewTimer(startTime)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		debug.FreeOSMemory()
	}
}

// followLeadership leads while this scheduler is the leader, until ctx ends. When the loops can't go on it calls
// fail: a leader without them would look alive and do nothing.
func (s *Server) followLeadership(ctx context.Context, fail context.CancelCauseFunc) {
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-s.leads:
			end()
			end = func() {}
			if leads {
				end = s.lead(ctx, fail)
			}
		case do := <-s.asides:
			end()
			end = func() {}
			do()
			if s.raft.IsLeader() {
				end = s.lead(ctx, fail)
			}
		}
	}
}

// lead starts what only a leader does, and answers how to end it.
func (s *Server) lead(ctx context.Context, fail context.CancelCauseFunc) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() {
		if s.bootstrap(ctx) != nil || s.afterRecovery(ctx) != nil {
			return // leadership ended
		}
		if !s.awaitClock(ctx) {
			return // likewise
		}
		s.hub.Lead(ctx)
		s.jobs.Lead(ctx)
		s.table.Refresh()
		s.leading.Store(true)
		s.serves(true)
		s.log.Info("this scheduler leads")
		if err := s.loops.Run(ctx); err != nil && ctx.Err() == nil {
			fail(fmt.Errorf("the leader's loops: %w", err))
		}
	})
	return func() {
		cancel()
		s.leading.Store(false)
		s.serves(false) // until it follows
		work.Wait()
		s.jobs.Resign()
		s.hub.Resign()
		s.table.Refresh()
		s.log.Info("this scheduler no longer leads")
	}
}

// handOver lets another scheduler lead at once, so that a restart costs no election timeout.
func (s *Server) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), handOverTimeout)
	defer cancel()
	if err := s.members.HandOver(ctx); err != nil {
		s.log.Warn("the leadership was not handed over: the others will elect", "error", err)
	}
}

// stopServing ends calls under way, politely first.
func (s *Server) stopServing() {
	s.health.Shutdown()
	s.stop()
	done := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(done) }() // ends with Stop at the latest
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.log.Warn("HTTP calls were cut off", "error", err)
		s.http.Close()
	}
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}

// release closes what New has opened.
func (s *Server) release() error {
	s.stop()
	var errs []error
	for _, l := range []net.Listener{s.grpcListener, s.httpListener, s.dnsListener} {
		if l != nil {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if s.dnsPackets != nil {
		if err := s.dnsPackets.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if s.raft != nil {
		errs = append(errs, s.raft.Close())
	}
	if s.events != nil {
		errs = append(errs, s.events.Close())
	}
	return errors.Join(errs...)
}
