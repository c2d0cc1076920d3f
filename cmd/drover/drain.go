package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// drainPoll is how often a drain that is waited for is looked at.
const drainPoll = time.Second

// States of a move, as the API names them.
const (
	moveReplacing = "replacing"
	moveWaiting   = "waiting"
)

// drainFlags are those of `node drain` and `device drain`.
type drainFlags struct {
	deadline       time.Duration
	dryRun, cancel bool
	reason         string
	wait           waitFlags
}

func (a *app) nodeDrain() *cobra.Command {
	return a.drainCommand("node", &cobra.Command{
		Use: "drain NODE", Short: "Cordon a node and move its instances away, or end that",
		Long: "Cordon a node and move its instances away. Of each instance the replacement is started first, where there is room,\n" +
			"and the instance is stopped when that is ready. An instance for which there is no room waits and serves on; one\n" +
			"that is preemptible is stopped at the deadline. When nothing is left the drain is over; the node stays cordoned.",
		Example: "  drover node drain dev-1 --dry-run\n  drover node drain dev-1 --deadline 30m --reason \"new disk\" --wait\n" +
			"  drover node drain dev-1 --cancel",
		Args:              exactly("NODE"),
		ValidArgsFunction: a.names(nodeNames),
	}, func(name string) (node, device string) { return name, "" })
}

func (a *app) deviceDrain() *cobra.Command {
	return a.drainCommand("device", &cobra.Command{
		Use: "drain ID", Short: "Cordon an accelerator and move the instances that hold it away, or end that",
		Long: "Cordon an accelerator, with the slices cut from it, and move the instances that hold it away, as `drover node\n" +
			"drain` does for a node.",
		Example:           "  drover device drain fake-dev-1-h100-80gb-0 --dry-run\n  drover device drain fake-dev-1-h100-80gb-0 --reason \"errors\" --wait\n  drover device drain fake-dev-1-h100-80gb-0 --cancel",
		Args:              exactly("ID"),
		ValidArgsFunction: a.names(deviceNames),
	}, func(id string) (node, device string) { return "", id })
}

// drainCommand gives the command its flags and its work; at answers the request's fields of what it was called with.
func (a *app) drainCommand(noun string, cmd *cobra.Command, at func(name string) (node, device string)) *cobra.Command {
	var f drainFlags
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.check(cmd); err != nil {
			return err
		}
		cl, err := a.client()
		if err != nil {
			return err
		}
		d := drain{app: a, cl: cl, name: noun + "/" + args[0]}
		d.node, d.device = at(args[0])
		return d.run(cmd.Context(), &f)
	}
	flags := cmd.Flags()
	flags.DurationVar(&f.deadline, "deadline", 0, "stop what is preemptible after this `time` though it isn't replaced; default never")
	flags.BoolVar(&f.dryRun, "dry-run", false, "only say where each instance would go, or why it would wait")
	flags.BoolVar(&f.cancel, "cancel", false, "end the drain: what has not left yet stays; so does the cordon")
	flags.StringVar(&f.reason, "reason", "", "why, for the next person")
	f.wait.register(cmd, "nothing to be left")
	return a.printing(a.online(cmd))
}

func (f *drainFlags) check(cmd *cobra.Command) error {
	switch {
	case f.deadline != f.deadline.Truncate(time.Second) || f.deadline < 0:
		return usagef(cmd, "--deadline %s: want whole seconds, such as 90s, 30m or 2h", f.deadline)
	case f.cancel && (f.dryRun || f.wait.wait || f.reason != "" || f.deadline != 0):
		return usagef(cmd, "--cancel goes with no other flag of a drain")
	case f.dryRun && f.wait.wait:
		return usagef(cmd, "--dry-run changes nothing that --wait could wait for")
	}
	return nil
}

// drain is one call of a drain command.
type drain struct {
	*app
	cl           *client.Client
	name         string // "node/n1"
	node, device string
}

