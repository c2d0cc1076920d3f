package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/cmd/drover/manifest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) flavorCommand() *cobra.Command {
	return a.noun("flavor", "Manage named resource shapes",
		a.flavorList(), a.flavorShow(), a.flavorCreate(), a.flavorDelete())
}

func (a *app) flavorList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the flavors",
		Example: "  drover flavor list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Flavors.ListFlavors, &fleetv1.ListFlavorsRequest{})
			if err != nil {
				return err
			}
			t := &table{head: []string{"NAME", "CPU", "MEMORY", "DISK", "ARCH", "ACCELERATOR", "AGE"}}
			for _, f := range resp.GetFlavors() {
				s := f.GetSpec()
				t.add(text("%s", f.GetMeta().GetName()), text("%s", cores(s.GetCpuMillis())), text("%s", bytesText(s.GetMemoryBytes())),
					text("%s", bytesText(s.GetDiskBytes())), text("%s", s.GetArch()), text("%s", acceleratorText(s.GetAccelerator())),
					text("%s", a.age(f.GetMeta().GetCreateTime())))
			}
			return a.print(resp, func() error { return a.drawTable(t, "no flavors") })
		},
	}
	return a.reading(a.online(cmd))
}

func acceleratorText(x *fleetv1.Accelerator) string {
	if x == nil {
		return ""
	}
	s := fmt.Sprintf("%d× %s", x.GetCount(), strings.TrimSpace(x.GetVendor()+" "+first(x.GetModel(), "any")))
	if x.GetMemoryMinBytes() > 0 {
		s += " ≥ " + bytesText(x.GetMemoryMinBytes())
	}
	if share := x.GetShare(); share != "" && share != "whole" {
		s += ", slices " + share
	}
	if domain := x.GetDomain(); domain != "" && domain != "any" {
		s += ", one " + domain + " domain"
	}
	return s
}

func (a *app) flavorShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show FLAVOR", Short: "Show one flavor",
		Example:           "  drover flavor show cpu.2u4g -o yaml",
		Args:              exactly("FLAVOR"),
		ValidArgsFunction: a.names(flavorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Flavors.GetFlavor, &fleetv1.GetFlavorRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return a.print(resp.GetFlavor(), func() error { return a.drawFlavor(resp.GetFlavor()) })
		},
	}
	return a.reading(a.online(cmd))
}

func (a *app) drawFlavor(f *fleetv1.Flavor) error {
	s := f.GetSpec()
	var p pairs
	p.addf("Name", "%s", f.GetMeta().GetName())
	p.addf("ID", "%s", f.GetMeta().GetId())
	p.addf("CPU cores", "%s", cores(s.GetCpuMillis()))
	p.addf("Memory", "%s", bytesText(s.GetMemoryBytes()))
	p.addf("Disk", "%s", bytesText(s.GetDiskBytes()))
	p.addf("Arch", "%s", first(s.GetArch(), "any"))
	p.addf("Accelerator", "%s", first(acceleratorText(s.GetAccelerator()), "none"))
	if l := s.GetLimits(); l != nil {
		p.addf("Limits", "shm %s, memlock %d, nofile %d, pids %d, rdma %t", bytesText(l.GetShmBytes()), l.GetMemlockBytes(), l.GetNofile(), l.GetPids(), l.GetRdma())
	}
	p.addf("Created", "%s by %s", a.when(f.GetMeta().GetCreateTime()), f.GetMeta().GetCreatedBy())
	return a.drawPairs(p)
}

func (a *app) flavorCreate() *cobra.Command {
	var spec struct {
		cpu                          float64
		memory, disk, accelMem, arch string
		vendor, model, shm           string
		share, domain                string
		count                        int32
	}
	cmd := &cobra.Command{
		Use: "create FLAVOR", Short: "Create a flavor",
		Example: "  drover flavor create cpu.2u4g --cpu 2 --memory 4Gi\n  drover flavor create gpu.h100.2 --cpu 16 --memory 256Gi --accelerator 2 --accelerator-model H100-80GB --accelerator-domain nvlink",
		Args:    exactly("FLAVOR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := &fleetv1.FlavorSpec{CpuMillis: int64(spec.cpu*1000 + 0.5), Arch: spec.arch}
			if spec.count > 0 || spec.vendor != "" || spec.model != "" || spec.accelMem != "" || spec.share != "" || spec.domain != "" {
				s.Accelerator = &fleetv1.Accelerator{Vendor: spec.vendor, Model: spec.model, Count: max(spec.count, 1), Share: spec.share, Domain: spec.domain}
			}
			sizes := []struct {
				flag, text string
				set        func(int64)
			}{
				{"memory", spec.memory, func(n int64) { s.MemoryBytes = n }},
				{"disk", spec.disk, func(n int64) { s.DiskBytes = n }},
				{"accelerator-memory", spec.accelMem, func(n int64) { s.Accelerator.MemoryMinBytes = n }},
				{"shm", spec.shm, func(n int64) { s.Limits = &fleetv1.Limits{ShmBytes: n} }},
			}
			for _, size := range sizes {
				if size.text == "" {
					continue
				}
				n, err := manifest.ParseQuantity(size.text)
				if err != nil {
					return usagef(cmd, "--%s: %v", size.flag, err)
				}
				size.set(n)
			}
			return a.create(cmd.Context(), manifest.Document{
				Kind: fleetv1.KindFlavor, Object: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: args[0]}, Spec: s},
			})
		},
	}
	f := cmd.Flags()
	f.Float64Var(&spec.cpu, "cpu", 1, "`cores` of an instance")
	f.StringVar(&spec.memory, "memory", "1Gi", "memory of an instance, such as 4Gi")
	f.StringVar(&spec.disk, "disk", "", "disk of an instance, such as 20G")
	f.StringVar(&spec.arch, "arch", "", "amd64 or arm64; empty for either")
	f.Int32Var(&spec.count, "accelerator", 0, "`number` of devices")
	f.StringVar(&spec.vendor, "accelerator-vendor", "", "nvidia, ascend or fake")
	f.StringVar(&spec.model, "accelerator-model", "", "exact model or a glob, such as H100*")
	f.StringVar(&spec.accelMem, "accelerator-memory", "", "least memory of each device, such as 80G")
	f.StringVar(&spec.share, "accelerator-share", "", "whole (default), or the profile of a `slice`, such as 1g.10gb")
	f.StringVar(&spec.domain, "accelerator-domain", "", "how the devices must be linked: any (default), numa, pcie, nvlink or hccs")
	must(cmd.RegisterFlagCompletionFunc("accelerator-domain", cobra.FixedCompletions([]string{"any", "numa", "pcie", "nvlink", "hccs"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("accelerator-vendor", cobra.FixedCompletions([]string{"nvidia", "ascend", "fake"}, cobra.ShellCompDirectiveNoFileComp)))
	f.StringVar(&spec.shm, "shm", "", "size of /dev/shm, such as 1Gi")
	return a.printing(a.online(cmd))
}

func (a *app) flavorDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete FLAVOR", Short: "Delete a flavor that nothing uses",
		Example:           "  drover flavor delete cpu.2u4g",
		Args:              exactly("FLAVOR"),
		ValidArgsFunction: a.names(flavorNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.remove(cmd.Context(), manifest.Document{
				Kind: fleetv1.KindFlavor, Object: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: args[0]}},
			})
		},
	}
	return a.online(cmd)
}

// remove deletes one object and says so.
func (a *app) remove(ctx context.Context, d manifest.Document) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	if err := a.deleteObject(ctx, cl, d); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s deleted\n", d.Name())
	return err
}
