package direct

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// instance is a server that can be killed, as a process is.
type instance struct {
	endpoint Endpoint
	kill     func()
	calls    atomic.Int32
}

var instances atomic.Int32

func newInstance(t testing.TB, version string, weight int, h http.HandlerFunc) *instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{endpoint: endpoint(0, version, weight)}
	addr := l.Addr().(*net.TCPAddr)
	i.endpoint.IP, i.endpoint.Port, i.endpoint.InstanceID = addr.IP.String(), addr.Port, fmt.Sprint("instance-", instances.Add(1))
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.calls.Add(1)
		h(w, r)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	i.kill = func() {
		srv.Close()
		<-done
	}
	t.Cleanup(i.kill)
	return i
}

func hello(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	io.WriteString(w, "hello")
}

// service follows a fake scheduler that knows the instances.
func service(t testing.TB, list ...*instance) (*Service, *fakeScheduler) {
	t.Helper()
	f := newFakeScheduler()
	for _, i := range list {
		f.list = append(f.list, i.endpoint)
	}
	cfg, err := Config{Service: "iris", Schedulers: []string{"https://a"}}.checked()
	if err != nil {
		t.Fatal(err)
	}
	s := start(cfg, &http.Client{Transport: memoryNetwork{"a": f}})
	t.Cleanup(s.Close)
	if err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, f
}

func transport(t testing.TB, s *Service, cfg TransportConfig) *Transport {
	tr := NewTransport(s, cfg)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// published waits until the service has a list.
func published(t *testing.T, s *Service, f *fakeScheduler, index uint64, list ...Endpoint) {
	t.Helper()
	f.publish(index, list...)
	for {
		changed := s.Changed()
		if got, _, _ := s.Endpoints(); got.Index == index {
			return
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("the change is never seen")
		}
	}
}

// call makes a request and reads the answer.
func call(tr http.RoundTripper, r *http.Request) (int, string, error) {
	resp, err := (&http.Client{Transport: tr}).Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func request(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTransportSendsTheRequestAsItIs(t *testing.T) {
	i := newInstance(t, "1", 100, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprint(w, r.Method, " ", r.Host, r.URL.RequestURI(), " ", r.Header.Get("X-Test"), " ", string(body), err)
	})
	s, _ := service(t, i)
	var seen []Attempt
	tr := transport(t, s, TransportConfig{Observer: observer(func(a Attempt) { seen = append(seen, a) })})
	r := request(t, http.MethodPost, "https://iris/a%2Fb?x=1&y", strings.NewReader("body"))
	r.Header.Set("X-Test", "v")
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if want := "POST iris/a%2Fb?x=1&y v body<nil>"; string(body) != want || err != nil || resp.Request != r {
		t.Errorf("the instance got %q, %v; want %q", body, err, want)
	}
	if len(seen) != 1 || seen[0].Endpoint != i.endpoint || seen[0].Status != 200 || seen[0].Method != "POST" || seen[0].Retry || seen[0].Duration <= 0 {
		t.Errorf("observed %+v", seen)
	}
}

type observer func(Attempt)

func (o observer) Observe(a Attempt) { o(a) }

func TestTransportRefuses(t *testing.T) {
	i := newInstance(t, "1", 100, hello)
	s, f := service(t, i)
	tr := transport(t, s, TransportConfig{})
	var closed atomic.Bool
	r := request(t, "POST", "http://elsewhere/", nil)
	r.Body = closing{&closed}
	if _, err := tr.RoundTrip(r); err == nil || !strings.Contains(err.Error(), "this transport calls iris alone") || !closed.Load() {
		t.Errorf("another host: %v, body closed: %v", err, closed.Load())
	}
	published(t, s, f, 2)
	if _, err := tr.RoundTrip(request(t, "GET", "http://iris/", nil)); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("no endpoint: %v", err)
	}
	e := i.endpoint
	e.Weight = 0
	published(t, s, f, 3, e)
	if _, err := tr.RoundTrip(request(t, "GET", "http://iris/", nil)); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("weight 0: %v", err)
	}
	e.Weight, e.Schema = 100, "grpc"
	published(t, s, f, 4, e)
	if _, err := tr.RoundTrip(request(t, "GET", "http://iris/", nil)); !errors.Is(err, ErrNoEndpoint) || !strings.Contains(err.Error(), "speak grpc") {
		t.Errorf("gRPC: %v", err)
	}
	published(t, s, f, 5, i.endpoint)
	r = request(t, "GET", "http://iris/", nil)
	r.Header["Bad\n"] = []string{"x"}
	if _, err := tr.RoundTrip(r); err == nil {
		t.Error("no error for a header that can't be sent")
	}
	if status, body, err := call(tr, request(t, "GET", "http://IRIS/", nil)); status != 200 || body != "hello" || err != nil {
		t.Errorf("an endpoint again: %d %q %v", status, body, err)
	}
	if tr.balancer.targets[key(i.endpoint)].times != 0 {
		t.Error("an endpoint was blamed for the caller's header")
	}
}

type closing struct{ closed *atomic.Bool }

func (c closing) Read([]byte) (int, error) { return 0, io.EOF }
func (c closing) Close() error             { c.closed.Store(true); return nil }

func TestUnknownServiceFailsAtOnce(t *testing.T) {
	f := newFakeScheduler()
	f.refuse = refusal(http.StatusNotFound)
	cfg, err := Config{Service: "iris", Schedulers: []string{"https://a"}}.checked()
	if err != nil {
		t.Fatal(err)
	}
	s := start(cfg, &http.Client{Transport: memoryNetwork{"a": f}})
	defer s.Close()
	var l *LookupError
	if _, err := NewTransport(s, TransportConfig{}).RoundTrip(request(t, "GET", "http://iris/", nil)); !errors.As(err, &l) || l.Status != 404 {
		t.Errorf("error %v", err)
	}
}

