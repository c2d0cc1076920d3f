package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) clusterDefrag() *cobra.Command {
	req := &fleetv1.DefragRequest{}
	var plan bool
	cmd := &cobra.Command{
		Use: "defrag --plan | --apply", Short: "Show which moves would open whole nodes or link domains, or order them",
		Long: "Show which moves of instances would open whole nodes, or room for a flavor, and what each costs: devices that move,\n" +
			"whether the target has the image, how long the last start took. Nothing moves unless --apply is given: then the\n" +
			"instances of the moves are replaced on their targets first, and stopped when the replacements are ready.",
		Example: "  drover cluster defrag --plan\n  drover cluster defrag --plan --pool demo --flavor gpu.h100.8 --max-moves 5\n  drover cluster defrag --apply --pool demo",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if plan == req.GetApply() {
				return usagef(cmd, "give --plan or --apply")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			call := read[*fleetv1.DefragRequest, *fleetv1.DefragResponse]
			if req.GetApply() {
				call = write[*fleetv1.DefragRequest, *fleetv1.DefragResponse]
			}
			resp, err := call(cmd.Context(), a, cl.Cluster.Defrag, req)
			if err != nil {
				return err
			}
			return a.print(resp, func() error { return a.drawDefrag(req, resp) })
		},
	}
	f := cmd.Flags()
	f.BoolVar(&plan, "plan", false, "only show the moves")
	f.BoolVar(&req.Apply, "apply", false, "order the moves")
	f.StringVar(&req.Pool, "pool", "", "only nodes of this `pool`")
	f.StringVar(&req.Flavor, "flavor", "", "make room for this `flavor` instead of whole nodes")
	f.Int32Var(&req.MaxMoves, "max-moves", 0, "`number` of moves at most (default 20)")
	must(cmd.RegisterFlagCompletionFunc("pool", a.values(poolNames)))
	must(cmd.RegisterFlagCompletionFunc("flavor", a.values(flavorNames)))
	return a.printing(a.online(cmd))
}

func (a *app) drawDefrag(req *fleetv1.DefragRequest, r *fleetv1.DefragResponse) error {
	what := "whole free nodes"
	if req.GetFlavor() != "" {
		what = "room for instances of " + req.GetFlavor()
	}
	defer func() {
		for _, note := range r.GetNotes() {
			fmt.Fprintf(a.out, "note: %s\n", oneLine(note))
		}
	}()
	if r.GetDoneBefore() {
		_, err := fmt.Fprintln(a.out, "it is done, but the answer that named the moves was lost: see `drover event list`")
		return err
	}
	if len(r.GetSteps()) == 0 {
		_, err := fmt.Fprintf(a.out, "no move would help: %s: %d\n", what, r.GetRoomBefore())
		return err
	}
	moves := 0
	t := &table{head: []string{"STEP", "OPENS", "INSTANCE", "FROM", "TO", "DEVICES", "IMAGE", "LAST START"}}
	for n, s := range r.GetSteps() {
		opens := s.GetNode()
		if ids := s.GetDeviceIds(); len(ids) > 0 {
			opens += ": " + counted(len(ids), "device", "devices")
		}
		for i, m := range s.GetMoves() {
			step, node := text("%d", n+1), text("%s", opens)
			if i > 0 {
				step, node = text(" "), text(" ")
			}
			t.add(step, node, text("%s", defragName(m)), text("%s", m.GetSource()), text("%s", m.GetTarget()), text("%d", m.GetDevices()),
				text("%s", map[bool]string{true: "there", false: "to pull"}[m.GetImagePresent()]), text("%s", startText(m.GetStartMillis())))
			moves++
		}
	}
	if err := a.draw(t, ""); err != nil {
		return err
	}
	line := fmt.Sprintf("\n%s: %d now, %d after %s", what, r.GetRoomBefore(), r.GetRoomAfter(), counted(moves, "move", "moves"))
	if r.GetApplied() > 0 {
		line += fmt.Sprintf("; %s ordered: see `drover event list --watch`", counted(int(r.GetApplied()), "step is", "steps are"))
	} else if !req.GetApply() {
		line += "; nothing moves without --apply"
	}
	_, err := fmt.Fprintln(a.out, line)
	return err
}

func defragName(m *fleetv1.DefragMove) string {
	if m.GetProject() == "" || m.GetProject() == fleetv1.Default {
		return m.GetInstanceName()
	}
	return strings.Join([]string{m.GetProject(), m.GetInstanceName()}, "/")
}

// startText is how long a start took, or nothing when that isn't known.
func startText(millis int64) string {
	if millis <= 0 {
		return ""
	}
	d := time.Duration(millis) * time.Millisecond
	if d < 10*time.Second {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return duration(d)
}
