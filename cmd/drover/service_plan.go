package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/cmd/drover/manifest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// maxPlannedRows is how many planned instances a table lists: people don't read more.
const maxPlannedRows = 100

func (a *app) servicePlan() *cobra.Command {
	var files []string
	var check bool
	cmd := &cobra.Command{
		Use: "plan -f FILE…", Short: "Show where a service's instances would be placed now, and why others would wait",
		Long: "Show where the instances of the one service in the manifests would be placed if it were deployed now, which\n" +
			"instances of less priority would be stopped for them, and why others would wait: how many nodes each filter\n" +
			"removes, which came closest, and what would make it fit. Nothing is changed. Of a service that exists, what it\n" +
			"lacks is planned. Other objects in the manifests are passed over: they must exist.",
		Example: "  drover service plan -f examples/iris/\n  drover service plan -f service.yaml --check\n  drover service plan -f service.yaml -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := a.loadManifests(cmd, files)
			if err != nil {
				return err
			}
			doc, err := onlyService(docs)
			if err != nil {
				return err
			}
			return a.planService(cmd.Context(), doc, check)
		},
	}
	a.manifestFlag(cmd, &files)
	cmd.Flags().BoolVar(&check, "check", false, "exit with 1 when an instance would wait")
	return a.printing(a.online(cmd))
}

// onlyService is the service of the manifests.
func onlyService(docs []manifest.Document) (manifest.Document, error) {
	var found []manifest.Document
	for _, d := range docs {
		if d.Kind == fleetv1.KindService {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return manifest.Document{}, fmt.Errorf("no service found in the manifests, only %s: what is planned is a service", docs[0].Name())
	case 1:
		return found[0], nil
	}
	return manifest.Document{}, &manifest.Error{File: found[1].File, Line: found[1].Line,
		Msg: fmt.Sprintf("is a second service (%s), after %s at %s: plan one at a time", found[1].Name(), found[0].Name(), found[0].Where())}
}

func (a *app) planService(ctx context.Context, doc manifest.Document, check bool) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	service, ok := doc.Object.(*fleetv1.Service)
	if !ok {
		return fmt.Errorf("%s is no service", doc.Name())
	}
	resp, err := read(ctx, a, cl.Services.PlanService, &fleetv1.PlanServiceRequest{Service: service})
	if err != nil {
		return about(doc.Where()+": "+doc.Name(), err)
	}
	if err := a.print(resp, func() error { return a.drawPlan(doc.Name(), resp) }); err != nil {
		return err
	}
	if check && len(resp.GetWaits()) > 0 {
		return exitError(exitFailed)
	}
	return nil
}

func (a *app) drawPlan(name string, r *fleetv1.PlanServiceResponse) error {
	if len(r.GetInstances()) == 0 && len(r.GetWaits()) == 0 {
		_, err := fmt.Fprintf(a.out, "%s has all its instances: nothing would be placed\n", name)
		return err
	}
	if len(r.GetInstances()) > 0 {
		t := &table{head: []string{"MODEL", "NODES", "DEVICES", "PREEMPTS"}}
		for _, i := range r.GetInstances()[:min(len(r.GetInstances()), maxPlannedRows)] {
			t.add(text("%s@%s", i.GetModel(), i.GetModelVersion()), text("%s", nodesText(i)), text("%s", devicesText(i)),
				cell{text: strings.Join(i.GetPreempts(), ", "), colour: yellow})
		}
		if err := a.draw(t, ""); err != nil {
			return err
		}
		if more := len(r.GetInstances()) - maxPlannedRows; more > 0 {
			fmt.Fprintf(a.out, "and %d more: -o json lists all\n", more)
		}
	}
	for i, w := range r.GetWaits() {
		if i > 0 || len(r.GetInstances()) > 0 {
			fmt.Fprintln(a.out)
		}
		fmt.Fprintf(a.out, "%s would wait: %s@%s\n", counted(int(w.GetInstances()), "instance", "instances"), w.GetModel(), w.GetModelVersion())
		if err := a.drawExplanation(w.GetExplanation()); err != nil {
			return err
		}
	}
	return nil
}

func nodesText(i *fleetv1.PlannedInstance) string {
	var nodes []string
	for _, m := range i.GetMembers() {
		nodes = append(nodes, m.GetNode())
	}
	return strings.Join(nodes, ", ")
}

