package main

import (
	"fmt"
	goruntime "runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// version is set by the linker.
var version string

// programVersion is what every part of this program calls itself.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this program",
		Example: "  drover version",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.out, "drover %s (%s, %s/%s)\n", programVersion(), goruntime.Version(), goruntime.GOOS, goruntime.GOARCH)
			return err
		},
	}
}

func (a *app) clusterCommand() *cobra.Command {
	return a.noun("cluster", "Show and change the schedulers themselves, let hosts in, and tidy the fleet", a.clusterStatus(), a.clusterMembers(),
		a.clusterTransfer(), a.clusterRemove(), a.clusterRotateGossipKey(), a.clusterBackup(), a.clusterRestore(), a.clusterDefrag(),
		a.clusterJoinToken(), a.clusterCertificates(), a.clusterRotateKey(), a.clusterRotateCA())
}

func (a *app) clusterStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Show leader, members and totals",
		Example: "  drover cluster status",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := readAnyhow(cmd, a, cl.Cluster.GetClusterStatus, &fleetv1.GetClusterStatusRequest{})
			if err != nil {
				return err
			}
			return a.print(resp, func() error { return a.drawCluster(resp) })
		},
	}
	return a.reading(a.online(cmd))
}

func (a *app) drawCluster(r *fleetv1.GetClusterStatusResponse) error {
	var p pairs
	p.addf("Cluster", "%s", r.GetClusterId())
	p.addf("Version", "%s", r.GetVersion())
	p.addf("Leader", "%s", first(r.GetLeaderAddress(), "none"))
	p.addf("Term", "%d", r.GetTerm())
	p.addf("Commit index", "%d (applied %d)", r.GetCommitIndex(), r.GetAppliedIndex())
	p.addf("Nodes", "%d ready of %d", r.GetNodesReady(), r.GetNodesTotal())
	p.addf("Services", "%d", r.GetServices())
	p.addf("Instances", "%d", r.GetInstances())
	p.addf("Up since", "%s", a.when(r.GetStartTime()))
	if r.GetRemovalsHeld() {
		p.addf("Held", "nothing is placed or stopped since the restore: see `drover cluster restore --pending`")
	}
	if err := a.drawPairs(p); err != nil {
		return err
	}
	t := &table{head: []string{"MEMBER", "ADDRESS", "ROLE", "LEADER"}}
	for _, m := range r.GetMembers() {
		t.add(text("%s", shortID(m.GetId())), text("%s", m.GetAddress()), text("%s", m.GetRole()), text("%s", yesNo(m.GetLeader())))
	}
	fmt.Fprintln(a.out)
	return a.draw(t, "")
}
