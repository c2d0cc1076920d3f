package lookup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/drover-fleet/drover/scheduler/auth"
)

const (
	// keepAlive is how often a watch without changes is looked after: HTTP proxies see that it lives, and a credential
	// that is no longer valid ends it.
	keepAlive = 15 * time.Second
	// writeTimeout ends the watch of a client that doesn't read.
	writeTimeout = 10 * time.Second
)

// sink is where a watch goes. An error ends it.
type sink interface {
	send(p *page) error
	stale(yes bool) error
	alive() error
}

// follow sends the present answer and every later one: of several while the client doesn't read, the last. It answers why
// it has ended: ctx, the sink's error, a refusal, or what valid says, which is why the caller isn't let in any more.
// Nothing is sent after that.
func (t *Table) follow(ctx context.Context, e *entry, q question, valid func() error, out sink) error {
	timer := time.NewTimer(keepAlive)
	defer timer.Stop()
	now, due := time.Now(), time.Now().Add(keepAlive)
	var sent *answer
	fresh := &freshness{}
	for {
		a, f := e.answer.Load(), t.freshness.Load()
		age, known := t.cfg.Staleness()
		if no := tooOld(age, known, q.bound); no != nil {
			return no
		}
		var err error
		if a != sent || f.stale != fresh.stale || !now.Before(due) {
			if err := valid(); err != nil {
				return err
			}
			if due = now.Add(keepAlive); a.refusal != nil {
				return a.refusal
			}
			if a != sent {
				err = out.send(a.in(q.network))
			} else if f.stale == fresh.stale {
				err = out.alive()
			}
			if f.stale != fresh.stale && err == nil {
				err = out.stale(f.stale)
			}
		}
		if sent, fresh = a, f; err != nil {
			return err
		}
		next := due.Sub(now)
		if q.bound > 0 {
			next = min(next, q.bound-age+time.Millisecond)
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.next:
		case <-f.next:
		case <-timer.C:
		}
		now = time.Now()
	}
}

// hold admits what waits.
func (t *Table) hold(c auth.Caller, request bool) (release func(), no *refusal) {
	release, ok := t.cfg.Hold(c.Account, request)
	if !ok {
		return nil, &refusal{status: http.StatusTooManyRequests, reason: reasonWatches, retryAfter: time.Second,
			msg: "too many watches and waiting look-ups are open on this scheduler: end some, or ask another scheduler"}
	}
	return release, nil
}

// events are a watch over HTTP, as server-sent events.
type events struct {
	w io.Writer
	c deadlines
}

// deadlines are of a net.Conn, or of an http.ResponseController.
type deadlines interface{ SetWriteDeadline(time.Time) error }

// serveWatch begins to send events. Over HTTP/1 the connection is taken from the server, and the watch goes on when this
// has returned; else it has ended.
func (t *Table) serveWatch(w http.ResponseWriter, r *http.Request, c auth.Caller, e *entry, q question) *refusal {
	if a := e.answer.Load(); a.refusal != nil {
		return a.refusal
	}
	if no := t.stamp(w.Header(), q.bound); no != nil {
		return no
	}
	h := w.Header()
	h["Content-Type"], h["Cache-Control"] = []string{"text/event-stream"}, []string{"no-store"}
	if hijacker, ok := w.(http.Hijacker); ok {
		return t.takeOver(hijacker, h, r, c, e, q)
	}
	release, no := t.hold(c, true)
	if no != nil {
		return no
	}
	defer release()
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // the server's is for requests that end; a recorder of a test has none
	t.sendEvents(r.Context(), r, c, e, q, events{w, rc})
	return nil
}

// takeOver has a goroutine of the table's own send events on a request's connection. The server's goroutines, buffers and
// what is known of the request then go.
func (t *Table) takeOver(h http.Hijacker, header http.Header, r *http.Request, c auth.Caller, e *entry, q question) *refusal {
	release, no := t.hold(c, false)
	if no != nil {
		return no
	}
	t.begin.Lock()
	defer t.begin.Unlock()
	if t.ctx.Err() != nil {
		release()
		return refuse(http.StatusServiceUnavailable, "this scheduler is stopping: ask another one")
	}
	conn, _, err := h.Hijack()
	if err != nil {
		release()
		return refuse(http.StatusInternalServerError, "take over the connection: %v", err)
	}
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\n")
	_ = header.Write(&head) // a buffer takes it
	head.WriteString("\r\n")
	credentials := &http.Request{Method: r.Method, URL: r.URL, Host: r.Host, Header: r.Header, RemoteAddr: r.RemoteAddr, TLS: r.TLS, Body: http.NoBody}
	t.watching.Go(func() {
		defer release()
		defer conn.Close()
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // a connection that is gone says so when it is written to
		if _, err := conn.Write(head.Bytes()); err == nil {
			t.sendEvents(t.ctx, credentials, c, e, q, events{conn, conn})
		}
	})
	return nil
}

// sendEvents sends until the watch ends. r shows who the caller is.
func (t *Table) sendEvents(ctx context.Context, r *http.Request, c auth.Caller, e *entry, q question, out events) {
	err := t.follow(ctx, e, q, func() error {
		if no := t.revalidate(r, c); no != nil {
			return no
		}
		return nil
	}, out)
	var no *refusal
	if errors.As(err, &no) {
		_ = out.write(slices.Concat([]byte("event: error\ndata: "), no.body(), []byte("\n\n"))) // it ends either way
	}
}

// revalidate says why the caller of a request isn't let in any more.
func (t *Table) revalidate(r *http.Request, before auth.Caller) *refusal {
	c, no := t.authenticate(r)
	if no == nil && (c.Account != before.Account || c.Project != before.Project || c.Role != before.Role) {
		return refuse(http.StatusForbidden, "what the credential may do has changed: ask again")
	}
	return no
}

func (s events) write(event []byte) error {
	_ = s.c.SetWriteDeadline(time.Now().Add(writeTimeout)) // a recorder of a test has none
	if _, err := s.w.Write(event); err != nil {
		return err
	}
	if f, ok := s.c.(interface{ Flush() error }); ok {
		return f.Flush()
	}
	return nil
}

func (s events) send(p *page) error { return s.write(p.event) }

func (s events) stale(yes bool) error {
	return s.write(fmt.Appendf(nil, "event: stale\ndata: %v\n\n", yes))
}

func (s events) alive() error { return s.write([]byte(":\n\n")) }

// serveBlocking waits until there is an answer that the caller doesn't know, or the time is over.
func (t *Table) serveBlocking(w http.ResponseWriter, r *http.Request, c auth.Caller, e *entry, q question) *refusal {
	known := func(a *answer) bool {
		match := r.Header["If-None-Match"]
		return a.refusal == nil && a.page.resp.GetIndex() <= q.index && (len(match) != 1 || match[0] == a.in(q.network).etag[0])
	}
	a := e.answer.Load()
	if !known(a) || q.wait == 0 {
		return nil
	}
	release, no := t.hold(c, true)
	if no != nil {
		return no
	}
	defer release()
	rc := http.NewResponseController(w)
	end := time.Now().Add(q.wait + writeTimeout)
	_ = rc.SetReadDeadline(end) // the server's are for requests that don't wait; a recorder of a test has none
	_ = rc.SetWriteDeadline(end)
	t.await(r.Context(), e, q.wait, known)
	return t.revalidate(r, c)
}

// await waits until the answer is one that isn't known, for so long at most.
func (t *Table) await(ctx context.Context, e *entry, wait time.Duration, known func(*answer) bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		a := e.answer.Load()
		if !known(a) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-a.next:
		}
	}
}
