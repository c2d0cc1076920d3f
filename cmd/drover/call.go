package main

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
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
	resp, err := call(ctx, req)
	return resp, a.reach(err)
}

// write calls a method that changes something, under a request ID of its own. A lost answer is asked for
// once more with the same ID; lost again, the outcome is unknown.
func write[Req, Resp proto.Message](ctx context.Context, a *app, call method[Req, Resp], req Req) (Resp, error) {
	m := req.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("request_id"), protoreflect.ValueOfString(rand.Text()))
	resp, lost, err := attempt(ctx, a, call, req)
	if !lost {
		return resp, a.reach(err)
	}
	if ctx.Err() == nil {
		resp, _, err = attempt(ctx, a, call, req)
	}
	if err == nil || answered(err) {
		return resp, err
	}
	return resp, &unknownError{a.reach(err)}
}

func attempt[Req, Resp proto.Message](ctx context.Context, a *app, call method[Req, Resp], req Req) (resp Resp, lost bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	ctx, sent := client.Track(ctx)
	resp, err = call(ctx, req)
	if err == nil {
		return resp, false, nil
	}
	return resp, sent.Lost() || status.Code(err) == codes.Unknown || (status.Code(err) == codes.DeadlineExceeded && !errors.Is(ctx.Err(), context.Canceled)), err
}

// answered says that an error is a scheduler's decision about the request, so that its outcome is known.
func answered(err error) bool {
	switch status.Code(err) {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unavailable, codes.Canceled, codes.Aborted, codes.Internal:
		return false
	}
	return true
}

// reach names the scheduler in the error of one that could not be reached.
func (a *app) reach(err error) error {
	if status.Code(err) == codes.Unavailable && a.cl != nil {
		return &connError{a.cl.Addr(), err}
	}
	return err
}

// names completes the first argument with what list answers; a scheduler that is away completes nothing.
func (a *app) names(list func(context.Context, *client.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
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
