package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// reading gives a command that prints what it reads its flags: which scheduler may answer, and the output's.
func (a *app) reading(cmd *cobra.Command) *cobra.Command {
	consistency, maxStale := fleetv1.ConsistencyLinearizable, time.Duration(0)
	f := cmd.Flags()
	f.StringVar(&consistency, "consistency", consistency, "linearizable: as of now, from the leader; stale: what the scheduler asked knows, also without a leader")
	f.DurationVar(&maxStale, "max-stale", 0, "with --consistency stale: the `age` beyond which no answer is wanted")
	must(cmd.RegisterFlagCompletionFunc("consistency",
		cobra.FixedCompletions([]string{fleetv1.ConsistencyLinearizable, fleetv1.ConsistencyStale}, cobra.ShellCompDirectiveNoFileComp)))
	a.printing(cmd)
	pre := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case consistency != fleetv1.ConsistencyLinearizable && consistency != fleetv1.ConsistencyStale:
			return usagef(cmd, "--consistency %q: want %s or %s", consistency, fleetv1.ConsistencyLinearizable, fleetv1.ConsistencyStale)
		case maxStale != 0 && consistency != fleetv1.ConsistencyStale:
			return usagef(cmd, "--max-stale is for --consistency stale")
		case maxStale != 0 && maxStale < time.Millisecond:
			return usagef(cmd, "--max-stale %v: want at least 1ms", maxStale)
		case consistency == fleetv1.ConsistencyStale:
			ctx := client.WithConsistency(cmd.Context(), consistency)
			if maxStale > 0 {
				ctx = client.WithMaxStale(ctx, maxStale)
			}
			cmd.SetContext(ctx)
		}
		return pre(cmd, args)
	}
	return cmd
}

// readAnyhow reads like read, and asks for a stale answer where there is no leader, unless the caller chose otherwise:
// how the schedulers are is of most interest then.
func readAnyhow[Req, Resp proto.Message](cmd *cobra.Command, a *app, call method[Req, Resp], req Req) (Resp, error) {
	resp, err := read(cmd.Context(), a, call, req)
	var away *connError
	if status.Code(err) != codes.Unavailable || errors.As(err, &away) || cmd.Flags().Changed("consistency") {
		return resp, err
	}
	fmt.Fprintf(a.err, "drover: %s; what follows is how the scheduler that was asked sees it\n", describe(err))
	return read(client.WithConsistency(cmd.Context(), fleetv1.ConsistencyStale), a, call, req)
}

// tellStale says on the error output that an answer is old.
func (a *app) tellStale(header metadata.MD) {
	for _, v := range header.Get(fleetv1.MetadataStaleness) {
		ms, err := strconv.ParseInt(v, 10, 64)
		switch {
		case err != nil:
			fmt.Fprintln(a.err, "drover: the answer may be old: the scheduler has heard no leader since it started")
		case ms > fleetv1.StaleAfterMillis:
			fmt.Fprintf(a.err, "drover: the answer is up to %s old: the scheduler hears no leader\n", duration(time.Duration(ms)*time.Millisecond))
		}
	}
}
