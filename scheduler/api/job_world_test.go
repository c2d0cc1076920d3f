package api

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// fakeJobs are what a leader remembers of jobs.
type fakeJobs struct {
	mu       sync.Mutex
	progress map[string]*fleetv1.JobProgress
	hooks    map[int]func(string)
}

func newFakeJobs() *fakeJobs {
	return &fakeJobs{progress: map[string]*fleetv1.JobProgress{}, hooks: map[int]func(string){}}
}

func (f *fakeJobs) Progress(id string) (*fleetv1.JobProgress, []*fleetv1.JobTask) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.progress[id]
	if p == nil {
		return nil, nil
	}
	return p, []*fleetv1.JobTask{{Task: "t1"}}
}

func (f *fakeJobs) OnProgress(h func(string)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := len(f.hooks)
	f.hooks[id] = h
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.hooks, id)
	}
}

// move makes a job get on.
func (f *fakeJobs) move(id string, p *fleetv1.JobProgress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.progress[id] = p
	for _, h := range f.hooks {
		h(id)
	}
}

func structOf(t testing.TB, json string) *structpb.Struct {
	t.Helper()
	s := &structpb.Struct{}
	if err := s.UnmarshalJSON([]byte(json)); err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	rowSchema = `{"type":"object","properties":{"data":{"type":"object","properties":{"req_data":{"type":"array","items":[{"type":"object","properties":{"x":{"type":"number"},"y":{"type":"string"}}}]}}}}}`
	rowMapped = `{"type":"object","properties":{"data":{"type":"object","properties":{"req_data":{"type":"array","items":[{"type":"object","properties":{"x":{"type":"number","index":0},"y":{"type":"string","index":1}}}]}}}}}`
	flat      = `{"type":"object","properties":{"x":{"type":"number"}}}`
	flatMap   = `{"type":"object","properties":{"x":{"type":"number","index":0}}}`
)