// devicesText lists the devices of each node, those of different nodes apart.
func devicesText(i *fleetv1.PlannedInstance) string {
	var parts []string
	for _, m := range i.GetMembers() {
		if len(m.GetDeviceIds()) > 0 {
			parts = append(parts, strings.Join(m.GetDeviceIds(), ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// counted is "1 instance" or "3 instances".
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// drawExplanation says why something fits nowhere: by filter, which nodes came closest, and what would help.
func (a *app) drawExplanation(e *fleetv1.Explanation) error {
	if e == nil {
		return nil
	}
	fmt.Fprintf(a.out, "  %s\n", oneLine(e.GetSummary()))
	if len(e.GetFilters()) > 0 {
		fmt.Fprintln(a.out)
		t := &table{head: []string{"FILTER", "NODES", "WHY"}}
		left := e.GetNodes()
		for _, f := range e.GetFilters() {
			removed := cell{}
			if f.GetNodes() > 0 {
				removed = text("-%d", f.GetNodes())
			}
			t.add(text("%s", f.GetFilter()), removed, text("%s", oneLine(f.GetDetail())))
			left -= f.GetNodes()
		}
		t.add(text("left"), text("%d of %d", max(left, 0), e.GetNodes()), cell{})
		if err := a.draw(t, "  "); err != nil {
			return err
		}
	}
	if len(e.GetNearMisses()) > 0 {
		fmt.Fprintln(a.out)
		t := &table{head: []string{"NEAREST", "MISSING"}}
		for _, n := range e.GetNearMisses() {
			t.add(text("%s", n.GetNode()), text("%s", oneLine(n.GetMissing())))
		}
		if err := a.draw(t, "  "); err != nil {
			return err
		}
	}
	if len(e.GetRemedies()) > 0 {
		fmt.Fprintln(a.out, "\n  What would help:")
		for _, r := range e.GetRemedies() {
			fmt.Fprintf(a.out, "  - %s\n", oneLine(r))
		}
	}
	return nil
}

// placementText says what a version asks of placement beyond its flavor; empty for nothing.
func placementText(v *fleetv1.ServiceVersion) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if v.GetPriority() > 0 {
		add("priority %d", v.GetPriority())
	}
	if v.GetPreemptible() {
		add("preemptible")
	}
	if v.GetNodes() > 1 {
		add("%d nodes each", v.GetNodes())
	}
	r := v.GetPlacement()
	if len(r.GetRequired()) > 0 {
		add("only %s", words(r.GetRequired()))
	}
	for _, p := range r.GetPreferred() {
		add("rather %s=%s", p.GetLabel(), p.GetValue())
	}
	for _, s := range r.GetSpread() {
		strict := ""
		if s.GetRequired() {
			strict = ", required"
		}
		add("spread over %s (skew %d%s)", s.GetLabel(), max(s.GetMaxSkew(), 1), strict)
	}
	if r.GetAntiAffinity() {
		add("one a node")
	}
	if len(r.GetNodes()) > 0 {
		add("on %s", strings.Join(r.GetNodes(), ", "))
	}
	return strings.Join(parts, "; ")
}

// drawPlacement shows what the versions of a service ask of placement, and why instances wait.
func (a *app) drawPlacement(s *fleetv1.Service) error {
	t := &table{head: []string{"MODEL", "PLACEMENT"}}
	for _, v := range s.GetSpec().GetVersions() {
		if rules := placementText(v); rules != "" {
			t.add(text("%s@%s", v.GetModel(), v.GetModelVersion()), text("%s", rules))
		}
	}
	if len(t.rows) > 0 {
		fmt.Fprintln(a.out)
		if err := a.draw(t, "  "); err != nil {
			return err
		}
	}
	for _, st := range s.GetStatus().GetVersions() {
		if st.GetWaitingReason() == "" && st.GetReservation() == nil {
			continue
		}
		fmt.Fprintf(a.out, "\nWaiting: %d of %d instances of %s@%s%s\n", max(st.GetDesired()-st.GetPlaced(), 0), st.GetDesired(),
			st.GetModel(), st.GetModelVersion(), a.since(st))
		e := st.GetExplanation()
		if e == nil {
			e = &fleetv1.Explanation{Summary: st.GetWaitingReason()}
		}
		if err := a.drawExplanation(e); err != nil {
			return err
		}
		if r := st.GetReservation(); r != nil {
			fmt.Fprintf(a.out, "\n  Kept for the next one: %s (%s), since %s\n", strings.Join(r.GetNodes(), ", "), oneLine(r.GetDetail()), a.when(r.GetSince()))
		}
	}
	return nil
}

func (a *app) since(st *fleetv1.ServiceVersionStatus) string {
	if st.GetWaitingSince() == nil {
		return ""
	}
	return ", since " + a.when(st.GetWaitingSince())
}

// listedReason is the reason of a service in a list: its own, or what its instances wait for.
func (a *app) listedReason(s *fleetv1.Service) string {
	reason := oneLine(s.GetStatus().GetReason())
	for _, st := range s.GetStatus().GetVersions() {
		if st.GetWaitingReason() == "" {
			continue
		}
		why := "waits"
		if st.GetWaitingSince() != nil {
			why = "waits for " + a.age(st.GetWaitingSince())
		}
		if reason == "" {
			return why + ": " + oneLine(st.GetWaitingReason())
		}
		return reason + " (" + why + ")"
	}
	return reason
}

// unitTable lists the instances of a service, the members of a gang below a row for all of it.
func (a *app) unitTable(instances []*fleetv1.Instance) *table {
	var order []string
	gangs := map[string][]*fleetv1.Instance{}
	for _, i := range instances {
		id := i.GetSpec().GetGang().GetId()
		if id == "" {
			id = i.GetMeta().GetId()
		}
		if gangs[id] == nil {
			order = append(order, id)
		}
		gangs[id] = append(gangs[id], i)
	}
	t := a.instanceTable(nil)
	for _, id := range order {
		members := gangs[id]
		if g := members[0].GetSpec().GetGang(); g != nil {
			slices.SortFunc(members, func(x, y *fleetv1.Instance) int {
				return int(x.GetSpec().GetGang().GetRank() - y.GetSpec().GetGang().GetRank())
			})
			t.rows = append(t.rows, a.gangRow(id, members))
		}
		rows := a.instanceTable(members).rows
		for _, row := range rows {
			if members[0].GetSpec().GetGang() != nil {
				row[0].text = "  " + row[0].text
			}
		}
		t.rows = append(t.rows, rows...)
	}
	return t
}

// addPlacement shows what an instance is in placement beyond its node: its gang, its priority, and that it leaves.
func addPlacement(p *pairs, i *fleetv1.Instance) {
	if g := i.GetSpec().GetGang(); g != nil {
		p.addf("Gang", "%s, rank %d of %d on %s", shortID(g.GetId()), g.GetRank(), g.GetSize(), strings.Join(g.GetAddresses(), ", "))
	}
	if s := i.GetSpec(); s.GetPriority() > 0 || s.GetPreemptible() {
		p.addf("Priority", "%d%s", s.GetPriority(), map[bool]string{true: ", preemptible"}[s.GetPreemptible()])
	}
	if l := i.GetDesired().GetLeave(); l != nil {
		line := "once it is replaced (" + l.GetCause() + ")"
		if l.GetTarget() != "" {
			line += " on " + l.GetTarget()
		}
		p.add("Leaves", cell{text: line, colour: yellow})
	}
}

// gangRow sums up a gang in the columns of instanceTable.
func (a *app) gangRow(id string, members []*fleetv1.Instance) []cell {
	head, ready, restarts := members[0], 0, int32(0)
	var nodes []string
	for _, m := range members {
		if m.GetObserved().GetReady() {
			ready++
		}
		restarts += m.GetObserved().GetRestarts()
		nodes = append(nodes, m.GetSpec().GetNode())
	}
	state := text("%d/%d ready", ready, head.GetSpec().GetGang().GetSize())
	state.colour = yellow
	endpoint := cell{}
	if ready == int(head.GetSpec().GetGang().GetSize()) {
		state.colour = green
		endpoint = text("%s", hostPort(head.GetObserved().GetIp(), head.GetObserved().GetPort()))
	}
	return []cell{text("gang %s", shortID(id)), state, {}, text("%s", strings.Join(nodes, ", ")), endpoint,
		text("%s@%s", head.GetSpec().GetModel(), head.GetSpec().GetModelVersion()), {}, text("%d", restarts),
		text("%s", a.age(head.GetMeta().GetCreateTime())), {}}
}
