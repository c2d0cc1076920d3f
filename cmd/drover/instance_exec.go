package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) instanceExec() *cobra.Command {
	var stdin, tty bool
	cmd := &cobra.Command{
		Use: "exec [-it] INSTANCE -- COMMAND…", Short: "Run a command in a running instance",
		Long:    "Run a command in a running instance. The exit code is the command's. A shell closes after 10 idle minutes.",
		Example: "  drover instance exec iris-1a2b3c4d -- /server -version\n  drover instance exec -it iris-1a2b3c4d -- /bin/sh",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 || len(execCommand(args)) == 0 {
				return usagef(cmd, "want INSTANCE -- COMMAND")
			}
			return nil
		},
		ValidArgsFunction: a.names(a.instanceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.exec(cmd.Context(), args[0], execCommand(args), stdin, tty)
		},
	}
	cmd.Flags().BoolVarP(&stdin, "stdin", "i", false, "pass standard input on")
	cmd.Flags().BoolVarP(&tty, "tty", "t", false, "give the command a terminal")
	cmd.Flags().SetInterspersed(false)
	return a.projected(cmd)
}

// execCommand is what follows the instance; flags are not looked for there, so "--" is left to us.
func execCommand(args []string) []string {
	if args[1] == "--" {
		return args[2:]
	}
	return args[1:]
}

type execStream = grpc.BidiStreamingClient[fleetv1.ExecInstanceRequest, fleetv1.ExecInstanceResponse]

func (a *app) exec(ctx context.Context, name string, command []string, stdin, tty bool) error {
	keys, isFile := a.in.(*os.File)
	if tty && (!a.terminal || !a.keyboard || !isFile) {
		return errors.New("-t needs a terminal on standard input and output; leave it out when they are redirected")
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx, reach := a.track(ctx)
	stream, err := cl.Instances.ExecInstance(ctx)
	if err != nil {
		return reach(err)
	}
	start := &fleetv1.ExecStart{Command: command, Tty: tty}
	if tty {
		start.Columns, start.Rows = a.window()
	}
	s := &execSession{stream: stream}
	if err := s.send(&fleetv1.ExecInstanceRequest{Project: a.project, Name: name, Start: start}); err != nil {
		return reach(s.receive(io.Discard, io.Discard)) // the reason is the stream's status
	}
	if tty {
		old, err := term.MakeRaw(int(keys.Fd()))
		if err != nil {
			return fmt.Errorf("switch the terminal to raw mode: %w", err)
		}
		defer func() { _ = term.Restore(int(keys.Fd()), old) }() // nothing helps a terminal that refuses
		stop := s.followSize(ctx, a.window)
		defer stop()
	}
	// The reader of standard input can't be interrupted: it ends with the process.
	if stdin {
		go s.copyInput(a.in)
	} else if err := s.input(&fleetv1.ExecInput{CloseStdin: true}); err != nil && !errors.Is(err, io.EOF) {
		return reach(err)
	}
	return reach(s.receive(a.out, a.err))
}

// execSession is one running exec; sending is shared by the keyboard and the window.
type execSession struct {
	stream execStream
	mu     sync.Mutex
}

func (s *execSession) send(r *fleetv1.ExecInstanceRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(r)
}

func (s *execSession) input(in *fleetv1.ExecInput) error {
	return s.send(&fleetv1.ExecInstanceRequest{Input: in})
}

// copyInput ends with the input or with the stream, whose status receive reports.
func (s *execSession) copyInput(in io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 && s.input(&fleetv1.ExecInput{Stdin: append([]byte(nil), buf[:n]...)}) != nil {
			return
		}
		if err != nil {
			if s.input(&fleetv1.ExecInput{CloseStdin: true}) != nil {
				return
			}
			return
		}
	}
}

// receive writes the output until the command has ended.
func (s *execSession) receive(out, errOut io.Writer) error {
	for {
		r, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the connection ended before the command did")
		}
		if err != nil {
			return err
		}
		o := r.GetOutput()
		if _, err := out.Write(o.GetStdout()); err != nil {
			return fmt.Errorf("write the output: %w", err)
		}
		if _, err := errOut.Write(o.GetStderr()); err != nil {
			return fmt.Errorf("write the output: %w", err)
		}
		if o != nil && o.ExitCode != nil {
			if code := o.GetExitCode(); code != 0 {
				return exitError(min(code, 255))
			}
			return nil
		}
	}
}

// followSize tells the command about changes of the terminal's size until the answered function is called.
func (s *execSession) followSize(ctx context.Context, size func() (columns, rows uint32)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-resized:
				columns, rows := size()
				if s.input(&fleetv1.ExecInput{Rows: rows, Columns: columns}) != nil {
					return
				}
			}
		}
	}()
	return func() {
		signal.Stop(resized)
		cancel()
		<-done
	}
}

// window is the terminal's size in the types of the protocol.
func (a *app) window() (columns, rows uint32) {
	c, r := a.terminalSize()
	return uint32(c), uint32(r)
}
