package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) deviceCommand() *cobra.Command {
	return a.noun("device", "Show accelerators, and take them out of placement",
		a.deviceList(), a.deviceShow(), a.deviceCordon(true), a.deviceCordon(false), a.deviceDrain())
}

func (a *app) deviceList() *cobra.Command {
	req := &fleetv1.ListDevicesRequest{}
	var links bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the accelerators of all nodes",
		Example: "  drover device list\n  drover device list --node dev-1 --free\n  drover device list --node dev-1 --links",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Devices.ListDevices, req)
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				if links && len(resp.GetDevices()) > 0 {
					return a.drawLinks(resp.GetDevices())
				}
				t := deviceTable(resp.GetDevices())
				if req.GetNode() != "" {
					t.drop(slices.Index(t.head, "NODE"))
				}
				return a.drawTable(t, "no devices")
			})
		},
	}
	cmd.Flags().StringVar(&req.Node, "node", "", "only devices of this `node`")
	cmd.Flags().BoolVar(&req.Free, "free", false, "only devices that no instance holds")
	cmd.Flags().BoolVar(&links, "links", false, "show how they are linked: a matrix for each node")
	must(cmd.RegisterFlagCompletionFunc("node", a.values(nodeNames)))
	return a.reading(a.online(cmd))
}

func (a *app) deviceCordon(cordon bool) *cobra.Command {
	v := cordonVerb{
		cordon: cordon, noun: "device", arg: "ID", short: "Place nothing new on an accelerator and its slices; who holds it stays",
		example: "fake-dev-1-h100-80gb-3 --reason \"loose riser\"", names: deviceNames,
		call: func(ctx context.Context, cl *client.Client, id, reason string) (proto.Message, string, error) {
			resp, err := write(ctx, a, cl.Devices.SetDeviceCordon, &fleetv1.SetDeviceCordonRequest{Id: id, Cordoned: cordon, Reason: reason})
			return resp.GetDevice(), first(resp.GetDevice().GetDevice().GetId(), id), err
		},
	}
	if !cordon {
		v.short, v.example, v.names = "Place on an accelerator again", "fake-dev-1-h100-80gb-3", cordonedDeviceNames
	}
	return a.cordonCommand(v)
}

// cordonVerb is cordon or uncordon of one noun.
type cordonVerb struct {
	cordon                    bool
	noun, arg, short, example string

	names func(context.Context, *client.Client) ([]string, error)
	// call answers the object as it is now, and its name.
	call func(ctx context.Context, cl *client.Client, name, reason string) (proto.Message, string, error)
}

func (a *app) cordonCommand(v cordonVerb) *cobra.Command {
	verb := map[bool]string{true: "cordon", false: "uncordon"}[v.cordon]
	var reason string
	cmd := &cobra.Command{
		Use: verb + " " + v.arg, Short: v.short,
		Example:           "  drover " + v.noun + " " + verb + " " + v.example,
		Args:              exactly(v.arg),
		ValidArgsFunction: a.names(v.names),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			object, name, err := v.call(cmd.Context(), cl, args[0], reason)
			if err != nil {
				return err
			}
			return a.print(object, func() error {
				_, err := fmt.Fprintf(a.out, "%s/%s %sed\n", v.noun, name, verb)
				return err
			})
		},
	}
	if v.cordon {
		cmd.Flags().StringVar(&reason, "reason", "", "why, for the next person")
	}
	return a.printing(a.online(cmd))
}
