package direct

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// ErrNoEndpoint is the error of a call for which there is no instance: none is ready, or none whose version has a weight.
var ErrNoEndpoint = errors.New("the service has no endpoint that takes calls")

// ErrUnanswered is the error while no scheduler has answered yet.
var ErrUnanswered = errors.New("no scheduler has answered yet")

// Service follows the endpoints of one service until it is closed. It is safe for concurrent use.
type Service struct {
	cfg    Config
	hc     *http.Client
	cancel context.CancelFunc
	done   chan struct{} // closed when the follower has ended

	mu      sync.Mutex
	answer  *Endpoints    // nil before the first
	heard   time.Time     // when a scheduler last vouched for the answer
	err     error         // why nobody does at present
	changed chan struct{} // closed and replaced when the answer or err changes
}

// Follow begins to follow a service. The caller closes it. Errors are those of the configuration: schedulers are asked
// in the background.
func Follow(cfg Config) (*Service, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, fmt.Errorf("follow a service: %w", err)
	}
	hc, err := NewHTTPClient(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("follow a service: %w", err)
	}
	return start(cfg, hc), nil
}

func start(cfg Config, hc *http.Client) *Service {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Service{cfg: cfg, hc: hc, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{})}
	f := &follower{Service: s}
	go func() {
		defer close(s.done)
		defer hc.CloseIdleConnections()
		f.run(ctx)
	}()
	return s
}

// Name is the service's name or ID, as configured.
func (s *Service) Name() string { return s.cfg.Service }

// Close ends the following. The last answer stays.
func (s *Service) Close() {
	s.cancel()
	<-s.done
}

// Endpoints answers the newest list and its age: for how long it may have missed changes. While no scheduler answers the
// list stays, its age grows, and err says why. Before the first answer the list is empty and err is set.
func (s *Service) Endpoints() (list Endpoints, age time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answer == nil {
		return Endpoints{}, 0, s.unansweredLocked()
	}
	return *s.answer, time.Since(s.heard) + s.answer.Staleness, s.err
}

func (s *Service) unansweredLocked() error {
	if s.err == nil {
		return ErrUnanswered
	}
	return s.err
}

// Changed answers a channel that is closed at the next change of what Endpoints answers, its age aside.
func (s *Service) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Wait waits until there is an answer. It gives up when a scheduler refuses the look-up, as for a wrong token or a
// service that doesn't exist, and when the context or the Service ends.
func (s *Service) Wait(ctx context.Context) error {
	for {
		s.mu.Lock()
		answer, err, changed := s.answer, s.unansweredLocked(), s.changed
		s.mu.Unlock()
		if answer != nil {
			return nil
		}
		if refused(err) {
			return err
		}
		select {
		case <-changed:
		case <-s.done:
			return errors.New("wait for endpoints: the service isn't followed any more")
		case <-ctx.Done():
			return fmt.Errorf("wait for endpoints: %w; %w", ctx.Err(), err)
		}
	}
}

// refused says whether asking the same again is of little use.
func refused(err error) bool {
	var l *LookupError
	return errors.As(err, &l) && l.Status >= 400 && l.Status < 500 && l.Status != http.StatusTooManyRequests
}

// list answers the newest list; it is another one after each change.
func (s *Service) list() (*Endpoints, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answer, s.err
}

// set takes what a scheduler has answered, or why none did. With a nil list the last one stays.
func (s *Service) set(list *Endpoints, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if list != nil {
		s.answer, s.heard = list, time.Now()
	}
	s.err = err
	close(s.changed)
	s.changed = make(chan struct{})
}

// vouch notes that a scheduler still stands by its last answer.
func (s *Service) vouch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Now()
}

// Pauses between attempts: the n-th is half of firstPause doubled n times, at most lastPause, and a random part of the rest.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 10 * time.Second
)

// pauseAfter a number of failures in a row.
func pauseAfter(failures int) time.Duration {
	limit := lastPause
	if failures < 6 {
		limit = min(limit, firstPause<<failures)
	}
	return limit/2 + rand.N(limit/2)
}

// retryAfter is how long a rate limit is to be kept away from: what it said, and up to a tenth more, so that not all
// clients return at once.
func retryAfter(said time.Duration) time.Duration {
	said = min(max(said, time.Second), 5*time.Minute)
	return said + rand.N(said/10)
}

// pause waits, unless the context ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