// furnishJobs makes what a job needs: besides a service's, models that run as batch, and inputs.
func (w *world) furnishJobs() {
	w.t.Helper()
	w.furnish()
	schema := func(json string) *fleetv1.APISchema {
		return &fleetv1.APISchema{ContentType: "application/json", Data: structOf(w.t, json)}
	}
	form := &fleetv1.APISchema{ContentType: "multipart/form-data", Data: structOf(w.t, flat)}
	file := &fleetv1.APISchema{ContentType: "multipart/form-data", Data: structOf(w.t, `{"type":"object","properties":{"image":{"type":"file"}}}`)}
	route := func(url, method string, request, response *fleetv1.APISchema) *fleetv1.APIRoute {
		return &fleetv1.APIRoute{Url: url, Method: method, Request: request, Response: response}
	}
	batchModel := func(name, version string, edit func(*fleetv1.Model)) *fleetv1.Model {
		return model(name, version, func(m *fleetv1.Model) {
			m.Spec.DeployTypes = []string{"real-time", "batch"}
			m.Spec.Apis = []*fleetv1.APIRoute{
				route("/", "POST", schema(rowSchema), schema(rowSchema)), route("/flat", "POST", schema(flat), schema(flat)),
				route("/image", "POST", file, schema(flat)), route("/form", "POST", schema(flat), form), route("/get", "GET", schema(flat), schema(flat)),
				route("/silent", "POST", schema(flat), nil), route("/bare", "POST", &fleetv1.APISchema{ContentType: "application/json"}, schema(flat)),
			}
			if edit != nil {
				edit(m)
			}
		})
	}
	w.put(batchModel("rows", "0.0.1", nil), batchModel("rows", "0.0.2", nil),
		batchModel("rough", "0.0.1", func(m *fleetv1.Model) { m.Spec.Apis = nil }),
		batchModel("rpc", "0.0.1", func(m *fleetv1.Model) { m.Spec.Api = &fleetv1.ModelAPI{Protocol: "grpc"} }),
		batchModel("ill", "0.0.1", func(m *fleetv1.Model) { m.Status.State, m.Status.Reason = fleetv1.ModelAbnormal, "gone" }))
	w.file("in/a.json", "{}")
	w.file("list.manifest", `{"source": "s3://b/k"}`+"\nnot JSON\n")
	w.file("used/result.txt", "old")
	w.file("kept/.drover/j/pack", "old")
	w.file("mixed/.drover/j/pack", "old")
	w.file("mixed/z.txt", "old")
	for name, line := range map[string]string{"nosource": `{"src": "s3://b/k"}`, "nojson": "hello", "folder": `{"source": "s3://b/k/"}`, "scheme": `{"source": "ftp://b/k"}`, "void": ""} {
		w.file(name+".manifest", line)
	}
	if err := os.Mkdir(filepath.Join(w.dir, "empty"), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) file(name, content string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) url(name string) string { return "file://" + w.dir + "/" + name }

// scoring is a valid job.
func (w *world) scoring(edit func(*fleetv1.Job)) *fleetv1.Job {
	j := &fleetv1.Job{Meta: &fleetv1.Meta{Name: "score"}, Spec: &fleetv1.JobSpec{Pool: "shared", Model: "rows", Flavor: "cpu.1u1g",
		Input: w.url("in"), Output: w.url("out"), InputFormat: "json"}}
	if edit != nil {
		edit(j)
	}
	return j
}

func (w *world) jobClient() fleetv1.JobServiceClient { return fleetv1.NewJobServiceClient(w.conn) }

func (w *world) submit(j *fleetv1.Job, requestID string) (*fleetv1.SubmitJobResponse, error) {
	return w.jobClient().SubmitJob(w.t.Context(), &fleetv1.SubmitJobRequest{Job: j, RequestId: requestID})
}

func (w *world) mustSubmit(j *fleetv1.Job) *fleetv1.Job {
	w.t.Helper()
	resp, err := w.submit(j, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.GetJob()
}

// setJob makes the job loop's part of a job.
func (w *world) setJob(name, to string) {
	w.t.Helper()
	j := w.store.View().Job(fleetv1.Default, name)
	after := proto.CloneOf(j)
	after.Status = &fleetv1.JobStatus{State: to, Run: j.GetDesired().GetRun()}
	w.write(state.Put(j.GetMeta().GetRevision(), after))
}

// commit changes a job's ledger as the leader does.
func (w *world) commit(c *fleetv1.JobCommit) {
	w.t.Helper()
	cmd := &fleetv1.Command{Op: &fleetv1.Command_JobCommit{JobCommit: c}}
	cmd.Introduced = state.Introduced(cmd)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	if r, _ := w.store.Apply(w.index, cmd); len(r.Rejections) > 0 {
		w.t.Fatalf("rejected: %+v", r.Rejections)
	}
}

func csvOf(t *testing.T, mapping string) func(*fleetv1.JobSpec) {
	return func(s *fleetv1.JobSpec) { s.InputFormat, s.Mapping = "csv", structOf(t, mapping) }
}

// results makes a ledger with two tasks' manifests, one of which is not written yet.
func (w *world) results(j *fleetv1.Job) {
	w.t.Helper()
	id := j.GetMeta().GetId()
	chunk := func(from, to int64, task string, failed int64) *fleetv1.Chunk {
		return &fleetv1.Chunk{From: from, To: to, Task: task, Attempt: fmt.Sprint(from), Successful: to - from - failed, Failed: failed, InputBytes: 10, OutputBytes: 1}
	}
	w.commit(&fleetv1.JobCommit{JobId: id, Parts: []*fleetv1.InputPart{{Items: 10, Object: "o"}}, Listed: true})
	w.commit(&fleetv1.JobCommit{JobId: id, Chunks: []*fleetv1.Chunk{chunk(0, 4, "t1", 2), chunk(4, 8, "t2", 1)}, Seal: []string{"t1", "t2"}})
	w.commit(&fleetv1.JobCommit{JobId: id, Written: []*fleetv1.Manifest{{Task: "t1"}}})
	var text []byte
	for i, result := range []string{batch.Successful, batch.Failed, batch.Successful, batch.Failed} {
		o := batch.Outcome{Source: fmt.Sprint("s3://b/", i), Result: result}
		if result == batch.Failed {
			o.Message = fmt.Sprint("bad ", i)
		}
		l := o.ManifestLine("s3://b/r")
		text = l.Append(text)
	}
	w.file("out/infer-result-t1.manifest", string(text))
}
