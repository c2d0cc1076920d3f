package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/cmd/drover/manifest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// noLimit is what a flag says to lift one limit.
const noLimit = "none"

func (a *app) quotaCommand() *cobra.Command {
	return a.noun("quota", "Limit what the instances of a project hold together",
		a.quotaList(), a.quotaShow(), a.quotaSet(), a.quotaDelete())
}

func (a *app) quotaList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the quotas of all projects, with what is used of them",
		Example: "  drover quota list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Quotas.ListQuotas, &fleetv1.ListQuotasRequest{})
			if err != nil {
				return err
			}
			t := &table{head: []string{"PROJECT", "CPU", "MEMORY", "INSTANCES", "DEVICES", "AGE"}}
			for _, q := range resp.GetQuotas() {
				byName := map[string]string{}
				var devices []string
				for _, l := range quotaLimits(q) {
					if text := l.used + "/" + l.limit; l.device {
						devices = append(devices, l.name+" "+text)
					} else {
						byName[l.name] = text
					}
				}
				t.add(text("%s", q.GetMeta().GetName()), text("%s", byName["CPU cores"]), text("%s", byName["memory"]), text("%s", byName["instances"]),
					text("%s", strings.Join(devices, ", ")), text("%s", a.age(q.GetMeta().GetCreateTime())))
			}
			return a.print(resp, func() error { return a.drawTable(t, "no project has a quota") })
		},
	}
	return a.reading(a.online(cmd))
}

func (a *app) quotaShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show [PROJECT]", Short: "Show a project's limits and what is used of them",
		Example:           "  drover quota show\n  drover quota show research -o json",
		Args:              atMostOne,
		ValidArgsFunction: a.names(quotaNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			project := "" // the token's own
			if len(args) > 0 {
				project = args[0]
			}
			resp, err := read(cmd.Context(), a, cl.Quotas.GetQuota, &fleetv1.GetQuotaRequest{Project: project})
			if err != nil {
				return err
			}
			return a.print(resp.GetQuota(), func() error { return a.drawQuota(resp.GetQuota()) })
		},
	}
	return a.reading(a.online(cmd))
}

// limit is one limit of a quota, in words.
type limit struct {
	name, used, limit string
	share             float64 // of the limit that is used
	device            bool
}

func quotaLimits(q *fleetv1.Quota) []limit {
	spec, use := q.GetSpec(), q.GetUsage()
	var all []limit
	add := func(name string, show func(int64) string, used, most int64) *limit {
		l := limit{name: name, used: show(used), limit: show(most)}
		switch {
		case most > 0:
			l.share = float64(used) / float64(most)
		case used > 0:
			l.share = 1
		}
		all = append(all, l)
		return &all[len(all)-1]
	}
	plain := func(n int64) string { return strconv.FormatInt(n, 10) }
	if spec.CpuMillis != nil {
		add("CPU cores", cores, use.GetCpuMillis(), spec.GetCpuMillis())
	}
	if spec.MemoryBytes != nil {
		add("memory", bytesText, use.GetMemoryBytes(), spec.GetMemoryBytes())
	}
	if spec.Instances != nil {
		add("instances", plain, use.GetInstances(), spec.GetInstances())
	}
	for i, d := range spec.GetDevices() {
		used := int64(0)
		if i < len(use.GetDevices()) {
			used = use.GetDevices()[i].GetCount()
		}
		add(d.GetModel(), plain, used, d.GetCount()).device = true
	}
	return all
}

func (a *app) drawQuota(q *fleetv1.Quota) error {
	var p pairs
	p.addf("Project", "%s", q.GetMeta().GetName())
	p.addf("Created", "%s by %s", a.when(q.GetMeta().GetCreateTime()), q.GetMeta().GetCreatedBy())
	if err := a.drawPairs(p); err != nil {
		return err
	}
	t := &table{head: []string{"LIMIT OF", "USED", "LIMIT", "SHARE"}}
	for _, l := range quotaLimits(q) {
		name := l.name
		if l.device {
			name = "devices " + l.name
		}
		share := cell{text: shareBar(l.share)}
		switch {
		case l.share >= 1:
			share.colour = red
		case l.share >= 0.8:
			share.colour = yellow
		}
		t.add(text("%s", name), text("%s", l.used), text("%s", l.limit), share)
	}
	fmt.Fprintln(a.out)
	return a.draw(t, "")
}

// shareBar draws a share of a whole, which may be more than all of it.
func shareBar(share float64) string {
	const width = 20
	full := int(min(share, 1)*width + 0.5)
	return fmt.Sprintf("[%s%s] %3.0f%%", strings.Repeat("#", full), strings.Repeat(".", width-full), 100*share)
}

// quotaFlags are limits as they are given: empty stays as it is.
type quotaFlags struct {
	cpu, memory, instances string
	devices                map[string]string
}

