package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/cmd/drover/manifest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) modelCommand() *cobra.Command {
	return a.noun("model", "Manage model versions",
		a.modelList(), a.modelShow(), a.modelCreate(), a.modelDelete())
}

// splitVersion reads NAME[@VERSION].
func splitVersion(arg string) (model, modelVersion string) {
	model, modelVersion, _ = strings.Cut(arg, "@")
	return model, modelVersion
}

func (a *app) modelList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [MODEL]", Short: "List the model versions",
		Example:           "  drover model list\n  drover model list iris",
		Args:              atMostOne,
		ValidArgsFunction: a.names(a.modelNames(false)),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			req := &fleetv1.ListModelsRequest{Project: a.project}
			if len(args) > 0 {
				req.Name = args[0]
			}
			resp, err := read(cmd.Context(), a, cl.Models.ListModels, req)
			if err != nil {
				return err
			}
			t := &table{head: []string{"NAME", "VERSION", "STATE", "IMAGE", "DIGEST", "ARCH", "AGE"}, spare: []string{"DIGEST", "AGE", "ARCH"}}
			for _, m := range resp.GetModels() {
				t.add(text("%s", m.GetMeta().GetName()), text("%s", m.GetSpec().GetVersion()), stateCell(m.GetStatus().GetState()),
					text("%s", m.GetSpec().GetImage()), text("%s", shortDigest(m.GetStatus().GetImageDigest())),
					text("%s", strings.Join(m.GetStatus().GetArches(), ",")), text("%s", a.age(m.GetMeta().GetCreateTime())))
			}
			return a.print(resp, func() error { return a.drawTable(t, "no models") })
		},
	}
	return a.reading(a.projected(cmd))
}

func shortDigest(d string) string { return shortID(strings.TrimPrefix(d, "sha256:")) }

func (a *app) modelShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show MODEL[@VERSION]", Short: "Show one model version, the latest by default",
		Example:           "  drover model show iris\n  drover model show iris@1.0.0 -o json",
		Args:              exactly("MODEL"),
		ValidArgsFunction: a.names(a.modelNames(true)),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			name, wanted := splitVersion(args[0])
			resp, err := read(cmd.Context(), a, cl.Models.GetModel,
				&fleetv1.GetModelRequest{Project: a.project, Name: name, Version: wanted})
			if err != nil {
				return err
			}
			return a.print(resp.GetModel(), func() error { return a.drawModel(resp.GetModel()) })
		},
	}
	return a.reading(a.projected(cmd))
}

func (a *app) drawModel(m *fleetv1.Model) error {
	s := m.GetSpec()
	var p pairs
	p.addf("Name", "%s", m.GetMeta().GetName())
	p.addf("Version", "%s", s.GetVersion())
	p.addf("ID", "%s", m.GetMeta().GetId())
	p.add("State", stateCell(m.GetStatus().GetState()))
	if r := m.GetStatus().GetReason(); r != "" {
		p.addf("Reason", "%s", r)
	}
	if s.GetDescription() != "" {
		p.addf("Description", "%s", s.GetDescription())
	}
	p.addf("Image", "%s", s.GetImage())
	p.addf("Digest", "%s", m.GetStatus().GetImageDigest())
	p.addf("Arch", "%s", first(strings.Join(m.GetStatus().GetArches(), ", "), s.GetArch()))
	p.addf("API", "%s port %d", s.GetApi().GetProtocol(), s.GetApi().GetPort())
	p.addf("Health", "%s", healthText(s.GetHealth()))
	p.addf("Command", "%s", strings.Join(s.GetCommand(), " "))
	p.addf("Deploy types", "%s", strings.Join(s.GetDeployTypes(), ", "))
	for _, r := range s.GetApis() {
		p.addf("Route", "%s %s", first(r.GetMethod(), "POST"), first(r.GetUrl(), "/"))
	}
	for _, d := range s.GetDocuments() {
		p.addf("Document", "%s %s", d.GetName(), d.GetUrl())
	}
	p.addf("Created", "%s by %s", a.when(m.GetMeta().GetCreateTime()), m.GetMeta().GetCreatedBy())
	return a.drawPairs(p)
}

