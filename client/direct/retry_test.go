package direct

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// A host that is gone doesn't answer at all: the caller's deadline passes, and the host gets no more calls.
func TestHostThatIsGoneIsEjected(t *testing.T) {
	gone, good := newInstance(t, "1", 100, hello), newInstance(t, "1", 100, hello)
	s, _ := service(t, gone, good)
	tr := transport(t, s, TransportConfig{Base: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == gone.endpoint.Address() {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}})
	var failed int
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, _, err := call(tr, request(t, "GET", "http://iris/", nil).WithContext(ctx)); errors.Is(err, context.DeadlineExceeded) {
			failed++
			tr.balancer.mu.Lock()
			target := tr.balancer.targets[key(gone.endpoint)]
			times := target.times
			target.until = time.Now().Add(time.Hour) // however slow this machine is
			tr.balancer.mu.Unlock()
			if times != 1 {
				t.Errorf("the host was ejected %d times", times)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	if failed != 1 {
		t.Errorf("%d calls failed, want the first to that host", failed)
	}
}

// A body that fails is no fault of the endpoint that it was sent to.
func TestFailingBodyBlamesNobody(t *testing.T) {
	i := newInstance(t, "1", 100, hello)
	s, _ := service(t, i)
	tr := transport(t, s, TransportConfig{})
	broken := errors.New("broken off")
	r := request(t, "PUT", "http://iris/", io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)))
	if _, _, err := call(tr, r); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if target := tr.balancer.targets[key(i.endpoint)]; target.times != 0 || target.inFlight != 0 {
		t.Errorf("the endpoint after the caller's body has failed: %+v", target)
	}
}

// An answer that breaks off is a failure, though it can't be repeated any more.
func TestAnswerThatBreaksOff(t *testing.T) {
	i := newInstance(t, "1", 100, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	other := newInstance(t, "1", 100, hello)
	s, _ := service(t, i, other)
	tr := transport(t, s, TransportConfig{})
	for range 100 {
		_, body, err := call(tr, request(t, "GET", "http://iris/", nil))
		if err == nil && body == "hello" {
			continue
		}
		if body != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read %q, %v", body, err)
		}
		if n := tr.balancer.targets[key(i.endpoint)].times; n != 1 {
			t.Errorf("ejected %d times", n)
		}
		return
	}
	t.Error("the instance that breaks off is never called")
}

// What is sent again, and what isn't.
func TestRetries(t *testing.T) {
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
		}
	}
	reset := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}
	rewindable := func() io.Reader { return strings.NewReader("body") }
	once := func() io.Reader { return io.MultiReader(strings.NewReader("body")) }
	for _, c := range []struct {
		name   string
		fails  http.HandlerFunc // nil: nothing listens
		method string
		body   func() io.Reader
		key    bool
		again  bool
	}{
		{"refused", nil, "GET", nil, false, true},
		{"refused", nil, "POST", rewindable, false, true},
		{"refused", nil, "POST", nil, false, true},
		{"refused", nil, "POST", once, true, false},
		{"reset", reset, "GET", nil, false, true},
		{"reset", reset, "DELETE", nil, false, true},
		{"reset", reset, "PUT", rewindable, false, true},
		{"reset", reset, "PUT", once, false, false},
		{"reset", reset, "POST", rewindable, false, false},
		{"reset", reset, "PATCH", rewindable, false, false},
		{"reset", reset, "POST", rewindable, true, true},
		{"reset", reset, "POST", nil, true, true},
		{"reset", reset, "POST", once, true, false},
		{"502", answer(502), "GET", nil, false, true},
		{"503", answer(503), "POST", rewindable, true, true},
		{"503", answer(503), "POST", rewindable, false, false},
		{"504", answer(504), "PUT", rewindable, false, true},
		{"500", answer(500), "GET", nil, false, false},
		{"429", answer(429), "GET", nil, false, false},
	} {
		t.Run(fmt.Sprint(c.name, " ", c.method, " body ", c.body != nil, " key ", c.key), func(t *testing.T) {
			bad := newInstance(t, "1", 100, c.fails)
			if c.fails == nil {
				bad.kill()
			}
			good := newInstance(t, "1", 100, func(w http.ResponseWriter, r *http.Request) {
				if body, err := io.ReadAll(r.Body); err != nil || c.body != nil && string(body) != "body" {
					t.Errorf("the other instance got %q, %v", body, err)
				}
			})
			s, _ := service(t, bad, good)
			for range 50 { // until the first attempt goes to the one that fails
				var seen []Attempt
				tr := transport(t, s, TransportConfig{Observer: observer(func(a Attempt) { seen = append(seen, a) })})
				var body io.Reader
				if c.body != nil {
					body = c.body()
				}
				r := request(t, c.method, "http://iris/", body)
				if c.key {
					r.Header.Set("Idempotency-Key", "k")
				}
				status, _, err := call(tr, r)
				if seen[0].Endpoint == good.endpoint {
					continue
				}
				if c.again && (err != nil || status != 200 || len(seen) != 2 || !seen[1].Retry || seen[1].Endpoint != good.endpoint) {
					t.Errorf("status %d, error %v, attempts %+v; want a retry that succeeds", status, err, seen)
				}
				if !c.again && (len(seen) != 1 || err == nil && status == 200) {
					t.Errorf("status %d, error %v, attempts %+v; want no retry", status, err, seen)
				}
				return
			}
			t.Error("the instance that fails is never called")
		})
	}
}

func TestRetriesAreBounded(t *testing.T) {
	unavailable := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	var list []*instance
	for range 6 {
		list = append(list, newInstance(t, "1", 100, unavailable))
	}
	s, _ := service(t, list...)
	total := func() (n int) {
		for _, i := range list {
			n += int(i.calls.Load())
		}
		return n
	}
	for _, c := range []struct{ retries, attempts int }{{0, 4}, {1, 2}, {-1, 1}, {10, 6}} {
		before := total()
		status, _, err := call(transport(t, s, TransportConfig{Retries: c.retries}), request(t, "GET", "http://iris/", nil))
		if got := total() - before; got != c.attempts || status != http.StatusServiceUnavailable || err != nil {
			t.Errorf("with %d retries: %d attempts, status %d, error %v; want %d attempts", c.retries, got, status, err, c.attempts)
		}
	}
	const calls = 1000
	before, tr := total(), transport(t, s, TransportConfig{})
	for range calls {
		if status, _, err := call(tr, request(t, "GET", "http://iris/", nil)); status != http.StatusServiceUnavailable || err != nil {
			t.Fatalf("status %d, error %v", status, err)
		}
	}
	if again := total() - before - calls; again < 250 || again > budgetMost+budgetShare*calls {
		t.Errorf("%d retries of %d calls", again, calls)
	}
}
