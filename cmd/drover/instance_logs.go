package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime/logfile"
)

// logFlags select lines of a log.
type logFlags struct {
	since, until, search string
	tail                 int32
	follow, timestamps   bool
	attempt              uint32
}

func (l *logFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&l.follow, "follow", "f", false, "then show new lines as they are written")
	f.StringVar(&l.since, "since", "", "only since this `time`: 5m ago, or 2026-01-31T12:00:00Z")
	f.StringVar(&l.until, "until", "", "only until this `time`")
	f.Int32Var(&l.tail, "tail", 0, "only the last so many `lines`")
	f.StringVar(&l.search, "search", "", "only lines with these `words`: * and ? match within a word, && and || join")
	f.Uint32Var(&l.attempt, "attempt", 0, "only this `attempt`; all by default")
	f.BoolVarP(&l.timestamps, "timestamps", "t", false, "show each line's time")
}

func (l *logFlags) query(cmd *cobra.Command, a *app) (*fleetv1.LogQuery, error) {
	since, err := a.parseTime(l.since)
	if err != nil {
		return nil, usagef(cmd, "--since %v", err)
	}
	until, err := a.parseTime(l.until)
	if err != nil {
		return nil, usagef(cmd, "--until %v", err)
	}
	if l.tail < 0 {
		return nil, usagef(cmd, "--tail %d: want 1 or more lines", l.tail)
	}
	if since != nil && until != nil && until.AsTime().Before(since.AsTime()) {
		return nil, usagef(cmd, "--until is before --since")
	}
	if l.search != "" {
		if _, err := logfile.ParseSearch(l.search); err != nil {
			return nil, usagef(cmd, "--search %q: %v", l.search, err)
		}
	}
	return &fleetv1.LogQuery{Since: since, Until: until, Tail: l.tail, Follow: l.follow, Search: l.search, Attempt: l.attempt}, nil
}

func (a *app) instanceLogs() *cobra.Command {
	var l logFlags
	cmd := &cobra.Command{
		Use: "logs INSTANCE", Short: "Show what an instance has printed",
		Long: "Show what an instance has printed, of all its attempts: standard output to standard output, standard error to\n" +
			"standard error.",
		Example:           "  drover instance logs iris-1a2b3c4d -f\n  drover instance logs iris-1a2b3c4d --since 30m --search 'error && time*'",
		Args:              exactly("INSTANCE"),
		ValidArgsFunction: a.names(a.instanceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := l.query(cmd, a)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			ctx, reach := a.track(cmd.Context())
			stream, err := cl.Instances.GetInstanceLogs(ctx, &fleetv1.GetInstanceLogsRequest{Project: a.project, Name: args[0], Query: q})
			if err != nil {
				return reach(err)
			}
			return reach(copyLines(ctx, stream.Recv, a.linePrinter("", l.timestamps)))
		},
	}
	l.register(cmd)
	return a.printing(a.projected(cmd))
}

// copyLines hands a stream's lines to emit until it ends; being interrupted is an end too.
func copyLines[T interface{ GetLines() []*fleetv1.LogLine }](ctx context.Context, recv func() (T, error), emit func(*fleetv1.LogLine) error) error {
	for {
		r, err := recv()
		if errors.Is(err, io.EOF) || (ctx.Err() != nil && status.Code(err) == codes.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, l := range r.GetLines() {
			if err := emit(l); err != nil {
				return fmt.Errorf("write a line: %w", err)
			}
		}
	}
}

// linePrinter writes lines as they were printed, or one object a line with -o json, one document with -o yaml. Where those of
// several instances are mixed, each is told by the name of its instance.
func (a *app) linePrinter(instance string, timestamps bool) func(*fleetv1.LogLine) error {
	return func(l *fleetv1.LogLine) error {
		if a.output != "table" && a.output != "" {
			return a.printLineObject(instance, l)
		}
		out := a.out
		if l.GetStream() == "stderr" {
			out = a.err
		}
		if instance != "" {
			if _, err := fmt.Fprintf(out, "%s  ", instance); err != nil {
				return err
			}
		}
		if timestamps {
			if _, err := fmt.Fprintf(out, "%s ", clock(l.GetTime().AsTime())); err != nil {
				return err
			}
		}
		_, err := fmt.Fprintf(out, "%s\n", l.GetText())
		return err
	}
}

// printLineObject writes text as text, where protojson would write base64.
func (a *app) printLineObject(instance string, l *fleetv1.LogLine) error {
	return a.printRecord(struct {
		Instance string `json:"instance,omitempty" yaml:"instance,omitempty"`
		Time     string `json:"time" yaml:"time"`
		Stream   string `json:"stream" yaml:"stream"`
		Text     string `json:"text" yaml:"text"`
	}{instance, l.GetTime().AsTime().Format("2006-01-02T15:04:05.999999999Z07:00"), l.GetStream(), string(bytes.ToValidUTF8(l.GetText(), []byte("\uFFFD")))})
}

// printRecord writes one of many: an object a line with -o json, a document with -o yaml.
func (a *app) printRecord(record any) error {
	if a.output == "json" {
		return json.NewEncoder(a.out).Encode(record)
	}
	data, err := yaml.Marshal(record)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "---\n%s", data)
	return err
}
