package scheduler

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

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
		if err := c.call(d.client(), d.context(c.secret)); status.Code(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
		if came := d.came.Load().Load(); came > c.most {
			t.Errorf("%s: %d bytes were taken, at most %d are expected", c.name, came, c.most)
		}
	}
	if err := getNode(long)(d.client(), d.context(d.secret)); status.Code(err) != codes.Unimplemented {
		t.Errorf("an operator: %v", err)
	}
	if came := d.came.Load().Load(); came < least {
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

// Calls without a credential are few at once on a connection, until somebody shows one on it.
func TestStrangersCallsAreBounded(t *testing.T) {
	var g *guest
	d := newDoor(t, func(d *door) { d.strangers.calls = 3 })
	ctx := d.context("")
	open := func(conn *grpc.ClientConn) (all []grpc.ClientStream) {
		for range 3 {
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, fleetv1.JoinService_Join_FullMethodName)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, stream)
		}
		return all
	}
	join := func(conn *grpc.ClientConn) error {
		_, err := fleetv1.NewJoinServiceClient(conn).Join(ctx, &fleetv1.JoinRequest{})
		return err
	}
	conn := d.client()
	streams := open(conn)
	if err := join(conn); status.Code(err) != codes.Unavailable {
		t.Errorf("the fourth: %v", err)
	}
	for _, s := range streams {
		if err := s.RecvMsg(&fleetv1.JoinResponse{}); status.Code(err) != codes.Unavailable {
			t.Errorf("one of the three: %v", err)
		}
	}
	conn = d.client()
	if err := getNode("n")(conn, d.context(d.secret)); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	open(conn)
	if err := join(conn); status.Code(err) != codes.Unimplemented {
		t.Errorf("the fourth on a connection that is known: %v", err)
	}
	g.call(ctx) // of a connection that nobody has met: it isn't counted
}

// What has ended isn't counted any more, and the bytes of the next call are its own.
func TestStrangersCallsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := defaultStrangers()
		near, far := net.Pipe()
		defer far.Close()
		g := s.meet(near, sourceOf(near.RemoteAddr()))
		defer g.recognise()
		buffer := make([]byte, s.bytes)
		for range 3 {
			ctx, end := context.WithCancel(t.Context())
			g.call(ctx)
			go func() {
				if _, err := far.Write(buffer); err != nil {
					t.Error(err)
				}
			}()
			if n, err := io.ReadFull(g, buffer); err != nil {
				t.Errorf("%d bytes came: %v", n, err)
			}
			end()
			synctest.Wait()
			if g.calls.Load() != 0 {
				t.Errorf("%d calls are under way", g.calls.Load())
			}
		}
		g.call(t.Context())
		go func() { _, _ = far.Write(make([]byte, s.bytes+1)) }() // who reads says what comes of it
		if n, err := io.ReadFull(g, make([]byte, len(buffer)+1)); !errors.Is(err, errStranger) {
			t.Errorf("%d bytes came: %v", n, err)
		}
		near.Close()
	})
}

// A caller chooses the deadline of a call that is refused, not how long something is kept of it.
func TestNothingIsKeptOfRefusedCalls(t *testing.T) {
	d := newDoor(t, func(d *door) { d.strangers.calls = 1 << 20 })
	conn, ctx := d.client(), d.until("", 1000*time.Hour)
	refuse := func(n int) {
		for range n {
			if err := getNode("n")(conn, ctx); status.Code(err) != codes.Unauthenticated {
				t.Fatal(err)
			}
		}
	}
	heap := func() uint64 {
		goruntime.GC()
		var m goruntime.MemStats
		goruntime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	refuse(1000)
	before := heap()
	refuse(20_000)
	if after := heap(); after > before+2<<20 {
		t.Errorf("%d bytes of heap, %d before", after, before)
	}
	d.limits.refusals.SetBurst(0) // those with a near deadline are too many
	before = uint64(d.came.Load().Load())
	if err := getNode(strings.Repeat("x", 15<<20))(conn, d.context("")); status.Code(err) != codes.Unauthenticated && status.Code(err) != codes.Unavailable {
		t.Errorf("a long message: %v", err)
	}
	if came := uint64(d.came.Load().Load()) - before; came > windowSize {
		t.Errorf("%d bytes of it were taken", came)
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