func (a *app) quotaSet() *cobra.Command {
	var f quotaFlags
	cmd := &cobra.Command{
		Use: "set PROJECT", Short: "Limit a project; limits that aren't named stay as they are",
		Long: "Limit what the instances of a project hold together. Limits that aren't named stay as they are; \"none\" lifts one.\n" +
			"What runs stays when a limit shrinks below it: nothing more is placed then.",
		Example: "  drover quota set research --cpu 128 --memory 1Ti --instances 50 --devices 'H100*=16,910B*=8'\n" +
			"  drover quota set research --memory none --devices '910B*=none'",
		Args:              exactly("PROJECT"),
		ValidArgsFunction: a.names(quotaNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.setQuota(cmd, args[0], &f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.cpu, "cpu", "", "`cores` of all instances together, or none")
	flags.StringVar(&f.memory, "memory", "", "memory of all instances together, such as 512Gi, or none")
	flags.StringVar(&f.instances, "instances", "", "`number` of instances, or none; a gang counts once for each of its nodes")
	flags.StringToStringVar(&f.devices, "devices", nil, "`MODEL=NUMBER` of devices whose model is this or matches, such as 'H100*=16'; NUMBER may be none")
	return a.printing(a.online(cmd))
}

func (a *app) setQuota(cmd *cobra.Command, project string, f *quotaFlags) error {
	if f.cpu == "" && f.memory == "" && f.instances == "" && len(f.devices) == 0 {
		return usagef(cmd, "no limit is named: give --cpu, --memory, --instances or --devices")
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	quota := &fleetv1.Quota{Meta: &fleetv1.Meta{Name: project}, Spec: &fleetv1.QuotaSpec{}}
	old, err := read(cmd.Context(), a, cl.Quotas.GetQuota, &fleetv1.GetQuotaRequest{Project: project})
	if status.Code(err) != codes.NotFound {
		if err != nil {
			return err
		}
		quota.Meta.Tags, quota.Spec = old.GetQuota().GetMeta().GetTags(), old.GetQuota().GetSpec()
	}
	if err := f.apply(cmd, quota.Spec); err != nil {
		return err
	}
	resp, err := write(cmd.Context(), a, cl.Quotas.SetQuota, &fleetv1.SetQuotaRequest{Quota: quota})
	if err != nil {
		return err
	}
	return a.print(resp.GetQuota(), func() error { return a.drawQuota(resp.GetQuota()) })
}

// apply changes the limits that the flags name.
func (f *quotaFlags) apply(cmd *cobra.Command, spec *fleetv1.QuotaSpec) error {
	set := func(flag, given string, parse func(string) (int64, error), to **int64) error {
		switch given {
		case "":
			return nil
		case noLimit:
			*to = nil
			return nil
		}
		n, err := parse(given)
		if err != nil || n < 0 {
			return usagef(cmd, "--%s %q: want %s", flag, given, map[string]string{
				"cpu": "a number of cores such as 64 or 0.5, or none", "memory": "a size such as 512Gi, or none", "instances": "a whole number, or none"}[flag])
		}
		*to = &n
		return nil
	}
	number := func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }
	if err := set("cpu", f.cpu, parseCores, &spec.CpuMillis); err != nil {
		return err
	}
	if err := set("memory", f.memory, manifest.ParseQuantity, &spec.MemoryBytes); err != nil {
		return err
	}
	if err := set("instances", f.instances, number, &spec.Instances); err != nil {
		return err
	}
	for _, model := range slices.Sorted(maps.Keys(f.devices)) {
		at := slices.IndexFunc(spec.Devices, func(d *fleetv1.DeviceQuota) bool { return d.GetModel() == model })
		n, err := number(f.devices[model])
		switch {
		case f.devices[model] == noLimit && at >= 0:
			spec.Devices = slices.Delete(spec.Devices, at, at+1)
		case f.devices[model] == noLimit:
		case err != nil || n < 0:
			return usagef(cmd, "--devices %s=%s: want a whole number, or none", model, f.devices[model])
		case at >= 0:
			spec.Devices[at].Count = n
		default:
			spec.Devices = append(spec.Devices, &fleetv1.DeviceQuota{Model: model, Count: n})
		}
	}
	return nil
}

// parseCores reads a number of cores into thousandths.
func parseCores(s string) (int64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f <= 1e12) {
		return 0, fmt.Errorf("%q is no number of cores", s)
	}
	return int64(f*1000 + 0.5), nil
}

func (a *app) quotaDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete PROJECT", Short: "Lift all limits of a project",
		Example:           "  drover quota delete research",
		Args:              exactly("PROJECT"),
		ValidArgsFunction: a.names(quotaNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.remove(cmd.Context(), manifest.Document{
				Kind: fleetv1.KindQuota, Object: &fleetv1.Quota{Meta: &fleetv1.Meta{Name: args[0]}},
			})
		},
	}
	return a.online(cmd)
}

// applyQuota makes a project's quota as it is declared: limits that are left out are lifted.
func (a *app) applyQuota(ctx context.Context, cl *client.Client, declared *fleetv1.Quota) (*fleetv1.Quota, string, error) {
	did := changed
	old, err := read(ctx, a, cl.Quotas.GetQuota, &fleetv1.GetQuotaRequest{Project: declared.GetMeta().GetName()})
	switch {
	case status.Code(err) == codes.NotFound:
		did = created
	case err != nil:
		return nil, "", err
	case proto.Equal(old.GetQuota().GetSpec(), declared.GetSpec()) && maps.Equal(old.GetQuota().GetMeta().GetTags(), declared.GetMeta().GetTags()):
		return old.GetQuota(), unchanged, nil
	}
	resp, err := write(ctx, a, cl.Quotas.SetQuota, &fleetv1.SetQuotaRequest{Quota: declared})
	return resp.GetQuota(), did, err
}

func quotaNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Quotas.ListQuotas(ctx, &fleetv1.ListQuotasRequest{})
	return metaNames(resp.GetQuotas(), err)
}
