package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) jobCommand() *cobra.Command {
	return a.noun("job", "Run batch jobs",
		a.jobSubmit(), a.jobList(), a.jobShow(), a.jobStart(), a.jobStop(), a.jobRetry(), a.jobDelete(),
		a.jobLogs(), a.jobErrors(), a.jobMapping(), a.jobEvents())
}

func (a *app) jobList() *cobra.Command {
	var tags map[string]string
	cmd := &cobra.Command{
		Use: "list", Short: "List the jobs of a project",
		Example: "  drover job list\n  drover job list --tag team=flowers -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Jobs.ListJobs, &fleetv1.ListJobsRequest{Project: a.project, Tags: tags})
			if err != nil {
				return err
			}
			t := &table{
				head:  []string{"NAME", "STATE", "ITEMS", "DONE", "FAILED", "RATE", "LEFT", "TASKS", "MODEL", "AGE", "REASON"},
				spare: []string{"MODEL", "AGE", "TASKS", "RATE", "LEFT"},
			}
			for _, s := range resp.GetJobs() {
				j, p := s.GetJob(), s.GetProgress()
				t.add(text("%s", j.GetMeta().GetName()), stateCell(j.GetStatus().GetState()), text("%s", itemsText(p)),
					text("%d", done(p)), failedCell(p.GetFailed()), text("%s", rateText(p.GetRate())), text("%s", leftText(p)),
					text("%d/%d", j.GetStatus().GetTasks(), j.GetSpec().GetInstances()), text("%s", jobModel(j.GetSpec())),
					text("%s", a.age(j.GetMeta().GetCreateTime())), text("%s", oneLine(j.GetStatus().GetReason())))
			}
			return a.print(resp, func() error { return a.drawTable(t, "no jobs in the project") })
		},
	}
	cmd.Flags().StringToStringVar(&tags, "tag", nil, "only jobs with these `tags`, k=v")
	return a.reading(a.projected(cmd))
}

func jobModel(s *fleetv1.JobSpec) string {
	if s.GetModelVersion() == "" {
		return s.GetModel()
	}
	return s.GetModel() + "@" + s.GetModelVersion()
}

// failedCell shows a number of failed items, which is for somebody to look at.
func failedCell(n int64) cell {
	c := text("%d", n)
	if n > 0 {
		c.colour = red
	}
	return c
}

// jobAnswer is what the methods that change a job answer.
type jobAnswer interface {
	proto.Message
	GetJob() *fleetv1.Job
}

// jobVerb makes a command that changes one job and may wait for what follows.
func (a *app) jobVerb(cmd *cobra.Command, did string, g jobGoal, call func(context.Context, *client.Client, string) (jobAnswer, error)) *cobra.Command {
	var w waitFlags
	cmd.Args = exactly("JOB")
	cmd.ValidArgsFunction = a.names(a.jobNames)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cl, err := a.client()
		if err != nil {
			return err
		}
		resp, err := call(cmd.Context(), cl, args[0])
		if err != nil {
			return err
		}
		a.announceJob(resp, did)
		return a.settleJob(cmd.Context(), cl, resp, g, w)
	}
	w.registerFor(cmd, "the job to "+g.name, 0)
	return a.printing(a.projected(cmd))
}

// announceJob tells people what was done.
func (a *app) announceJob(resp jobAnswer, did string) {
	if a.output == "table" {
		fmt.Fprintf(a.out, "job/%s %s\n", resp.GetJob().GetMeta().GetName(), did)
	}
}

// settleJob waits if it was asked to, and prints with -o: the answer, or what came of it.
func (a *app) settleJob(ctx context.Context, cl *client.Client, resp jobAnswer, g jobGoal, w waitFlags) error {
	j := resp.GetJob()
	switch {
	case a.output == "table" && w.wait:
		return a.waitJob(ctx, cl, j, g, w)
	case a.output == "table":
		return nil
	case !w.wait:
		return a.print(resp, nil)
	}
	quiet := *a
	quiet.out, quiet.terminal = a.err, false
	waited := quiet.waitJob(ctx, cl, j, g, w)
	if waited != nil && !errors.As(waited, new(*itemsError)) {
		return waited
	}
	after, err := read(ctx, a, cl.Jobs.GetJob, &fleetv1.GetJobRequest{Project: j.GetMeta().GetProject(), Name: j.GetMeta().GetName()})
	if err != nil {
		return err
	}
	if err := a.print(after, nil); err != nil {
		return err
	}
	return waited
}

func (a *app) jobStart() *cobra.Command {
	return a.jobVerb(&cobra.Command{
		Use: "start JOB", Short: "Go on with a job that was stopped or has failed: with what is missing",
		Example: "  drover job start flowers --wait",
	}, "starting", jobEnded, func(ctx context.Context, cl *client.Client, name string) (jobAnswer, error) {
		return write(ctx, a, cl.Jobs.StartJob, &fleetv1.StartJobRequest{Project: a.project, Name: name})
	})
}

func (a *app) jobStop() *cobra.Command {
	return a.jobVerb(&cobra.Command{
		Use: "stop JOB", Short: "Stop a job: items that have begun end, the others stay for the next start",
		Example: "  drover job stop flowers --wait",
	}, "stopping", jobStopped, func(ctx context.Context, cl *client.Client, name string) (jobAnswer, error) {
		return write(ctx, a, cl.Jobs.StopJob, &fleetv1.StopJobRequest{Project: a.project, Name: name})
	})
}

func (a *app) jobRetry() *cobra.Command {
	return a.jobVerb(&cobra.Command{
		Use: "retry JOB", Short: "Run the failed items of a complete job again",
		Example: "  drover job retry flowers --wait",
	}, "retrying", jobEnded, func(ctx context.Context, cl *client.Client, name string) (jobAnswer, error) {
		return write(ctx, a, cl.Jobs.RetryJob, &fleetv1.RetryJobRequest{Project: a.project, Name: name})
	})
}

func (a *app) jobDelete() *cobra.Command {
	var w waitFlags
	cmd := &cobra.Command{
		Use: "delete JOB", Short: "Stop a job and forget it; its output stays",
		Example:           "  drover job delete flowers --wait",
		Args:              exactly("JOB"),
		ValidArgsFunction: a.names(a.jobNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			if _, err := write(cmd.Context(), a, cl.Jobs.DeleteJob, &fleetv1.DeleteJobRequest{Project: a.project, Name: args[0]}); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "job/%s is being deleted; its output stays\n", args[0])
			if !w.wait {
				return nil
			}
			return a.waitJob(cmd.Context(), cl, &fleetv1.Job{Meta: &fleetv1.Meta{Name: args[0], Project: a.project}}, jobGone, w)
		},
	}
	w.register(cmd, "the job to be gone")
	return a.projected(cmd)
}

func (a *app) jobEvents() *cobra.Command {
	var f eventFlags
	cmd := &cobra.Command{
		Use: "events JOB", Short: "List what happened to a job and its instances",
		Example:           "  drover job events flowers\n  drover job events flowers --watch",
		Args:              exactly("JOB"),
		ValidArgsFunction: a.names(a.jobNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.filter(cmd, a)
			if err != nil {
				return err
			}
			filter.Project, filter.Kind, filter.Name = a.project, fleetv1.KindJob, args[0]
			return a.showEvents(cmd.Context(), filter, f.watch)
		},
	}
	f.register(cmd)
	return a.reading(a.projected(cmd))
}
