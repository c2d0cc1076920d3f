package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// defaultTTL is how long a new token or key is good for.
const defaultTTL = 90 * 24 * time.Hour

// grant is whose a new token or key is, what it may do, and how long.
type grant struct {
	user   string
	scopes []string
	ttl    time.Duration
}

func (a *app) granting(cmd *cobra.Command, g *grant) *cobra.Command {
	f := cmd.Flags()
	f.StringVar(&g.user, "user", fleetv1.Default, "`user` whose it is")
	f.StringArrayVar(&g.scopes, "scope", nil, "`PROJECT=ROLE`; again for further projects; the first is for what names no project")
	f.DurationVar(&g.ttl, "ttl", defaultTTL, "how long it is good; 0 for ever")
	must(cmd.RegisterFlagCompletionFunc("user", a.values(userNames)))
	must(cmd.RegisterFlagCompletionFunc("scope", a.values(func(ctx context.Context, cl *client.Client) ([]string, error) {
		projects, err := projectNames(ctx, cl)
		var words []string
		for _, p := range projects {
			for _, role := range []string{fleetv1.RoleAdmin, fleetv1.RoleOperator, fleetv1.RoleDeployer, fleetv1.RoleViewer, fleetv1.RoleLookup} {
				words = append(words, p+"="+role)
			}
		}
		return words, err
	})))
	return cmd
}

// read checks the flags.
func (g *grant) read(cmd *cobra.Command) (scopes []*fleetv1.Scope, seconds int64, err error) {
	if len(g.scopes) == 0 {
		return nil, 0, usagef(cmd, "--scope is missing: PROJECT=ROLE, such as default=deployer")
	}
	for _, s := range g.scopes {
		project, role, ok := strings.Cut(s, "=")
		if !ok || project == "" || role == "" {
			return nil, 0, usagef(cmd, "--scope %q: want PROJECT=ROLE, such as default=deployer", s)
		}
		scopes = append(scopes, &fleetv1.Scope{Project: project, Role: role})
	}
	if g.ttl < 0 || g.ttl%time.Second != 0 {
		return nil, 0, usagef(cmd, "--ttl %s: want whole seconds, such as 720h, or 0 for ever", g.ttl)
	}
	return scopes, int64(g.ttl / time.Second), nil
}

func scopeText(scopes []*fleetv1.Scope) string {
	var all []string
	for _, s := range scopes {
		all = append(all, s.GetProject()+"="+s.GetRole())
	}
	return strings.Join(all, ", ")
}

// until is when something expires, or was last used.
func (a *app) until(t *timestamppb.Timestamp, never string) cell {
	if t == nil {
		return text("%s", never)
	}
	c := text("%s", a.when(t))
	if never == "never" && !t.AsTime().After(a.now()) {
		c.colour = red
	}
	return c
}

func (a *app) tokenCommand() *cobra.Command {
	return a.noun("token", "Manage the tokens that callers show", a.tokenCreate(), a.tokenList(), a.tokenShow(), a.tokenRevoke())
}

func (a *app) listTokens(ctx context.Context, cl *client.Client) ([]*fleetv1.ShownToken, error) {
	resp, err := read(ctx, a, cl.Credentials.ListTokens, &fleetv1.ListTokensRequest{})
	return resp.GetTokens(), err
}

func (a *app) tokenShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a token; its secret is not kept", Example: "  drover token show ci"}
	return a.reading(a.online(showOf(a, cmd, "token", a.listTokens, func(_ context.Context, _ *client.Client, t *fleetv1.ShownToken) error {
		return a.drawCredential("Name", t)
	})))
}

func (a *app) tokenCreate() *cobra.Command {
	var g grant
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a token and print its secret, this once",
		Long: "Make a token and print its secret, which is not kept. The roles are admin and operator, which hold in every project,\n" +
			"deployer, viewer and lookup.",
		Example: "  drover token create ci --user ann --scope vision=deployer > ci.token\n" +
			"  drover token create shop --scope vision=lookup --scope speech=lookup --ttl 720h",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			scopes, seconds, err := g.read(cmd)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := write(cmd.Context(), a, cl.Credentials.CreateToken, &fleetv1.CreateTokenRequest{Name: args[0], User: g.user, Scopes: scopes, LifetimeSeconds: seconds})
			if err != nil {
				return err
			}
			if resp.GetSecret() == "" {
				return fmt.Errorf("the token was made, but the answer with its secret was lost: drover token revoke %s, and make another", args[0])
			}
			return a.print(resp, func() error {
				_, err := fmt.Fprintln(a.out, resp.GetSecret())
				return err
			})
		},
	}
	return a.printing(a.online(a.granting(cmd, &g)))
}

func (a *app) tokenList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the tokens; their secrets are not kept", Example: "  drover token list", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Credentials.ListTokens, &fleetv1.ListTokensRequest{})
			if err != nil {
				return err
			}
			return a.print(resp, func() error { return drawCredentials(a, "NAME", "no tokens", resp.GetTokens()) })
		},
	}
	return a.reading(a.online(cmd))
}

// credential is a token or an access key as it is listed.
type credential interface {
	GetMeta() *fleetv1.Meta
	GetUser() string
	GetScopes() []*fleetv1.Scope
	GetExpireTime() *timestamppb.Timestamp
	GetLastUsedTime() *timestamppb.Timestamp
}

