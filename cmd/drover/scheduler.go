package main

import (
	"context"
	"errors"
	"sync"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/scheduler"
	"github.com/drover-fleet/drover/systemd"
)

func (a *app) schedulerCommand() *cobra.Command {
	cfg := scheduler.DefaultConfig()
	cmd := &cobra.Command{
		Use: "scheduler --config FILE", Short: "Run a scheduler",
		Long: "Run a scheduler until SIGTERM. Its configuration is the defaults, then the file, then the environment, then flags;\n" +
			"a field that doesn't exist is refused.",
		Example: "  drover scheduler --config /etc/drover/scheduler.yaml\n  drover scheduler --data-dir /srv/drover --log-format json",
		Args:    exactly(),
	}
	load, logger := a.configFlags(cmd, &cfg), a.loggerFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := load(); err != nil {
			return err
		}
		if err := cfg.Validate(); err != nil {
			return about("configuration", err)
		}
		log, err := logger()
		if err != nil {
			return err
		}
		cfg.Version, cfg.Stdin = programVersion(), a.in
		s, err := scheduler.New(cfg, log)
		if err != nil {
			return err
		}
		return serve(cmd.Context(), s)
	}
	cmd.AddCommand(a.schedulerRecover())
	return cmd
}

// server is what serve runs.
type server interface {
	// Run serves until ctx ends, which is no error.
	Run(ctx context.Context) error
	Healthy() error
	Status() string
}

// serve runs a daemon and keeps the service manager informed. A service manager that can't be told ends the
// daemon, since its watchdog would.
func serve(ctx context.Context, d server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var notified error
	var wg sync.WaitGroup
	wg.Go(func() {
		if notified = systemd.Notify(ctx, d.Healthy, d.Status); notified != nil {
			cancel()
		}
	})
	err := d.Run(ctx)
	cancel()
	wg.Wait()
	return errors.Join(err, notified)
}
