package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) clusterRestore() *cobra.Command {
	var pending, confirm bool
	cmd := &cobra.Command{
		Use: "restore FILE | --pending | --confirm", Short: "Restore an empty cluster from a backup, and let nodes remove what it doesn't know",
		Long: "Restore the state of a backup into an empty cluster. It keeps the backup's cluster ID, so that the agents come back.\n" +
			"After that nothing is placed, stopped or removed: --pending lists what nodes run that the backup doesn't know, and\n" +
			"--confirm lets them remove just that.",
		Example: "  drover cluster restore drover-2026-11-28.backup\n  drover cluster restore --pending\n  drover cluster restore --confirm",
		Args:    atMostOne,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return nil, fileArgument(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if count(len(args) == 1, pending, confirm) != 1 {
				return usagef(cmd, "give one of FILE, --pending and --confirm")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return a.restoreFrom(cmd.Context(), cl, args[0])
			}
			list, err := read(cmd.Context(), a, cl.Backups.ListRemovals, &fleetv1.ListRemovalsRequest{})
			if err != nil {
				return err
			}
			if pending {
				return a.print(list, func() error { return a.drawRemovals(list) })
			}
			return a.confirmRemovals(cmd.Context(), cl, list)
		},
	}
	cmd.Flags().BoolVar(&pending, "pending", false, "list what each node would remove")
	cmd.Flags().BoolVar(&confirm, "confirm", false, "list it, and let the nodes remove it")
	return a.printing(a.online(cmd))
}

func count(all ...bool) (n int) {
	for _, one := range all {
		if one {
			n++
		}
	}
	return n
}

func (a *app) restoreFrom(ctx context.Context, cl *client.Client, path string) error {
	if _, err := checkBackup(path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	resp, err := a.sendBackup(ctx, cl, f)
	if err != nil {
		return about(path, err)
	}
	return a.print(resp, func() error {
		_, err := fmt.Fprintf(a.out, "cluster/%s restored as of %s, restore epoch %d\n"+
			"The tokens of the backup hold from now on, and the one that you used, as %q.\n"+
			"Nothing is placed, stopped or removed before `drover cluster restore --confirm`; see --pending first.\n",
			resp.GetHeader().GetClusterId(), a.when(resp.GetHeader().GetTime()), resp.GetRestoreEpoch(), first(resp.GetToken(), "none"))
		return err
	})
}

func (a *app) sendBackup(ctx context.Context, cl *client.Client, r io.Reader) (*fleetv1.RestoreResponse, error) {
	ctx, reach := a.track(ctx)
	stream, err := cl.Backups.Restore(ctx)
	if err != nil {
		return nil, reach(err)
	}
	p := a.bytesProgress("sent")
	defer p.end()
	buf := make([]byte, restorePiece)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if stream.Send(&fleetv1.RestoreRequest{Data: buf[:n]}) != nil {
				break // CloseAndRecv says why
			}
			p.add(n)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	resp, err := stream.CloseAndRecv()
	if code := status.Code(err); code == codes.Unknown || code == codes.DeadlineExceeded {
		return nil, &unknownError{err}
	}
	return resp, reach(err)
}

func (a *app) drawRemovals(r *fleetv1.ListRemovalsResponse) error {
	if r.GetRestoreEpoch() == 0 {
		_, err := fmt.Fprintln(a.out, "this cluster was never restored from a backup: nothing is held back")
		return err
	}
	t := &table{head: []string{"NODE", "INSTANCE", "SERVICE", "STATE", "DEVICES", "RUNNING SINCE", "REMOVAL"}}
	for _, n := range r.GetNodes() {
		for _, s := range n.GetHold().GetStrangers() {
			since := "-"
			if s.GetStartTime() != nil {
				since = a.when(s.GetStartTime())
			}
			t.add(text("%s", n.GetNode()), text("%s", first(s.GetInstanceName(), s.GetInstanceId())), text("%s", orDash(s.GetService())), text("%s", s.GetState()),
				text("%s", orDash(strings.Join(s.GetDeviceIds(), ","))), text("%s", since),
				text("%s", map[bool]string{true: "under way", false: "not confirmed"}[n.GetHold().GetRemoving()]))
		}
	}
	if err := a.drawTable(t, "no node runs what the restored state doesn't know"); err != nil {
		return err
	}
	if silent := r.GetSilentNodes(); len(silent) > 0 {
		fmt.Fprintf(a.out, "%s not reported since the restore: %s\n", counted(len(silent), "node has", "nodes have"), strings.Join(silent, ", "))
	}
	if r.GetHeld() {
		fmt.Fprintln(a.out, "Nothing is placed, stopped or removed before `drover cluster restore --confirm`.")
	}
	return nil
}

func (a *app) confirmRemovals(ctx context.Context, cl *client.Client, list *fleetv1.ListRemovalsResponse) error {
	req := &fleetv1.ConfirmRemovalsRequest{RestoreEpoch: list.GetRestoreEpoch()}
	for _, n := range list.GetNodes() {
		for _, s := range n.GetHold().GetStrangers() {
			req.InstanceIds = append(req.InstanceIds, s.GetInstanceId())
		}
	}
	resp, err := write(ctx, a, cl.Backups.ConfirmRemovals, req)
	if err != nil {
		return err
	}
	return a.print(resp, func() error {
		if len(req.GetInstanceIds()) > 0 {
			if err := a.drawRemovals(&fleetv1.ListRemovalsResponse{RestoreEpoch: list.GetRestoreEpoch(), Nodes: list.GetNodes()}); err != nil {
				return err
			}
		}
		fmt.Fprintf(a.out, "confirmed: %s, %s\n", counted(len(resp.GetNodes()), "node", "nodes"), counted(len(req.GetInstanceIds()), "instance goes", "instances go"))
		for _, note := range resp.GetNotes() {
			fmt.Fprintf(a.out, "note: %s\n", oneLine(note))
		}
		return nil
	})
}
