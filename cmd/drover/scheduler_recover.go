package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/scheduler"
)

// errNotConfirmed ends a recovery that was only looked at.
var errNotConfirmed = errors.New("nothing has been changed: add --yes to go on with this scheduler alone")

func (a *app) schedulerRecover() *cobra.Command {
	cfg := scheduler.DefaultConfig()
	var yes bool
	cmd := &cobra.Command{
		Use: "recover --config FILE", Short: "Go on with this scheduler alone when a majority is lost for good",
		Long: "Make this scheduler, which must not run, the only voter of its cluster: for when a majority of the schedulers is lost\n" +
			"for good. What is known, and what may be lost, is printed; nothing is changed without --yes. Choose the\n" +
			"scheduler with the highest last entry. The others must never start again with their data directories: empty\n" +
			"them, and let them join anew.",
		Example: "  drover scheduler recover --config /etc/drover/scheduler.yaml\n  drover scheduler recover --config /etc/drover/scheduler.yaml --yes",
		Args:    exactly(),
	}
	load, logger := a.configFlags(cmd, &cfg), a.loggerFlags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	cmd.RunE = func(*cobra.Command, []string) error {
		if err := load(); err != nil {
			return err
		}
		log, err := logger()
		if err != nil {
			return err
		}
		err = scheduler.Recover(cfg, log, func(known scheduler.Recovery) error {
			if err := a.drawRecovery(known); err != nil || yes {
				return err
			}
			return errNotConfirmed
		})
		if errors.Is(err, errNotConfirmed) {
			return errNotConfirmed
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "\nscheduler/%s is the only voter now: start it, look at `drover cluster restore --pending`, and confirm;\nthen let others join with empty data directories\n", cfg.RaftAddr)
		return err
	}
	return cmd
}

func (a *app) drawRecovery(r scheduler.Recovery) error {
	var p pairs
	p.addf("Scheduler", "%s", r.ID)
	p.addf("Address", "%s", r.Addr)
	p.addf("Last entry", "%d (term %d)", r.LastIndex, r.LastTerm)
	p.addf("Snapshot", "%s", map[bool]string{true: "none", false: fmt.Sprintf("of entry %d", r.SnapshotIndex)}[r.SnapshotIndex == 0])
	if err := a.drawPairs(p); err != nil {
		return err
	}
	t := &table{head: []string{"MEMBER", "ADDRESS", "ROLE", "AFTERWARDS"}}
	for _, m := range r.Members {
		t.add(text("%s", shortID(m.ID)), text("%s", m.Addr), text("%s", map[bool]string{true: "voter", false: "non-voter"}[m.Voter]),
			text("%s", map[bool]string{true: "only voter", false: "removed"}[m.ID == r.ID]))
	}
	fmt.Fprintln(a.out)
	if err := a.drawTable(t, "no members are known"); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.out, "\nWrites that the others acknowledged after entry %d are lost; how many is not known here.\n"+
		"Entries up to it are kept, also those that were never acknowledged.\n"+
		"The removed schedulers must never start again with their data: they would go on as the old cluster.\n", r.LastIndex)
	return err
}
