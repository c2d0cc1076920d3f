package fake

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/drover-fleet/drover/runtime"
)

// Program is what a command line does.
type Program struct {
	// Exits: the process ends with Code after After. Otherwise it serves until it is signalled.
	Exits bool
	Code  uint32
	After time.Duration
	// IgnoreTerm: SIGTERM does nothing.
	IgnoreTerm bool
	// Lines is how many lines "line N" it prints to standard output first.
	Lines int
}

// ParseProgram understands the flags of runtimetest's server after any program name; an empty command
// line, and one whose flags are others', serves.
func ParseProgram(_ runtime.Spec, args []string) (Program, error) {
	var p Program
	if len(args) == 0 {
		return p, nil
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	exit := flags.Int("exit", -1, "")
	flags.DurationVar(&p.After, "exit-after", 0, "")
	flags.IntVar(&p.Lines, "print", 0, "")
	flags.BoolVar(&p.IgnoreTerm, "ignore-term", false, "")
	if err := flags.Parse(args[1:]); err != nil {
		return Program{}, nil //nolint:nilerr // another program's flags: it serves
	}
	if *exit > 255 {
		return Program{}, errors.New("exit code above 255")
	}
	if *exit >= 0 {
		p.Exits, p.Code = true, uint32(*exit)
	}
	return p, nil
}

// Exec implements runtime.Runtime: it interprets the command as Options.Program says. A program that
// serves runs until ctx or the container ends.
func (r *Runtime) Exec(ctx context.Context, id string, req runtime.ExecRequest) (uint32, error) {
	unlock, err := r.lock(ctx, "exec in "+id)
	if err != nil {
		return 0, err
	}
	c, err := r.findLocked("exec in", id)
	if err == nil && c.status.State != runtime.StateRunning {
		err = fmt.Errorf("exec in %s: no process runs: %w", id, runtime.ErrNotFound)
	}
	unlock()
	if err != nil {
		return 0, err
	}
	p, err := r.opts.Program(c.spec, req.Command)
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	for i := range p.Lines {
		if req.Stdout == nil {
			break
		}
		if _, err := fmt.Fprintf(req.Stdout, "line %d\n", i+1); err != nil {
			return 0, fmt.Errorf("exec in %s: %w", id, err)
		}
	}
	var done <-chan time.Time
	if p.Exits {
		timer := time.NewTimer(p.After)
		defer timer.Stop()
		done = timer.C
	}
	select {
	case <-done:
		return p.Code, nil
	case <-c.ended:
		return 137, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("exec in %s: %w", id, ctx.Err())
	}
}

// Stats implements runtime.Runtime: 1 % of a core, 16 MiB and 1 KiB/s each way since the start.
func (r *Runtime) Stats(ctx context.Context, id string) (runtime.Stats, error) {
	unlock, err := r.lock(ctx, "stats of "+id)
	if err != nil {
		return runtime.Stats{}, err
	}
	defer unlock()
	c, err := r.findLocked("stats of", id)
	if err != nil {
		return runtime.Stats{}, err
	}
	if c.status.State != runtime.StateRunning {
		return runtime.Stats{}, fmt.Errorf("stats of %s: no process runs: %w", id, runtime.ErrNotFound)
	}
	now := r.opts.Now()
	lived := max(0, now.Sub(c.status.Started))
	figure := func(v uint64) *uint64 { return &v }
	st := runtime.Stats{
		Time: now, CPUNanos: figure(1e6 + uint64(lived)/100), MemoryBytes: figure(16 << 20),
		NetReceiveBytes: figure(uint64(lived.Seconds() * 1024)), NetTransmitBytes: figure(uint64(lived.Seconds() * 1024)),
		DiskReadBytes: figure(1 << 20), DiskWriteBytes: figure(0), Pids: figure(1), LogDroppedLines: figure(0),
	}
	if c.spec.MemoryBytes > 0 {
		st.MemoryLimit = figure(uint64(c.spec.MemoryBytes))
	}
	return st, nil
}
