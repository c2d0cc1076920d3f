package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) clusterJoinToken() *cobra.Command {
	req := &fleetv1.CreateJoinTokenRequest{}
	var expires time.Duration
	cmd := a.noun("join-token", "Print a join file, which lets hosts into the cluster", a.joinTokenList(), a.joinTokenRevoke())
	cmd.Long = "Print a join file: all that a new host needs besides the program. Whoever has the file can join until it expires or is\n" +
		"used up, so keep it from others; `drover agent --join-file -` reads it from standard input."
	cmd.Example = "  drover cluster join-token > join.yaml\n  drover cluster join-token --uses 20 --expires 10m\n" +
		"  drover cluster join-token --role scheduler\n  drover cluster join-token --node n1"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return missingVerb(cmd, args)
		}
		if expires%time.Second != 0 || expires <= 0 {
			return usagef(cmd, "--expires %s: want a time of whole seconds, such as 30m", expires)
		}
		req.LifetimeSeconds = int64(expires / time.Second)
		cl, err := a.client()
		if err != nil {
			return err
		}
		resp, err := write(cmd.Context(), a, cl.Identity.CreateJoinToken, req)
		if err != nil {
			return err
		}
		if resp.GetSecret() == "" {
			return errors.New("the token was made, but the answer with its secret was lost: revoke it (drover cluster join-token list) and make another")
		}
		return a.print(resp, func() error { return a.writeJoinFile(resp) })
	}
	f := cmd.Flags()
	f.StringVar(&req.Role, "role", fleetv1.RoleAgent, "agent or scheduler")
	f.DurationVar(&expires, "expires", time.Hour, "how long it is valid")
	f.Int32Var(&req.MaxUses, "uses", 1, "how many hosts may join with it")
	f.StringVar(&req.Node, "node", "", "the only `node` that it lets in, also when that one has a certificate or is revoked")
	must(cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{fleetv1.RoleAgent, fleetv1.RoleScheduler}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("node", a.values(nodeNames)))
	return a.printing(a.online(cmd))
}

// writeJoinFile prints the file, and a hint where it can't work elsewhere.
func (a *app) writeJoinFile(resp *fleetv1.CreateJoinTokenResponse) error {
	token, err := identity.ParseToken(resp.GetSecret())
	if err != nil {
		return fmt.Errorf("the scheduler's answer: %w", err)
	}
	data, err := identity.JoinFile{Schedulers: resp.GetSchedulers(), Token: token}.Encode()
	if err != nil {
		return err
	}
	t := resp.GetToken()
	for _, addr := range resp.GetSchedulers() {
		host, _, err := net.SplitHostPort(addr)
		if ip := net.ParseIP(host); err == nil && ip.IsLoopback() {
			fmt.Fprintf(a.err, "drover: %s is reached from its own host alone: set advertise_address in the scheduler's configuration\n", addr)
		}
	}
	uses := "one use"
	if n := t.GetMaxUses(); n > 1 {
		uses = fmt.Sprintf("%d uses", n)
	}
	_, err = fmt.Fprintf(a.out, "# Join file %s of role %s for %s until %s. Keep it secret.\n%s",
		t.GetMeta().GetName(), t.GetRole(), uses, t.GetExpireTime().AsTime().Format(time.RFC3339), data)
	return err
}

func (a *app) joinTokenList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the join tokens; their secrets are not kept",
		Example: "  drover cluster join-token list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Identity.ListJoinTokens, &fleetv1.ListJoinTokensRequest{})
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				t := &table{head: []string{"NAME", "ROLE", "NODE", "USES", "EXPIRES", "BY"}}
				for _, j := range resp.GetTokens() {
					t.add(text("%s", j.GetMeta().GetName()), text("%s", j.GetRole()), text("%s", j.GetNode()),
						text("%d/%d", len(j.GetUses()), j.GetMaxUses()), text("%s", a.when(j.GetExpireTime())), text("%s", j.GetMeta().GetCreatedBy()))
				}
				return a.drawTable(t, "no join tokens")
			})
		},
	}
	return a.reading(a.online(cmd))
}

