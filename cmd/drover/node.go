package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) nodeCommand() *cobra.Command {
	return a.noun("node", "Show hosts, and take them out of placement",
		a.nodeList(), a.nodeShow(), a.nodeCordon(true), a.nodeCordon(false), a.nodeDrain())
}

func (a *app) nodeList() *cobra.Command {
	var pool string
	cmd := &cobra.Command{
		Use: "list", Short: "List the nodes",
		Example: "  drover node list\n  drover node list --pool demo -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Nodes.ListNodes, &fleetv1.ListNodesRequest{Pool: pool})
			if err != nil {
				return err
			}
			return a.print(resp, func() error { return a.drawTable(a.nodeTable(resp.GetNodes()), "no nodes") })
		},
	}
	cmd.Flags().StringVar(&pool, "pool", "", "only nodes of this `pool`")
	must(cmd.RegisterFlagCompletionFunc("pool", a.values(poolNames)))
	return a.printing(a.online(cmd))
}

func (a *app) nodeTable(nodes []*fleetv1.Node) *table {
	t := &table{head: []string{"NAME", "STATE", "CPU", "MEMORY", "DEVICES", "INSTANCES", "ADDRESS", "AGE"}}
	for _, n := range nodes {
		f, s := n.GetFacts(), n.GetStatus()
		state := stateCell(s.GetState())
		if n.GetSpec().GetDrain() != nil {
			state.text += ",draining"
		} else if n.GetSpec().GetCordoned() {
			state.text += ",cordoned"
		}
		t.add(text("%s", n.GetMeta().GetName()), state,
			text("%s/%s", cores(s.GetAllocatedCpuMillis()), cores(f.GetCpuMillis()-f.GetReservedCpuMillis())),
			text("%s/%s", bytesText(s.GetAllocatedMemoryBytes()), bytesText(f.GetMemoryBytes()-f.GetReservedMemoryBytes())),
			text("%d/%d", s.GetAllocatedDevices(), len(f.GetDevices())),
			text("%d", s.GetInstances()), text("%s", f.GetAdvertiseAddress()), text("%s", a.age(n.GetMeta().GetCreateTime())))
	}
	return t
}

func (a *app) nodeShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NODE", Short: "Show one node",
		Example:           "  drover node show dev-1",
		Args:              exactly("NODE"),
		ValidArgsFunction: a.names(nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Nodes.GetNode, &fleetv1.GetNodeRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return a.print(resp.GetNode(), func() error { return a.drawNode(cmd.Context(), cl, resp.GetNode()) })
		},
	}
	return a.printing(a.online(cmd))
}

func (a *app) drawNode(ctx context.Context, cl *client.Client, n *fleetv1.Node) error {
	f, s := n.GetFacts(), n.GetStatus()
	var p pairs
	p.addf("Name", "%s", n.GetMeta().GetName())
	p.addf("ID", "%s", n.GetMeta().GetId())
	p.add("State", stateCell(s.GetState()))
	if s.GetReason() != "" {
		p.addf("Reason", "%s", s.GetReason())
	}
	p.addf("Since", "%s", a.when(s.GetStateTime()))
	p.addf("Last heartbeat", "%s", a.when(s.GetHeartbeatTime()))
	p.addf("Cordoned", "%s", strings.TrimSpace(yesNo(n.GetSpec().GetCordoned())+" "+n.GetSpec().GetCordonReason()))
	a.addDrains(&p, n)
	p.addf("Host", "%s, %s %s, %s", f.GetHostname(), f.GetOs(), f.GetKernel(), f.GetArch())
	p.addf("Runtime", "%s", f.GetRuntime())
	p.addf("Agent", "%s", f.GetAgentVersion())
	p.addf("Address", "%s", f.GetAdvertiseAddress())
	p.addf("Metrics", "%s", f.GetHttpAddress())
	p.addf("Labels", "%s", words(f.GetLabels()))
	p.addf("Mount dirs", "%s", strings.Join(f.GetMountDirs(), ", "))
	if err := p.draw(a.out, a.colour()); err != nil {
		return err
	}
	t := &table{head: []string{"RESOURCE", "TOTAL", "RESERVED", "ALLOCATED", "FREE"}}
	row := func(name string, show func(int64) string, total, reserved, used int64) {
		t.add(text("%s", name), text("%s", show(total)), text("%s", show(reserved)), text("%s", show(used)), text("%s", show(total-reserved-used)))
	}
	row("CPU cores", cores, f.GetCpuMillis(), f.GetReservedCpuMillis(), s.GetAllocatedCpuMillis())
	row("memory", bytesText, f.GetMemoryBytes(), f.GetReservedMemoryBytes(), s.GetAllocatedMemoryBytes())
	row("disk", bytesText, f.GetDiskBytes(), f.GetReservedDiskBytes(), s.GetAllocatedDiskBytes())
	row("devices", func(n int64) string { return fmt.Sprint(n) }, int64(len(f.GetDevices())), 0, s.GetAllocatedDevices())
	fmt.Fprintln(a.out)
	if err := t.draw(a.out, "", a.colour()); err != nil {
		return err
	}
	resp, err := read(ctx, a, cl.Instances.ListInstances, &fleetv1.ListInstancesRequest{Node: n.GetMeta().GetName()})
	if err != nil {
		return err
	}
	if len(resp.GetInstances()) > 0 {
		fmt.Fprintln(a.out, "\nInstances:")
		return a.instanceTable(resp.GetInstances()).draw(a.out, "  ", a.colour())
	}
	return nil
}

func (a *app) nodeCordon(cordon bool) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "cordon NODE", Short: "Place nothing new on a node; what runs there stays",
		Example: "  drover node cordon dev-1 --reason \"new disk\"",
	}
	if !cordon {
		cmd.Use, cmd.Short = "uncordon NODE", "Place on a node again"
		cmd.Example = "  drover node uncordon dev-1"
	}
	cmd.Args = exactly("NODE")
	cmd.ValidArgsFunction = a.names(nodeNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		resp, err := write(cmd.Context(), a, cl.Nodes.SetNodeCordon,
			&fleetv1.SetNodeCordonRequest{Name: args[0], Cordoned: cordon, Reason: reason})
		if err != nil {
			return err
		}
		return a.print(resp.GetNode(), func() error {
			_, err := fmt.Fprintf(a.out, "node/%s %sed\n", resp.GetNode().GetMeta().GetName(), cmd.Name())
			return err
		})
	}
	if cordon {
		cmd.Flags().StringVar(&reason, "reason", "", "why, for the next person")
	}
	return a.printing(a.online(cmd))
}
