package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/cmd/drover/manifest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// submitFlags are a job.
type submitFlags struct {
	files  []string
	dryRun bool
	wait   waitFlags

	own  *pflag.FlagSet // those of a job that isn't read from a file
	spec fleetv1.JobSpec

	model, mapping            string
	itemRetries, modelRetries int32
	mounts                    []string
	tags, labels              map[string]string
}

func (a *app) jobSubmit() *cobra.Command {
	var s submitFlags
	cmd := &cobra.Command{
		Use: "submit [JOB] [flags] | -f FILE…", Short: "Check a job and start it, from flags or from manifests",
		Long: "Check a job, with its input and its output, and start it. Submitting the same job again changes nothing; only the\n" +
			"numbers of its instances can be changed. --output-path is where the results go, -o how this command answers.\n\n" +
			"--wait shows how far the job has got. Interrupting it leaves the job running. It ends with status 1 when the job\n" +
			"has failed or was stopped, and also when the job is complete but items of it have failed.",
		Example: "  drover job mapping iris > mapping.json\n" +
			"  drover job submit flowers --pool demo --model iris@1.0.0 --flavor iris.cpu --instances 4 --mapping-file mapping.json --input s3://flowers/in/ --output-path s3://flowers/out/ --wait\n" +
			"  drover job submit -f examples/jobs/job.yaml --dry-run",
		RunE: func(cmd *cobra.Command, args []string) error {
			docs, err := s.documents(cmd, a, args)
			if err != nil {
				return err
			}
			return a.submit(cmd.Context(), docs, &s)
		},
	}
	s.register(a, cmd)
	a.manifestFlag(cmd, &s.files)
	cmd.Flags().BoolVar(&s.dryRun, "dry-run", false, "check everything and change nothing")
	s.wait.registerFor(cmd, "the job to end", 0)
	return a.printing(a.projected(cmd))
}

