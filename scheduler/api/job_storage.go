package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

const (
	// inspectTime is how long a submission looks at input and output: less than a mutation may take.
	inspectTime = 20 * time.Second
	// errorsAtOnce is how many FAILED lines are sent together.
	errorsAtOnce = 200
)

// inspect looks whether a job's input is there, and whether there is room for its output.
func (s *jobServer) inspect(ctx context.Context, j *fleetv1.Job) error {
	leave, err := s.looking.enter(ctx, j.GetMeta().GetProject())
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, inspectTime)
	defer cancel()
	st, err := s.cfg.Storage(j.GetMeta().GetProject())
	if err != nil {
		return err
	}
	defer st.Close()
	input, err := storage.ParseURL(j.GetSpec().GetInput())
	if err != nil {
		return invalid("job.spec.input", "%v", err)
	}
	output, err := storage.ParseURL(j.GetSpec().GetOutput())
	if err != nil {
		return invalid("job.spec.output", "%v", err)
	}
	if isManifest(input) {
		err = inspectManifest(ctx, st, input)
	} else {
		err = inspectFolder(ctx, st, input)
	}
	if err != nil {
		return err
	}
	return inspectOutput(ctx, st, output)
}

// unreadable is the error of a storage that a field leads to.
func unreadable(field string, err error) error {
	e := unfit(field, "%v", err)
	if errors.Is(err, storage.ErrTemporary) || errors.Is(err, context.DeadlineExceeded) {
		e.Code, e.Msg = codes.Unavailable, e.Msg+": try again when the storage answers"
	}
	return e
}

// inspectFolder wants one input at least.
func inspectFolder(ctx context.Context, st *storage.Storage, input storage.URL) error {
	const field = "job.spec.input"
	empty, err := st.Empty(ctx, input)
	if err != nil {
		return unreadable(field, err)
	}
	if empty {
		return unfit(field, "nothing is in %s: name a folder that holds the inputs, or a file that lists them and is called so: NAME.manifest", input)
	}
	return nil
}

// inspectManifest wants one line at least, the first of which names an input. Wrong lines behind it are items that fail.
func inspectManifest(ctx context.Context, st *storage.Storage, input storage.URL) error {
	const field = "job.spec.input"
	file, _, err := st.Read(ctx, input, storage.ReadOptions{})
	if err != nil {
		return unreadable(field, err)
	}
	defer file.Close()
	first, err := batch.NewSources(file).Next()
	switch {
	case errors.Is(err, io.EOF):
		return unfit(field, "%s has no lines", input)
	case err != nil:
		return unreadable(field, err)
	case first.Err != nil:
		return unfit(field, "%s: %v", input, first.Err)
	}
	return nil
}

// inspectOutput wants nothing there but what jobs keep beside their output.
func inspectOutput(ctx context.Context, st *storage.Storage, output storage.URL) error {
	const field = "job.spec.output"
	after := ""
	for {
		skip := ""
		for o, err := range st.List(ctx, output, after) {
			if err != nil {
				return unreadable(field, err)
			}
			if !strings.HasPrefix(o.URL.Key, output.Key+batch.OwnFolder) {
				return unfit(field, "%s isn't empty, %s is in it: choose another folder, so that nothing is overwritten", output, o.URL)
			}
			skip = output.Key + strings.TrimSuffix(batch.OwnFolder, "/") + "/\U0010FFFF" // behind all that is in the folder
			break
		}
		if skip == "" || skip == after {
			return nil
		}
		after = skip
	}
}

