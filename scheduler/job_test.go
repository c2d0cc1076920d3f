package scheduler_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

// submit makes job nightly of so many files.
func (r *running) submit(files int) {
	r.t.Helper()
	in := filepath.Join(r.dir, "shared", "in")
	for _, dir := range []string{in, filepath.Join(r.dir, "shared", "out")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(in, fmt.Sprintf("%d.json", i)), []byte("{}"), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	any, err := structpb.NewStruct(map[string]any{"type": "object"})
	if err != nil {
		r.t.Fatal(err)
	}
	side := &fleetv1.APISchema{ContentType: "application/json", Data: any}
	if _, err := fleetv1.NewModelServiceClient(r.conn).CreateModel(r.admin(), &fleetv1.CreateModelRequest{Model: &fleetv1.Model{
		Meta: &fleetv1.Meta{Name: "batch"}, Spec: &fleetv1.ModelSpec{Image: image(r.t), DeployTypes: []string{"batch"}, Apis: []*fleetv1.APIRoute{{Request: side, Response: side}}}}}); err != nil {
		r.t.Fatal(err)
	}
	if _, err := fleetv1.NewJobServiceClient(r.conn).SubmitJob(r.admin(), &fleetv1.SubmitJobRequest{Job: &fleetv1.Job{Meta: &fleetv1.Meta{Name: "nightly"},
		Spec: &fleetv1.JobSpec{Pool: "own", Model: "batch", Flavor: "cpu.1", Instances: 2, Input: "file://" + in + "/", Output: "file://" + r.dir + "/shared/out/"}}}); err != nil {
		r.t.Fatal(err)
	}
}

// works answers one exchange of each instance that the agent has, as if all that is leased had been done at once.
func (a *fakeAgent) works(r *running, hands map[string]*fleetv1.ExchangeTaskRequest) {
	ctx := metadata.AppendToOutgoingContext(a.t.Context(), "authorization", "Bearer "+r.token(scheduler.AgentTokenFile))
	a.mu.Lock()
	ids := slices.Sorted(maps.Keys(a.seen))
	ids = slices.DeleteFunc(ids, func(id string) bool { return a.seen[id].GetState() != fleetv1.InstanceRunning })
	a.mu.Unlock()
	for _, id := range ids {
		req := hands[id]
		if req == nil {
			req = &fleetv1.ExchangeTaskRequest{}
		}
		req.InstanceId, req.Room = id, 100
		resp, err := fleetv1.NewTaskServiceClient(r.conn).ExchangeTask(ctx, req)
		if err != nil {
			continue // the scheduler starts, or the instance is gone
		}
		next := &fleetv1.ExchangeTaskRequest{Task: resp.GetTask(), SetupVersion: req.GetSetupVersion()}
		if resp.GetSetup() != nil {
			next.SetupVersion = resp.GetSetup().GetVersion()
		}
		for _, c := range resp.GetChunks() {
			c = proto.CloneOf(c)
			switch c.GetState() {
			case fleetv1.ChunkRunning:
				c.State, c.Chunk.Successful = fleetv1.ChunkPacked, c.GetChunk().GetTo()-c.GetChunk().GetFrom()
			case fleetv1.ChunkPublishing:
				c.State = fleetv1.ChunkPublished
			}
			next.Chunks = append(next.Chunks, c)
		}
		for _, m := range resp.GetManifests() {
			next.Written = append(next.Written, &fleetv1.Manifest{Task: m.GetTask(), Number: m.GetNumber()})
		}
		hands[id] = next
	}
}

// TestJobOverRestart runs a job whose scheduler is stopped in the middle: what was committed stays, and it completes.
func TestJobOverRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := run(t, dir)
	r.declare()
	r.submit(60)
	a := connect(t, r.conn, r.token(scheduler.AgentTokenFile))
	hands := map[string]*fleetv1.ExchangeTaskRequest{}
	job := func(r *running) *fleetv1.GetJobResponse {
		resp, err := fleetv1.NewJobServiceClient(r.conn).GetJob(r.admin(), &fleetv1.GetJobRequest{Name: "nightly"})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	until := func(r *running, a *fakeAgent, what string, ok func(*fleetv1.GetJobResponse) bool) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(patience); ; <-tick.C {
			got := job(r)
			if ok(got) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the job doesn't get %s: %v", what, got)
			}
			a.works(r, hands)
		}
	}
	until(r, a, "on", func(j *fleetv1.GetJobResponse) bool { return j.GetProgress().GetSuccessful() > 0 })
	if services, err := fleetv1.NewServiceServiceClient(r.conn).ListServices(r.admin(), &fleetv1.ListServicesRequest{}); err != nil || len(services.GetServices()) != 0 {
		t.Errorf("its service is shown: %v, %v", services, err)
	}
	before := job(r).GetProgress().GetSuccessful()
	a.close()
	r.stop()
	r = run(t, dir)
	a = connect(t, r.conn, r.token(scheduler.AgentTokenFile))
	if after := job(r).GetProgress().GetSuccessful(); after < before {
		t.Errorf("%d items were done, and %d are after the restart", before, after)
	}
	until(r, a, "to its end", func(j *fleetv1.GetJobResponse) bool { return j.GetJob().GetStatus().GetState() == fleetv1.JobCompleted })
	if p := job(r).GetProgress(); p.GetSuccessful() != 60 || p.GetLeft() != 0 || len(p.GetManifests()) == 0 {
		t.Errorf("it is completed with %v", p)
	}
}
