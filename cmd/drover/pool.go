package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/cmd/drover/manifest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) poolCommand() *cobra.Command {
	return a.noun("pool", "Manage named sets of nodes",
		a.poolList(), a.poolShow(), a.poolCreate(), a.poolDelete())
}

func (a *app) poolList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the pools",
		Example: "  drover pool list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Pools.ListPools, &fleetv1.ListPoolsRequest{})
			if err != nil {
				return err
			}
			t := &table{head: []string{"NAME", "TYPE", "ACCOUNT", "NODES", "SELECTOR", "AGE"}}
			for _, p := range resp.GetPools() {
				t.add(text("%s", p.GetMeta().GetName()), text("%s", p.GetSpec().GetType()), text("%s", p.GetSpec().GetAccount()),
					text("%d", len(p.GetNodes())), text("%s", words(p.GetSpec().GetSelector())), text("%s", a.age(p.GetMeta().GetCreateTime())))
			}
			return a.print(resp, func() error { return a.drawTable(t, "no pools") })
		},
	}
	return a.reading(a.online(cmd))
}

func (a *app) poolShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show POOL", Short: "Show one pool, with its nodes and what is used of them",
		Example:           "  drover pool show demo",
		Args:              exactly("POOL"),
		ValidArgsFunction: a.names(poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Pools.GetPool, &fleetv1.GetPoolRequest{Name: args[0]})
			if err != nil {
				return err
			}
			pool := resp.GetPool()
			return a.print(pool, func() error {
				nodes, err := read(cmd.Context(), a, cl.Nodes.ListNodes, &fleetv1.ListNodesRequest{Pool: pool.GetMeta().GetName()})
				if err != nil {
					return err
				}
				var p pairs
				p.addf("Name", "%s", pool.GetMeta().GetName())
				p.addf("ID", "%s", pool.GetMeta().GetId())
				p.addf("Type", "%s", pool.GetSpec().GetType())
				p.addf("Account", "%s", pool.GetSpec().GetAccount())
				p.addf("Selector", "%s", words(pool.GetSpec().GetSelector()))
				p.addf("Nodes", "%d", len(pool.GetNodes()))
				addPoolUsage(&p, nodes.GetNodes())
				p.addf("Created", "%s by %s", a.when(pool.GetMeta().GetCreateTime()), pool.GetMeta().GetCreatedBy())
				if err := a.drawPairs(p); err != nil || len(nodes.GetNodes()) == 0 {
					return err
				}
				fmt.Fprintln(a.out)
				return a.draw(a.nodeTable(nodes.GetNodes()), "")
			})
		},
	}
	return a.reading(a.online(cmd))
}

// addPoolUsage sums up what instances hold of the nodes.
func addPoolUsage(p *pairs, nodes []*fleetv1.Node) {
	var cpu, cpuUsed, memory, memoryUsed, devices, devicesUsed, open int64
	for _, n := range nodes {
		f, s := n.GetFacts(), n.GetStatus()
		cpu += f.GetCpuMillis() - f.GetReservedCpuMillis()
		memory += f.GetMemoryBytes() - f.GetReservedMemoryBytes()
		devices += int64(len(placeable(n)))
		cpuUsed, memoryUsed, devicesUsed = cpuUsed+s.GetAllocatedCpuMillis(), memoryUsed+s.GetAllocatedMemoryBytes(), devicesUsed+s.GetAllocatedDevices()
		if s.GetState() == fleetv1.NodeReady && !n.GetSpec().GetCordoned() {
			open++
		}
	}
	p.addf("Open nodes", "%d", open)
	bar := func(used, all int64) string {
		if all == 0 {
			return shareBar(0)
		}
		return shareBar(float64(used) / float64(all))
	}
	p.addf("CPU", "%s %s/%s cores", bar(cpuUsed, cpu), cores(cpuUsed), cores(cpu))
	p.addf("Memory", "%s %s/%s", bar(memoryUsed, memory), bytesText(memoryUsed), bytesText(memory))
	p.addf("Devices", "%s %d/%d", bar(devicesUsed, devices), devicesUsed, devices)
}

func (a *app) poolCreate() *cobra.Command {
	spec := &fleetv1.PoolSpec{}
	cmd := &cobra.Command{
		Use: "create POOL", Short: "Create a pool",
		Example: "  drover pool create demo --type dedicated --nodes dev-1,dev-2\n  drover pool create gpus --type public --selector accelerator=h100",
		Args:    exactly("POOL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.create(cmd.Context(), manifest.Document{
				Kind: fleetv1.KindPool, Object: &fleetv1.Pool{Meta: &fleetv1.Meta{Name: args[0]}, Spec: spec},
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&spec.Type, "type", fleetv1.PoolPublic, "public (shared by all projects) or dedicated (of one account)")
	f.StringVar(&spec.Account, "account", "", "`account` that owns a dedicated pool; default the caller's")
	f.StringSliceVar(&spec.Nodes, "nodes", nil, "names of its `nodes`")
	f.StringToStringVar(&spec.Selector, "selector", nil, "nodes with all these `labels`, instead of names")
	return a.printing(a.online(cmd))
}

func (a *app) poolDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete POOL", Short: "Delete a pool that no service uses",
		Example:           "  drover pool delete demo",
		Args:              exactly("POOL"),
		ValidArgsFunction: a.names(poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.remove(cmd.Context(), manifest.Document{
				Kind: fleetv1.KindPool, Object: &fleetv1.Pool{Meta: &fleetv1.Meta{Name: args[0]}},
			})
		},
	}
	return a.online(cmd)
}
