package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// execIdle is how long a shell may be idle (SPEC §3).
const execIdle = 10 * time.Minute

// Limits of a log query.
const (
	maxTail   = 1_000_000
	maxSearch = 1024
)

// searchDelimiters must not stand in a log search (SPEC §3).
const searchDelimiters = "',\";=()[]{}@<>/:\n\t\r"

func (s *instanceServer) GetInstanceLogs(req *fleetv1.GetInstanceLogsRequest, stream grpc.ServerStreamingServer[fleetv1.GetInstanceLogsResponse]) error {
	ctx := stream.Context()
	i, err := findInstance(s.view(), project(ctx, req.GetProject()), req.GetName())
	if err != nil {
		return err
	}
	query := req.GetQuery()
	if query == nil {
		query = &fleetv1.LogQuery{}
	}
	var v violations
	v.logQuery("query", query)
	if err := v.err(); err != nil {
		return err
	}
	relay, err := s.cfg.Sessions.OpenRelay(ctx, i.GetSpec().GetNode(), &fleetv1.RelayOrder{
		InstanceId: i.GetMeta().GetId(), What: &fleetv1.RelayOrder_Logs{Logs: query}})
	if err != nil {
		return err
	}
	defer relay.Close()
	for {
		msg, err := received(ctx, i, relay)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case len(msg.GetLines()) == 0:
			continue
		}
		if err := stream.Send(&fleetv1.GetInstanceLogsResponse{Lines: msg.GetLines()}); err != nil {
			return err
		}
	}
}

// lost is the error of a relay that ended before its time.
func lost(ctx context.Context, i *fleetv1.Instance, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return refuse(codes.Unavailable, "the connection to node %s was lost: %v", i.GetSpec().GetNode(), err)
}

func (v *violations) logQuery(field string, q *fleetv1.LogQuery) {
	v.between(field+".tail", int64(q.GetTail()), 0, maxTail)
	if q.GetSince() != nil && q.GetUntil() != nil && q.GetUntil().AsTime().Before(q.GetSince().AsTime()) {
		v.add(field+".until", "is before since")
	}
	if q.GetFollow() && q.GetUntil() != nil {
		v.add(field+".until", "can't be combined with follow")
	}
	if n := utf8.RuneCountInString(q.GetSearch()); n > maxSearch {
		v.add(field+".search", "has %d characters, at most %d are allowed", n, maxSearch)
	}
	if at := strings.IndexAny(q.GetSearch(), searchDelimiters); at >= 0 {
		v.add(field+".search", "must not contain %q: it separates words", q.GetSearch()[at])
	}
}

func (s *instanceServer) ExecInstance(stream grpc.BidiStreamingServer[fleetv1.ExecInstanceRequest, fleetv1.ExecInstanceResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	i, err := s.enterable(stream.Context(), first)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	relay, err := s.cfg.Sessions.OpenRelay(ctx, i.GetSpec().GetNode(), &fleetv1.RelayOrder{
		InstanceId: i.GetMeta().GetId(), What: &fleetv1.RelayOrder_Exec{Exec: first.GetStart()}})
	if err != nil {
		cancel(nil)
		return err
	}
	defer relay.Close()
	defer cancel(nil)
	idle := time.AfterFunc(execIdle, func() {
		cancel(refuse(codes.DeadlineExceeded, "the shell was closed after %v without input or output", execIdle))
	})
	defer idle.Stop()

	var ends sync.Once
	ended := make(chan error, 1)
	end := func(err error) { ends.Do(func() { ended <- err }) }
	// Both goroutines end when the stream or the relay does: this function closes both by returning.
	go func() {
		for {
			msg, err := stream.Recv()
			if err != nil {
				if !errors.Is(err, io.EOF) { // EOF: the caller sends no more but still reads
					end(err)
				}
				return
			}
			idle.Reset(execIdle)
			if err := relay.Send(&fleetv1.RelayResponse{Input: msg.GetInput()}); err != nil {
				return // the other goroutine learns why
			}
		}
	}()
	go func() { end(s.output(ctx, i, relay, stream, idle)) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// enterable answers the instance when a shell may be opened in it.
func (s *instanceServer) enterable(ctx context.Context, first *fleetv1.ExecInstanceRequest) (*fleetv1.Instance, error) {
	view := s.view()
	i, err := findInstance(view, project(ctx, first.GetProject()), first.GetName())
	if err != nil {
		return nil, err
	}
	var v violations
	if len(first.GetStart().GetCommand()) == 0 {
		v.add("start.command", "is missing")
	}
	v.command("start.command", first.GetStart().GetCommand())
	if err := v.err(); err != nil {
		return nil, err
	}
	name := i.GetMeta().GetName()
	pool := view.Pool(view.ServiceByID(i.GetSpec().GetServiceId()).GetSpec().GetPool())
	if pool.GetSpec().GetType() != fleetv1.PoolDedicated {
		return nil, refuse(codes.FailedPrecondition, "instance %q runs in pool %q, which is %s: only instances of dedicated pools can be entered",
			name, pool.GetMeta().GetName(), pool.GetSpec().GetType())
	}
	if state := i.GetObserved().GetState(); state != fleetv1.InstanceRunning && state != fleetv1.InstanceDraining {
		return nil, refuse(codes.FailedPrecondition, "instance %q is %s: only a running one can be entered", name, word(state, "not started yet"))
	}
	return i, nil
}

func word(s, empty string) string {
	if s == "" {
		return empty
	}
	return s
}

// receiver is a relay's direction from the agent.
type receiver interface {
	Recv() (*fleetv1.RelayRequest, error)
}

// received answers the agent's next message; io.EOF when there is none, else an error for the caller.
func received(ctx context.Context, i *fleetv1.Instance, relay receiver) (*fleetv1.RelayRequest, error) {
	msg, err := relay.Recv()
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		return nil, lost(ctx, i, err)
	case msg.GetError() != "":
		return nil, refuse(codes.FailedPrecondition, "node %s: %s", i.GetSpec().GetNode(), msg.GetError())
	}
	return msg, nil
}

// output copies what the command prints until it has ended.
func (s *instanceServer) output(ctx context.Context, i *fleetv1.Instance, relay receiver, stream grpc.BidiStreamingServer[fleetv1.ExecInstanceRequest, fleetv1.ExecInstanceResponse], idle *time.Timer) error {
	for {
		msg, err := received(ctx, i, relay)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case msg.GetOutput() == nil:
			continue
		}
		idle.Reset(execIdle)
		if err := stream.Send(&fleetv1.ExecInstanceResponse{Output: msg.GetOutput()}); err != nil {
			return err
		}
	}
}
