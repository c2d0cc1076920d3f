package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) serviceEndpoints() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "endpoints SERVICE", Short: "List where a service's ready instances are called",
		Long: "List where a service's ready instances are called.\n\nWith --watch what comes (+) and goes (-) is printed as it happens, as the look-up's clients are told of it;\n" +
			"that is for services that can be looked up: those that run in a dedicated pool.",
		Example: "  drover service endpoints iris\n  drover service endpoints iris --watch\n" +
			"  curl -X POST $(drover service endpoints iris -o json | jq -r '.endpoints[0]|\"\\(.schema)://\\(.ip):\\(.port)\"')",
		Args:              exactly("SERVICE"),
		ValidArgsFunction: a.names(a.serviceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if watch {
				return a.watchEndpoints(cmd.Context(), args[0])
			}
			resp, err := read(cmd.Context(), a, cl.Services.ListEndpoints, &fleetv1.ListEndpointsRequest{Project: a.project, Name: args[0]})
			if err != nil {
				return err
			}
			t := &table{head: []string{"ENDPOINT", "MODEL", "WEIGHT", "INSTANCE"}}
			for _, e := range resp.GetEndpoints() {
				t.add(text("%s", endpointText(e)), text("%s@%s", e.GetModel(), e.GetModelVersion()),
					text("%d", e.GetWeight()), text("%s", shortID(e.GetInstanceId())))
			}
			return a.print(resp, func() error { return a.drawTable(t, "no instance of "+args[0]+" is ready") })
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print what comes and goes until interrupted")
	return a.reading(a.projected(cmd))
}

func endpointText(e *fleetv1.Endpoint) string {
	return fmt.Sprintf("%s://%s", e.GetSchema(), hostPort(e.GetIp(), e.GetPort()))
}

// watchEndpoints prints changes of the endpoints until it is interrupted.
func (a *app) watchEndpoints(ctx context.Context, service string) error {
	shown := map[string]*fleetv1.Endpoint{}
	return a.follow(ctx, func(ctx context.Context) (next func() error, err error) {
		stream, err := a.cl.Lookup.Watch(ctx, &fleetv1.LookupServiceWatchRequest{Project: a.project, Service: service})
		return func() error {
			r, err := stream.Recv()
			if err != nil || r.GetAnswer() == nil { // the staleness alone has changed
				return err
			}
			if a.output == "yaml" {
				fmt.Fprintln(a.out, "---")
			}
			if err := a.print(r, func() error { return a.printEndpointChanges(shown, r.GetAnswer().GetEndpoints()) }); err != nil {
				return printError{err}
			}
			return nil
		}, err
	})
}

// printEndpointChanges writes a line for each endpoint that isn't shown yet, or any more.
func (a *app) printEndpointChanges(shown map[string]*fleetv1.Endpoint, now []*fleetv1.Endpoint) error {
	at, gone := clock(a.now()), maps.Clone(shown)
	line := func(sign, colour string, e *fleetv1.Endpoint) error {
		_, err := fmt.Fprintf(a.out, "%s  %s  %s@%s  weight %d  %s\n", at, paint(cell{text: sign + " " + endpointText(e), colour: colour}, a.colour()),
			e.GetModel(), e.GetModelVersion(), e.GetWeight(), shortID(e.GetInstanceId()))
		return err
	}
	for _, e := range now {
		key := e.String()
		if delete(gone, key); shown[key] != nil {
			continue
		}
		shown[key] = e
		if err := line("+", green, e); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(gone)) {
		delete(shown, key)
		if err := line("-", red, gone[key]); err != nil {
			return err
		}
	}
	return nil
}
