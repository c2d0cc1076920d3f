package direct

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"time"
)

const (
	askLimit  = 10 * time.Second // for an answer that isn't waited for
	waitTime  = 30 * time.Second // of a blocking query
	silence   = time.Minute      // after which a watch without a line counts as broken
	pollFloor = 3 * time.Second  // 20 look-ups a minute
	lag       = 3 * time.Second  // more than a scheduler misses without saying that it hears no leader
)

var (
	// errUnsupported: the scheduler can't be followed in this way.
	errUnsupported = errors.New("endpoint look-up: this way of following is not supported")
	errBehind      = errors.New("endpoint look-up: the answer is older than one that came before")
	errStale       = errors.New("endpoint look-up: the scheduler hears no leader")
	errSilent      = errors.New("endpoint look-up: the scheduler says nothing any more")
	errEnded       = errors.New("endpoint look-up: the scheduler has ended the watch")
)

// follower asks on behalf of a Service. Its fields are its goroutine's alone.
type follower struct {
	*Service
	failures int       // in a row; what went well for less than pollFloor is one
	told     bool      // that endpoints are not followed
	doubt    time.Time // since when schedulers with a leader contradict the list; zero while none does
}

// run asks one scheduler after the other until the context ends.
func (f *follower) run(ctx context.Context) {
	schedulers := f.cfg.Schedulers
	for at := rand.IntN(len(schedulers)); ; {
		began := time.Now()
		err := f.follow(ctx, schedulers[at])
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= pollFloor {
			f.failures = 0
			if f.outlived(err) {
				continue
			}
		}
		if !f.told {
			f.told = true
			f.cfg.Logger.Warn("endpoints are not followed", "service", f.cfg.Service, "scheduler", schedulers[at], "err", err)
		}
		wait := pauseAfter(f.failures)
		f.failures++
		var l *LookupError
		if errors.As(err, &l) && l.Status == http.StatusTooManyRequests { // mostly the account's, at all schedulers together
			wait = retryAfter(l.RetryAfter)
		}
		if l.gone() && f.doubted() {
			f.empty(err)
		}
		at = (at + 1) % len(schedulers)
		f.set(nil, err)
		pause(ctx, wait)
	}
}

// outlived says that a watch may have ended because its signature is too old, which is no failure: the next one is signed
// anew. If it is refused, that is for another reason.
func (f *follower) outlived(err error) bool {
	var l *LookupError
	return f.cfg.Credentials.AccessKey != "" && errors.As(err, &l) && l.Status == http.StatusUnauthorized
}

// empty takes the endpoints away: the service is gone, or can't be looked up any more.
func (f *follower) empty(err error) {
	if list, _ := f.list(); list != nil && len(list.HostEndpoints) > 0 {
		f.set(&Endpoints{HostEndpoints: []Endpoint{}, Index: list.Index, MaxAgeSeconds: list.MaxAgeSeconds}, err)
	}
}

// doubted notes that a scheduler with a leader contradicts the list, and says whether that has gone on for so long that none
// of them can be waiting for news.
func (f *follower) doubted() bool {
	if f.doubt.IsZero() {
		f.doubt = time.Now()
	}
	return time.Since(f.doubt) >= lag
}

// follow takes one scheduler's answers until it fails, in the best way that the scheduler knows.
func (f *follower) follow(ctx context.Context, scheduler string) error {
	for _, way := range []func(context.Context, string) error{f.watch, f.block} {
		if err := way(ctx, scheduler); !errors.Is(err, errUnsupported) {
			return err
		}
	}
	return f.poll(ctx, scheduler)
}

// take makes an answer the list. The error says that another scheduler should be asked.
func (f *follower) take(answer Endpoints) error {
	list, _ := f.list()
	if list != nil && answer.Index < list.Index && (answer.Stale || !f.doubted()) {
		return errBehind
	}
	f.doubt = time.Time{}
	f.set(&answer, nil)
	if answer.Stale {
		return errStale
	}
	if f.told {
		f.told = false
		f.cfg.Logger.Info("endpoints are followed again", "service", f.cfg.Service)
	}
	return nil
}

// watch takes server-sent events, each an answer.
func (f *follower) watch(ctx context.Context, scheduler string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(askLimit, func() { cancel(errSilent) })
	defer limit.Stop()
	err := f.events(ctx, scheduler, limit)
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		return cause
	}
	return err
}

func (f *follower) events(ctx context.Context, scheduler string, limit *time.Timer) error {
	resp, err := ask(ctx, f.hc, f.cfg.url(scheduler, "&watch=true"), f.cfg.Credentials, http.Header{"Accept": {"text/event-stream"}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "text/event-stream" {
		return errUnsupported
	}
	stale, age := staleness(resp.Header)
	events := newEventReader(resp.Body, func() {
		limit.Reset(silence)
		f.vouch()
	})
	for taken := false; ; {
		e, err := events.next()
		switch {
		case errors.Is(err, io.EOF):
			return errEnded
		case err != nil:
			return fmt.Errorf("endpoint look-up: read the watch: %w", err)
		case e.name == "stale":
			if stale = string(e.data) == "true"; stale && taken {
				return errStale
			}
		case e.name == "error":
			no := endOfWatch(e.data)
			if no.gone() && taken { // who said what there is says that it is no more
				f.empty(no)
			}
			return no
		case e.name == "":
			answer, err := decode(e.data)
			if err != nil {
				return err
			}
			if answer.Stale, answer.Staleness = stale, age; !stale {
				answer.Staleness = 0 // what it was at the start
			}
			if err := f.take(answer); err != nil {
				return err
			}
			taken = true
		}
	}
}

// block waits for each answer that is another one than the last.
func (f *follower) block(ctx context.Context, scheduler string) error {
	var last Endpoints
	for {
		began := time.Now()
		query := "&index=" + strconv.FormatUint(last.Index, 10) + "&wait=" + strconv.Itoa(int(waitTime/time.Second)) + "s"
		answer, err := f.once(ctx, scheduler, query, last, waitTime+askLimit)
		if err != nil {
			return err
		}
		if answer.Index <= last.Index && answer.etag == last.etag && time.Since(began) < waitTime/2 {
			return errUnsupported // it has not waited
		}
		last = answer
	}
}

// poll asks as often as an answer's age demands.
func (f *follower) poll(ctx context.Context, scheduler string) error {
	var last Endpoints
	for {
		answer, err := f.once(ctx, scheduler, "", last, askLimit)
		if err != nil {
			return err
		}
		last = answer
		every := max(answer.MaxAge(), pollFloor)
		pause(ctx, every+rand.N(every/10))
	}
}

// once asks and takes the answer, which is the last one when that has not changed.
func (f *follower) once(ctx context.Context, scheduler, query string, last Endpoints, limit time.Duration) (Endpoints, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := lookup(ctx, f.hc, f.cfg.url(scheduler, query), f.cfg.Credentials, last)
	if err != nil {
		return Endpoints{}, err
	}
	return answer, f.take(answer)
}
