package main

import (
	"context"
	"crypto/rand"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/drover-fleet/drover/client"
)

// method is one unary method of a stub.
type method[Req proto.Message, Resp proto.Message] func(context.Context, Req, ...grpc.CallOption) (Resp, error)

// read calls a method that changes nothing; the client retries it.
func read[Req, Resp proto.Message](ctx context.Context, a *app, call method[Req, Resp], req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	ctx, reach := a.track(ctx)
	var header metadata.MD
	resp, err := call(ctx, req, grpc.Header(&header))
	if err == nil {
		a.tellStale(header)
	}
	return resp, reach(err)
}

// write calls a method that changes something, under a request ID of its own. A lost answer is asked for
// once more with the same ID; lost again, the outcome is unknown.
func write[Req, Resp proto.Message](ctx context.Context, a *app, call method[Req, Resp], req Req) (Resp, error) {
	m := req.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("request_id"), protoreflect.ValueOfString(rand.Text()))
	resp, lost, err := attempt(ctx, a, call, req)
	if lost && ctx.Err() == nil {
		resp, _, err = attempt(ctx, a, call, req)
	}
	if lost && err != nil && !decided(err) {
		return resp, &unknownError{err}
	}
	return resp, err
}

func attempt[Req, Resp proto.Message](ctx context.Context, a *app, call method[Req, Resp], req Req) (resp Resp, lost bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	ctx, sent := client.Track(ctx)
	resp, err = call(ctx, req)
	code := status.Code(err)
	lost = err != nil && (sent.Lost() || code == codes.Unknown || code == codes.DeadlineExceeded)
	return resp, lost, a.reach(sent, err)
}

// decided says that an error is a scheduler's decision about the request, so that its outcome is known.
func decided(err error) bool {
	switch status.Code(err) {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unavailable, codes.Canceled, codes.Aborted, codes.Internal:
		return false
	}
	return true
}

// track prepares one call: under the answered context it finds out whether a scheduler answers, and the
// function names the scheduler in the error when none does.
func (a *app) track(ctx context.Context) (context.Context, func(error) error) {
	ctx, sent := client.Track(ctx)
	return ctx, func(err error) error { return a.reach(sent, err) }
}

func (a *app) reach(sent *client.Attempt, err error) error {
	if status.Code(err) == codes.Unavailable && a.cl != nil && !sent.Answered() {
		return &connError{a.cl.Addr(), err}
	}
	return err
}

// names completes the first argument with what list answers.
func (a *app) names(list func(context.Context, *client.Client) ([]string, error)) cobra.CompletionFunc {
	complete := a.values(list)
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, word)
	}
}

// values completes a flag's value with what list answers; a scheduler that is away completes nothing.
func (a *app) values(list func(context.Context, *client.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		cl, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		words, err := list(ctx, cl)
		if err != nil {
			cobra.CompDebugln(describe(err), false)
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}
