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
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
)

// someStream is an operator's stream, of which the context alone is looked at.
type someStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s someStream) Context() context.Context { return s.ctx }

func streamOf(name, addr string) someStream {
	ctx := auth.NewContext(context.Background(), auth.Caller{Name: name})
	return someStream{ctx: peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(addr), Port: 1}})}
}

func TestStreamsAreCounted(t *testing.T) {
	l := defaultLimits()
	l.streamsPerClient, l.streams = 3, 5
	hold := make(chan struct{})
	var held sync.WaitGroup
	entered := make(chan struct{})
	open := func(name, addr, method string) error {
		failed := make(chan error, 1)
		held.Go(func() {
			failed <- l.stream(nil, streamOf(name, addr), &grpc.StreamServerInfo{FullMethod: method}, func(any, grpc.ServerStream) error {
				entered <- struct{}{}
				<-hold
				return nil
			})
		})
		select {
		case <-entered:
			return nil
		case err := <-failed:
			return err
		}
	}
	const watch = "/fleet.v1.ServiceService/WatchService"
	for range 3 {
		if err := open("a", "10.0.0.1", watch); err != nil {
			t.Fatal(err)
		}
	}
	if err := open("a", "10.0.0.1", watch); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "a@10.0.0.1 has 3 streams") {
		t.Errorf("the fourth of a client: %v", err)
	}
	for _, addr := range []string{"10.0.0.2", "10.0.0.3"} { // other clients aren't hurt
		if err := open("a", addr, watch); err != nil {
			t.Error(err)
		}
	}
	if err := open("b", "10.0.0.4", watch); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "5 streams are open") {
		t.Errorf("the sixth of all: %v", err)
	}
	if err := open("agent", "10.0.0.5", "/fleet.v1.AgentService/Session"); err != nil {
		t.Errorf("an agent is refused because of operators: %v", err)
	}
	close(hold)
	held.Wait()
	if l.open != 0 || len(l.byClient) != 0 {
		t.Errorf("%d streams of %v are left", l.open, l.byClient)
	}
}

// One account can't take all streams, nor all of those that an agent has an end of.
func TestStreamsOfAnAccountAreCounted(t *testing.T) {
	l := defaultLimits()
	if l.streamsPerAccount >= l.streams || l.relaysPerAccount >= 256 {
		t.Errorf("an account may have %d streams of %d, and %d of logs and exec", l.streamsPerAccount, l.streams, l.relaysPerAccount)
	}
	l.streamsPerAccount, l.relaysPerAccount = 3, 2
	open := func(account, client, method string, meanwhile func()) error {
		ss := streamOf(client, "10.0.0.1")
		ss.ctx = auth.NewContext(ss.ctx, auth.Caller{Name: client, Account: account})
		return l.stream(nil, ss, &grpc.StreamServerInfo{FullMethod: method}, func(any, grpc.ServerStream) error { meanwhile(); return nil })
	}
	refused := func(what, words string, err error) {
		t.Helper()
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", what, err)
		}
	}
	const watch, logs, exec = fleetv1.ServiceService_WatchService_FullMethodName, fleetv1.InstanceService_GetInstanceLogs_FullMethodName, fleetv1.InstanceService_ExecInstance_FullMethodName
	none := func() { t.Error("a stream is open that is beyond the limit") }
	entered := 0
	err := open("acme", "a", logs, func() {
		err := open("acme", "b", exec, func() {
			refused("the third relay", `account "acme" has 2 streams of logs and exec open`, open("acme", "c", logs, none))
			err := open("acme", "c", watch, func() {
				refused("the fourth stream", `account "acme" has 3 streams open`, open("acme", "d", watch, none))
				if err := open("other", "e", exec, func() { entered++ }); err != nil {
					t.Errorf("another account: %v", err)
				}
			})
			if err != nil {
				t.Errorf("the third stream: %v", err)
			}
		})
		if err != nil {
			t.Errorf("the second: %v", err)
		}
	})
	if err != nil || entered != 1 || l.open != 0 || len(l.byShare) != 0 {
		t.Errorf("%v; another account had %d streams; %d of %v are left", err, entered, l.open, l.byShare)
	}
}

