package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/runtime"
)

const (
	callTimeout   = 10 * time.Second // one question
	createTimeout = 2 * time.Minute  // one container made or removed
)

// call bounds an operation and names containerd's namespace.
func (r *Runtime) call(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.namespaced(ctx), timeout)
}

// native turns a gRPC status into containerd's own errors; others stay as they are.
func native(err error) error {
	if s, ok := status.FromError(err); err != nil && ok && s != nil && !errdefs.IsUnknown(err) {
		var class interface{ GRPCStatus() *status.Status }
		if errors.As(err, &class) {
			return errgrpc.ToNative(err)
		}
	}
	return err
}

func notFound(err error) bool { return errdefs.IsNotFound(native(err)) }

// failed wraps an error of containerd with the operation and the sentinel that callers look for.
func failed(op string, err error) error {
	if err == nil {
		return nil
	}
	err = native(err)
	switch {
	case errors.Is(err, runtime.ErrFatal), errors.Is(err, runtime.ErrNotFound), errors.Is(err, runtime.ErrUnavailable):
		return fmt.Errorf("%s: %w", op, err)
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%s: %w: %w", op, runtime.ErrNotFound, err)
	case errdefs.IsUnavailable(err), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: %w", op, runtime.ErrUnavailable, err)
	case unrunnable(err):
		return fmt.Errorf("%s: %w: %s", op, runtime.ErrFatal, commandFault(err))
	}
	return fmt.Errorf("%s: %w", op, err)
}

// unrunnable says that the container's command cannot be run, now or later. The OCI runtime reports it
// as text alone.
func unrunnable(err error) bool {
	text := err.Error()
	if !strings.Contains(text, "exec: ") && !strings.Contains(text, "exec ") {
		return false
	}
	for _, why := range []string{"executable file not found", "no such file or directory", "permission denied", "exec format error", "is a directory"} {
		if strings.Contains(text, why) {
			return true
		}
	}
	return false
}

// commandFault is what the OCI runtime says about the command, without the steps that led there.
func commandFault(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, "unable to start container process: "); ok {
		text = strings.TrimPrefix(after, "exec: ")
	}
	return strings.TrimSuffix(text, ": unknown")
}