func (d *drain) run(ctx context.Context, f *drainFlags) error {
	req := &fleetv1.DrainNodeRequest{Name: d.node, DeviceId: d.device, Reason: f.reason, DeadlineSeconds: int64(f.deadline / time.Second),
		DryRun: f.dryRun, Cancel: f.cancel}
	resp, err := write(ctx, d.app, d.cl.Nodes.DrainNode, req)
	if err != nil {
		return err
	}
	if d.output != "table" {
		if f.wait.wait {
			quiet := *d.app
			quiet.out, quiet.terminal = d.err, false
			waiting := *d
			waiting.app = &quiet
			if err := waiting.await(ctx, f.wait); err != nil {
				return err
			}
		}
		return d.print(resp, nil)
	}
	switch {
	case f.cancel:
		fmt.Fprintf(d.out, "%s is no longer drained, and stays cordoned\n", d.name)
		if n := len(resp.GetMoves()); n > 0 {
			fmt.Fprintf(d.out, "%s there; those that are being stopped end all the same\n", counted(n, "instance is", "instances are"))
		}
		return nil
	case f.dryRun:
		fmt.Fprintf(d.out, "%s would be drained: %s\n", d.name, foreseen(resp.GetMoves()))
	default:
		fmt.Fprintf(d.out, "%s is being drained: %s\n", d.name, foreseen(resp.GetMoves()))
	}
	if f.wait.wait {
		return d.await(ctx, f.wait)
	}
	if len(resp.GetMoves()) == 0 {
		return nil
	}
	return d.app.draw(moveTable(resp.GetMoves()), "")
}

// foreseen sums up what a drain will do.
func foreseen(moves []*fleetv1.DrainMove) string {
	if len(moves) == 0 {
		return "nothing is there"
	}
	n := map[string]int{}
	for _, m := range moves {
		n[m.GetState()]++
	}
	var parts []string
	if k := n[moveReplacing]; k > 0 {
		parts = append(parts, counted(k, "instance moves", "instances move"))
	}
	if k := n[moveWaiting]; k > 0 {
		parts = append(parts, counted(k, "waits", "wait")+" for room")
	}
	if k := len(moves) - n[moveReplacing] - n[moveWaiting]; k > 0 {
		parts = append(parts, counted(k, "is stopping", "are stopping")+" anyway")
	}
	return strings.Join(parts, ", ")
}

func moveTable(moves []*fleetv1.DrainMove) *table {
	t := &table{head: []string{"INSTANCE", "PROJECT", "STATE", "TO", "PREEMPTIBLE", "DETAIL"}}
	for _, m := range moves {
		state := text("%s", m.GetState())
		if m.GetState() == moveWaiting {
			state.colour = yellow
		}
		t.add(text("%s", m.GetInstanceName()), text("%s", m.GetProject()), state, text("%s", m.GetTarget()),
			text("%s", yesNo(m.GetPreemptible())), text("%s", oneLine(m.GetDetail())))
	}
	return t
}

// drainText says how long a drain has been going on, by whom and why.
func (a *app) drainText(d *fleetv1.Drain) string {
	line := "since " + a.when(d.GetStartTime())
	if d.GetCaller() != "" {
		line += " by " + d.GetCaller()
	}
	if d.GetDeadline() != nil {
		line += ", preemptible ones until " + a.when(d.GetDeadline())
	}
	if d.GetReason() != "" {
		line += ": " + oneLine(d.GetReason())
	}
	return line
}

// addDrains shows the drains of a node and of its devices.
func (a *app) addDrains(p *pairs, n *fleetv1.Node) {
	if d := n.GetSpec().GetDrain(); d != nil {
		p.add("Drained", cell{text: a.drainText(d), colour: yellow})
	}
	for _, c := range n.GetSpec().GetDeviceCordons() {
		if c.GetDrain() != nil {
			p.add("Device drained", cell{text: c.GetDeviceId() + ", " + a.drainText(c.GetDrain()), colour: yellow})
		}
	}
}

