package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) appCommand() *cobra.Command {
	return a.noun("app", "Manage the programs of a project that look its services up",
		a.appCreate(), a.appList(), a.appShow(), a.appBind(), a.appCode(), a.appRevokeCode(), a.appDelete())
}

const lostSecret = "the %s was made, but the answer with its secret was lost: %s, and make another"

func (a *app) appCreate() *cobra.Command {
	var services []string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make an app and print its secrets, this once",
		Long: "Make an app, and print its app key with the secret that signs requests, and a code that can be sent instead.\n" +
			"Neither secret nor code is shown again. The app can look up the services that it is bound to, and do nothing else.",
		Example: "  drover app create shop --service iris",
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := write(cmd.Context(), a, cl.Credentials.CreateApp, &fleetv1.CreateAppRequest{
				App: &fleetv1.App{Meta: &fleetv1.Meta{Name: args[0], Project: a.project}, Services: services}})
			if err != nil {
				return err
			}
			if resp.GetSecret() == "" {
				return fmt.Errorf(lostSecret, "app", "drover app delete "+args[0])
			}
			return a.print(resp, func() error {
				var p pairs
				p.addf("App key", "%s", resp.GetApp().GetAppKey())
				p.addf("App secret", "%s", resp.GetSecret())
				p.addf("App code", "%s", resp.GetCode())
				return a.drawPairs(p)
			})
		},
	}
	cmd.Flags().StringSliceVar(&services, "service", nil, "`service` that it may look up; more than one are separated by commas")
	must(cmd.RegisterFlagCompletionFunc("service", a.values(a.serviceNames)))
	return a.printing(a.projected(cmd))
}

func (a *app) listApps(ctx context.Context) (*fleetv1.ListAppsResponse, error) {
	cl, err := a.client()
	if err != nil {
		return nil, err
	}
	return read(ctx, a, cl.Credentials.ListApps, &fleetv1.ListAppsRequest{Project: a.project})
}

func (a *app) appList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the apps of a project", Example: "  drover app list", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := a.listApps(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				t := &table{head: []string{"NAME", "APP KEY", "SERVICES", "CODES", "LAST USED", "BY"}, spare: []string{"BY", "LAST USED"}}
				for _, one := range resp.GetApps() {
					t.add(text("%s", one.GetMeta().GetName()), text("%s", one.GetAppKey()), text("%s", orDash(strings.Join(one.GetServices(), ", "))),
						text("%d", len(one.GetCodes())), a.until(one.GetLastUsedTime(), "-"), text("%s", one.GetMeta().GetCreatedBy()))
				}
				return a.drawTable(t, "no apps in the project")
			})
		},
	}
	return a.reading(a.projected(cmd))
}

func (a *app) appShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show an app, the services it is bound to, and the IDs of its codes", Example: "  drover app show shop"}
	list := func(ctx context.Context, _ *client.Client) ([]*fleetv1.App, error) {
		resp, err := a.listApps(ctx)
		return resp.GetApps(), err
	}
	return a.reading(a.projected(showOf(a, cmd, "app", list, func(_ context.Context, _ *client.Client, one *fleetv1.App) error { return a.drawApp(one) })))
}

func (a *app) drawApp(one *fleetv1.App) error {
	var p pairs
	p.addf("Name", "%s", one.GetMeta().GetName())
	p.addf("Project", "%s", one.GetMeta().GetProject())
	p.addf("App key", "%s", one.GetAppKey())
	for i, name := range one.GetServices() {
		id := one.GetServiceIds()[name]
		if id == "" {
			id = "whichever has the name"
		}
		p.addf([]string{"Services", ""}[min(i, 1)], "%s (%s)", name, id)
	}
	if len(one.GetServices()) == 0 {
		p.addf("Services", "-")
	}
	p.add("Last used", a.until(one.GetLastUsedTime(), "-"))
	for _, c := range one.GetCodes() {
		p.addf("Code", "%s of %s", c.GetId(), a.when(c.GetCreateTime()))
	}
	p.addf("Created", "%s by %s", a.when(one.GetMeta().GetCreateTime()), one.GetMeta().GetCreatedBy())
	return a.drawPairs(p)
}

