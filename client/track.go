package client

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// Attempt is what is known about one call made under Track's context.
type Attempt struct {
	sent     atomic.Bool
	answered atomic.Bool
}

// Lost says that the request left this machine and no answer came: whether it took effect is unknown.
// It is meaningful once the call has returned an error.
func (a *Attempt) Lost() bool { return a.sent.Load() && !a.answered.Load() }

// Answered says that a scheduler has answered, with an error or without.
func (a *Attempt) Answered() bool { return a.answered.Load() }

type attemptKey struct{}

// Track answers a context for one call of a Client, and the Attempt that learns what became of it.
func Track(ctx context.Context) (context.Context, *Attempt) {
	a := new(Attempt)
	return context.WithValue(ctx, attemptKey{}, a), a
}

// tracker is the gRPC stats handler that fills Attempts.
type tracker struct{}

func (tracker) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (tracker) HandleRPC(ctx context.Context, s stats.RPCStats) {
	a, ok := ctx.Value(attemptKey{}).(*Attempt)
	if !ok {
		return
	}
	switch s.(type) {
	case *stats.OutHeader:
		a.sent.Store(true)
	case *stats.InTrailer:
		a.answered.Store(true)
	}
}

func (tracker) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (tracker) HandleConn(context.Context, stats.ConnStats) {}