func (a *app) joinTokenRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke TOKEN", Short: "Let nobody in with a join token any more",
		Long:              "Let nobody in with a join token any more. Who has joined with it stays: see `drover node revoke`.",
		Example:           "  drover cluster join-token revoke k3v9x2m1qa",
		Args:              exactly("TOKEN"),
		ValidArgsFunction: a.names(joinTokenNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if _, err := write(cmd.Context(), a, cl.Identity.RevokeJoinToken, &fleetv1.RevokeJoinTokenRequest{Name: args[0]}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "join token %s revoked\n", args[0])
			return err
		},
	}
	return a.online(cmd)
}

func joinTokenNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Identity.ListJoinTokens(ctx, &fleetv1.ListJoinTokensRequest{})
	var names []string
	for _, t := range resp.GetTokens() {
		names = append(names, t.GetMeta().GetName())
	}
	return names, err
}

func (a *app) clusterCertificates() *cobra.Command {
	cmd := &cobra.Command{
		Use: "certificates", Short: "List the certificates of nodes and schedulers",
		Example: "  drover cluster certificates",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Identity.ListCertificates, &fleetv1.ListCertificatesRequest{})
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				t := &table{head: []string{"ROLE", "NAME", "EXPIRES", "CA", "BY"}, spare: []string{"BY"}}
				for _, c := range resp.GetCertificates() {
					ca := text("%s", "current")
					if len(resp.GetRoots()) > 0 && c.GetRoot() != resp.GetRoots()[0] {
						ca = cell{text: "old", colour: yellow}
					}
					t.add(text("%s", c.GetRole()), text("%s", c.GetName()), text("%s", a.when(c.GetExpireTime())), ca, text("%s", c.GetMeta().GetCreatedBy()))
				}
				return a.drawTable(t, "no certificates")
			})
		},
	}
	return a.reading(a.online(cmd))
}

func (a *app) clusterRotateKey() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate-key", Short: "Encrypt the CA's key under the first key of the leader's key file",
		Long: "Encrypt the CA's key anew, under the first key of the leader's key file. Before: put the new key first in that file on\n" +
			"every scheduler, and keep the old one as second. After: remove the old one everywhere.",
		Example: "  drover cluster rotate-key",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := write(cmd.Context(), a, cl.Identity.RotateKey, &fleetv1.RotateKeyRequest{})
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				_, err := fmt.Fprintf(a.out, "the CA's key is encrypted under key %s; other keys can be removed from the key files\n", resp.GetKeyId())
				return err
			})
		},
	}
	return a.printing(a.online(cmd))
}

func (a *app) clusterRotateCA() *cobra.Command {
	req := &fleetv1.RotateCARequest{}
	cmd := &cobra.Command{
		Use: "rotate-ca", Short: "Give the cluster a new CA, in two steps",
		Long: "Make a new root, which signs from now on and is trusted beside the old one; nodes and schedulers renew by themselves.\n" +
			"When all have, --finish ends the trust in the old root; give operators and look-up clients the new ca.pem before.",
		Example: "  drover cluster rotate-ca\n  drover cluster certificates\n  drover cluster rotate-ca --finish",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := write(cmd.Context(), a, cl.Identity.RotateCA, req)
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				said := "a new root signs; the old one is trusted until drover cluster rotate-ca --finish"
				if req.GetFinish() {
					said = "the old root is no longer trusted"
				}
				_, err := fmt.Fprintln(a.out, said)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&req.Finish, "finish", false, "end the trust in the old root; refused while members have certificates of it")
	cmd.Flags().BoolVar(&req.Force, "force", false, "finish even so: those members are locked out; without --finish: begin even when the old CA's key can't be decrypted")
	return a.printing(a.online(cmd))
}

func (a *app) nodeRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke NODE", Short: "Refuse a node's certificates, and end its connections",
		Long: "Refuse every certificate that a node has been given up to now, and end its connections. What runs there goes on, but is\n" +
			"no longer looked up once the node's lease has run out. A join token for that node lets it in again:\n" +
			"drover cluster join-token --node NODE.",
		Example:           "  drover node revoke n7",
		Args:              exactly("NODE"),
		ValidArgsFunction: a.names(nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if _, err := write(cmd.Context(), a, cl.Identity.RevokeNode, &fleetv1.RevokeNodeRequest{Name: args[0]}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "node %s revoked\n", args[0])
			return err
		},
	}
	return a.online(cmd)
}