// Another scheduler passes on for many clients, over one connection: they are told apart, and there is room for all.
func TestPassedOnStreamsAreCounted(t *testing.T) {
	l := defaultLimits()
	if int(l.callsPerConnection) < 2*l.streams {
		t.Errorf("%d streams, and the calls besides, have to fit into %d calls", l.streams, l.callsPerConnection)
	}
	l.streamsPerClient = 1
	passed := func(addr string) error {
		ss := streamOf("a", "10.0.0.1") // the other scheduler
		ss.ctx = auth.NewContext(ss.ctx, auth.Caller{Name: "a", From: net.JoinHostPort(addr, "1")})
		return l.take(clientOf(ss.ctx), nil)
	}
	for _, addr := range []string{"10.0.0.2", "10.0.0.3"} {
		if err := passed(addr); err != nil {
			t.Error(err)
		}
	}
	if err := passed("10.0.0.2"); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "a@10.0.0.2") {
		t.Errorf("the second of a client: %v", err)
	}
}

// A flood of connections takes no more memory than those that are let in; the others are told why.
func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := bound(inner, 10, tooManyConnections)
	srv := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	var kept []net.Conn
	for range 10 {
		c := dial()
		kept = append(kept, c)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if b := make([]byte, 12); readFull(c, b) != "HTTP/1.1 404" {
			t.Fatalf("answered %q", b)
		}
	}
	before := goruntime.NumGoroutine()
	for range 500 {
		c := dial()
		if answer, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 429 ") || !strings.Contains(string(answer), "Retry-After: 1") {
			t.Fatalf("answered %q, %v", answer, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after := goruntime.NumGoroutine(); after > before+5 {
		t.Errorf("%d goroutines, %d before the flood", after, before)
	}
	for _, c := range kept {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// A connection that ends makes room, as soon as the server has noticed.
	deadline := time.Now().Add(20 * time.Second)
	for {
		c := dial()
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
		answer := readFull(c, make([]byte, 12))
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if answer == "HTTP/1.1 404" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still answered %q", answer)
		}
	}
}

func readFull(r io.Reader, b []byte) string {
	n, _ := io.ReadFull(r, b) // the caller compares what came
	return string(b[:n])
}

func TestRequestsUnderWayAreBounded(t *testing.T) {
	l := defaultLimits()
	l.httpRequests = 2
	hold, entered := make(chan struct{}), make(chan struct{})
	h := l.requests(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-hold
	}))
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() { h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)) })
		<-entered
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" {
		t.Errorf("answered %d, %v", w.Code, w.Header())
	}
	close(hold)
	work.Wait()
}

// Look-ups that wait are counted apart from those under way, and an account can't take all the room.
func TestWaitingLookUpsAreCounted(t *testing.T) {
	l := defaultLimits()
	l.waiting, l.waitingPerAccount, l.httpRequests = 3, 2, 1
	var releases []func()
	take := func(account string, want bool) {
		t.Helper()
		release, ok := l.hold(account, false)
		if ok != want {
			t.Errorf("%s: admitted %v with %d held", account, ok, l.watches())
		}
		if ok {
			releases = append(releases, release)
		}
	}
	take("a", true)
	take("a", true)
	take("a", false)
	take("b", true)
	take("c", false)
	for _, release := range releases {
		release()
	}
	if l.watches() != 0 || len(l.byAccount) != 0 {
		t.Errorf("%d of %v are left", l.watches(), l.byAccount)
	}
	second := httptest.NewRecorder()
	var h http.Handler
	h = l.requests(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if w == second {
			return
		}
		release, _ := l.hold("a", true)
		h.ServeHTTP(second, r)
		release()
		third := httptest.NewRecorder()
		if h.ServeHTTP(third, r); third.Code != http.StatusTooManyRequests {
			t.Errorf("beside one that no longer waits: %d", third.Code)
		}
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	if second.Code != http.StatusOK || l.underWay.Load() != 0 {
		t.Errorf("beside one that waits: %d; %d are left", second.Code, l.underWay.Load())
	}
}
