package scheduler

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
)

// awaited is the context of a gRPC call whose first message has to come in time; else it ends, with DEADLINE_EXCEEDED.
type awaited struct {
	context.Context
	timer *time.Timer
}

type awaitedKey struct{}

var errLate = errors.New("the first message did not come in time")

// awaitMessage begins to wait.
func awaitMessage(ctx context.Context, within time.Duration) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	return &awaited{Context: ctx, timer: time.AfterFunc(within, func() { cancel(errLate) })}
}

// Err implements context.Context: gRPC answers the caller by it, before an interceptor could.
func (c *awaited) Err() error {
	if errors.Is(context.Cause(c.Context), errLate) {
		return context.DeadlineExceeded
	}
	return c.Context.Err()
}

// Value implements context.Context.
func (c *awaited) Value(key any) any {
	if key == (awaitedKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// unaryArrived is the interceptor for calls whose only message has come.
func unaryArrived(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if c, ok := ctx.Value(awaitedKey{}).(*awaited); ok {
		c.timer.Stop()
	}
	return next(ctx, req)
}

// streamArrives is the interceptor for streams, of which no message has come.
func streamArrives(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	c, _ := ss.Context().Value(awaitedKey{}).(*awaited)
	return next(srv, &awaitedStream{ss, c})
}

type awaitedStream struct {
	grpc.ServerStream
	c *awaited // nil when nothing is waited for; of the goroutine that receives
}

func (s *awaitedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil && s.c != nil {
		s.c.timer.Stop()
		s.c = nil
	}
	return err
}