func (a *app) appNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Credentials.ListApps(ctx, &fleetv1.ListAppsRequest{Project: a.project})
	return metaNames(resp.GetApps(), err)
}

// appChange is a command that changes an app; do answers what to print, as a message and for people.
func (a *app) appChange(cmd *cobra.Command, do func(ctx context.Context, cl *client.Client, args []string) (proto.Message, string, error)) *cobra.Command {
	cmd.ValidArgsFunction = a.names(a.appNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		resp, said, err := do(cmd.Context(), cl, args)
		if err != nil {
			return err
		}
		return a.print(resp, func() error {
			_, err := fmt.Fprintln(a.out, said)
			return err
		})
	}
	return a.printing(a.projected(cmd))
}

func (a *app) appBind() *cobra.Command {
	var services []string
	cmd := &cobra.Command{
		Use: "bind NAME", Short: "Say which services an app may look up, instead of those before",
		Example: "  drover app bind shop --service iris,rose\n  drover app bind shop", Args: exactly("NAME"),
	}
	cmd.Flags().StringSliceVar(&services, "service", nil, "`service` that it may look up; more than one are separated by commas; none for no service")
	must(cmd.RegisterFlagCompletionFunc("service", a.values(a.serviceNames)))
	return a.appChange(cmd, func(ctx context.Context, cl *client.Client, args []string) (proto.Message, string, error) {
		resp, err := write(ctx, a, cl.Credentials.BindApp, &fleetv1.BindAppRequest{Project: a.project, Name: args[0], Services: services})
		to := "no service"
		if len(services) > 0 {
			to = strings.Join(services, ", ")
		}
		return resp, fmt.Sprintf("app %s is bound to %s", args[0], to), err
	})
}

func (a *app) appCode() *cobra.Command {
	cmd := &cobra.Command{
		Use: "code NAME", Short: "Make another code of an app and print it, this once",
		Example: "  drover app code shop > shop.code", Args: exactly("NAME"),
	}
	return a.appChange(cmd, func(ctx context.Context, cl *client.Client, args []string) (proto.Message, string, error) {
		resp, err := write(ctx, a, cl.Credentials.CreateAppCode, &fleetv1.CreateAppCodeRequest{Project: a.project, Name: args[0]})
		if err == nil && resp.GetCode() == "" {
			err = fmt.Errorf(lostSecret, "code", "find it with drover app show "+args[0]+", revoke it")
		}
		return resp, resp.GetCode(), err
	})
}

func (a *app) appRevokeCode() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke-code NAME ID", Short: "Let a code of an app in no more, from the next call on",
		Example: "  drover app revoke-code shop k3v9q2ab", Args: exactly("NAME", "ID"),
	}
	return a.appChange(cmd, func(ctx context.Context, cl *client.Client, args []string) (proto.Message, string, error) {
		resp, err := write(ctx, a, cl.Credentials.RevokeAppCode, &fleetv1.RevokeAppCodeRequest{Project: a.project, Name: args[0], Id: args[1]})
		return resp, fmt.Sprintf("code %s of app %s revoked", args[1], args[0]), err
	})
}

func (a *app) appDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete an app: its key and its codes are let in no more", Example: "  drover app delete shop",
		Args: exactly("NAME"),
	}
	return a.appChange(cmd, func(ctx context.Context, cl *client.Client, args []string) (proto.Message, string, error) {
		resp, err := write(ctx, a, cl.Credentials.DeleteApp, &fleetv1.DeleteAppRequest{Project: a.project, Name: args[0]})
		return resp, fmt.Sprintf("app %s deleted", args[0]), err
	})
}
