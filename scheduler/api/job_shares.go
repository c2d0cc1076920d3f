package api

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// Calls that look at a project's storage at once, on one scheduler: each holds up to some MiB and some connections.
const (
	lookingOfProject = 8
	lookingOfAll     = 64
	lookingWait      = 5 * time.Second // for another one to end
)

// shares has calls of all projects wait for each other, and those of one project sooner.
type shares struct {
	mu  sync.Mutex
	of  map[string]chan struct{} // holds a token for each call, by project
	all chan struct{}            // likewise
}

func newShares() *shares {
	return &shares{of: map[string]chan struct{}{}, all: make(chan struct{}, lookingOfAll)}
}

// enter waits for a share, which leave gives back.
func (s *shares) enter(ctx context.Context, project string) (leave func(), err error) {
	s.mu.Lock()
	own := s.of[project]
	if own == nil {
		own = make(chan struct{}, lookingOfProject)
		s.of[project] = own
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lookingWait)
	defer cancel()
	select {
	case own <- struct{}{}:
	case <-ctx.Done():
		return nil, refuse(codes.ResourceExhausted, "%d calls look at the storage of project %q already: try again when some have ended", lookingOfProject, project)
	}
	select {
	case s.all <- struct{}{}:
	case <-ctx.Done():
		<-own
		return nil, refuse(codes.ResourceExhausted, "%d calls look at the storage of projects already: try again when some have ended", lookingOfAll)
	}
	return func() { <-s.all; <-own }, nil
}
