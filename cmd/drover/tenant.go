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

func (a *app) accountCommand() *cobra.Command {
	return a.noun("account", "Manage tenants",
		a.tenantCreate("account", "Make an account, which owns projects and users", "  drover account create acme", false,
			func(ctx context.Context, cl *client.Client, m *fleetv1.Meta) (proto.Message, *fleetv1.Meta, error) {
				resp, err := write(ctx, a, cl.Tenants.CreateAccount, &fleetv1.CreateAccountRequest{Account: &fleetv1.Account{Meta: m}})
				return resp.GetAccount(), resp.GetAccount().GetMeta(), err
			}),
		a.tenantList("account", "List the accounts", func(ctx context.Context, cl *client.Client) (proto.Message, []*fleetv1.Meta, error) {
			resp, err := read(ctx, a, cl.Tenants.ListAccounts, &fleetv1.ListAccountsRequest{})
			return resp, metasOf(resp.GetAccounts()), err
		}),
		a.tenantDelete("account", "Delete an account that has no projects and no users", accountNames, func(ctx context.Context, cl *client.Client, name string) (string, error) {
			_, err := write(ctx, a, cl.Tenants.DeleteAccount, &fleetv1.DeleteAccountRequest{Name: name})
			return "", err
		}))
}

func (a *app) projectCommand() *cobra.Command {
	return a.noun("project", "Manage the projects of accounts",
		a.tenantCreate("project", "Make a project, in which models, services and apps are", "  drover project create vision --account acme", true,
			func(ctx context.Context, cl *client.Client, m *fleetv1.Meta) (proto.Message, *fleetv1.Meta, error) {
				resp, err := write(ctx, a, cl.Tenants.CreateProject, &fleetv1.CreateProjectRequest{Project: &fleetv1.Project{Meta: m}})
				return resp.GetProject(), resp.GetProject().GetMeta(), err
			}),
		a.tenantList("project", "List the projects that the token is for; an admin's and an operator's is for all", func(ctx context.Context, cl *client.Client) (proto.Message, []*fleetv1.Meta, error) {
			resp, err := read(ctx, a, cl.Tenants.ListProjects, &fleetv1.ListProjectsRequest{})
			return resp, metasOf(resp.GetProjects()), err
		}),
		a.tenantDelete("project", "Delete a project that nothing is in, and that no token or key is for", projectNames, func(ctx context.Context, cl *client.Client, name string) (string, error) {
			_, err := write(ctx, a, cl.Tenants.DeleteProject, &fleetv1.DeleteProjectRequest{Name: name})
			return "", err
		}))
}

func (a *app) userCommand() *cobra.Command {
	return a.noun("user", "Manage the users of accounts: people and programs",
		a.tenantCreate("user", "Make a user, who may be given tokens and keys", "  drover user create ann --account acme", true,
			func(ctx context.Context, cl *client.Client, m *fleetv1.Meta) (proto.Message, *fleetv1.Meta, error) {
				resp, err := write(ctx, a, cl.Tenants.CreateUser, &fleetv1.CreateUserRequest{User: &fleetv1.User{Meta: m}})
				return resp.GetUser(), resp.GetUser().GetMeta(), err
			}),
		a.tenantList("user", "List the users", func(ctx context.Context, cl *client.Client) (proto.Message, []*fleetv1.Meta, error) {
			resp, err := read(ctx, a, cl.Tenants.ListUsers, &fleetv1.ListUsersRequest{})
			return resp, metasOf(resp.GetUsers()), err
		}),
		a.userShow(),
		a.tenantDelete("user", "Delete a user and revoke the user's tokens and keys", userNames, func(ctx context.Context, cl *client.Client, name string) (string, error) {
			resp, err := write(ctx, a, cl.Tenants.DeleteUser, &fleetv1.DeleteUserRequest{Name: name})
			return fmt.Sprintf(", with %d tokens and keys", resp.GetRevoked()), err
		}))
}

func metasOf[T interface{ GetMeta() *fleetv1.Meta }](objects []T) []*fleetv1.Meta {
	out := make([]*fleetv1.Meta, len(objects))
	for i, o := range objects {
		out[i] = o.GetMeta()
	}
	return out
}

func (a *app) tenantCreate(noun, short, example string, owned bool, create func(context.Context, *client.Client, *fleetv1.Meta) (proto.Message, *fleetv1.Meta, error)) *cobra.Command {
	meta := &fleetv1.Meta{}
	cmd := &cobra.Command{
		Use: "create NAME", Short: short, Example: example, Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			meta.Name = args[0]
			made, m, err := create(cmd.Context(), cl, meta)
			if err != nil {
				return err
			}
			return a.print(made, func() error {
				of := ""
				if owned {
					of = " of account " + m.GetAccount()
				}
				_, err := fmt.Fprintf(a.out, "%s %s%s stands\n", noun, m.GetName(), of)
				return err
			})
		},
	}
	if owned {
		cmd.Flags().StringVar(&meta.Account, "account", "", "`account` that it belongs to (default the token's)")
		must(cmd.RegisterFlagCompletionFunc("account", a.values(accountNames)))
	}
	return a.printing(a.online(cmd))
}