// A caller who gives up says nothing about the endpoint, and isn't made to wait for a retry.
func TestContexts(t *testing.T) {
	i := newInstance(t, "1", 100, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	other := newInstance(t, "1", 100, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s, _ := service(t, i, other)
	tr := transport(t, s, TransportConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := tr.RoundTrip(request(t, "GET", "http://iris/", nil).WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if n := i.calls.Load() + other.calls.Load(); n != 1 {
		t.Errorf("%d attempts", n)
	}
	for _, target := range tr.balancer.targets {
		if target.inFlight != 0 || target.times != 0 {
			t.Errorf("after a caller has given up: %+v", target)
		}
	}
}

func TestInFlightUntilTheBodyEnds(t *testing.T) {
	i := newInstance(t, "1", 100, hello)
	s, _ := service(t, i)
	tr := transport(t, s, TransportConfig{})
	for name, end := range map[string]func(io.ReadCloser){
		"read": func(b io.ReadCloser) { io.Copy(io.Discard, b) }, "closed": func(b io.ReadCloser) { b.Close(); b.Close() },
	} {
		resp, err := tr.RoundTrip(request(t, "GET", "http://iris/", nil))
		if err != nil {
			t.Fatal(err)
		}
		target := tr.balancer.targets[key(i.endpoint)]
		before := target.inFlight
		end(resp.Body)
		if before != 1 || target.inFlight != 0 {
			t.Errorf("%s: %d in flight before the end, %d after", name, before, target.inFlight)
		}
	}
	resp, err := tr.RoundTrip(request(t, "HEAD", "http://iris/", nil))
	if err != nil || resp.Body != http.NoBody || tr.balancer.targets[key(i.endpoint)].inFlight != 0 {
		t.Errorf("an answer without body: %v, in flight %+v", err, tr.balancer.targets)
	}
}

func TestUpgrade(t *testing.T) {
	i := newInstance(t, "1", 100, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, err := rw.ReadString('\n')
		if err == nil {
			io.WriteString(conn, "echo "+line)
		}
	})
	s, _ := service(t, i)
	tr := transport(t, s, TransportConfig{})
	r := request(t, "GET", "http://iris/", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatal("an upgraded connection can't be written to")
	}
	defer conn.Close()
	io.WriteString(conn, "x\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "echo x\n" {
		t.Errorf("read %q, %v", line, err)
	}
}

// While instances are killed and replaced all the time, no idempotent call fails.
func TestKilledInstancesFailNoCall(t *testing.T) {
	slow := func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Millisecond) // so that calls are in flight when it is killed
		hello(w, r)
	}
	var list []*instance
	for range 4 {
		list = append(list, newInstance(t, "1", 100, slow))
	}
	s, f := service(t, list...)
	tr := transport(t, s, TransportConfig{})
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var calls atomic.Int32
	for range 8 {
		callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				r := request(t, "GET", "http://iris/", nil)
				if n%2 == 1 {
					r = request(t, "POST", "http://iris/", strings.NewReader("body"))
					r.Header.Set("Idempotency-Key", "k")
				}
				if status, body, err := call(tr, r); status != 200 || body != "hello" || err != nil {
					t.Errorf("%s: status %d, body %q, error %v", r.Method, status, body, err)
				}
				calls.Add(1)
			}
		})
	}
	for round := range uint64(20) {
		next := newInstance(t, "1", 100, slow)
		list[0].kill()
		time.Sleep(50 * time.Millisecond) // in which the scheduler doesn't know
		list = append(list[1:], next)
		var now []Endpoint
		for _, i := range list {
			now = append(now, i.endpoint)
		}
		published(t, s, f, round+2, now...)
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	callers.Wait()
	t.Logf("%d calls", calls.Load())
	for _, i := range list {
		if i.calls.Load() == 0 {
			t.Error("an instance that came was never called")
		}
	}
}

func TestThoseThatLeaveAreNotCalled(t *testing.T) {
	a, b := newInstance(t, "1", 100, hello), newInstance(t, "1", 100, hello)
	s, f := service(t, a, b)
	tr := transport(t, s, TransportConfig{})
	for a.calls.Load() == 0 {
		call(tr, request(t, "GET", "http://iris/", nil))
	}
	published(t, s, f, 2, b.endpoint)
	before := a.calls.Load()
	for range 100 {
		call(tr, request(t, "GET", "http://iris/", nil))
	}
	if n := a.calls.Load() - before; n > 0 {
		t.Errorf("%d calls went to an instance that has left", n)
	}
}

// BenchmarkRoundTrip compares a call with the same one over a plain http.Transport: the difference is what is added.
func BenchmarkRoundTrip(b *testing.B) {
	i := newInstance(b, "1", 100, hello)
	s, _ := service(b, i)
	base := http.DefaultTransport.(*http.Transport).Clone()
	defer base.CloseIdleConnections()
	for _, c := range []struct {
		name string
		via  http.RoundTripper
		url  string
	}{
		{"plain", base, "http://" + i.endpoint.Address() + "/"},
		{"direct", NewTransport(s, TransportConfig{Base: base}), "http://iris/"},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := request(b, "GET", c.url, nil)
			b.ReportAllocs()
			for b.Loop() {
				resp, err := c.via.RoundTrip(r)
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
}
