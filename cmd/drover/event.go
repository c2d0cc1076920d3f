package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) eventCommand() *cobra.Command {
	return a.noun("event", "Show what happened", a.eventList())
}

// eventFlags select events.
type eventFlags struct {
	since    string
	tail     int32
	problems bool
	watch    bool
}

func (f *eventFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.since, "since", "", "only since this `time`: 30m ago, or 2026-01-31T12:00:00Z")
	cmd.Flags().Int32Var(&f.tail, "tail", 0, "only the last so many `events`")
	cmd.Flags().BoolVar(&f.problems, "problems", false, "only warnings and what is abnormal")
	cmd.Flags().BoolVarP(&f.watch, "watch", "w", false, "then show new events as they happen")
}

func (f *eventFlags) filter(cmd *cobra.Command, a *app) (*fleetv1.EventFilter, error) {
	since, err := a.parseTime(f.since)
	if err != nil {
		return nil, usagef(cmd, "--since %v", err)
	}
	return &fleetv1.EventFilter{Since: since, Limit: f.tail, Problems: f.problems}, nil
}

// parseTime reads a point in time: how long ago, or an RFC 3339 time. Empty is nil.
func (a *app) parseTime(s string) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(strings.TrimSuffix(s, " ago")); err == nil && d >= 0 {
		return timestamppb.New(a.now().Add(-d)), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return nil, fmt.Errorf("%q: want how long ago, such as 30m, or a time such as 2026-01-31T12:00:00Z", s)
	}
	return timestamppb.New(t), nil
}

func (a *app) eventList() *cobra.Command {
	var f eventFlags
	cmd := &cobra.Command{
		Use: "list [KIND/NAME]", Short: "List events, of one object or of all",
		Example: "  drover event list --since 1h --problems\n  drover event list node/dev-1 --watch",
		Args:    atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.filter(cmd, a)
			if err != nil {
				return err
			}
			if len(args) > 0 || cmd.Flags().Changed("project") { // nodes belong to no project
				filter.Project = a.project
			}
			if len(args) > 0 {
				var ok bool
				if filter.Kind, filter.Name, ok = strings.Cut(args[0], "/"); !ok || filter.Name == "" {
					return usagef(cmd, "%q: want KIND/NAME, such as service/iris", args[0])
				}
			}
			return a.showEvents(cmd.Context(), filter, f.watch)
		},
	}
	f.register(cmd)
	return a.reading(a.projected(cmd))
}

func (a *app) showEvents(ctx context.Context, filter *fleetv1.EventFilter, watch bool) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	if watch {
		return a.watchEvents(ctx, filter)
	}
	resp, err := read(ctx, a, cl.Events.ListEvents, &fleetv1.ListEventsRequest{Filter: filter})
	if err != nil {
		return err
	}
	return a.print(resp, func() error { return a.drawTable(a.eventTable(resp.GetEvents()), "no events") })
}

// watchEvents prints events until it is interrupted; after a lost connection it goes on where it was.
func (a *app) watchEvents(ctx context.Context, filter *fleetv1.EventFilter) error {
	last := ""
	return a.follow(ctx, func(ctx context.Context) (next func() error, err error) {
		stream, err := a.cl.Events.WatchEvents(ctx, &fleetv1.WatchEventsRequest{Filter: filter})
		return func() error {
			r, err := stream.Recv()
			if err != nil {
				return err
			}
			for _, e := range r.GetEvents() {
				if e.GetId() == last {
					continue
				}
				if err := a.printEvent(e); err != nil {
					return printError{err}
				}
				last, filter.Since, filter.Limit = e.GetId(), e.GetTime(), 0
			}
			return nil
		}, err
	})
}

// printError ends a follow.
type printError struct{ error }

// follow opens a stream and prints what is next until it is interrupted. A stream that has given something and is lost is
// opened again.
func (a *app) follow(ctx context.Context, open func(context.Context) (next func() error, err error)) error {
	began := false
	for {
		call, reach := a.track(ctx)
		next, err := open(call)
		for err == nil {
			if err = next(); err == nil {
				began = true
			}
		}
		var printing printError
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // being interrupted is how a watch ends
		case errors.As(err, &printing):
			return printing.error
		case !errors.Is(err, io.EOF) && (status.Code(err) != codes.Unavailable || !began):
			return reach(err)
		}
		if pause(ctx, time.Second) != nil {
			return nil //nolint:nilerr // interrupted
		}
	}
}

// printEvent writes one event of a watch: a line, or one document.
func (a *app) printEvent(e *fleetv1.Event) error {
	if a.output == "yaml" {
		fmt.Fprintln(a.out, "---")
	}
	return a.print(e, func() error {
		_, err := fmt.Fprintf(a.out, "%s  %s  %s  %s  %s\n", clock(e.GetTime().AsTime()),
			paint(eventCell(e), a.colour()), e.GetReason(), objectText(e), oneLine(e.GetMessage()))
		return err
	})
}

func eventCell(e *fleetv1.Event) cell {
	switch e.GetType() {
	case fleetv1.EventWarning:
		return cell{text: e.GetType(), colour: yellow}
	case fleetv1.EventAbnormal:
		return cell{text: e.GetType(), colour: red}
	}
	return cell{text: e.GetType(), colour: faint}
}

func objectText(e *fleetv1.Event) string {
	if len(e.GetObjects()) == 0 {
		return "-"
	}
	o := e.GetObjects()[0]
	return o.GetKind() + "/" + first(o.GetName(), shortID(o.GetId()))
}

func (a *app) eventTable(events []*fleetv1.Event) *table {
	t := &table{head: []string{"TIME", "TYPE", "REASON", "OBJECT", "MESSAGE"}, spare: []string{"TIME…", "OBJECT…"}}
	for _, e := range events {
		at, object := text("%s", clock(e.GetTime().AsTime())), text("%s", objectText(e))
		if a.now().Sub(e.GetTime().AsTime()) < 24*time.Hour {
			at.short = at.text[len(time.DateOnly)+1:]
		}
		_, object.short, _ = strings.Cut(object.text, "/")
		t.add(at, eventCell(e), text("%s", e.GetReason()), object, text("%s", oneLine(e.GetMessage())))
	}
	return t
}