func healthText(h *fleetv1.HealthCheck) string {
	if h == nil {
		return "ready when the port accepts"
	}
	what := ""
	switch h.GetCheckMethod() {
	case "HTTP":
		what = " " + first(h.GetUrl(), "/health")
	case "EXEC":
		what = " " + strings.Join(h.GetCommand(), " ")
	}
	return fmt.Sprintf("%s%s every %ds, timeout %ds, %d failures", h.GetCheckMethod(), what,
		h.GetPeriodSeconds(), h.GetTimeoutSeconds(), h.GetFailureThreshold())
}

func (a *app) modelCreate() *cobra.Command {
	spec := &fleetv1.ModelSpec{Api: &fleetv1.ModelAPI{}}
	var healthURL string
	var healthPeriod int32
	cmd := &cobra.Command{
		Use: "create MODEL[@VERSION]", Short: "Create a model version from a container image",
		Long: "Create a model version from a container image. Without a version it is the latest one with its patch raised,\n" +
			"0.0.1 for the first. The image is resolved to a digest now, and run by that digest for ever after.",
		Example: "  drover model create iris@1.0.0 --image 127.0.0.1:5000/iris:1.0 --health-url /health",
		Args:    exactly("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if spec.Image == "" {
				return usagef(cmd, "--image is missing")
			}
			name, wanted := splitVersion(args[0])
			spec.Version = wanted
			if healthURL != "" {
				spec.Health = &fleetv1.HealthCheck{CheckMethod: "HTTP", Url: healthURL, PeriodSeconds: healthPeriod}
			}
			return a.create(cmd.Context(), manifest.Document{
				Kind: fleetv1.KindModel, Object: &fleetv1.Model{Meta: &fleetv1.Meta{Name: name, Project: a.project}, Spec: spec},
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&spec.Image, "image", "", "container image `reference`")
	f.StringVar(&spec.Description, "description", "", "at most 100 characters")
	f.StringVar(&spec.Api.Protocol, "protocol", "", "http (default), https, grpc or tcp")
	f.Int32Var(&spec.Api.Port, "port", 0, "port that the container listens on (default 8080)")
	f.StringVar(&healthURL, "health-url", "", "check the health with HTTP at this `path`; without it an open port is healthy")
	f.Int32Var(&healthPeriod, "health-period", 0, "`seconds` between health checks (default 10)")
	f.StringSliceVar(&spec.Command, "command", nil, "replace the image's command, words separated by commas")
	f.StringVar(&spec.Arch, "arch", "", "amd64 or arm64; empty for what the image offers")
	return a.printing(a.projected(cmd))
}

func (a *app) modelDelete() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "delete MODEL@VERSION", Short: "Delete a model version that nothing uses",
		Example:           "  drover model delete iris@1.0.0\n  drover model delete iris --all-versions",
		Args:              exactly("MODEL@VERSION"),
		ValidArgsFunction: a.names(a.modelNames(true)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, wanted := splitVersion(args[0])
			if wanted == "" && !all {
				return usagef(cmd, "which version of %s? Name one as %s@VERSION, or give --all-versions", name, name)
			}
			return a.remove(cmd.Context(), manifest.Document{
				Kind:   fleetv1.KindModel,
				Object: &fleetv1.Model{Meta: &fleetv1.Meta{Name: name, Project: a.project}, Spec: &fleetv1.ModelSpec{Version: wanted}},
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all-versions", false, "delete every version of the model")
	return a.projected(cmd)
}

// modelNames completes models, or their versions.
func (a *app) modelNames(versions bool) func(context.Context, *client.Client) ([]string, error) {
	return func(ctx context.Context, cl *client.Client) ([]string, error) {
		resp, err := cl.Models.ListModels(ctx, &fleetv1.ListModelsRequest{Project: a.project})
		var names []string
		for _, m := range resp.GetModels() {
			name := m.GetMeta().GetName()
			if versions {
				name += "@" + m.GetSpec().GetVersion()
			}
			names = append(names, name)
		}
		return names, err
	}
}
