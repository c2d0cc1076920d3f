package main

import "github.com/spf13/cobra"

func (a *app) daemonCommands() []*cobra.Command {
	return []*cobra.Command{a.devCommand(), a.schedulerCommand(), a.agentCommand()}
}