func (s *jobServer) ListJobErrors(req *fleetv1.ListJobErrorsRequest, stream grpc.ServerStreamingServer[fleetv1.ListJobErrorsResponse]) error {
	ctx := stream.Context()
	var v violations
	v.between("limit", int64(req.GetLimit()), 0, maxInt32)
	if err := v.err(); err != nil {
		return err
	}
	view := s.view()
	j, err := findJob(view, project(ctx, req.GetProject()), req.GetName())
	if err != nil {
		return err
	}
	leave, err := s.looking.enter(ctx, j.GetMeta().GetProject())
	if err != nil {
		return err
	}
	defer leave()
	st, err := s.cfg.Storage(j.GetMeta().GetProject())
	if err != nil {
		return err
	}
	defer st.Close()
	output, err := storage.ParseURL(j.GetSpec().GetOutput())
	if err != nil {
		return invalid("job.spec.output", "%v", err)
	}
	out := &errorLines{send: func(some []*fleetv1.JobError) error { return stream.Send(&fleetv1.ListJobErrorsResponse{Errors: some}) }, limit: int(req.GetLimit())}
	for _, m := range manifestsOf(view.JobLedger(j.GetMeta().GetId())) {
		if err := out.read(ctx, st, output, m); err != nil {
			return err
		}
		if out.full() {
			break
		}
	}
	return out.flush()
}

// manifestsOf are those that stand beside the output, with task and number.
func manifestsOf(l *fleetv1.JobLedger) []*fleetv1.Manifest {
	type key struct {
		task   string
		number int32
	}
	coming := map[key]bool{}
	for _, m := range l.GetSealed() {
		coming[key{m.GetTask(), m.GetNumber()}] = true
	}
	var all []*fleetv1.Manifest
	for _, t := range l.GetTasks() {
		for n := range t.GetManifests() {
			if !coming[key{t.GetTask(), n}] {
				all = append(all, &fleetv1.Manifest{Task: t.GetTask(), Number: n})
			}
		}
	}
	return all
}

// errorLines collects FAILED lines, and sends them in groups.
type errorLines struct {
	send  func([]*fleetv1.JobError) error
	limit int // 0 for none
	found int
	some  []*fleetv1.JobError
}

func (e *errorLines) full() bool { return e.limit > 0 && e.found >= e.limit }

func (e *errorLines) flush() error {
	if len(e.some) == 0 {
		return nil
	}
	some := e.some
	e.some = nil
	return e.send(some)
}

func (e *errorLines) read(ctx context.Context, st *storage.Storage, output storage.URL, m *fleetv1.Manifest) error {
	name, err := output.Join(batch.ManifestName(m.GetTask(), m.GetNumber()))
	if err != nil {
		return refuse(codes.FailedPrecondition, "%v", err)
	}
	file, _, err := st.Read(ctx, name, storage.ReadOptions{})
	if err != nil {
		return unreadable("output", err)
	}
	defer file.Close()
	for lines := batch.NewManifestReader(file); !e.full(); {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return unfit("output", "%s can't be read: %v", name, err)
		}
		if line.Result != batch.Failed {
			continue
		}
		e.found++
		e.some = append(e.some, &fleetv1.JobError{Source: line.Source, Message: line.Message, Task: m.GetTask()})
		if len(e.some) == errorsAtOnce {
			if err := e.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *jobServer) GetJobMapping(ctx context.Context, req *fleetv1.GetJobMappingRequest) (*fleetv1.GetJobMappingResponse, error) {
	model, err := findModel("model", s.view(), project(ctx, req.GetProject()), req.GetModel(), req.GetModelVersion())
	if err != nil {
		return nil, err
	}
	path := req.GetRequestPath()
	fill(&path, "/")
	route, err := batchRoute("request_path", model, path)
	if err != nil {
		return nil, err
	}
	if t := route.GetRequest().GetContentType(); t == batch.ContentForm {
		return nil, unfit("request_path", "%s takes %s, a file as it is: it needs no mapping", path, t)
	}
	schema, err := batch.SchemaJSON(route.GetRequest().GetData())
	if err != nil {
		return nil, err
	}
	mapping, err := batch.Derive(schema)
	if err != nil {
		return nil, unfit("request_path", "no mapping can be made of what %s takes: %v", path, err)
	}
	return &fleetv1.GetJobMappingResponse{Mapping: string(mapping)}, nil
}
