package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) clusterMembers() *cobra.Command {
	cmd := &cobra.Command{
		Use: "members", Short: "Show how each scheduler is",
		Long: "Show each scheduler: its role and state, how far it has applied the log, when it answered last and how far its clock is off.\n" +
			"ADDRESSES are those of gRPC, HTTP, Raft and gossip. Without a leader the scheduler that is asked says how it sees the others.",
		Example: "  drover cluster members\n  drover cluster members --consistency stale --addr 10.0.0.2:7400",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := readAnyhow(cmd, a, cl.Cluster.ListMembers, &fleetv1.ListMembersRequest{})
			if err != nil {
				return err
			}
			return a.print(resp, func() error { return a.drawMembers(resp.GetMembers()) })
		},
	}
	return a.reading(a.online(cmd))
}

func (a *app) drawMembers(all []*fleetv1.Member) error {
	t := &table{
		head:  []string{"ID", "NAME", "ADDRESSES", "ROLE", "STATE", "LEADER", "APPLIED", "LAG", "LAST CONTACT", "CLOCK", "VERSION", "NOTE"},
		spare: []string{"VERSION", "CLOCK", "APPLIED", "ADDRESSES", "LAST CONTACT"},
	}
	for _, m := range all {
		state := text("%s", m.GetState())
		if m.GetState() != "alive" {
			state.colour = red
		}
		contact := a.when(m.GetLastContact())
		if contact == "" {
			contact = "never"
		}
		t.add(text("%s", shortID(m.GetId())), text("%s", m.GetName()), text("%s", memberAddresses(m)), text("%s", m.GetRole()), state,
			text("%s", yesNo(m.GetLeader())), text("%d", m.GetAppliedIndex()), text("%d", m.GetLag()), text("%s", contact),
			text("%s", clockOffset(m)), text("%s", m.GetVersion()), text("%s", m.GetNote()))
	}
	return a.drawTable(t, "no schedulers")
}

// memberAddresses are one host with the ports of gRPC, HTTP, Raft and gossip where they share it.
func memberAddresses(m *fleetv1.Member) string {
	var out []string
	last := ""
	for _, addr := range []string{m.GetGrpcAddress(), m.GetHttpAddress(), m.GetAddress(), m.GetGossipAddress()} {
		if addr == "" {
			continue
		}
		at := strings.LastIndexByte(addr, ':')
		if host := addr[:max(at, 0)]; host == last && host != "" {
			out = append(out, addr[at:])
			continue
		}
		last = addr[:max(at, 0)]
		out = append(out, addr)
	}
	return strings.Join(out, " ")
}

// clockOffset is by how much a member's clock is ahead of the answering scheduler's.
func clockOffset(m *fleetv1.Member) string {
	if m.GetLastContact() == nil {
		return ""
	}
	return fmt.Sprintf("%+.3fs", (time.Duration(m.GetClockOffsetMillis()) * time.Millisecond).Seconds())
}

func (a *app) clusterTransfer() *cobra.Command {
	cmd := &cobra.Command{
		Use: "transfer-leader [ID]", Short: "Make another scheduler the leader",
		Long: "Make the scheduler with this ID (or the beginning of one, or its name) the leader; without one, the voter that is most up to date.\n" +
			"Writes wait for about as long as one round trip.",
		Example:           "  drover cluster transfer-leader\n  drover cluster transfer-leader s2",
		Args:              atMostOne,
		ValidArgsFunction: a.names(memberNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			req := &fleetv1.TransferLeaderRequest{}
			if len(args) > 0 {
				req.Member = args[0]
			}
			resp, err := read(cmd.Context(), a, cl.Cluster.TransferLeader, req)
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				_, err := fmt.Fprintf(a.out, "scheduler %s leads\n", memberName(resp.GetMember()))
				return err
			})
		},
	}
	return a.printing(a.online(cmd))
}

func (a *app) clusterRemove() *cobra.Command {
	req := &fleetv1.RemoveMemberRequest{}
	cmd := &cobra.Command{
		Use: "remove ID", Short: "Take a scheduler out of the cluster for good",
		Long: "Take the scheduler with this ID (or the beginning of one, or its name) out of the cluster, and revoke its certificate: stop it, and\n" +
			"give it an empty data directory before it joins again. Refused where the voters that remain and answer would be no majority.",
		Example:           "  drover cluster remove s3\n  drover cluster remove 8976c559 --force",
		Args:              exactly("ID"),
		ValidArgsFunction: a.names(memberNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			req.Member = args[0]
			resp, err := write(cmd.Context(), a, cl.Cluster.RemoveMember, req)
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				_, err := fmt.Fprintf(a.out, "scheduler %s removed\n", memberName(resp.GetMember()))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&req.Force, "force", false, "also when the voters that remain and answer are no majority: the cluster may stand still until others are started")
	return a.printing(a.online(cmd))
}

func (a *app) clusterRotateGossipKey() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate-gossip-key", Short: "Replace the key that the schedulers' gossip is encrypted with",
		Long: "Make a new key, wait until every scheduler accepts it, have all of them use it, and forget the old one. No message is lost on the way.\n" +
			"Where a scheduler doesn't answer this waits; the leader goes on by itself when it does.",
		Example: "  drover cluster rotate-gossip-key",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := write(cmd.Context(), a, cl.Cluster.RotateGossipKey, &fleetv1.RotateGossipKeyRequest{})
			if err != nil {
				return err
			}
			return a.print(resp, func() error {
				_, err := fmt.Fprintf(a.out, "gossip key %s is used by every scheduler\n", resp.GetKeyId())
				return err
			})
		},
	}
	return a.printing(a.online(cmd))
}

// memberName is what people call a scheduler.
func memberName(m *fleetv1.Member) string {
	if m.GetName() == "" {
		return m.GetId()
	}
	return fmt.Sprintf("%s (%s)", m.GetName(), shortID(m.GetId()))
}

// memberNames completes with the names, and the IDs of those that share one.
func memberNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Cluster.ListMembers(ctx, &fleetv1.ListMembersRequest{})
	count := map[string]int{}
	for _, m := range resp.GetMembers() {
		count[m.GetName()]++
	}
	var names []string
	for _, m := range resp.GetMembers() {
		if m.GetName() == "" || count[m.GetName()] > 1 {
			names = append(names, m.GetId())
		} else {
			names = append(names, m.GetName())
		}
	}
	return names, err
}
