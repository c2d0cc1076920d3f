package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) nodeCommand() *cobra.Command {
	return a.noun("node", "Show hosts, and take them out of placement",
		a.nodeList(), a.nodeShow(), a.nodeCordon(true), a.nodeCordon(false), a.nodeDrain(), a.nodeRevoke())
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
	return a.reading(a.online(cmd))
}

func (a *app) nodeTable(nodes []*fleetv1.Node) *table {
	t := &table{
		head:  []string{"NAME", "STATE", "CPU", "MEMORY", "DEVICES", "INSTANCES", "ADDRESS", "AGE"},
		spare: []string{"ADDRESS", "AGE", "INSTANCES"},
	}
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
			text("%s", ofText(s.GetAllocatedMemoryBytes(), f.GetMemoryBytes()-f.GetReservedMemoryBytes())),
			devicesCell(n),
			text("%d", s.GetInstances()), text("%s", f.GetAdvertiseAddress()), text("%s", a.age(n.GetMeta().GetCreateTime())))
	}
	return t
}

// placeable are the devices that instances can hold: whole ones and slices.
func placeable(n *fleetv1.Node) []*fleetv1.Device {
	sliced := make(map[string]bool)
	for _, d := range n.GetFacts().GetDevices() {
		sliced[d.GetParentId()] = true
	}
	return slices.DeleteFunc(slices.Clone(n.GetFacts().GetDevices()), func(d *fleetv1.Device) bool { return sliced[d.GetId()] })
}

// devicesCell is how many devices of a node are held, of how many, and what is wrong with any.
func devicesCell(n *fleetv1.Node) cell {
	all := placeable(n)
	c := text("%d/%d", n.GetStatus().GetAllocatedDevices(), len(all))
	bad := 0
	for _, d := range all {
		if d.GetHealth() != fleetv1.Healthy {
			bad++
		}
	}
	cordoned := len(n.GetSpec().GetDeviceCordons())
	if cordoned > 0 {
		c.text, c.colour = fmt.Sprintf("%s,%d cordoned", c.text, cordoned), yellow
	}
	if bad > 0 {
		c.text, c.colour = fmt.Sprintf("%s,%d unhealthy", c.text, bad), red
	}
	if len(n.GetFacts().GetDeviceShortfall()) > 0 {
		c.text, c.colour = c.text+",missing", red
	}
	return c
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
	return a.reading(a.online(cmd))
}

func (a *app) drawNode(ctx context.Context, cl *client.Client, n *fleetv1.Node) error {
	f, s := n.GetFacts(), n.GetStatus()
	devices, err := read(ctx, a, cl.Devices.ListDevices, &fleetv1.ListDevicesRequest{Node: n.GetMeta().GetName()})
	if err != nil {
		return err
	}
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
	for i, c := range n.GetSpec().GetDeviceCordons() {
		p.add(map[bool]string{true: "Device cordons"}[i == 0], cell{text: cordonText(c), colour: yellow})
	}
	for _, line := range f.GetDeviceShortfall() {
		p.add("Devices missing", cell{text: oneLine(line), colour: red})
	}
	a.addDrains(&p, n)
	p.addf("Host", "%s, %s %s, %s", f.GetHostname(), f.GetOs(), f.GetKernel(), f.GetArch())
	p.addf("Runtime", "%s", f.GetRuntime())
	p.addf("Agent", "%s", f.GetAgentVersion())
	p.addf("Address", "%s", f.GetAdvertiseAddress())
	p.addf("Metrics", "%s", f.GetHttpAddress())
	p.addf("Labels", "%s", words(f.GetLabels()))
	p.addf("Mount dirs", "%s", strings.Join(f.GetMountDirs(), ", "))
	if err := a.drawPairs(p); err != nil {
		return err
	}
	t := &table{head: []string{"RESOURCE", "TOTAL", "RESERVED", "ALLOCATED", "FREE"}}
	row := func(name string, show func(int64) string, total, reserved, used int64) {
		t.add(text("%s", name), text("%s", show(total)), text("%s", show(reserved)), text("%s", show(used)), text("%s", show(total-reserved-used)))
	}
	row("CPU cores", cores, f.GetCpuMillis(), f.GetReservedCpuMillis(), s.GetAllocatedCpuMillis())
	row("memory", bytesText, f.GetMemoryBytes(), f.GetReservedMemoryBytes(), s.GetAllocatedMemoryBytes())
	row("disk", bytesText, f.GetDiskBytes(), f.GetReservedDiskBytes(), s.GetAllocatedDiskBytes())
	row("devices", func(n int64) string { return fmt.Sprint(n) }, int64(len(placeable(n))), unusable(devices.GetDevices()), s.GetAllocatedDevices())
	fmt.Fprintln(a.out)
	if err := a.draw(t, ""); err != nil {
		return err
	}
	if len(devices.GetDevices()) > 0 {
		if err := a.drawNodeDevices(devices.GetDevices()); err != nil {
			return err
		}
	}
	resp, err := read(ctx, a, cl.Instances.ListInstances, &fleetv1.ListInstancesRequest{Node: n.GetMeta().GetName()})
	if err != nil {
		return err
	}
	if len(resp.GetInstances()) > 0 {
		fmt.Fprintln(a.out, "\nInstances:")
		return a.draw(a.instanceTable(resp.GetInstances()), "  ")
	}
	return nil
}

// cordonText names a cordoned device, who did it and why.
func cordonText(c *fleetv1.DeviceCordon) string {
	s := c.GetDeviceId()
	if c.GetCaller() != "" {
		s += " by " + c.GetCaller()
	}
	if c.GetReason() != "" {
		s += ": " + oneLine(c.GetReason())
	}
	return s
}

// drawNodeDevices lists a node's devices, and how several of them are linked.
func (a *app) drawNodeDevices(all []*fleetv1.DeviceInfo) error {
	fmt.Fprintln(a.out, "\nDevices:")
	if err := a.draw(nodeDeviceTable(all), "  "); err != nil {
		return err
	}
	legend := make(map[string]*fleetv1.DeviceLink)
	for _, m := range matrices(all) {
		if !m.linked() {
			continue
		}
		fmt.Fprintln(a.out, "\nLinks:")
		if err := a.drawMatrix(m, false, legend); err != nil {
			return err
		}
	}
	if len(legend) == 0 {
		return nil
	}
	return a.drawLegend(legend)
}

func (a *app) nodeCordon(cordon bool) *cobra.Command {
	v := cordonVerb{
		cordon: cordon, noun: "node", arg: "NODE", short: "Place nothing new on a node; what runs there stays",
		example: "dev-1 --reason \"new disk\"", names: nodeNames,
		call: func(ctx context.Context, cl *client.Client, name, reason string) (proto.Message, string, error) {
			resp, err := write(ctx, a, cl.Nodes.SetNodeCordon, &fleetv1.SetNodeCordonRequest{Name: name, Cordoned: cordon, Reason: reason})
			return resp.GetNode(), resp.GetNode().GetMeta().GetName(), err
		},
	}
	if !cordon {
		v.short, v.example = "Place on a node again", "dev-1"
	}
	return a.cordonCommand(v)
}