// addDeviceDrain shows the drain of a device, if there is one.
func (a *app) addDeviceDrain(ctx context.Context, cl *client.Client, p *pairs, d *fleetv1.DeviceInfo) error {
	resp, err := read(ctx, a, cl.Nodes.GetDrain, &fleetv1.GetDrainRequest{Name: d.GetNode(), DeviceId: d.GetDevice().GetId()})
	if err == nil && resp.GetDrain() != nil {
		p.add("Drained", cell{text: a.drainText(resp.GetDrain()), colour: yellow})
	}
	return err
}

// await waits until nothing is left, and shows how far the drain has got.
func (d *drain) await(ctx context.Context, w waitFlags) error {
	ctx, cancel := w.bound(ctx)
	defer cancel()
	show := d.newProgress(d.name)
	defer show.end()
	left := "nothing known"
	for {
		resp, err := read(ctx, d.app, d.cl.Nodes.GetDrain, &fleetv1.GetDrainRequest{Name: d.node, DeviceId: d.device})
		switch {
		case errors.Is(context.Cause(ctx), errWaitTimeout):
			return about(d.name, fmt.Errorf("still draining after %s (--wait-timeout): %s; it goes on without us", duration(w.timeout), left))
		case ctx.Err() != nil:
			return about(d.name, errors.New("no longer waited for; the drain goes on without us"))
		case err != nil && status.Code(err) != codes.Unavailable:
			return about(d.name, err)
		case err == nil && resp.GetDrain() == nil:
			return d.ended(ctx, show)
		case err == nil:
			left = counted(len(resp.GetMoves()), "instance is left", "instances are left")
			show.drain(resp, left)
		}
		if pause(ctx, drainPoll) != nil {
			continue // the next look says why
		}
	}
}

// ended tells a drain that is done from one that somebody has ended.
func (d *drain) ended(ctx context.Context, show *progress) error {
	left := int64(0)
	if d.device == "" {
		resp, err := read(ctx, d.app, d.cl.Nodes.GetNode, &fleetv1.GetNodeRequest{Name: d.node})
		if err != nil {
			return about(d.name, err)
		}
		left = resp.GetNode().GetStatus().GetInstances()
	} else {
		resp, err := read(ctx, d.app, d.cl.Devices.GetDevice, &fleetv1.GetDeviceRequest{Id: d.device})
		if err != nil {
			return about(d.name, err)
		}
		if resp.GetDevice().GetInstanceId() != "" {
			left = 1
		}
	}
	show.end()
	if left > 0 {
		return about(d.name, fmt.Errorf("its drain was ended meanwhile; %s there", counted(int(left), "instance is", "instances are")))
	}
	fmt.Fprintf(d.out, "%s drained\n", d.name)
	return nil
}

// drain shows how far a drain has got.
func (p *progress) drain(r *fleetv1.GetDrainResponse, left string) {
	if !p.a.terminal {
		p.tell(p.name, left)
		for _, m := range r.GetMoves() {
			p.tell("instance/"+m.GetInstanceName(), moveText(m))
		}
		return
	}
	columns, rows := p.a.terminalSize()
	lines := []string{cut(p.name+" draining: "+left, columns-1)}
	shown := r.GetMoves()
	if room := max(rows-len(lines)-2, 1); len(shown) > room {
		shown = shown[:room]
	}
	for _, m := range shown {
		lines = append(lines, cut("  "+m.GetInstanceName()+"  "+moveText(m), columns-1))
	}
	if more := len(r.GetMoves()) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	p.redraw(lines)
}

func moveText(m *fleetv1.DrainMove) string {
	line := m.GetState()
	if m.GetTarget() != "" {
		line += " on " + m.GetTarget()
	}
	if m.GetDetail() != "" {
		line += ": " + oneLine(m.GetDetail())
	}
	return line
}
