package direct

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// firstAnswer bounds how long a call waits for the first look-up.
const firstAnswer = 10 * time.Second

// Attempt is one try of a call at one endpoint.
type Attempt struct {
	Endpoint Endpoint
	Method   string
	// Status of the answer; 0 with Err.
	Status int
	Err    error
	// Duration until the answer's header.
	Duration time.Duration
	// Retry means that it is not the call's first.
	Retry bool
}

// Observer is told of every attempt, as soon as its header or its error is there. It must not block.
type Observer interface{ Observe(Attempt) }

// TransportConfig says how calls are made; its zero value will do.
type TransportConfig struct {
	// Base carries the calls. By default one that dials without a proxy and gives a host up after 1 s.
	Base *http.Transport
	// Retries of a call at most; 0 means 3, a negative number none.
	Retries  int
	Observer Observer
}

// Transport is an http.RoundTripper that sends each request to an instance of the service. A request's URL has the service's
// name, as Config has it, for its host: "http://iris/predict"; the rest of the URL and all headers, Host included, are
// sent as they are. The schema is the instances', not the URL's.
type Transport struct {
	service  *Service
	base     *http.Transport
	balancer *Balancer
	retries  int
	budget   *budget
	observer Observer

	mu    sync.Mutex // around changes of the list
	taken atomic.Pointer[Endpoints]
}

// NewTransport makes a transport. Closing the Service leaves it with the last endpoints.
func NewTransport(s *Service, cfg TransportConfig) *Transport {
	t := &Transport{service: s, base: cfg.Base, balancer: NewBalancer(nil, nil), retries: cfg.Retries, budget: newBudget(), observer: cfg.Observer}
	if t.base == nil {
		t.base = &http.Transport{
			DialContext:         (&net.Dialer{Timeout: time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout: 3 * time.Second,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     90 * time.Second,
		}
	}
	if t.retries == 0 {
		t.retries = 3
	}
	return t
}

// CloseIdleConnections closes those to the instances.
func (t *Transport) CloseIdleConnections() { t.base.CloseIdleConnections() }

// RoundTrip makes a call. It is made again, at another endpoint, when that is safe: when no connection came about, or when the
// request may be repeated (see repeatable) and the endpoint broke off or answered 502, 503 or 504.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	p, err := t.first(r)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, fmt.Errorf("call the service %s: %w", t.service.Name(), err)
	}
	t.budget.earn()
	var tried []Endpoint
	for body := r.Body; ; {
		a := t.attempt(r, p, body, len(tried) > 0)
		if !a.failed || len(tried) >= t.retries || a.connected && !repeatable(r) || r.Context().Err() != nil {
			return a.resp, a.err
		}
		if body, err = again(r); err != nil {
			return a.resp, a.err
		}
		tried = append(tried, p.Endpoint)
		var ok bool
		if p, ok = t.next(tried); !ok {
			if body != nil {
				body.Close()
			}
			return a.resp, a.err
		}
		if a.resp != nil {
			a.resp.Body.Close()
		}
	}
}

// first chooses the endpoint of a call's first attempt.
func (t *Transport) first(r *http.Request) (Pick, error) {
	if !strings.EqualFold(r.URL.Host, t.service.Name()) {
		return Pick{}, fmt.Errorf("the URL's host is %q: this transport calls %s alone", r.URL.Host, t.service.Name())
	}
	if t.taken.Load() == nil {
		ctx, cancel := context.WithTimeout(r.Context(), firstAnswer)
		defer cancel()
		if err := t.service.Wait(ctx); err != nil {
			return Pick{}, err
		}
	}
	t.refresh()
	p, ok := t.balancer.Pick()
	if ok {
		return p, nil
	}
	list, err := t.service.list()
	if len(list.HostEndpoints) > 0 && len(callable(list.HostEndpoints)) == 0 {
		return Pick{}, fmt.Errorf("%w over HTTP: its instances speak %s", ErrNoEndpoint, list.HostEndpoints[0].Schema)
	}
	if err != nil {
		return Pick{}, fmt.Errorf("%w: %w", ErrNoEndpoint, err)
	}
	return Pick{}, ErrNoEndpoint
}

// next chooses the endpoint of another attempt, when the budget has one.
func (t *Transport) next(tried []Endpoint) (Pick, bool) {
	if !t.budget.spend() {
		return Pick{}, false
	}
	t.refresh()
	p, ok := t.balancer.Pick(tried...)
	return p, ok
}

// refresh has the balancer take the newest list.
func (t *Transport) refresh() {
	if list, _ := t.service.list(); list == t.taken.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	list, _ := t.service.list()
	t.balancer.Update(callable(list.HostEndpoints))
	t.taken.Store(list)
}

// callable are the endpoints that speak HTTP.
func callable(list []Endpoint) []Endpoint {
	var out []Endpoint
	for _, e := range list {
		if e.Schema == "http" || e.Schema == "https" {
			out = append(out, e)
		}
	}
	return out
}

// attempted is what came of an attempt: a response or an error.
type attempted struct {
	resp      *http.Response
	err       error
	connected bool // the endpoint may have seen the request
	failed    bool // by the endpoint's fault
}

func (t *Transport) attempt(r *http.Request, p Pick, body io.ReadCloser, retry bool) attempted {
	var c connection
	sent := r.WithContext(httptrace.WithClientTrace(r.Context(), c.trace()))
	target := *r.URL
	target.Scheme, target.Host = p.Endpoint.Schema, p.Endpoint.Address()
	sent.URL, sent.Body = &target, body
	if sent.Host == "" {
		sent.Host = r.URL.Host
	}
	began := time.Now()
	resp, err := t.base.RoundTrip(sent) //nolint:bodyclose // the caller of RoundTrip does, or RoundTrip before it repeats the call
	a := attempted{resp: resp, err: err, connected: c.made.Load()}
	status := 0
	switch {
	case err != nil:
		a.failed = c.blame(r, err)
		p.Done(outcome(a.failed))
	case resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout:
		a.failed, status = true, resp.StatusCode
		p.Done(Failed)
	default:
		status = resp.StatusCode
		resp.Body = counted(resp.Body, r, p)
	}
	if resp != nil {
		resp.Request = r
	}
	if t.observer != nil {
		t.observer.Observe(Attempt{Endpoint: p.Endpoint, Method: r.Method, Status: status, Err: err, Duration: time.Since(began), Retry: retry})
	}
	return a
}

func outcome(failed bool) Outcome {
	if failed {
		return Failed
	}
	return Abandoned
}

// connection is how far an attempt came, as net/http tells. net/http repeats by itself what certainly wasn't
// sent; the last connection counts.
type connection struct{ sought, made atomic.Bool }

func (c *connection) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { c.sought.Store(true); c.made.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { c.made.Store(true) },
	}
}

// blame says whether an error is the endpoint's: it isn't when the request was never sent out, the caller has given up, or
// a body that can't be read twice may have failed itself. A caller who gave up waiting for a connection has noticed a dead host.
func (c *connection) blame(r *http.Request, err error) bool {
	switch {
	case !c.sought.Load():
		return false
	case r.Context().Err() != nil:
		return !c.made.Load() && errors.Is(err, context.DeadlineExceeded)
	case c.made.Load():
		return bodiless(r) || r.GetBody != nil
	}
	return true
}