func (a *app) tenantList(noun, short string, list func(context.Context, *client.Client) (proto.Message, []*fleetv1.Meta, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: short, Example: "  drover " + noun + " list", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, all, err := list(cmd.Context(), cl)
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				t := &table{head: []string{"NAME", "ACCOUNT", "AGE", "BY"}, spare: []string{"BY"}}
				for _, m := range all {
					t.add(text("%s", m.GetName()), text("%s", m.GetAccount()), text("%s", a.age(m.GetCreateTime())), text("%s", orDash(m.GetCreatedBy())))
				}
				return a.drawTable(t, "none")
			})
		},
	}
	return a.reading(a.online(cmd))
}

// showOf is the command that shows one of what can be listed.
func showOf[T interface {
	proto.Message
	GetMeta() *fleetv1.Meta
}](a *app, cmd *cobra.Command, noun string, list func(context.Context, *client.Client) ([]T, error), draw func(context.Context, *client.Client, T) error) *cobra.Command {
	cmd.Args = exactly(strings.TrimPrefix(cmd.Use, "show "))
	cmd.ValidArgsFunction = a.names(func(ctx context.Context, cl *client.Client) ([]string, error) {
		all, err := list(ctx, cl)
		return metaNames(all, err)
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		all, err := list(cmd.Context(), cl)
		if err != nil {
			return err
		}
		for _, one := range all {
			if one.GetMeta().GetName() == args[0] {
				return a.print(one, func() error { return draw(cmd.Context(), cl, one) })
			}
		}
		return fmt.Errorf("there is no %s %q; drover %s list shows those that there are", noun, args[0], noun)
	}
	return cmd
}

func (a *app) userShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a user, with the names of the user's tokens and keys", Example: "  drover user show ann"}
	list := func(ctx context.Context, cl *client.Client) ([]*fleetv1.User, error) {
		resp, err := read(ctx, a, cl.Tenants.ListUsers, &fleetv1.ListUsersRequest{})
		return resp.GetUsers(), err
	}
	return a.reading(a.online(showOf(a, cmd, "user", list, a.drawUser)))
}

func (a *app) drawUser(ctx context.Context, cl *client.Client, u *fleetv1.User) error {
	tokens, err := a.listTokens(ctx, cl)
	if err != nil {
		return err
	}
	keys, err := a.listKeys(ctx, cl)
	if err != nil {
		return err
	}
	var p pairs
	p.addf("Name", "%s", u.GetMeta().GetName())
	p.addf("Account", "%s", u.GetMeta().GetAccount())
	p.addf("Tokens", "%s", strings.Join(ofUser(tokens, u.GetMeta().GetName()), ", "))
	p.addf("Keys", "%s", strings.Join(ofUser(keys, u.GetMeta().GetName()), ", "))
	if by := u.GetMeta().GetCreatedBy(); by != "" { // the user "default" exists always
		p.addf("Created", "%s by %s", a.when(u.GetMeta().GetCreateTime()), by)
	}
	return a.drawPairs(p)
}

// ofUser are the names of a user's credentials.
func ofUser[C credential](all []C, user string) (names []string) {
	for _, c := range all {
		if c.GetUser() == user {
			names = append(names, c.GetMeta().GetName())
		}
	}
	return names
}

func (a *app) tenantDelete(noun, short string, names func(context.Context, *client.Client) ([]string, error), remove func(ctx context.Context, cl *client.Client, name string) (more string, _ error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete NAME", Short: short, Example: "  drover " + noun + " delete old", Args: exactly("NAME"), ValidArgsFunction: a.names(names),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			more, err := remove(cmd.Context(), cl, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s %s deleted%s\n", noun, args[0], more)
			return err
		},
	}
	return a.online(cmd)
}

func accountNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Tenants.ListAccounts(ctx, &fleetv1.ListAccountsRequest{})
	return metaNames(resp.GetAccounts(), err)
}

func projectNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Tenants.ListProjects(ctx, &fleetv1.ListProjectsRequest{})
	return metaNames(resp.GetProjects(), err)
}

func userNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Tenants.ListUsers(ctx, &fleetv1.ListUsersRequest{})
	return metaNames(resp.GetUsers(), err)
}
