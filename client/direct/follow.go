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
	failures int       // in a row, since the last answer that was taken
	doubt    time.Time // since when schedulers with a leader contradict the list; zero while none does
}

// run asks one scheduler after the other until the context ends.
func (f *follower) run(ctx context.Context) {
	schedulers := f.cfg.Schedulers
	for at := rand.IntN(len(schedulers)); ; {
		err := f.follow(ctx, schedulers[at])
		if ctx.Err() != nil {
			return
		}
		if f.failures == 0 {
			f.cfg.Logger.Warn("endpoints are not followed", "service", f.cfg.Service, "scheduler", schedulers[at], "err", err)
		}
		wait := pauseAfter(f.failures)
		f.failures++
		var l *LookupError
		switch is := errors.As(err, &l); {
		case is && l.Status == http.StatusTooManyRequests: // an account's limit is that of all schedulers
			wait = retryAfter(l.RetryAfter)
		case is && l.Code != "" && !l.Stale && (l.Status == http.StatusNotFound || l.Status == http.StatusConflict):
			f.gone(err)
			fallthrough
		default:
			at = (at + 1) % len(schedulers)
		}
		f.set(nil, err)
		pause(ctx, wait)
	}
}

// gone notes that a scheduler knows of no such service, or of none that can be looked up.
func (f *follower) gone(err error) {
	if list, _ := f.list(); list != nil && f.doubted() {
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
	list, last := f.list()
	if list != nil && answer.Index < list.Index && (answer.Stale || !f.doubted()) {
		return errBehind
	}
	f.doubt = time.Time{}
	f.set(&answer, nil)
	if answer.Stale {
		return errStale
	}
	if f.failures > 0 && last != nil {
		f.cfg.Logger.Info("endpoints are followed again", "service", f.cfg.Service)
	}
	f.failures = 0
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
	resp, err := ask(ctx, f.hc, f.cfg.url(scheduler, "&watch=true"), f.cfg.Credentials, "text/event-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "text/event-stream" {
		return errUnsupported
	}
	stale, staleness := staleness(resp.Header)
	events := newEventReader(resp.Body, func() {
		limit.Reset(silence)
		f.vouch()
	})
	for {
		data, err := events.next()
		if errors.Is(err, io.EOF) {
			return errEnded
		} else if err != nil {
			return fmt.Errorf("endpoint look-up: read the watch: %w", err)
		}
		answer, err := decode(data)
		if err != nil {
			return err
		}
		answer.Stale, answer.Staleness = stale, staleness
		if err := f.take(answer); err != nil {
			return err
		}
	}
}

// block waits for each answer that is newer than the last.
func (f *follower) block(ctx context.Context, scheduler string) error {
	for index := uint64(0); ; {
		began := time.Now()
		query := "&index=" + strconv.FormatUint(index, 10) + "&wait=" + strconv.Itoa(int(waitTime/time.Second)) + "s"
		answer, err := f.once(ctx, scheduler, query, waitTime+askLimit)
		if err != nil {
			return err
		}
		if answer.Index <= index && time.Since(began) < waitTime/2 {
			return errUnsupported // it has not waited
		}
		index = answer.Index
	}
}

// poll asks as often as an answer's age demands.
func (f *follower) poll(ctx context.Context, scheduler string) error {
	for {
		answer, err := f.once(ctx, scheduler, "", askLimit)
		if err != nil {
			return err
		}
		every := max(answer.MaxAge(), pollFloor)
		pause(ctx, every+rand.N(every/10))
	}
}

// once asks and takes the answer.
func (f *follower) once(ctx context.Context, scheduler, query string, limit time.Duration) (Endpoints, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := Lookup(ctx, f.hc, f.cfg.url(scheduler, query), f.cfg.Credentials)
	if err != nil {
		return Endpoints{}, err
	}
	return answer, f.take(answer)
}
