package scheduler

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
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
	secret    string // of an operator
	came      atomic.Int64
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

// meter counts what comes.
type meter struct {
	net.Listener
	came *atomic.Int64
}

func (m meter) Accept() (net.Conn, error) {
	c, err := m.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return meteredConn{c, m.came}, nil
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

func (d *door) context(secret string) context.Context {
	ctx, cancel := context.WithTimeout(d.t.Context(), 20*time.Second)
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

// A message of 15 MiB is taken from who has a credential, and from nobody else: what is refused costs no more than what the
// caller sends before he hears of it, which is a window at most, and of that nothing is kept.
func TestStrangersMessagesAreNotRead(t *testing.T) {
	d := newDoor(t, nil)
	long := strings.Repeat("x", 15<<20)
	const least, own = 15 << 20, 32 << 10 // own: of HTTP/2 itself, and what was read with it
	for _, c := range []struct {
		name, secret string
		call         func(*grpc.ClientConn, context.Context) error
		code         codes.Code
		most         int64
	}{
		{"a call of a stranger", "", getNode(long), codes.Unauthenticated, windowSize + own},
		{"a call with a wrong token", "drover-guess", getNode(long), codes.Unauthenticated, windowSize + own},
		{"a stream's first message of a stranger", "", func(c *grpc.ClientConn, ctx context.Context) error {
			stream, err := fleetv1.NewEventServiceClient(c).WatchEvents(ctx, &fleetv1.WatchEventsRequest{Filter: &fleetv1.EventFilter{Name: long}})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}, codes.Unauthenticated, windowSize + own},
		{"a method that is for everybody", "", func(c *grpc.ClientConn, ctx context.Context) error {
			_, err := fleetv1.NewJoinServiceClient(c).Join(ctx, &fleetv1.JoinRequest{Csr: []byte(long)})
			return err
		}, codes.Unavailable, 64<<10 + own},
	} {
		before := d.came.Load()
		if err := c.call(d.client(), d.context(c.secret)); status.Code(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
		if came := d.came.Load() - before; came > c.most {
			t.Errorf("%s: %d bytes were taken, at most %d are expected", c.name, came, c.most)
		}
	}
	before := d.came.Load()
	if err := getNode(long)(d.client(), d.context(d.secret)); status.Code(err) != codes.Unimplemented {
		t.Errorf("an operator: %v", err)
	}
	if came := d.came.Load() - before; came < least {
		t.Errorf("%d bytes of an operator's message were taken", came)
	}
	if err := d.client().Invoke(d.context(""), "/made.Up/Method", &fleetv1.GetNodeRequest{}, &fleetv1.GetNodeResponse{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a method that nobody has made: %v", err)
	}
	scrape := httptest.NewRecorder()
	d.metrics.handler().ServeHTTP(scrape, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if text := scrape.Body.String(); !strings.Contains(text, `calls{code="Unauthenticated",method="GetNode"} 2`) || strings.Contains(text, `method="Method"`) {
		t.Errorf("counted are\n%s", text)
	}
	if err := d.client().Invoke(d.context(d.secret), "/made.Up/Method", &fleetv1.GetNodeRequest{}, &fleetv1.GetNodeResponse{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("an operator calls it: %v", err)
	}
}

func getNode(name string) func(*grpc.ClientConn, context.Context) error {
	return func(c *grpc.ClientConn, ctx context.Context) error {
		_, err := fleetv1.NewNodeServiceClient(c).GetNode(ctx, &fleetv1.GetNodeRequest{Name: name})
		return err
	}
}

// Calls for which nobody needs a credential are few at once on a connection, until somebody shows one on it.
func TestStrangersCallsAreBounded(t *testing.T) {
	d := newDoor(t, func(d *door) { d.strangers.calls = 3 })
	conn, ctx := d.client(), d.context("")
	desc, method := &grpc.StreamDesc{ClientStreams: true}, fleetv1.JoinService_Join_FullMethodName
	opened, end := context.WithCancel(ctx)
	for range 3 {
		if _, err := conn.NewStream(opened, desc, method); err != nil {
			t.Fatal(err)
		}
	}
	join := func() error {
		_, err := fleetv1.NewJoinServiceClient(conn).Join(ctx, &fleetv1.JoinRequest{})
		return err
	}
	if err := join(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "3 calls are under way") {
		t.Errorf("the fourth: %v", err)
	}
	end()
	for deadline := time.Now().Add(20 * time.Second); ; { // until the scheduler has heard of it
		err := join()
		if status.Code(err) == codes.Unimplemented {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("when they have ended: %v", err)
		}
	}
	if err := getNode("n")(conn, d.context(d.secret)); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := conn.NewStream(ctx, desc, method); err != nil {
			t.Fatal(err)
		}
	}
	if err := join(); status.Code(err) != codes.Unimplemented {
		t.Errorf("the fourth on a connection that is known: %v", err)
	}
}

// Behind one address there may be many who have shown a credential; strangers are counted.
func TestStrangersOfASourceAreCounted(t *testing.T) {
	d := newDoor(t, func(d *door) { d.strangers.perSource = 2 })
	for range 5 {
		if err := getNode("n")(d.client(), d.context(d.secret)); status.Code(err) != codes.Unimplemented {
			t.Fatal(err)
		}
	}
	first, second := d.dial(), d.dial()
	for _, c := range []net.Conn{first, second} {
		if b := make([]byte, 9); readFull(c, b) == "" { // the server's SETTINGS
			t.Fatal("a stranger is refused who is within the limit")
		}
	}
	if b, err := io.ReadAll(d.dial()); string(b) != "goodbye" || err != nil {
		t.Errorf("the third is answered %q, %v", b, err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		if b := make([]byte, 7); readFull(d.dial(), b) != "goodbye" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("one that has ended is still counted")
		}
	}
}

func TestSources(t *testing.T) {
	for a, want := range map[string]string{
		"10.1.2.3:40": "10.1.2.3/32", "[::ffff:10.1.2.3]:41": "10.1.2.3/32",
		"[2001:db8:1:2:3:4:5:6]:42": "2001:db8:1:2::/64", "[2001:db8:1:2::1]:43": "2001:db8:1:2::/64", "[2001:db8:1:3::1]:42": "2001:db8:1:3::/64",
		"[fe80::1%eth0]:44": "fe80::/64",
	} {
		addr, err := net.ResolveTCPAddr("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		if got := sourceOf(addr).String(); got != want {
			t.Errorf("%s counts as %s, want %s", a, got, want)
		}
	}
}

// A connection on which nobody shows a credential is closed; one of a known caller stays.
func TestStrangersTimeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defaultStrangers()
		meet := func() (*guest, net.Conn) {
			near, far := net.Pipe()
			source := sourceOf(near.RemoteAddr())
			if !s.take(source) {
				t.Fatal("refused")
			}
			return s.meet(near, source), far
		}
		stranger, far := meet()
		known, knownFar := meet()
		known.recognise()
		closed := make(chan time.Duration, 1)
		begin := time.Now()
		go func() {
			_, err := stranger.Read(make([]byte, 1))
			if err == nil || stranger.Close() != nil {
				t.Error("the stranger's connection isn't closed")
			}
			closed <- time.Since(begin)
		}()
		time.Sleep(s.time / 2)
		if stranger.ages() {
			t.Error("half of its time is not over")
		}
		time.Sleep(time.Second)
		if !stranger.ages() || known.ages() {
			t.Errorf("stranger %v, known %v", stranger.ages(), known.ages())
		}
		if after := <-closed; after != s.time {
			t.Errorf("closed after %v, want %v", after, s.time)
		}
		if _, err := far.Write([]byte("x")); err == nil {
			t.Error("the stranger can still write")
		}
		time.Sleep(time.Hour)
		go func() {
			if _, err := knownFar.Write([]byte("x")); err != nil {
				t.Errorf("a known caller's connection: %v", err)
			}
		}()
		if readFull(known, make([]byte, 1)) != "x" || known.Close() != nil {
			t.Error("a known caller's connection is closed")
		}
		if len(s.bySource) != 0 {
			t.Errorf("%v are still counted", s.bySource)
		}
	})
}

// Over HTTP a look-up with a credential makes a connection known; what needs none ends it in good time, with a whole answer.
func TestStrangersOverHTTP(t *testing.T) {
	d := newDoor(t, nil)
	s := &Server{auth: d.auth}
	near, far := net.Pipe()
	defer far.Close()
	g := d.strangers.meet(near, sourceOf(near.RemoteAddr()))
	request := func(path, secret string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, path, nil).WithContext(context.WithValue(t.Context(), guestKey{}, g))
		if secret != "" {
			r.Header.Set("X-Auth-Token", secret)
		}
		return r
	}
	h := s.handler(&metrics{registry: prometheus.NewRegistry()})
	answered := func(want string) {
		t.Helper()
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, request("/metrics", "")); w.Code != http.StatusOK || w.Header().Get("Connection") != want {
			t.Errorf("answered %d, %v", w.Code, w.Header())
		}
	}
	answered("")
	g.since = g.since.Add(-d.strangers.time)
	answered("close")
	if _, err := s.authenticate(request("/v1/default/services/iris/endpoints", "drover-guess")); err == nil || g.known.Load() {
		t.Errorf("a wrong token: %v", err)
	}
	if _, err := s.authenticate(request("/v1/default/services/iris/endpoints", d.secret)); err != nil || !g.known.Load() {
		t.Errorf("a good token: %v", err)
	}
	answered("")
	if got := guestOf(withGuest(t.Context(), &net.TCPConn{})); got != nil {
		t.Errorf("a connection that nobody has met: %v", got)
	}
}

// A call ends whose first message doesn't come; one whose message has come goes on.
func TestFirstMessagesAreAwaited(t *testing.T) {
	d := newDoor(t, func(d *door) { d.limits.firstMessage = time.Second })
	conn := d.client()
	going, err := fleetv1.NewEventServiceClient(conn).WatchEvents(d.context(d.secret), &fleetv1.WatchEventsRequest{})
	if err == nil {
		_, err = going.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{fleetv1.EventService_WatchEvents_FullMethodName, fleetv1.NodeService_GetNode_FullMethodName, fleetv1.JoinService_Join_FullMethodName} {
		stream, err := conn.NewStream(d.context(d.secret), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		err = stream.RecvMsg(&fleetv1.WatchEventsResponse{})
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%s: %v", method, err)
		}
	}
	if err := going.Context().Err(); err != nil {
		t.Errorf("the stream whose message has come: %v", err)
	}
	ended := make(chan error, 1)
	go func() { _, err := going.Recv(); ended <- err }()
	select {
	case err := <-ended:
		t.Errorf("the stream whose message has come ends with %v", err)
	default:
	}
}
