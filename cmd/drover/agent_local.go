package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// defaultSocket is where the agent of the packages listens for the commands below.
const defaultSocket = "/var/lib/drover/agent/agent.sock"

// localCommands are the verbs of `drover agent` that work on the node itself, without a scheduler.
func (a *app) localCommands() []*cobra.Command {
	return []*cobra.Command{a.agentList(), a.agentLogs(), a.agentStop()}
}

// local gives a command the flag that names the agent's socket.
func (a *app) local(cmd *cobra.Command, run func(ctx context.Context, agent fleetv1.LocalServiceClient, args []string) error) *cobra.Command {
	var socket string
	cmd.Flags().StringVar(&socket, "socket", "", "the agent's local `socket` (default the context's, else "+defaultSocket+")")
	cmd.Flags().DurationVar(&a.timeout, "timeout", defaultTimeout, "how long one request may take")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		saved, err := a.loadContext()
		if err != nil {
			return err
		}
		path := first(socket, saved.AgentSocket, defaultSocket)
		conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return fmt.Errorf("prepare the connection to %s: %w", path, err)
		}
		defer conn.Close()
		return socketReach(path, run(cmd.Context(), fleetv1.NewLocalServiceClient(conn), args))
	}
	return cmd
}

func (a *app) agentList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List what this node's agent runs, without asking a scheduler",
		Example: "  drover agent list",
		Args:    exactly(),
	}
	return a.printing(a.local(cmd, func(ctx context.Context, agent fleetv1.LocalServiceClient, _ []string) error {
		resp, err := read(ctx, a, agent.ListLocalInstances, &fleetv1.ListLocalInstancesRequest{})
		if err != nil {
			return err
		}
		return a.print(resp, func() error {
			if !resp.GetConnected() {
				fmt.Fprintln(a.err, "the agent is not connected to a scheduler")
			}
			return a.drawTable(a.instanceTable(resp.GetInstances()), "no instances")
		})
	}))
}

func (a *app) agentLogs() *cobra.Command {
	var l logFlags
	cmd := &cobra.Command{
		Use: "logs INSTANCE", Short: "Show what an instance on this node has printed, without asking a scheduler",
		Example: "  drover agent logs iris-1a2b3c4d --tail 20",
		Args:    exactly("INSTANCE"),
	}
	l.register(cmd)
	return a.printing(a.local(cmd, func(ctx context.Context, agent fleetv1.LocalServiceClient, args []string) error {
		q, err := l.query(cmd, a)
		if err != nil {
			return err
		}
		stream, err := agent.GetLocalLogs(ctx, &fleetv1.GetLocalLogsRequest{Name: args[0], Query: q})
		if err != nil {
			return err
		}
		return copyLines(ctx, stream.Recv, a.linePrinter("", l.timestamps))
	}))
}

func (a *app) agentStop() *cobra.Command {
	cmd := &cobra.Command{
		Use: "stop INSTANCE", Short: "Stop an instance on this node for good, without asking a scheduler",
		Long: "Stop an instance on this node for good, without asking a scheduler. A scheduler that is reachable, or comes back,\n" +
			"replaces it; to have fewer instances, use `drover service scale` or `drover service stop`.",
		Example: "  drover agent stop iris-1a2b3c4d",
		Args:    exactly("INSTANCE"),
	}
	return a.printing(a.local(cmd, func(ctx context.Context, agent fleetv1.LocalServiceClient, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		resp, err := agent.StopLocalInstance(ctx, &fleetv1.StopLocalInstanceRequest{Name: args[0]})
		if err != nil {
			return err
		}
		return a.print(resp.GetInstance(), func() error {
			_, err := fmt.Fprintf(a.out, "instance/%s stopping\n", resp.GetInstance().GetMeta().GetName())
			return err
		})
	}))
}
