package direct

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// repeatable says whether a request may be sent again that an endpoint may have seen: its method is idempotent, or it says so
// by an Idempotency-Key and its body can be read again.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return r.Header.Get("Idempotency-Key") != "" && (bodiless(r) || r.GetBody != nil)
}

func bodiless(r *http.Request) bool { return r.Body == nil || r.Body == http.NoBody }

// again answers the request's body once more.
func again(r *http.Request) (io.ReadCloser, error) {
	if bodiless(r) {
		return r.Body, nil
	}
	if r.GetBody == nil {
		return nil, errors.New("the body can be read only once")
	}
	return r.GetBody()
}

// Retries of all calls together are a fifth of the calls, and budgetMost at once: when all instances fail, retries
// don't multiply what they have to refuse.
const (
	budgetShare = 0.2
	budgetMost  = 100
)

type budget struct {
	mu   sync.Mutex
	left float64
}

func newBudget() *budget { return &budget{left: budgetMost} }

// earn is called for each call.
func (b *budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(budgetMost, b.left+budgetShare)
}

// spend says whether there may be a retry.
func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// counted ends the pick when the body does.
func counted(body io.ReadCloser, r *http.Request, p Pick) io.ReadCloser {
	if body == http.NoBody {
		p.Done(Succeeded)
		return body
	}
	c := &countedBody{ReadCloser: body, request: r, pick: p}
	if w, ok := body.(io.Writer); ok { // of a connection that was upgraded
		return struct {
			*countedBody
			io.Writer
		}{c, w}
	}
	return c
}

type countedBody struct {
	io.ReadCloser
	request *http.Request
	pick    Pick
	once    sync.Once
}

func (c *countedBody) done(o Outcome) { c.once.Do(func() { c.pick.Done(o) }) }

func (c *countedBody) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		c.done(Succeeded)
	case c.request.Context().Err() != nil:
		c.done(Abandoned)
	default:
		c.done(Failed)
	}
	return n, err
}

func (c *countedBody) Close() error {
	c.done(Succeeded)
	return c.ReadCloser.Close()
}
