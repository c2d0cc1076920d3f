package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// maxFollowed is how many instances' logs are followed at once: each is a stream through the scheduler.
const maxFollowed = 32

func (a *app) jobLogs() *cobra.Command {
	var l logFlags
	var task string
	cmd := &cobra.Command{
		Use: "logs JOB", Short: "Show what the instances of a job have printed",
		Long: "Show what the instances that a job has now have printed, one after the other, or mixed with --follow. Each line\n" +
			"begins with the name of its instance.",
		Example:           "  drover job logs flowers --tail 20\n  drover job logs flowers --task 0 -f --search 'error'",
		Args:              exactly("JOB"),
		ValidArgsFunction: a.names(a.jobNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := l.query(cmd, a)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Jobs.GetJob, &fleetv1.GetJobRequest{Project: a.project, Name: args[0]})
			if err != nil {
				return err
			}
			instances, err := instancesOf(resp, args[0], task)
			if err != nil {
				return err
			}
			return a.copyLogs(cmd.Context(), cl, instances, q, l.timestamps)
		},
	}
	l.register(cmd)
	cmd.Flags().StringVar(&task, "task", "", "only the instance of this `task`")
	return a.printing(a.projected(cmd))
}

// instancesOf are the names of a job's instances, or of that of one task.
func instancesOf(r *fleetv1.GetJobResponse, job, task string) ([]string, error) {
	var names, tasks []string
	for _, t := range r.GetTasks() {
		switch {
		case task != t.GetTask():
			tasks = append(tasks, t.GetTask())
		case t.GetInstance() == "":
			return nil, fmt.Errorf("task %q of job %q has no instance now", task, job)
		default:
			return []string{t.GetInstance()}, nil
		}
	}
	if task != "" {
		return nil, fmt.Errorf("job %q has no task %q; it has: %s", job, task, first(strings.Join(tasks, ", "), "none yet"))
	}
	for _, i := range r.GetInstances() {
		names = append(names, i.GetMeta().GetName())
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("job %q has no instance now whose log could be shown", job)
	}
	return names, nil
}

// copyLogs prints the logs of the instances, all at once when they are followed.
func (a *app) copyLogs(ctx context.Context, cl *client.Client, instances []string, q *fleetv1.LogQuery, timestamps bool) error {
	if q.GetFollow() && len(instances) > maxFollowed {
		return fmt.Errorf("%d instances are too many to follow at once, at most %d: name one with --task", len(instances), maxFollowed)
	}
	var mu sync.Mutex // of the output
	one := func(instance string) error {
		ctx, reach := a.track(ctx)
		stream, err := cl.Instances.GetInstanceLogs(ctx, &fleetv1.GetInstanceLogsRequest{Project: a.project, Name: instance, Query: q})
		if err == nil {
			emit := a.linePrinter(instance, timestamps)
			err = copyLines(ctx, stream.Recv, func(l *fleetv1.LogLine) error {
				mu.Lock()
				defer mu.Unlock()
				return emit(l)
			})
		}
		return about("instance/"+instance, reach(err))
	}
	errs := make([]error, len(instances))
	var wg sync.WaitGroup
	for n, instance := range instances {
		if !q.GetFollow() {
			errs[n] = one(instance)
			continue
		}
		wg.Go(func() { errs[n] = one(instance) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (a *app) jobErrors() *cobra.Command {
	var limit int32
	cmd := &cobra.Command{
		Use: "errors JOB", Short: "List the items that have failed, and why",
		Long: "List the items that have failed, as far as they stand in manifests, and why: an item a line, and with -o json an object\n" +
			"a line.",
		Example:           "  drover job errors flowers --limit 20\n  drover job errors flowers -o json | jq -r .source",
		Args:              exactly("JOB"),
		ValidArgsFunction: a.names(a.jobNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef(cmd, "--limit %d: want 1 or more items, or 0 for all", limit)
			}
			return a.printErrors(cmd.Context(), &fleetv1.ListJobErrorsRequest{Project: a.project, Name: args[0], Limit: limit})
		},
	}
	cmd.Flags().Int32Var(&limit, "limit", 0, "only so many `items`; 0 for all")
	return a.printing(a.projected(cmd))
}

// printErrors prints as the answer comes, which may be long.
func (a *app) printErrors(ctx context.Context, req *fleetv1.ListJobErrorsRequest) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	ctx, reach := a.track(ctx)
	stream, err := cl.Jobs.ListJobErrors(ctx, req)
	some := false
	for err == nil {
		var r *fleetv1.ListJobErrorsResponse
		if r, err = stream.Recv(); err != nil {
			break
		}
		for _, e := range r.GetErrors() {
			some = true
			if err := a.printError(e); err != nil {
				return fmt.Errorf("write a line: %w", err)
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		return reach(err)
	}
	if !some {
		fmt.Fprintf(a.err, "no item of %s has failed so far\n", req.GetName())
	}
	return nil
}

func (a *app) printError(e *fleetv1.JobError) error {
	if a.output == "table" {
		_, err := fmt.Fprintf(a.out, "%s  %s\n", oneLine(e.GetSource()), oneLine(e.GetMessage()))
		return err
	}
	return a.printRecord(struct {
		Source  string `json:"source" yaml:"source"`
		Message string `json:"message" yaml:"message"`
		Task    string `json:"task" yaml:"task"`
	}{e.GetSource(), e.GetMessage(), e.GetTask()})
}
