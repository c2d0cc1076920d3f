package main

import (
	"github.com/spf13/cobra"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) deviceCommand() *cobra.Command {
	return a.noun("device", "Show accelerators", a.deviceList(), a.deviceShow())
}

func (a *app) deviceList() *cobra.Command {
	req := &fleetv1.ListDevicesRequest{}
	cmd := &cobra.Command{
		Use: "list", Short: "List the accelerators of all nodes",
		Example: "  drover device list\n  drover device list --node dev-1 --free",
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
			t := &table{head: []string{"ID", "NODE", "VENDOR", "MODEL", "INDEX", "MEMORY", "HEALTH", "STATE", "INSTANCE"}}
			for _, d := range resp.GetDevices() {
				v := d.GetDevice()
				t.add(text("%s", v.GetId()), text("%s", d.GetNode()), text("%s", v.GetVendor()), text("%s", v.GetModel()), text("%d", v.GetIndex()),
					text("%s", bytesText(v.GetMemoryBytes())), stateCell(v.GetHealth()), text("%s", d.GetState()), text("%s", d.GetInstanceName()))
			}
			return a.print(resp, func() error { return a.drawTable(t, "no devices") })
		},
	}
	cmd.Flags().StringVar(&req.Node, "node", "", "only devices of this `node`")
	cmd.Flags().BoolVar(&req.Free, "free", false, "only devices that no instance holds")
	must(cmd.RegisterFlagCompletionFunc("node", a.values(nodeNames)))
	return a.printing(a.online(cmd))
}

func (a *app) deviceShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show one accelerator",
		Example:           "  drover device show fake-dev-1-0",
		Args:              exactly("ID"),
		ValidArgsFunction: a.names(deviceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Devices.GetDevice, &fleetv1.GetDeviceRequest{Id: args[0]})
			if err != nil {
				return err
			}
			d := resp.GetDevice()
			return a.print(d, func() error {
				v := d.GetDevice()
				var p pairs
				p.addf("ID", "%s", v.GetId())
				p.addf("Node", "%s", d.GetNode())
				p.addf("Model", "%s %s", v.GetVendor(), v.GetModel())
				p.addf("Index", "%d", v.GetIndex())
				p.addf("Memory", "%s", bytesText(v.GetMemoryBytes()))
				p.add("Health", stateCell(v.GetHealth()))
				if v.GetHealthReason() != "" {
					p.addf("Reason", "%s", v.GetHealthReason())
				}
				p.addf("PCI address", "%s", v.GetPciAddress())
				if v.NumaNode != nil {
					p.addf("NUMA node", "%d", v.GetNumaNode())
				}
				p.addf("State", "%s", d.GetState())
				p.addf("Instance", "%s", d.GetInstanceName())
				return p.draw(a.out, a.colour())
			})
		},
	}
	return a.printing(a.online(cmd))
}
