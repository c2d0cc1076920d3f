package lookup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
			if f.stale != fresh.stale {
				err = out.stale(f.stale)
			} else if a == sent {
				err = out.alive()
			}
			if a != sent && err == nil {
				err = out.send(a.in(q.network))
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
	w  http.ResponseWriter
	rc *http.ResponseController
}

// serveWatch answers with events until the watch ends.
func (t *Table) serveWatch(w http.ResponseWriter, r *http.Request, c auth.Caller, e *entry, q question) *refusal {
	if a := e.answer.Load(); a.refusal != nil {
		return a.refusal
	}
	if no := t.stamp(w.Header(), q.bound); no != nil {
		return no
	}
	release, no := t.hold(c, true)
	if no != nil {
		return no
	}
	defer release()
	h := w.Header()
	h["Content-Type"], h["Cache-Control"] = []string{"text/event-stream"}, []string{"no-store"}
	out := events{w, http.NewResponseController(w)}
	_ = out.rc.SetReadDeadline(time.Time{}) // the server's is for requests that end
	err := t.follow(r.Context(), e, q, func() error {
		if no := t.revalidate(r, c); no != nil {
			return no
		}
		return nil
	}, out)
	if errors.As(err, &no) {
		_ = out.write([]byte("event: error\ndata: "), no.body(), []byte("\n\n")) // it ends either way
	}
	return nil
}

// revalidate says why the caller of a request isn't let in any more.
func (t *Table) revalidate(r *http.Request, before auth.Caller) *refusal {
	c, no := t.authenticate(r)
	if no == nil && c != before {
		return refuse(http.StatusForbidden, "what the credential may do has changed: ask again")
	}
	return no
}

func (s events) write(parts ...[]byte) error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // a recorder of a test has none
	for _, part := range parts {
		if _, err := s.w.Write(part); err != nil {
			return err
		}
	}
	return s.rc.Flush()
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
