package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/state"
)

// door is a gRPC port with nothing behind it but what meets strangers.
type door struct {
	t         *testing.T
	strangers *strangers
	limits    *limits
	metrics   *metrics
	auth      *auth.Authenticator
	secret    string                       // of an operator
	came      atomic.Pointer[atomic.Int64] // bytes on the newest connection: those before may still bring some
	addr      string
}

func newDoor(t *testing.T, tune func(*door)) *door {
	d := &door{t: t, strangers: defaultStrangers(), limits: defaultLimits(), secret: auth.NewSecret(),
		metrics: &metrics{registry: prometheus.NewRegistry(), calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "calls"}, []string{"method", "code"})}}
	d.metrics.registry.MustRegister(d.metrics.calls)
	st := state.New()
	if r, _ := st.Apply(1, &fleetv1.Command{Introduced: state.CommandVersion, Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: []*fleetv1.Mutation{
		state.Put(0, &fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "c"}}),
		state.Put(0, &fleetv1.Token{Meta: &fleetv1.Meta{Name: "op"}, SecretSha256: auth.Hash(d.secret), Role: fleetv1.RoleOperator}),
	}}}}); len(r.Rejections) > 0 {
		t.Fatal(r.Rejections)
	}
	d.auth = auth.NewAuthenticator(auth.AuthenticatorConfig{View: st.View, Now: time.Now})
	in := auth.NewInterceptors(auth.Config{Authenticator: d.auth, Logger: slog.New(slog.DiscardHandler)})
	if tune != nil {
		tune(d)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.ReadBufferSize(readBuffer), grpc.InTapHandle(d.limits.arrive(in, d.metrics)),
		grpc.StaticStreamWindowSize(windowSize), grpc.StaticConnWindowSize(windowSize),
		grpc.ChainUnaryInterceptor(unaryArrived, in.Unary), grpc.ChainStreamInterceptor(streamArrives, in.Stream))
	fleetv1.RegisterNodeServiceServer(srv, fleetv1.UnimplementedNodeServiceServer{})
	fleetv1.RegisterJoinServiceServer(srv, fleetv1.UnimplementedJoinServiceServer{})
	fleetv1.RegisterEventServiceServer(srv, watched{})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(d.strangers.listen(meter{inner, &d.came}, "goodbye")) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // it hasn't begun
			t.Error(err)
		}
	})
	d.addr = inner.Addr().String()
	return d
}

// watched has one message for who watches, and then none.
type watched struct {
	fleetv1.UnimplementedEventServiceServer
}

func (watched) WatchEvents(_ *fleetv1.WatchEventsRequest, stream grpc.ServerStreamingServer[fleetv1.WatchEventsResponse]) error {
	if err := stream.Send(&fleetv1.WatchEventsResponse{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return status.FromContextError(stream.Context().Err()).Err()
}

// meter counts what comes on each connection.
type meter struct {
	net.Listener
	newest *atomic.Pointer[atomic.Int64]
}

func (m meter) Accept() (net.Conn, error) {
	c, err := m.Listener.Accept()
	if err != nil {
		return nil, err
	}
	came := new(atomic.Int64)
	m.newest.Store(came)
	return meteredConn{c, came}, nil
}

type meteredConn struct {
	net.Conn
	came *atomic.Int64
}

func (c meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.came.Add(int64(n))
	return n, err
}

func (d *door) client() *grpc.ClientConn {
	d.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+d.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	return conn
}

func (d *door) context(secret string) context.Context { return d.until(secret, 20*time.Second) }

func (d *door) until(secret string, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(d.t.Context(), limit)
	d.t.Cleanup(cancel)
	if secret == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+secret)
}

// dial is a connection on which nothing is said.
func (d *door) dial() net.Conn {
	d.t.Helper()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		d.t.Fatal(err)
	}
	return c
}
