package grpcdirect

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client/direct"
)

func TestMain(m *testing.M) {
	Register()
	goleak.VerifyTestMain(m)
}

// scheduler serves a watch of one list.
type scheduler struct {
	*httptest.Server

	mu      sync.Mutex
	list    []direct.Endpoint
	index   uint64
	changed chan struct{}
}

func newScheduler(t *testing.T, list ...direct.Endpoint) *scheduler {
	s := &scheduler{list: list, index: 1, changed: make(chan struct{})}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *scheduler) publish(list ...direct.Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = list
	s.index++
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *scheduler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v1/default/services/iris/predict/endpoints" {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"error_code":"DROVER.0404","error_msg":"there is no such service"}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for {
		s.mu.Lock()
		list, changed := s.list, s.changed
		if list == nil {
			list = []direct.Endpoint{}
		}
		b, err := json.Marshal(direct.Endpoints{HostEndpoints: list, Index: s.index, MaxAgeSeconds: 3})
		s.mu.Unlock()
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(w, "data: %s\n\n", b)
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// instance is a gRPC server whose health service is what is called.
type instance struct {
	grpc_health_v1.UnimplementedHealthServer
	endpoint direct.Endpoint
	server   *grpc.Server
	calls    atomic.Int32
	answer   atomic.Pointer[status.Status] // nil: OK
	held     chan struct{}                 // a call of service "hold" waits for it
}

func newInstance(t *testing.T, version string, weight int) *instance {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	i := &instance{server: grpc.NewServer(), held: make(chan struct{}), endpoint: direct.Endpoint{
		Schema: "grpc", IP: addr.IP.String(), Port: addr.Port, Model: "iris", ModelVersion: version, Weight: weight, InstanceID: l.Addr().String()}}
	grpc_health_v1.RegisterHealthServer(i.server, i)
	done := make(chan struct{})
	go func() {
		defer close(done)
		i.server.Serve(l)
	}()
	t.Cleanup(func() { i.server.Stop(); <-done })
	return i
}

func (i *instance) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	i.calls.Add(1)
	if r.GetService() == "hold" {
		select {
		case <-i.held:
		case <-ctx.Done():
		}
	}
	if s := i.answer.Load(); s != nil {
		return nil, s.Err()
	}
	return &grpc_health_v1.HealthCheckResponse{}, nil
}

func connect(t *testing.T, s *scheduler, target string) grpc_health_v1.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient(target, append(Options(direct.Config{Schedulers: []string{s.URL}}), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return grpc_health_v1.NewHealthClient(conn)
}

func call(t *testing.T, c grpc_health_v1.HealthClient, options ...grpc.CallOption) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, options...)
	return err
}

// until calls until a condition holds; all calls have to succeed.
func until(t *testing.T, c grpc_health_v1.HealthClient, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); {
		if err := call(t, c); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not after 20 s", what)
		}
	}
}

func TestCallsAreSpreadAndFollowTheList(t *testing.T) {
	a, b, none := newInstance(t, "1", 90), newInstance(t, "2", 10), newInstance(t, "3", 0)
	s := newScheduler(t, a.endpoint, b.endpoint, none.endpoint)
	c := connect(t, s, "drover:///default/iris")
	until(t, c, "both are called", func() bool { return a.calls.Load() > 0 && b.calls.Load() > 0 })
	before := [2]int32{a.calls.Load(), b.calls.Load()}
	for range 1000 {
		if err := call(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.calls.Load() - before[1]; n < 50 || n > 160 || a.calls.Load()-before[0] != 1000-n {
		t.Errorf("of 1000 calls %d went to the version with weight 10", n)
	}
	if n := none.calls.Load(); n > 0 {
		t.Errorf("%d calls went to the version with weight 0", n)
	}
	next := newInstance(t, "1", 100)
	b.endpoint.Weight = 0
	s.publish(b.endpoint, next.endpoint)
	until(t, c, "one comes", func() bool { return next.calls.Load() > 0 })
	before = [2]int32{a.calls.Load(), b.calls.Load()}
	for range 200 {
		if err := call(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if a.calls.Load() != before[0] || b.calls.Load() != before[1] {
		t.Error("calls went to an instance that has left, or has no weight any more")
	}
}

func TestFailingInstanceIsEjected(t *testing.T) {
	a, b := newInstance(t, "1", 100), newInstance(t, "1", 100)
	c := connect(t, newScheduler(t, a.endpoint, b.endpoint), "drover:///default/iris")
	until(t, c, "both are called", func() bool { return a.calls.Load() > 0 && b.calls.Load() > 0 })
	a.answer.Store(status.New(codes.Unavailable, "no"))
	failed := 0
	for range 200 {
		if call(t, c) != nil {
			failed++
		}
	}
	if failed == 0 || failed > 10 {
		t.Errorf("%d of 200 calls failed with an instance that can't serve", failed)
	}
	a.answer.Store(status.New(codes.NotFound, "an answer"))
	b.server.Stop()
	for end := time.Now().Add(20 * time.Second); ; { // the connection breaks, and all that is left is a
		if err := call(t, c); status.Code(err) == codes.NotFound {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the instance that is left isn't called: %v", err)
		}
	}
}

func TestLessLoadedIsCalled(t *testing.T) {
	a, b := newInstance(t, "1", 100), newInstance(t, "1", 100)
	c := connect(t, newScheduler(t, a.endpoint, b.endpoint), "drover:///default/iris")
	until(t, c, "both are called", func() bool { return a.calls.Load() > 0 && b.calls.Load() > 0 })
	before := [2]int32{a.calls.Load(), b.calls.Load()}
	var held sync.WaitGroup
	held.Go(func() { c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "hold"}) })
	for end := time.Now().Add(20 * time.Second); a.calls.Load() == before[0] && b.calls.Load() == before[1]; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the call doesn't arrive")
		}
	}
	busy, idle := a, b
	if b.calls.Load() > before[1] {
		busy, idle = b, a
	}
	at := busy.calls.Load()
	for range 50 {
		if err := call(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if busy.calls.Load() != at || idle.calls.Load() < 50 {
		t.Errorf("%d of 50 calls went to the instance that has one in flight", busy.calls.Load()-at)
	}
	close(busy.held)
	held.Wait()
}

func TestErrors(t *testing.T) {
	i := newInstance(t, "1", 100)
	i.endpoint.Schema = "http"
	s := newScheduler(t, i.endpoint)
	for target, want := range map[string]string{
		"drover:///default/iris":  "speaks http, not gRPC",
		"drover:///default/other": "there is no such service",
	} {
		if err := call(t, connect(t, s, target)); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", target, err, want)
		}
	}
	s.publish()
	if err := call(t, connect(t, s, "drover:///default/iris")); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), direct.ErrNoEndpoint.Error()) {
		t.Errorf("no endpoints: %v", err)
	}
	c := connect(t, s, "drover:///default/iris")
	i.endpoint.Schema = "grpc"
	s.publish(i.endpoint)
	if err := call(t, c, grpc.WaitForReady(true)); err != nil {
		t.Errorf("an endpoint comes: %v", err)
	}
	for _, target := range []string{"drover:///iris", "drover://host/default/iris", "drover:///a/b/c", "drover:///", "drover:///default/"} {
		conn, err := grpc.NewClient(target, append(Options(direct.Config{Schedulers: []string{s.URL}}), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		if err == nil {
			err = conn.Invoke(t.Context(), "/x/y", &grpc_health_v1.HealthCheckRequest{}, &grpc_health_v1.HealthCheckResponse{})
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "not of the form drover:///project/service") {
			t.Errorf("%s: %v", target, err)
		}
	}
}
