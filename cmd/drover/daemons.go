package main

import "github.com/spf13/cobra"

func (a *app) daemonCommands() []*cobra.Command {
	return []*cobra.Command{a.schedulerCommand(), a.noun("agent", "Reach this node's agent", a.localCommands()...)}
}