func drawCredentials[C credential](a *app, name, none string, all []C) error {
	t := &table{head: []string{name, "USER", "SCOPES", "EXPIRES", "LAST USED", "BY"}, spare: []string{"BY", "LAST USED"}}
	for _, c := range all {
		t.add(text("%s", c.GetMeta().GetName()), text("%s", orDash(c.GetUser())), text("%s", scopeText(c.GetScopes())),
			a.until(c.GetExpireTime(), "never"), a.until(c.GetLastUsedTime(), "-"), text("%s", c.GetMeta().GetCreatedBy()))
	}
	return a.drawTable(t, none)
}

func (a *app) drawCredential(name string, c credential) error {
	var p pairs
	p.addf(name, "%s", c.GetMeta().GetName())
	p.addf("User", "%s", c.GetUser())
	p.addf("Account", "%s", c.GetMeta().GetAccount())
	for i, s := range c.GetScopes() {
		p.addf([]string{"Scopes", ""}[min(i, 1)], "%s=%s", s.GetProject(), s.GetRole())
	}
	p.add("Expires", a.until(c.GetExpireTime(), "never"))
	p.add("Last used", a.until(c.GetLastUsedTime(), "-"))
	p.addf("Created", "%s by %s", a.when(c.GetMeta().GetCreateTime()), c.GetMeta().GetCreatedBy())
	return a.drawPairs(p)
}

func (a *app) tokenRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke NAME", Short: "Let a token in no more, from the next call on", Example: "  drover token revoke ci",
		Args: exactly("NAME"), ValidArgsFunction: a.names(tokenNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if _, err := write(cmd.Context(), a, cl.Credentials.RevokeToken, &fleetv1.RevokeTokenRequest{Name: args[0]}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "token %s revoked\n", args[0])
			return err
		},
	}
	return a.online(cmd)
}

func tokenNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Credentials.ListTokens(ctx, &fleetv1.ListTokensRequest{})
	return metaNames(resp.GetTokens(), err)
}

func (a *app) keyCommand() *cobra.Command {
	return a.noun("key", "Manage the access keys that requests are signed with", a.keyCreate(), a.keyList(), a.keyShow(), a.keyRevoke())
}

func (a *app) listKeys(ctx context.Context, cl *client.Client) ([]*fleetv1.Key, error) {
	resp, err := read(ctx, a, cl.Credentials.ListKeys, &fleetv1.ListKeysRequest{})
	return resp.GetKeys(), err
}

func (a *app) keyShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ACCESS-KEY", Short: "Show an access key; its secret key is not shown", Example: "  drover key show AKBYBLFOCWKQXRWQKQPZ"}
	return a.reading(a.online(showOf(a, cmd, "key", a.listKeys, func(_ context.Context, _ *client.Client, k *fleetv1.Key) error {
		return a.drawCredential("Access key", k)
	})))
}

func (a *app) keyCreate() *cobra.Command {
	var g grant
	cmd := &cobra.Command{
		Use: "create", Short: "Make an access key and print its secret key, this once",
		Long:    "Make an access key, and print it and its secret key, which is not shown again. They sign requests to the endpoint look-up.",
		Example: "  drover key create --user ann --scope vision=lookup",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			scopes, seconds, err := g.read(cmd)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := write(cmd.Context(), a, cl.Credentials.CreateKey, &fleetv1.CreateKeyRequest{User: g.user, Scopes: scopes, LifetimeSeconds: seconds})
			if err != nil {
				return err
			}
			if resp.GetSecret() == "" {
				return errors.New("a key was made, but the answer with its secret was lost: find it with drover key list, revoke it, and make another")
			}
			return a.print(resp, func() error {
				var p pairs
				p.addf("Access key", "%s", resp.GetKey().GetMeta().GetName())
				p.addf("Secret key", "%s", resp.GetSecret())
				return a.drawPairs(p)
			})
		},
	}
	return a.printing(a.online(a.granting(cmd, &g)))
}

func (a *app) keyList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the access keys; their secret keys are not shown", Example: "  drover key list", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Credentials.ListKeys, &fleetv1.ListKeysRequest{})
			if err != nil {
				return err
			}
			return a.print(resp, func() error { return drawCredentials(a, "ACCESS KEY", "no keys", resp.GetKeys()) })
		},
	}
	return a.reading(a.online(cmd))
}

func (a *app) keyRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke ACCESS-KEY", Short: "Let an access key in no more, from the next call on", Example: "  drover key revoke AKBYBLFOCWKQXRWQKQPZ",
		Args: exactly("ACCESS-KEY"), ValidArgsFunction: a.names(func(ctx context.Context, cl *client.Client) ([]string, error) {
			resp, err := cl.Credentials.ListKeys(ctx, &fleetv1.ListKeysRequest{})
			return metaNames(resp.GetKeys(), err)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if _, err := write(cmd.Context(), a, cl.Credentials.RevokeKey, &fleetv1.RevokeKeyRequest{Name: args[0]}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "key %s revoked\n", args[0])
			return err
		},
	}
	return a.online(cmd)
}
