package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strings"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/agent/instance"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/logfile"
)

// errBadQuery says that a caller asked for something that means nothing.
var errBadQuery = errors.New("bad query")

// relay serves what a scheduler ordered for one of its callers.
func (a *Agent) relay(ctx context.Context, order *fleetv1.RelayOrder, inputs <-chan *fleetv1.ExecInput, send func(*fleetv1.RelayRequest) error) error {
	id := order.GetInstanceId()
	switch {
	case order.GetLogs() != nil:
		if id == "" || filepath.Base(id) != id {
			return fmt.Errorf("no instance %q on this node", id)
		}
		return a.readLogs(ctx, id, order.GetLogs(), func(lines []*fleetv1.LogLine) error {
			return send(&fleetv1.RelayRequest{Lines: lines})
		})
	case order.GetExec() != nil:
		return a.exec(ctx, id, order.GetExec(), inputs, send)
	}
	return errors.New("this agent does not know what the scheduler ordered")
}

// readLogs emits the lines that the query selects. Logs are kept for a while after their instance is gone.
func (a *Agent) readLogs(ctx context.Context, id string, q *fleetv1.LogQuery, emit func([]*fleetv1.LogLine) error) error {
	query := logfile.Query{Tail: int(q.GetTail()), Follow: q.GetFollow(), Attempt: q.GetAttempt()}
	if q.GetSince() != nil {
		query.Since = q.GetSince().AsTime()
	}
	if q.GetUntil() != nil {
		query.Until = q.GetUntil().AsTime()
	}
	if q.GetSearch() != "" {
		search, err := logfile.ParseSearch(q.GetSearch())
		if err != nil {
			return fmt.Errorf("search: %w: %w", errBadQuery, err)
		}
		query.Search = search
	}
	return logfile.Read(ctx, filepath.Join(a.logRoot(), id), query, func(lines []logfile.Line) error {
		out := make([]*fleetv1.LogLine, len(lines))
		for i, l := range lines {
			out[i] = &fleetv1.LogLine{Time: timestamppb.New(l.Time), Stream: l.Stream, Text: []byte(l.Text)}
		}
		return emit(out)
	})
}

// exec runs a command in an instance; its input and output are the stream's.
func (a *Agent) exec(ctx context.Context, id string, start *fleetv1.ExecStart, inputs <-chan *fleetv1.ExecInput, sendRaw func(*fleetv1.RelayRequest) error) error {
	in := a.find(id)
	if in == nil || in.GetObserved().GetPid() == 0 {
		return fmt.Errorf("instance %q does not run on this node", id)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stdin, input := io.Pipe()
	defer stdin.Close()
	resize := make(chan runtime.WindowSize, 1)
	go passInput(ctx, inputs, input, resize)
	var sending sync.Mutex // stdout and stderr may be written at once
	send := func(o *fleetv1.ExecOutput) error {
		sending.Lock()
		defer sending.Unlock()
		return sendRaw(&fleetv1.RelayRequest{Output: o})
	}
	container := instance.ContainerID(id, in.GetObserved().GetAttempt())
	code, err := a.deps.Runtime.Exec(ctx, container, runtime.ExecRequest{
		Command: start.GetCommand(), TTY: start.GetTty(), Stdin: stdin, Resize: resize, Size: windowSize(start),
		Stdout: writer(func(b []byte) error { return send(&fleetv1.ExecOutput{Stdout: b}) }),
		Stderr: writer(func(b []byte) error { return send(&fleetv1.ExecOutput{Stderr: b}) }),
	})
	if err != nil {
		return execError(container, err)
	}
	return send(&fleetv1.ExecOutput{ExitCode: &code})
}

// execError leaves out the container's name, which a caller who named an instance doesn't know, and that the fault is in
// the command, which it tells itself.
func execError(container string, err error) error {
	text := err.Error()
	if _, after, found := strings.Cut(text, container+": "); found {
		text = after
	}
	return errors.New(strings.TrimPrefix(text, runtime.ErrFatal.Error()+": "))
}

// passInput passes input on until the inputs or ctx end; after the end of the standard input it still takes
// changes of the terminal's size.
func passInput(ctx context.Context, inputs <-chan *fleetv1.ExecInput, input *io.PipeWriter, resize chan runtime.WindowSize) {
	defer input.Close() // always nil
	for {
		var in *fleetv1.ExecInput
		var open bool
		select {
		case <-ctx.Done():
			return
		case in, open = <-inputs:
		}
		if !open {
			return
		}
		if in.GetRows() > 0 {
			select {
			case <-resize: // an older size that nobody has taken
			default:
			}
			resize <- windowSize(in)
		}
		if len(in.GetStdin()) > 0 {
			_, _ = input.Write(in.GetStdin()) // fails when the command has ended, or its input was closed
		}
		if in.GetCloseStdin() {
			_ = input.Close() // always nil
		}
	}
}

// windowSize answers the size in a message; what no terminal can have is cut off.
func windowSize(m interface {
	GetRows() uint32
	GetColumns() uint32
}) runtime.WindowSize {
	return runtime.WindowSize{Rows: uint16(min(m.GetRows(), math.MaxUint16)), Columns: uint16(min(m.GetColumns(), math.MaxUint16))}
}

// writer sends each write as it is, copied, for the stream may keep it.
type writer func([]byte) error

func (w writer) Write(b []byte) (int, error) {
	if err := w(append([]byte(nil), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}
