package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/registry"
	"github.com/drover-fleet/drover/scheduler/events"
	"github.com/drover-fleet/drover/scheduler/member"
	"github.com/drover-fleet/drover/scheduler/raftstore"
)

// Error is why a request was not carried out, on one line.
type Error struct {
	Code   codes.Code
	Msg    string
	Fields []Violation

	event *fleetv1.Event // to be kept when a mutation is answered with it; nil for none
}

// Violation is a rule that one field of a request breaks.
type Violation struct {
	Field string // path, such as "service.spec.versions[0].weight"
	Msg   string
}

func (e *Error) Error() string { return e.Msg }

func refuse(code codes.Code, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}

func invalid(field, format string, args ...any) *Error {
	return broken([]Violation{{field, fmt.Sprintf(format, args...)}})
}

// violations collects all that is wrong with a request.
type violations struct{ list []Violation }

func (v *violations) add(field, format string, args ...any) {
	v.list = append(v.list, Violation{field, fmt.Sprintf(format, args...)})
}

// err is nil when there are none.
func (v *violations) err() error {
	if len(v.list) == 0 {
		return nil
	}
	return broken(v.list)
}

// broken is the error of at least one violation. Its line spells out the first and names the fields of the
// others.
func broken(list []Violation) *Error {
	msg := list[0].Field + ": " + list[0].Msg
	if more := list[1:]; len(more) > 0 {
		names := make([]string, 0, len(more))
		for _, m := range more[:min(len(more), 5)] {
			names = append(names, m.Field)
		}
		msg += fmt.Sprintf(" (and %d more: %s)", len(more), strings.Join(names, ", "))
	}
	return &Error{Code: codes.InvalidArgument, Msg: msg, Fields: list}
}

// toStatus is the one place where errors become gRPC statuses.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	var notLeader *raftstore.NotLeaderError
	var version *member.VersionError
	var image *registry.Error
	switch {
	case errors.As(err, &own):
		return own.status()
	case errors.As(err, &notLeader):
		if notLeader.Leader == "" {
			return status.Error(codes.Unavailable, "the schedulers have no leader at the moment: try again in a few seconds")
		}
		// Its address is not told: it is Raft's, where no API is served.
		return status.Error(codes.Unavailable, "this scheduler is not the leader: ask another one")
	case errors.As(err, &version):
		return status.Error(codes.FailedPrecondition, version.Error())
	case errors.Is(err, raftstore.ErrUnknown):
		return status.Error(codes.Unknown, "the outcome is unknown, the write may have happened: look, or send it again with the same request ID")
	case errors.Is(err, raftstore.ErrDiskFull):
		return status.Error(codes.ResourceExhausted, raftstore.ErrDiskFull.Error())
	case errors.As(err, &image):
		return status.Error(imageCode(image), image.Error())
	case errors.Is(err, events.ErrSlow):
		return status.Error(codes.ResourceExhausted, events.ErrSlow.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the caller went away")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the deadline has passed")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

func imageCode(err *registry.Error) codes.Code {
	switch {
	case errors.Is(err, registry.ErrBadReference):
		return codes.InvalidArgument
	case errors.Is(err, registry.ErrNotFound):
		return codes.NotFound
	case errors.Is(err, registry.ErrUnauthorized):
		return codes.FailedPrecondition
	}
	return codes.Unavailable
}

func (e *Error) status() error {
	s := status.New(e.Code, e.Msg)
	if len(e.Fields) == 0 {
		return s.Err()
	}
	details := &errdetails.BadRequest{}
	for _, f := range e.Fields {
		details.FieldViolations = append(details.FieldViolations,
			&errdetails.BadRequest_FieldViolation{Field: f.Field, Description: f.Msg})
	}
	with, err := s.WithDetails(details)
	if err != nil {
		return s.Err() // the line says it all
	}
	return with.Err()
}

// UnaryErrors turns the errors of unary calls into statuses and logs those that are our own fault.
func UnaryErrors(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req)
		if err = toStatus(err); err != nil {
			logInternal(log, info.FullMethod, err)
			return nil, err
		}
		return resp, nil
	}
}

// StreamErrors does the same for streams.
func StreamErrors(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		err := next(srv, ss)
		if ctx := ss.Context(); err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			err = context.Cause(ctx) // which says more when the server ended the stream
		}
		err = toStatus(err)
		logInternal(log, info.FullMethod, err)
		return err
	}
}

func logInternal(log *slog.Logger, method string, err error) {
	if c := status.Code(err); c == codes.Internal || c == codes.Unknown {
		log.Error("call failed", "method", method, "error", err)
	}
}
