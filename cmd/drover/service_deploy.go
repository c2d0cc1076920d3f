package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/cmd/drover/manifest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// interactiveAutoStop is what a person who deploys from flags on a terminal gets without asking.
const interactiveAutoStop = 1

// deployFlags are a service with one version.
type deployFlags struct {
	files             []string
	pool, model       string
	flavor, network   string
	autoStop          string
	description       string
	env, tags         map[string]string
	mounts            []string
	instances         int32
	timeoutMinutes    int32
	maxInvalid, grace int32
	wait              waitFlags

	priority, nodes int32
	preemptible     bool
	labels          map[string]string
}

func (a *app) serviceDeploy() *cobra.Command {
	var d deployFlags
	cmd := &cobra.Command{
		Use: "deploy [SERVICE] [flags] | -f FILE…", Short: "Deploy a service of one model version from flags, or services from manifests",
		Long: "Deploy a service of one model version from flags, or services from manifests. On a terminal a service that is\n" +
			"deployed from flags stops by itself after 1 hour unless --auto-stop says otherwise.",
		Example: "  drover service deploy iris --pool demo --model iris@1.0.0 --flavor iris.cpu --instances 2 --auto-stop off --wait\n" +
			"  drover service deploy -f examples/iris/service.yaml --wait",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(d.files) > 0 {
				return a.deployFiles(cmd, args, &d)
			}
			if err := exactly("SERVICE")(cmd, args); err != nil {
				return err
			}
			s, err := d.service(cmd, a, args[0])
			if err != nil {
				return err
			}
			return a.deploy(cmd.Context(), s, d.wait)
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.pool, "pool", "", "`pool` that the instances run in")
	f.StringVar(&d.model, "model", "", "`MODEL[@VERSION]`; the latest version by default")
	f.StringVar(&d.flavor, "flavor", "", "resource `flavor` of each instance")
	f.Int32Var(&d.instances, "instances", 1, "`number` of instances")
	f.StringToStringVar(&d.env, "env", nil, "environment variables, `K=V`")
	f.StringArrayVar(&d.mounts, "mount", nil, "host directory in the container, `SOURCE:PATH[:ro]`; may be given several times")
	f.Int32Var(&d.nodes, "nodes", 1, "`number` of nodes that one instance spans")
	f.StringToStringVar(&d.labels, "node-label", nil, "only nodes with these labels, `K=V`; other rules stand in manifests")
	f.Int32Var(&d.priority, "priority", 0, "`0–100`: the higher is placed first, and may have preemptible instances of less priority stopped")
	f.BoolVar(&d.preemptible, "preemptible", false, "its instances may be stopped to make room for others of more priority")
	f.StringVar(&d.network, "network", "", "bridge (default) or host")
	f.StringVar(&d.autoStop, "auto-stop", "", "stop after so many whole hours: 1h to 24h, or off (default off; 1h on a terminal)")
	f.Int32Var(&d.timeoutMinutes, "start-timeout", 0, "`minutes` to be pulled, started and healthy (default 20)")
	f.Int32Var(&d.maxInvalid, "max-invalid-instances", 0, "`number` of instances that may be down at once during a restart (default 1)")
	f.Int32Var(&d.grace, "grace-period", 30, "`seconds` between SIGTERM and SIGKILL")
	f.StringVar(&d.description, "description", "", "at most 100 characters")
	f.StringToStringVar(&d.tags, "tag", nil, "tags to find the service by, `K=V`")
	a.manifestFlag(cmd, &d.files)
	d.wait.register(cmd, "the service to run")
	must(cmd.RegisterFlagCompletionFunc("network", cobra.FixedCompletions([]string{fleetv1.NetworkBridge, fleetv1.NetworkHost}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("pool", a.values(poolNames)))
	must(cmd.RegisterFlagCompletionFunc("flavor", a.values(flavorNames)))
	must(cmd.RegisterFlagCompletionFunc("model", a.values(a.modelNames(true))))
	return a.printing(a.projected(cmd))
}

func (a *app) deployFiles(cmd *cobra.Command, args []string, d *deployFlags) error {
	if len(args) > 0 {
		return usagef(cmd, "give a SERVICE with flags or -f FILE, not both")
	}
	docs, err := a.loadManifests(cmd, d.files)
	if err != nil {
		return err
	}
	for _, doc := range docs {
		if doc.Kind != fleetv1.KindService {
			return &manifest.Error{File: doc.File, Line: doc.Line, Msg: "is " + doc.Name() + ", not a service: use `drover apply -f`"}
		}
	}
	return a.apply(cmd.Context(), docs, d.wait)
}

func (a *app) deploy(ctx context.Context, s *fleetv1.Service, w waitFlags) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	resp, err := write(ctx, a, cl.Services.DeployService, &fleetv1.DeployServiceRequest{Service: s})
	if err != nil {
		return err
	}
	done := unchanged
	if resp.GetChanged() {
		done = "deploying"
	}
	return a.changedService(ctx, cl, resp.GetService(), done, running, w)
}

func (d *deployFlags) service(cmd *cobra.Command, a *app, name string) (*fleetv1.Service, error) {
	for _, need := range []struct{ flag, value string }{{"pool", d.pool}, {"model", d.model}, {"flavor", d.flavor}} {
		if need.value == "" {
			return nil, usagef(cmd, "--%s is missing", need.flag)
		}
	}
	hours, err := d.autoStopHours(cmd, a)
	if err != nil {
		return nil, err
	}
	mounts, err := parseMounts(cmd, d.mounts)
	if err != nil {
		return nil, err
	}
	model, version := splitVersion(d.model)
	spec := &fleetv1.ServiceSpec{
		Description: d.description, Pool: d.pool, Network: d.network,
		AutoStopHours: hours, MaxInvalidInstances: d.maxInvalid,
		Versions: []*fleetv1.ServiceVersion{{
			Model: model, ModelVersion: version, Weight: 100, Flavor: d.flavor, Instances: d.instances,
			Env: d.env, TimeoutMinutes: d.timeoutMinutes, Mounts: mounts,
			Priority: d.priority, Preemptible: d.preemptible, Nodes: d.nodes,
		}},
	}
	if len(d.labels) > 0 {
		spec.Versions[0].Placement = &fleetv1.PlacementRules{Required: d.labels}
	}
	if cmd.Flags().Changed("grace-period") {
		spec.GracePeriodSeconds = &d.grace
	}
	return &fleetv1.Service{Meta: &fleetv1.Meta{Name: name, Project: a.project, Tags: d.tags}, Spec: spec}, nil
}

func (d *deployFlags) autoStopHours(cmd *cobra.Command, a *app) (int32, error) {
	switch d.autoStop {
	case "":
		if a.terminal {
			return interactiveAutoStop, nil
		}
		return 0, nil
	case "off":
		return 0, nil
	}
	t, err := time.ParseDuration(d.autoStop)
	if err != nil || t != t.Truncate(time.Hour) || t < time.Hour || t > 24*time.Hour {
		return 0, usagef(cmd, "--auto-stop %q: want 1h to 24h in whole hours, or off", d.autoStop)
	}
	return int32(t / time.Hour), nil
}

func parseMounts(cmd *cobra.Command, given []string) ([]*fleetv1.Mount, error) {
	var mounts []*fleetv1.Mount
	for _, text := range given {
		parts := strings.Split(text, ":")
		if len(parts) < 2 || len(parts) > 3 || (len(parts) == 3 && parts[2] != "ro") {
			return nil, usagef(cmd, "--mount %q: want SOURCE:PATH or SOURCE:PATH:ro", text)
		}
		mounts = append(mounts, &fleetv1.Mount{Source: parts[0], Path: parts[1], ReadOnly: len(parts) == 3})
	}
	return mounts, nil
}
