package storagetest

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drover-fleet/drover/storage"
)

// Fault is what happens to a request instead of a plain answer. One of its actions is set.
type Fault struct {
	Match func(*http.Request) bool // nil: every request
	Times int                      // so many requests, then no more; 0: until Clear

	Status   int           // answer this
	Reset    bool          // end the connection without an answer
	Delay    time.Duration // pass on after this; the request's end ends it
	Truncate int64         // pass on so many bytes of the answer's body, 0 < Truncate, then end the connection
	Hold     chan struct{} // pass on once it is closed
}

// Faults is a proxy in front of a Server that does as it is told. Without a fault it changes nothing.
type Faults struct {
	Store storage.Store // how to reach the server through it

	proxy *httputil.ReverseProxy

	mu     sync.Mutex
	faults []*Fault
	server *httptest.Server // nil while it is down
}

// Faulty starts a proxy in front of a server until the test ends.
func Faulty(t testing.TB, s *Server) *Faults {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: s.Store.Endpoint}
	f := &Faults{Store: s.Store}
	transport := &http.Transport{DisableCompression: true}
	f.proxy = &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
	}
	f.Store.Endpoint = freeAddress(t)
	f.Up(t)
	t.Cleanup(func() {
		f.Down()
		transport.CloseIdleConnections()
	})
	return f
}

// Add puts a fault behind those that are there; the first that matches happens.
func (f *Faults) Add(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &fault)
}

// Clear removes all faults.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Down ends all connections, and refuses new ones until Up.
func (f *Faults) Down() {
	f.mu.Lock()
	server := f.server
	f.server = nil
	f.mu.Unlock()
	if server != nil {
		server.CloseClientConnections()
		server.Close()
	}
}

// Up serves again, at the same address.
func (f *Faults) Up(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", f.Store.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(f.serve), ReadHeaderTimeout: time.Minute}}
	server.Start()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.server = server
}

func (f *Faults) next(r *http.Request) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, fault := range f.faults {
		if fault.Match != nil && !fault.Match(r) {
			continue
		}
		taken := *fault
		if fault.Times == 1 {
			f.faults = append(f.faults[:i:i], f.faults[i+1:]...)
		} else if fault.Times > 1 {
			fault.Times--
		}
		return &taken
	}
	return nil
}

func (f *Faults) serve(w http.ResponseWriter, r *http.Request) {
	fault := f.next(r)
	switch {
	case fault == nil:
	case fault.Status != 0:
		_, _ = io.Copy(io.Discard, r.Body) // a client that is still sending sees no answer
		w.WriteHeader(fault.Status)
		return
	case fault.Reset:
		panic(http.ErrAbortHandler)
	case fault.Truncate > 0:
		w = &truncated{w, fault.Truncate}
	default:
		select {
		case <-r.Context().Done():
			return
		case <-fault.Hold:
		case <-after(fault.Delay):
		}
	}
	f.proxy.ServeHTTP(w, r)
}

// after is a channel that never comes for no delay.
func after(d time.Duration) <-chan time.Time {
	if d == 0 {
		return nil
	}
	return time.After(d)
}

// truncated ends the connection when the body gets too long.
type truncated struct {
	http.ResponseWriter
	left int64
}

func (t *truncated) Write(p []byte) (int, error) {
	if int64(len(p)) <= t.left {
		t.left -= int64(len(p))
		return t.ResponseWriter.Write(p)
	}
	_, _ = t.ResponseWriter.Write(p[:t.left])
	_ = http.NewResponseController(t.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// Unwrap lets the proxy flush.
func (t *truncated) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// Method matches requests by their method.
func Method(method string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == method }
}

// Key matches requests for keys that end so.
func Key(suffix string) func(*http.Request) bool {
	return func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, suffix) }
}
