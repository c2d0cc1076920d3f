package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// serviceVerb makes a command that changes one service and may wait for what follows.
func (a *app) serviceVerb(cmd *cobra.Command, done string, g goal, call func(context.Context, *client.Client, string) (*fleetv1.Service, error)) *cobra.Command {
	var w waitFlags
	cmd.Args = exactly("SERVICE")
	cmd.ValidArgsFunction = a.names(a.serviceNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		s, err := call(cmd.Context(), cl, args[0])
		if err != nil {
			return err
		}
		return a.changedService(cmd.Context(), cl, s, done, g, w)
	}
	w.register(cmd, "the service to "+g.name)
	return a.printing(a.projected(cmd))
}

// changedService says what was done, waits if it was asked to, and prints the service with -o.
func (a *app) changedService(ctx context.Context, cl *client.Client, s *fleetv1.Service, done string, g goal, w waitFlags) error {
	if a.output != "table" {
		if w.wait {
			quiet := *a
			quiet.out, quiet.terminal = a.err, false
			if err := quiet.waitService(ctx, cl, s, g, w); err != nil {
				return err
			}
			resp, err := read(ctx, a, cl.Services.GetService, &fleetv1.GetServiceRequest{Project: s.GetMeta().GetProject(), Name: s.GetMeta().GetName()})
			if err != nil {
				return err
			}
			s = resp.GetService()
		}
		return a.print(s, nil)
	}
	fmt.Fprintf(a.out, "service/%s %s\n", s.GetMeta().GetName(), done)
	if s.GetDesired().GetState() == fleetv1.DesiredRunning {
		fmt.Fprintf(a.out, "  %s\n", a.autoStopText(s))
	}
	if !w.wait {
		return nil
	}
	return a.waitService(ctx, cl, s, g, w)
}

func (a *app) serviceScale() *cobra.Command {
	var model string
	var instances int32
	cmd := &cobra.Command{
		Use: "scale SERVICE --instances N", Short: "Change how many instances a service has",
		Example: "  drover service scale iris --instances 3 --wait\n  drover service scale iris --model iris@1.0.0 --instances 2",
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("instances") {
				return usagef(cmd, "--instances is missing")
			}
			return nil
		},
	}
	cmd.Flags().Int32Var(&instances, "instances", 0, "wanted `number` of instances, 1 or more")
	cmd.Flags().StringVar(&model, "model", "", "which `MODEL[@VERSION]` of a service with several")
	return a.serviceVerb(cmd, "scaled", running, func(ctx context.Context, cl *client.Client, name string) (*fleetv1.Service, error) {
		only, version := splitVersion(model)
		resp, err := write(ctx, a, cl.Services.ScaleService, &fleetv1.ScaleServiceRequest{
			Project: a.project, Name: name, Model: only, ModelVersion: version, Instances: instances,
		})
		return resp.GetService(), err
	})
}

func (a *app) serviceStart() *cobra.Command {
	return a.serviceVerb(&cobra.Command{
		Use: "start SERVICE", Short: "Start a stopped or abnormal service",
		Example: "  drover service start iris --wait",
	}, "starting", running, func(ctx context.Context, cl *client.Client, name string) (*fleetv1.Service, error) {
		resp, err := write(ctx, a, cl.Services.StartService, &fleetv1.StartServiceRequest{Project: a.project, Name: name})
		return resp.GetService(), err
	})
}

func (a *app) serviceStop() *cobra.Command {
	return a.serviceVerb(&cobra.Command{
		Use: "stop SERVICE", Short: "Stop a service; its spec and history stay",
		Example: "  drover service stop iris --wait",
	}, "stopping", stopped, func(ctx context.Context, cl *client.Client, name string) (*fleetv1.Service, error) {
		resp, err := write(ctx, a, cl.Services.StopService, &fleetv1.StopServiceRequest{Project: a.project, Name: name})
		return resp.GetService(), err
	})
}

func (a *app) serviceRestart() *cobra.Command {
	return a.serviceVerb(&cobra.Command{
		Use: "restart SERVICE", Short: "Restart every instance of a service, a few at a time",
		Example: "  drover service restart iris --wait",
	}, "restarting", running, func(ctx context.Context, cl *client.Client, name string) (*fleetv1.Service, error) {
		resp, err := write(ctx, a, cl.Services.RestartService, &fleetv1.RestartServiceRequest{Project: a.project, Name: name})
		return resp.GetService(), err
	})
}

func (a *app) serviceDelete() *cobra.Command {
	var w waitFlags
	cmd := &cobra.Command{
		Use: "delete SERVICE", Short: "Delete a service and stop its instances; this is final",
		Example:           "  drover service delete iris --wait",
		Args:              exactly("SERVICE"),
		ValidArgsFunction: a.names(a.serviceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if _, err := write(cmd.Context(), a, cl.Services.DeleteService, &fleetv1.DeleteServiceRequest{Project: a.project, Name: args[0]}); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "service/%s is being deleted\n", args[0])
			if !w.wait {
				return nil
			}
			return a.waitService(cmd.Context(), cl, &fleetv1.Service{Meta: &fleetv1.Meta{Name: args[0], Project: a.project}}, gone, w)
		},
	}
	w.register(cmd, "the service to be gone")
	return a.projected(cmd)
}
