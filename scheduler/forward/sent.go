package forward

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// Sent is the stats handler that the connections to other schedulers need: it tells a call that never left from one
// whose answer was lost.
type Sent struct{}

type sentKey struct{}

// sending is how far a call has got.
type sending struct{ left, answered atomic.Bool }

func (s *sending) lost() bool { return s.left.Load() && !s.answered.Load() }

func track(ctx context.Context) (context.Context, *sending) {
	s := &sending{}
	return context.WithValue(ctx, sentKey{}, s), s
}

// TagRPC implements stats.Handler.
func (Sent) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (Sent) HandleRPC(ctx context.Context, what stats.RPCStats) {
	s, ok := ctx.Value(sentKey{}).(*sending)
	if !ok {
		return
	}
	switch what.(type) {
	case *stats.OutHeader:
		s.left.Store(true)
	case *stats.InTrailer:
		s.answered.Store(true)
	}
}

// TagConn implements stats.Handler.
func (Sent) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (Sent) HandleConn(context.Context, stats.ConnStats) {}
