package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() { os.Exit(run()) }

// run is main with the exit code as its result.
func run() int {
	if len(os.Args) == 3 && os.Args[1] == "logger" {
		return runLogger(os.Args[2])
	}
	if len(os.Args) >= 2 && os.Args[1] == probeCommand {
		return runDeviceProbe(os.Args[2:])
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process at once
	}()
	a := &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		getenv: os.Getenv, now: time.Now,
		terminal: term.IsTerminal(int(os.Stdout.Fd())),
		keyboard: term.IsTerminal(int(os.Stdin.Fd())),
		size:     func() (int, int, error) { return term.GetSize(int(os.Stdout.Fd())) },
	}
	return a.execute(ctx, os.Args[1:])
}
