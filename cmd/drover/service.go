package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) serviceCommand() *cobra.Command {
	return a.noun("service", "Deploy and operate real-time services",
		a.serviceDeploy(), a.servicePlan(), a.serviceList(), a.serviceShow(), a.serviceScale(), a.serviceStart(), a.serviceStop(),
		a.serviceRestart(), a.serviceDelete(), a.serviceEndpoints(), a.serviceEvents())
}

func (a *app) serviceList() *cobra.Command {
	var tags map[string]string
	cmd := &cobra.Command{
		Use: "list", Short: "List the services of a project",
		Example: "  drover service list\n  drover service list --tag team=flowers -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Services.ListServices, &fleetv1.ListServicesRequest{Project: a.project, Tags: tags})
			if err != nil {
				return err
			}
			t := &table{
				head:  []string{"NAME", "STATE", "READY", "MODELS", "POOL", "AUTO STOP", "AGE", "REASON"},
				spare: []string{"AUTO STOP", "POOL", "AGE", "MODELS"},
			}
			for _, s := range resp.GetServices() {
				ready, desired := readyCount(s)
				t.add(text("%s", s.GetMeta().GetName()), stateCell(s.GetStatus().GetState()), text("%d/%d", ready, desired),
					text("%s", modelsText(s)), text("%s", s.GetSpec().GetPool()), text("%s", a.autoStopShort(s)),
					text("%s", a.age(s.GetMeta().GetCreateTime())), text("%s", a.listedReason(s)))
			}
			return a.print(resp, func() error { return a.drawTable(t, "no services in the project") })
		},
	}
	cmd.Flags().StringToStringVar(&tags, "tag", nil, "only services with these `tags`, k=v")
	return a.reading(a.projected(cmd))
}

func modelsText(s *fleetv1.Service) string {
	var parts []string
	for _, v := range s.GetSpec().GetVersions() {
		parts = append(parts, v.GetModel()+"@"+v.GetModelVersion())
	}
	return strings.Join(parts, ",")
}

func (a *app) autoStopShort(s *fleetv1.Service) string {
	if s.GetSpec().GetAutoStopHours() == 0 {
		return "off"
	}
	if t := s.GetStatus().GetAutoStopTime(); t != nil {
		return "in " + duration(t.AsTime().Sub(a.now()))
	}
	return fmt.Sprintf("%dh", s.GetSpec().GetAutoStopHours())
}

// autoStopText is a service's auto stop, which is always shown.
func (a *app) autoStopText(s *fleetv1.Service) string {
	hours := s.GetSpec().GetAutoStopHours()
	if hours == 0 {
		return "auto stop: off"
	}
	line := fmt.Sprintf("auto stop: after %dh", hours)
	if t := s.GetStatus().GetAutoStopTime(); t != nil {
		line += ", at " + a.when(t)
	}
	return line
}

func (a *app) serviceShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show SERVICE", Short: "Show one service with its instances and latest events",
		Example:           "  drover service show iris\n  drover service show iris -o json",
		Args:              exactly("SERVICE"),
		ValidArgsFunction: a.names(a.serviceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Services.GetService, &fleetv1.GetServiceRequest{Project: a.project, Name: args[0]})
			if err != nil {
				return err
			}
			return a.print(resp.GetService(), func() error { return a.drawService(cmd.Context(), cl, resp) })
		},
	}
	return a.reading(a.projected(cmd))
}

const shownEvents = 10

func (a *app) drawService(ctx context.Context, cl *client.Client, r *fleetv1.GetServiceResponse) error {
	s := r.GetService()
	if err := a.drawServiceSpec(s); err != nil {
		return err
	}
	fmt.Fprintln(a.out, "\nVersions:")
	t := &table{head: []string{"MODEL", "WEIGHT", "FLAVOR", "READY", "PLACED", "TIMEOUT", "WAITING"}, spare: []string{"TIMEOUT", "WEIGHT"}}
	status := s.GetStatus().GetVersions()
	for i, v := range s.GetSpec().GetVersions() {
		var st *fleetv1.ServiceVersionStatus
		if i < len(status) {
			st = status[i]
		}
		t.add(text("%s@%s", v.GetModel(), v.GetModelVersion()), text("%d", v.GetWeight()), text("%s", v.GetFlavor()),
			text("%d/%d", st.GetReady(), v.GetInstances()), text("%d", st.GetPlaced()), text("%dm", v.GetTimeoutMinutes()), text("%s", oneLine(st.GetWaitingReason())))
	}
	if err := a.draw(t, "  "); err != nil {
		return err
	}
	if err := a.drawPlacement(s); err != nil {
		return err
	}
	if len(r.GetInstances()) > 0 {
		fmt.Fprintln(a.out, "\nInstances:")
		if err := a.draw(a.unitTable(r.GetInstances()), "  "); err != nil {
			return err
		}
	}
	events, err := read(ctx, a, cl.Events.ListEvents, &fleetv1.ListEventsRequest{Filter: &fleetv1.EventFilter{
		Project: s.GetMeta().GetProject(), Kind: fleetv1.KindService, Name: s.GetMeta().GetId(), Limit: shownEvents,
	}})
	if err != nil {
		return err
	}
	if len(events.GetEvents()) > 0 {
		fmt.Fprintln(a.out, "\nEvents:")
		return a.draw(a.eventTable(events.GetEvents()), "  ")
	}
	return nil
}

func (a *app) drawServiceSpec(s *fleetv1.Service) error {
	spec, st := s.GetSpec(), s.GetStatus()
	var p pairs
	p.addf("Name", "%s", s.GetMeta().GetName())
	p.addf("ID", "%s", s.GetMeta().GetId())
	p.addf("Project", "%s", s.GetMeta().GetProject())
	p.add("State", stateCell(st.GetState()))
	if st.GetReason() != "" {
		p.addf("Reason", "%s", oneLine(st.GetReason()))
	}
	p.addf("Since", "%s", a.when(st.GetStateTime()))
	p.addf("Asked to be", "%s", s.GetDesired().GetState())
	if spec.GetDescription() != "" {
		p.addf("Description", "%s", spec.GetDescription())
	}
	p.addf("Pool", "%s", spec.GetPool())
	p.addf("Network", "%s", first(spec.GetNetwork(), fleetv1.NetworkBridge))
	p.addf("Auto stop", "%s", strings.TrimPrefix(a.autoStopText(s), "auto stop: "))
	p.addf("Grace period", "%ds", spec.GetGracePeriodSeconds())
	if tags := s.GetMeta().GetTags(); len(tags) > 0 {
		p.addf("Tags", "%s", words(tags))
	}
	p.addf("Generation", "%d", s.GetMeta().GetGeneration())
	p.addf("Created", "%s by %s", a.when(s.GetMeta().GetCreateTime()), s.GetMeta().GetCreatedBy())
	return a.drawPairs(p)
}

func (a *app) serviceEvents() *cobra.Command {
	var f eventFlags
	cmd := &cobra.Command{
		Use: "events SERVICE", Short: "List what happened to a service and its instances",
		Example:           "  drover service events iris\n  drover service events iris --watch",
		Args:              exactly("SERVICE"),
		ValidArgsFunction: a.names(a.serviceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.filter(cmd, a)
			if err != nil {
				return err
			}
			filter.Project, filter.Kind, filter.Name = a.project, fleetv1.KindService, args[0]
			return a.showEvents(cmd.Context(), filter, f.watch)
		},
	}
	f.register(cmd)
	return a.reading(a.projected(cmd))
}
