package main

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) instanceCommand() *cobra.Command {
	return a.noun("instance", "Show containers and reach into them",
		a.instanceList(), a.instanceShow(), a.instanceLogs(), a.instanceExec())
}

func (a *app) instanceList() *cobra.Command {
	req := &fleetv1.ListInstancesRequest{}
	cmd := &cobra.Command{
		Use: "list", Short: "List instances",
		Example: "  drover instance list\n  drover instance list --service iris --node dev-1",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			req.Project = a.project
			resp, err := read(cmd.Context(), a, cl.Instances.ListInstances, req)
			if err != nil {
				return err
			}
			return a.print(resp, func() error { return a.drawTable(a.instanceTable(resp.GetInstances()), "no instances") })
		},
	}
	cmd.Flags().StringVar(&req.Service, "service", "", "only instances of this `service`")
	cmd.Flags().StringVar(&req.Node, "node", "", "only instances on this `node`")
	must(cmd.RegisterFlagCompletionFunc("service", a.values(a.serviceNames)))
	must(cmd.RegisterFlagCompletionFunc("node", a.values(nodeNames)))
	return a.reading(a.projected(cmd))
}

func (a *app) instanceTable(instances []*fleetv1.Instance) *table {
	t := &table{
		head:  []string{"NAME", "STATE", "HEALTH", "NODE", "ENDPOINT", "MODEL", "ATTEMPT", "RESTARTS", "AGE", "REASON"},
		spare: []string{"ATTEMPT", "RESTARTS", "MODEL", "AGE", "HEALTH"},
	}
	for _, i := range instances {
		o, s := i.GetObserved(), i.GetSpec()
		state := stateCell(first(o.GetState(), "Placed"))
		endpoint := ""
		if o.GetReady() {
			endpoint = hostPort(o.GetIp(), o.GetPort())
		}
		t.add(text("%s", i.GetMeta().GetName()), state, stateCell(o.GetHealth()), text("%s", s.GetNode()), text("%s", endpoint),
			text("%s@%s", s.GetModel(), s.GetModelVersion()), text("%d", o.GetAttempt()), text("%d", o.GetRestarts()),
			text("%s", a.age(i.GetMeta().GetCreateTime())), text("%s", oneLine(o.GetReason())))
	}
	return t
}

func hostPort(ip string, port int32) string { return net.JoinHostPort(ip, strconv.Itoa(int(port))) }

func (a *app) instanceShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show INSTANCE", Short: "Show one instance",
		Example:           "  drover instance show iris-1a2b3c4d",
		Args:              exactly("INSTANCE"),
		ValidArgsFunction: a.names(a.instanceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Instances.GetInstance, &fleetv1.GetInstanceRequest{Project: a.project, Name: args[0]})
			if err != nil {
				return err
			}
			return a.print(resp.GetInstance(), func() error { return a.drawInstance(resp.GetInstance()) })
		},
	}
	return a.reading(a.projected(cmd))
}

func (a *app) drawInstance(i *fleetv1.Instance) error {
	s, d, o := i.GetSpec(), i.GetDesired(), i.GetObserved()
	var p pairs
	p.addf("Name", "%s", i.GetMeta().GetName())
	p.addf("ID", "%s", i.GetMeta().GetId())
	p.addf("Service", "%s (generation %d)", s.GetServiceName(), s.GetServiceGeneration())
	p.addf("Model", "%s@%s", s.GetModel(), s.GetModelVersion())
	p.addf("Node", "%s", s.GetNode())
	p.add("State", stateCell(first(o.GetState(), "Placed")))
	if o.GetReason() != "" {
		p.addf("Reason", "%s", oneLine(o.GetReason()))
	}
	p.addf("Asked to be", "%s", strings.TrimSpace(d.GetState()+" "+d.GetReason()))
	addPlacement(&p, i)
	p.add("Health", stateCell(o.GetHealth()))
	p.addf("Ready", "%s", yesNo(o.GetReady()))
	if o.GetPort() > 0 {
		p.addf("Address", "%s", hostPort(o.GetIp(), o.GetPort()))
	}
	p.addf("Attempt", "%d, %d restarts after failures", o.GetAttempt(), o.GetRestarts())
	p.addf("Started", "%s", a.when(o.GetStartTime()))
	if o.GetRetryTime() != nil {
		p.addf("Next attempt", "%s", a.when(o.GetRetryTime()))
	}
	if e := o.GetLastExit(); e != nil {
		p.addf("Last exit", "%s", strings.TrimRight(fmt.Sprintf("attempt %d: %s, code %d, %s %s", e.GetAttempt(), e.GetReason(), e.GetCode(), a.when(e.GetTime()), oneLine(e.GetMessage())), " "))
	}
	p.addf("Process", "%d", o.GetPid())
	p.addf("Image", "%s", s.GetImage())
	p.addf("Digest", "%s", s.GetImageDigest())
	p.addf("Command", "%s", strings.Join(s.GetCommand(), " "))
	p.addf("Resources", "flavor %s: %s cores, %s memory, %d devices", s.GetFlavor(), cores(s.GetCpuMillis()), bytesText(s.GetMemoryBytes()), len(s.GetDeviceIds()))
	for n, id := range s.GetDeviceIds() {
		p.addf(map[bool]string{true: "Devices"}[n == 0], "%s", id)
	}
	p.addf("Network", "%s, container port %d", s.GetNetwork(), s.GetApi().GetPort())
	for _, m := range s.GetMounts() {
		p.addf("Mount", "%s on %s%s", m.GetSource(), m.GetPath(), map[bool]string{true: " read-only"}[m.GetReadOnly()])
	}
	for _, k := range slices.Sorted(maps.Keys(s.GetEnv())) {
		p.addf("Env", "%s=%s", k, s.GetEnv()[k])
	}
	p.addf("Created", "%s", a.when(i.GetMeta().GetCreateTime()))
	return a.drawPairs(p)
}
