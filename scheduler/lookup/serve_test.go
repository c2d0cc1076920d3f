package lookup

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/state"
)

// pipes is a listener within a synctest bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) ask(t *testing.T, path string) (net.Conn, *bufio.Reader) {
	t.Helper()
	here, there := net.Pipe()
	p.conns <- there
	if _, err := io.WriteString(here, "GET "+path+" HTTP/1.1\r\nHost: x\r\nX-Auth-Token: root-secret\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return here, bufio.NewReader(here)
}

// The server's timeouts are for requests that end: watches live longer, those who don't read excepted.
func TestTimeouts(t *testing.T) {
	run(t, func(f *fixture) {
		var held atomic.Int32
		f.table.cfg.Hold = func(string, bool) (func(), bool) { held.Add(1); return func() { held.Add(-1) }, true }
		f.put(service("iris", "s1", "own"))
		f.put(instance("a", "s1", 30001))
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		srv := &http.Server{Handler: f.table, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		synctest.Wait()
		blocked, answer := l.ask(t, irisPath+"&index=99&wait=60s")
		start := time.Now()
		if resp, err := http.ReadResponse(answer, nil); err != nil || resp.StatusCode != http.StatusOK || time.Since(start) != time.Minute {
			t.Errorf("a look-up that waits: %v, %v after %v", resp, err, time.Since(start))
		}
		blocked.Close()
		watch, events := l.ask(t, watchPath)
		next := func() string {
			t.Helper()
			for {
				line, err := events.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				if data, ok := strings.CutPrefix(line, "data: "); ok {
					return data
				}
			}
		}
		if got := next(); !strings.Contains(got, "30001") {
			t.Fatal(got)
		}
		time.AfterFunc(3*time.Minute, func() { f.setReady("a", false) })
		if got := next(); !strings.Contains(got, `"host_endpoints":[]`) {
			t.Error(got)
		}
		// From here on it isn't read.
		f.setReady("a", true)
		time.Sleep(keepAlive + writeTimeout)
		synctest.Wait()
		if n := held.Load(); n != 0 {
			t.Errorf("%d watches are held for a client that doesn't read", n)
		}
		watch.Close()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// A watch over gRPC, two of which share what is sent.
func TestWatchOverGRPC(t *testing.T) {
	f := newFixture(t)
	f.basics()
	f.put(service("iris", "s1", "own"))
	f.put(instance("a", "s1", 30001))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	f.table.rebuild()
	running.Go(func() { f.table.Run(ctx) })
	defer func() { cancel(); running.Wait() }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	caller := auth.CallerOf(f.store.View().TokenBySecret(auth.Hash("root-secret")))
	srv := grpc.NewServer(grpc.StreamInterceptor(func(s any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return next(s, &authenticated{ss, auth.NewContext(ss.Context(), caller)})
	}))
	fleetv1.RegisterLookupServiceServer(srv, f.table.Service())
	running.Go(func() {
		if err := srv.Serve(l); err != nil {
			t.Error(err)
		}
	})
	defer srv.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	open := func(req *fleetv1.LookupServiceWatchRequest) grpc.ServerStreamingClient[fleetv1.LookupServiceWatchResponse] {
		t.Helper()
		w, err := fleetv1.NewLookupServiceClient(conn).Watch(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	watches := []grpc.ServerStreamingClient[fleetv1.LookupServiceWatchResponse]{
		open(&fleetv1.LookupServiceWatchRequest{Service: "iris"}), open(&fleetv1.LookupServiceWatchRequest{Service: "s1", MaxStaleSeconds: 5})}
	recv := func(want int) {
		t.Helper()
		for _, w := range watches {
			if m, err := w.Recv(); err != nil || len(m.GetAnswer().GetEndpoints()) != want || m.GetAnswer().GetMaxAgeSeconds() != 3 || m.GetStaleness() == nil {
				t.Fatalf("%v, %v", m, err)
			}
		}
	}
	recv(1)
	f.put(instance("b", "s1", 30002))
	recv(2)
	f.setReady("a", false)
	recv(1)
	f.editService(func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredStopped })
	for _, w := range watches {
		if m, err := w.Recv(); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("stopped: %v, %v", m, err)
		}
	}
	if _, err := open(&fleetv1.LookupServiceWatchRequest{Service: "rose"}).Recv(); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	f.editService(func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredRunning })
	w := open(&fleetv1.LookupServiceWatchRequest{Service: "iris"})
	for { // until the table has taken that over
		if _, err := w.Recv(); err == nil {
			break
		} else if status.Code(err) != codes.FailedPrecondition {
			t.Fatal(err)
		}
		w = open(&fleetv1.LookupServiceWatchRequest{Service: "iris"})
	}
	f.age.Store(int64(time.Minute))
	if m, err := open(&fleetv1.LookupServiceWatchRequest{Service: "iris"}).Recv(); err != nil || m.GetAnswer() == nil || !m.GetStaleness().GetStale() {
		t.Errorf("opened while it is stale: %v, %v", m, err)
	}
	f.age.Store(0)
	if m, err := open(&fleetv1.LookupServiceWatchRequest{Service: "iris"}).Recv(); err != nil || m.GetAnswer() == nil || m.GetStaleness().GetStale() {
		t.Errorf("opened when it isn't any more: %v, %v", m, err)
	}
	root := f.store.View().Service(fleetv1.Default, "iris")
	f.editInstance("a", func(i *fleetv1.Instance) { i.Desired.State = fleetv1.DesiredStopped })
	f.editInstance("b", func(i *fleetv1.Instance) { i.Desired.State = fleetv1.DesiredStopped })
	for _, id := range []string{"a", "b"} {
		f.apply(state.Delete(f.store.View().Instance(id).GetMeta().GetRevision(), state.InstanceKey(id)))
	}
	f.apply(state.Delete(root.GetMeta().GetRevision(), state.ServiceKey(fleetv1.Default, "iris")))
	for {
		if _, err := w.Recv(); err != nil {
			if status.Code(err) != codes.NotFound {
				t.Errorf("deleted: %v", err)
			}
			break
		}
	}
}

type authenticated struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *authenticated) Context() context.Context { return s.ctx }