// register gives the command the flags that describe a job.
func (s *submitFlags) register(a *app, cmd *cobra.Command) {
	s.own = pflag.NewFlagSet("job", pflag.ContinueOnError)
	f, spec := s.own, &s.spec
	f.StringVar(&spec.Pool, "pool", "", "`pool` that the instances run in")
	f.StringVar(&s.model, "model", "", "`MODEL[@VERSION]`; the latest version by default")
	f.StringVar(&spec.Flavor, "flavor", "", "resource `flavor` of each instance")
	f.StringVar(&spec.Input, "input", "", "`URL` of a folder or of a .manifest file: s3://, obs:// or file://")
	f.StringVar(&spec.Output, "output-path", "", "`URL` of the folder for the results")
	f.Int32Var(&spec.Instances, "instances", 0, "`number` of instances at most (default 1)")
	f.Int32Var(&spec.MinInstances, "min-instances", 0, "`number` of instances at least, while there is work for them (default --instances)")
	f.StringVar(&spec.RequestPath, "request-path", "", "`url` of the model's apis (default /)")
	f.StringVar(&spec.InputFormat, "input-format", "", "csv, jsonl, json or file (default by mapping, model and the inputs' names)")
	f.StringVar(&s.mapping, "mapping-file", "", "JSON `file`, or -, that says which column of a CSV file fills which part of the request")
	f.Int32Var(&spec.BatchRows, "batch-rows", 0, "`rows` of a CSV file in one request (default 1)")
	f.Int32Var(&spec.ItemTimeoutSeconds, "item-timeout", 0, "`seconds` that one request may take (default 40)")
	f.Int32Var(&spec.MaxConcurrency, "max-concurrency", 0, "`number` of requests in flight at one instance at most (default 64)")
	f.Int32Var(&s.itemRetries, "item-retries", 0, "`times` that an item is tried again after a fault of its own (default 0)")
	f.Int32Var(&s.modelRetries, "model-retries", 3, "`times` that an item is tried again after a fault of the model")
	f.BoolVar(&spec.Strict, "strict", false, "answers that don't match the declared response are failed items")
	f.StringToStringVar(&spec.Env, "env", nil, "environment variables, `K=V`")
	f.StringArrayVar(&s.mounts, "mount", nil, "host directory in the container, `SOURCE:PATH[:ro]`; may be given several times")
	f.Int32Var(&spec.Nodes, "nodes", 0, "`number` of nodes that one instance spans (default 1)")
	f.StringToStringVar(&s.labels, "node-label", nil, "only nodes with these labels, `K=V`; other rules stand in manifests")
	f.Int32Var(&spec.Priority, "priority", 0, "`0–100`: the higher is placed first; the instances of jobs may always be stopped for others of more")
	f.StringVar(&spec.Network, "network", "", "bridge (default) or host")
	f.Int32Var(&spec.TimeoutMinutes, "start-timeout", 0, "`minutes` for an instance to be pulled, started and healthy (default 20)")
	f.StringVar(&spec.Description, "description", "", "at most 100 characters")
	f.StringToStringVar(&s.tags, "tag", nil, "tags to find the job by, `K=V`")
	cmd.Flags().AddFlagSet(f)
	must(cmd.MarkFlagFilename("mapping-file", "json"))
	must(cmd.RegisterFlagCompletionFunc("network", cobra.FixedCompletions([]string{fleetv1.NetworkBridge, fleetv1.NetworkHost}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("input-format", cobra.FixedCompletions([]string{"csv", "jsonl", "json", "file"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("pool", a.values(poolNames)))
	must(cmd.RegisterFlagCompletionFunc("flavor", a.values(flavorNames)))
	must(cmd.RegisterFlagCompletionFunc("model", a.values(a.modelNames(true))))
}

// documents are the jobs of the manifests, or the one that the flags describe.
func (s *submitFlags) documents(cmd *cobra.Command, a *app, args []string) ([]manifest.Document, error) {
	if s.dryRun && s.wait.wait {
		return nil, usagef(cmd, "--dry-run changes nothing that --wait could wait for")
	}
	if len(s.files) == 0 {
		if err := exactly("JOB")(cmd, args); err != nil {
			return nil, err
		}
		j, err := s.job(cmd, a, args[0])
		return []manifest.Document{{Kind: fleetv1.KindJob, Object: j}}, err
	}
	if len(args) > 0 {
		return nil, usagef(cmd, "give a JOB with flags or -f FILE, not both")
	}
	var extra error
	s.own.VisitAll(func(f *pflag.Flag) {
		if f.Changed && extra == nil {
			extra = usagef(cmd, "--%s is for a job from flags: with -f it stands in the file", f.Name)
		}
	})
	if extra != nil {
		return nil, extra
	}
	docs, err := a.loadManifests(cmd, s.files)
	for _, doc := range docs {
		if doc.Kind != fleetv1.KindJob {
			return nil, &manifest.Error{File: doc.File, Line: doc.Line, Msg: "is " + doc.Name() + ", not a job: use `drover apply -f`"}
		}
	}
	return docs, err
}

func (s *submitFlags) job(cmd *cobra.Command, a *app, name string) (*fleetv1.Job, error) {
	spec := &s.spec
	for _, need := range []struct{ flag, value string }{
		{"pool", spec.GetPool()}, {"model", s.model}, {"flavor", spec.GetFlavor()}, {"input", spec.GetInput()}, {"output-path", spec.GetOutput()},
	} {
		if need.value == "" {
			return nil, usagef(cmd, "--%s is missing", need.flag)
		}
	}
	var err error
	if spec.Mounts, err = parseMounts(cmd, s.mounts); err != nil {
		return nil, err
	}
	if spec.Mapping, err = s.readMapping(a.in); err != nil {
		return nil, err
	}
	spec.Model, spec.ModelVersion = splitVersion(s.model)
	if cmd.Flags().Changed("item-retries") {
		spec.ItemRetries = &s.itemRetries
	}
	if cmd.Flags().Changed("model-retries") {
		spec.ModelRetries = &s.modelRetries
	}
	if len(s.labels) > 0 {
		spec.Placement = &fleetv1.PlacementRules{Required: s.labels}
	}
	return &fleetv1.Job{Meta: &fleetv1.Meta{Name: name, Project: a.project, Tags: s.tags}, Spec: spec}, nil
}

// readMapping reads the file with the mapping, if there is one.
func (s *submitFlags) readMapping(stdin io.Reader) (*structpb.Struct, error) {
	var data []byte
	var err error
	switch s.mapping {
	case "":
		return nil, nil
	case "-":
		data, err = io.ReadAll(stdin)
	default:
		data, err = os.ReadFile(s.mapping)
	}
	if err != nil {
		return nil, fmt.Errorf("read the mapping: %w", err)
	}
	m, err := parseMapping(data)
	if err != nil {
		return nil, fmt.Errorf("mapping %s is no JSON object as `drover job mapping` prints it: %w", s.mapping, err)
	}
	return m, nil
}

// parseMapping reads a JSON object without a name given twice; whether it fits the model is for the scheduler to say.
func parseMapping(data []byte) (*structpb.Struct, error) {
	m := &structpb.Struct{}
	if err := protojson.Unmarshal(data, m); err != nil {
		why := strings.ReplaceAll(err.Error(), "\u00a0", " ") // protojson's white space isn't stable
		return nil, errors.New(strings.TrimSpace(strings.TrimPrefix(why, "proto:")))
	}
	return m, nil
}

// submit submits all jobs, then waits for each.
func (a *app) submit(ctx context.Context, docs []manifest.Document, s *submitFlags) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	answers := make([]*fleetv1.SubmitJobResponse, len(docs))
	for i, d := range docs {
		j, ok := d.Object.(*fleetv1.Job)
		if !ok {
			return fmt.Errorf("%s is no job", d.Name())
		}
		if answers[i], err = a.submitJob(ctx, cl, j, s.dryRun); err != nil {
			if left := len(docs) - i - 1; left > 0 {
				fmt.Fprintf(a.err, "drover: %d of %d jobs not submitted yet when this one failed\n", left, len(docs))
			}
			if d.File != "" {
				err = about(d.Where()+": "+d.Name(), err)
			}
			return err
		}
		did := submitted(answers[i])
		if s.dryRun && did != unchanged {
			did = "would be " + did
		}
		a.announceJob(answers[i], did)
		if s.dryRun && a.output == "table" {
			if err := a.drawJobSpec(answers[i].GetJob()); err != nil {
				return err
			}
		}
	}
	for _, resp := range answers {
		if a.output == "yaml" && len(docs) > 1 {
			fmt.Fprintln(a.out, "---")
		}
		if err := a.settleJob(ctx, cl, resp, jobEnded, s.wait); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) submitJob(ctx context.Context, cl *client.Client, j *fleetv1.Job, dryRun bool) (*fleetv1.SubmitJobResponse, error) {
	return write(ctx, a, cl.Jobs.SubmitJob, &fleetv1.SubmitJobRequest{Job: j, DryRun: dryRun})
}

// submitted is what became of a submitted job.
func submitted(resp *fleetv1.SubmitJobResponse) string {
	switch {
	case !resp.GetChanged():
		return unchanged
	case resp.GetJob().GetMeta().GetGeneration() > 1:
		return changed
	}
	return created
}

func (a *app) jobMapping() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use: "mapping MODEL[@VERSION]", Short: "Print the mapping of a model's request, to be filled in",
		Long: "Print the JSON Schema of a model's request with an index at each leaf: the column of a CSV file, counted from 0, that\n" +
			"fills it. Change the indexes to those of your columns, and delete those of leaves that stay out of the request.",
		Example:           "  drover job mapping iris > mapping.json\n  drover job mapping iris@1.0.0 --request-path /predict",
		Args:              exactly("MODEL"),
		ValidArgsFunction: a.names(a.modelNames(true)),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			req := &fleetv1.GetJobMappingRequest{Project: a.project, RequestPath: path}
			req.Model, req.ModelVersion = splitVersion(args[0])
			resp, err := read(cmd.Context(), a, cl.Jobs.GetJobMapping, req)
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.out, resp.GetMapping())
			return err
		},
	}
	cmd.Flags().StringVar(&path, "request-path", "", "`url` of the model's apis (default /)")
	return a.projected(cmd)
}
