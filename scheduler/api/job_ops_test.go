package api

import (
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

func TestJobOperations(t *testing.T) {
	type job = *fleetv1.Job
	ops := map[string]func(w *world) (job, error){
		"start": func(w *world) (job, error) {
			r, err := w.jobClient().StartJob(w.t.Context(), &fleetv1.StartJobRequest{Name: "score", RequestId: "start-1"})
			return r.GetJob(), err
		},
		"stop": func(w *world) (job, error) {
			r, err := w.jobClient().StopJob(w.t.Context(), &fleetv1.StopJobRequest{Name: "score", RequestId: "stop-1"})
			return r.GetJob(), err
		},
		"retry": func(w *world) (job, error) {
			r, err := w.jobClient().RetryJob(w.t.Context(), &fleetv1.RetryJobRequest{Name: "score", RequestId: "retry-1"})
			return r.GetJob(), err
		},
		"delete": func(w *world) (job, error) {
			_, err := w.jobClient().DeleteJob(w.t.Context(), &fleetv1.DeleteJobRequest{Name: "score", RequestId: "delete-1"})
			return w.store.View().Job(fleetv1.Default, "score"), err
		},
	}
	for _, x := range []struct{ state, allowed string }{
		{fleetv1.JobDeploying, "stop, delete"}, {fleetv1.JobRunning, "stop, delete"}, {beingStopped, "delete"},
		{fleetv1.JobCompleted, "retry, delete"}, {fleetv1.JobFailed, "start, delete"}, {fleetv1.JobStopped, "start, delete"},
	} {
		for op, do := range ops {
			w := newWorld(t)
			w.furnishJobs()
			j := w.mustSubmit(w.scoring(nil))
			w.results(j)
			if x.state == beingStopped {
				w.setJob("score", fleetv1.JobRunning)
				if got, err := ops["stop"](w); err != nil || got.GetStatus().GetState() != "Running" || got.GetStatus().GetReason() != "it is being stopped" {
					t.Errorf("stopping: %v, %v", got, err)
				}
			} else {
				w.setJob("score", x.state)
			}
			if x.state == fleetv1.JobFailed {
				w.commit(&fleetv1.JobCommit{JobId: j.GetMeta().GetId(), Failure: "the input is gone"})
			}
			before := w.store.View()
			got, err := do(w)
			if op == "stop" && x.state == beingStopped {
				continue // the same request ID
			}
			if !strings.Contains(x.allowed, op) {
				w.refused(x.state+" "+op, err, codes.FailedPrecondition, "", "now; allowed: ", before.Index())
				continue
			}
			if err != nil {
				t.Errorf("%s %s: %v", x.state, op, err)
				continue
			}
			if again, err := do(w); err != nil || again.GetDesired().GetRun() != got.GetDesired().GetRun() {
				t.Errorf("%s %s again: %v, %v", x.state, op, again, err)
			}
			d, l := got.GetDesired(), w.store.View().JobLedger(j.GetMeta().GetId())
			switch op {
			case "start":
				if d.GetState() != fleetv1.DesiredRunning || d.GetRun() != 2 || d.GetRetryRun() != 0 || got.GetStatus().GetState() != fleetv1.JobDeploying || l.GetFailure() != "" || !l.GetListed() {
					t.Errorf("%s start: %v, ledger %v", x.state, got, l)
				}
			case "retry":
				if d.GetRun() != 2 || d.GetRetryRun() != 2 || l.GetListed() || l.GetPosition() != "retry" || l.GetItems() != 10 {
					t.Errorf("%s retry: %v, ledger %v", x.state, got, l)
				}
			case "delete":
				if d.GetState() != fleetv1.DesiredDeleted || shownJob(got).GetStatus().GetReason() != "it is being deleted" {
					t.Errorf("%s delete: %v", x.state, got)
				}
			}
		}
	}
}

func TestRetryNeedsFailedItems(t *testing.T) {
	w := newWorld(t)
	w.furnishJobs()
	w.mustSubmit(w.scoring(nil))
	w.setJob("score", fleetv1.JobCompleted)
	before := w.store.View().Index()
	_, err := w.jobClient().RetryJob(t.Context(), &fleetv1.RetryJobRequest{Name: "score"})
	w.refused("nothing failed", err, codes.FailedPrecondition, "", "has no FAILED items", before)
}

func TestDeletedJob(t *testing.T) {
	w := newWorld(t)
	w.furnishJobs()
	w.mustSubmit(w.scoring(nil))
	if _, err := w.jobClient().DeleteJob(t.Context(), &fleetv1.DeleteJobRequest{Name: "score"}); err != nil {
		t.Fatal(err)
	}
	before := w.store.View().Index()
	_, err := w.submit(w.scoring(nil), "")
	w.refused("submitted again", err, codes.FailedPrecondition, "", "is being deleted", before)
	if _, err := w.jobClient().DeleteJob(t.Context(), &fleetv1.DeleteJobRequest{Name: "score"}); err != nil || w.store.View().Index() != before {
		t.Errorf("deleted again: %v", err)
	}
	_, err = w.jobClient().GetJob(t.Context(), &fleetv1.GetJobRequest{Name: "scor"})
	w.refused("misspelt", err, codes.NotFound, "", `did you mean "score"?`, before)
}

func TestJobProgressAndErrors(t *testing.T) {
	w := newWorld(t)
	w.furnishJobs()
	j := w.mustSubmit(w.scoring(func(j *fleetv1.Job) { j.Meta.Tags = map[string]string{"team": "a"} }))
	w.results(j)
	got, err := w.jobClient().GetJob(t.Context(), &fleetv1.GetJobRequest{Name: j.GetMeta().GetId()})
	p := got.GetProgress()
	if err != nil || p.GetItems() != 10 || p.GetSuccessful() != 5 || p.GetFailed() != 3 || p.GetLeft() != 2 || !p.GetListed() || p.GetInputBytes() != 20 ||
		len(p.GetManifests()) != 1 || p.GetManifests()[0] != "infer-result-t1.manifest" {
		t.Errorf("by the ledger: %v, %v", p, err)
	}
	w.jobs.move(j.GetMeta().GetId(), &fleetv1.JobProgress{Items: 11})
	list, err := w.jobClient().ListJobs(t.Context(), &fleetv1.ListJobsRequest{Tags: map[string]string{"team": "a"}})
	if err != nil || len(list.GetJobs()) != 1 || list.GetJobs()[0].GetProgress().GetItems() != 11 {
		t.Errorf("list: %v, %v", list, err)
	}
	if list, err := w.jobClient().ListJobs(t.Context(), &fleetv1.ListJobsRequest{Tags: map[string]string{"team": "b"}}); err != nil || len(list.GetJobs()) != 0 {
		t.Errorf("list of other tags: %v, %v", list, err)
	}
	for limit, want := range map[int32]string{0: "t1 s3://b/1: bad 1\nt1 s3://b/3: bad 3\n", 1: "t1 s3://b/1: bad 1\n"} {
		if text, err := w.jobErrors(limit); err != nil || text != want {
			t.Errorf("errors with limit %d: %q, %v", limit, text, err)
		}
	}
	if _, err := w.jobErrors(-1); status.Code(err) != codes.InvalidArgument {
		t.Errorf("limit -1: %v", err)
	}
	w.file("out/infer-result-t1.manifest", "{}\n")
	if _, err := w.jobErrors(0); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "can't be read") {
		t.Errorf("a damaged manifest: %v", err)
	}
	w.commit(&fleetv1.JobCommit{JobId: j.GetMeta().GetId(), Written: []*fleetv1.Manifest{{Task: "t2"}}})
	w.file("out/infer-result-t1.manifest", "")
	if _, err := w.jobErrors(0); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "not found") {
		t.Errorf("a manifest that somebody has deleted: %v", err)
	}
}

func (w *world) jobErrors(limit int32) (string, error) {
	stream, err := w.jobClient().ListJobErrors(w.t.Context(), &fleetv1.ListJobErrorsRequest{Name: "score", Limit: limit})
	if err != nil {
		return "", err
	}
	text := ""
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text, nil
		}
		if err != nil {
			return "", err
		}
		for _, e := range resp.GetErrors() {
			text += e.GetTask() + " " + e.GetSource() + ": " + e.GetMessage() + "\n"
		}
	}
}

func TestWatchJob(t *testing.T) {
	w := newWorld(t)
	w.furnishJobs()
	j := w.mustSubmit(w.scoring(nil))
	stream, err := w.jobClient().WatchJob(t.Context(), &fleetv1.WatchJobRequest{Name: "score"})
	if err != nil {
		t.Fatal(err)
	}
	await := func(what string, seen func(*fleetv1.WatchJobResponse) bool) {
		t.Helper()
		for {
			resp, err := stream.Recv()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if seen(resp) {
				return
			}
		}
	}
	await("the job as it is", func(r *fleetv1.WatchJobResponse) bool {
		return r.GetJob().GetStatus().GetState() == fleetv1.JobDeploying
	})
	w.commit(&fleetv1.JobCommit{JobId: j.GetMeta().GetId(), Parts: []*fleetv1.InputPart{{Items: 5, Object: "o"}}})
	await("the ledger's items", func(r *fleetv1.WatchJobResponse) bool { return r.GetProgress().GetItems() == 5 })
	w.jobs.move(j.GetMeta().GetId(), &fleetv1.JobProgress{Items: 5, InHand: 3})
	await("the leader's progress", func(r *fleetv1.WatchJobResponse) bool {
		return r.GetProgress().GetInHand() == 3 && r.GetTasks()[0].GetTask() == "t1"
	})
	w.setJob("score", fleetv1.JobRunning)
	await("the state", func(r *fleetv1.WatchJobResponse) bool { return r.GetJob().GetStatus().GetState() == fleetv1.JobRunning })
	w.write(state.Delete(w.store.View().JobByID(j.GetMeta().GetId()).GetMeta().GetRevision(), state.JobKey("default", "score")))
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.NotFound {
		t.Errorf("after the end: %v", err)
	}
}

func TestJobMapping(t *testing.T) {
	w := newWorld(t)
	w.furnishJobs()
	ask := func(model, version, path string) (string, error) {
		resp, err := w.jobClient().GetJobMapping(t.Context(), &fleetv1.GetJobMappingRequest{Model: model, ModelVersion: version, RequestPath: path})
		return resp.GetMapping(), err
	}
	mapping, err := ask("rows", "", "")
	if err != nil || !strings.Contains(mapping, `"index": 1`) {
		t.Fatalf("mapping %s, %v", mapping, err)
	}
	w.mustSubmit(w.scoring(func(j *fleetv1.Job) { csvOf(t, mapping)(j.Spec) })) // it can be used as it is
	before := w.store.View().Index()
	for name, x := range map[string]struct {
		model, version, path string
		code                 codes.Code
		field, words         string
	}{
		"no model":  {"", "", "", codes.InvalidArgument, "", "missing"},
		"model":     {"row", "", "", codes.NotFound, "model", `did you mean "rows"?`},
		"version":   {"rows", "7.0.0", "", codes.NotFound, "model_version", "0.0.1"},
		"path":      {"rows", "", "/x", codes.NotFound, "request_path", "no request path"},
		"no apis":   {"rough", "", "", codes.FailedPrecondition, "request_path", "has no apis"},
		"multipart": {"rows", "", "/image", codes.FailedPrecondition, "request_path", "needs no mapping"},
	} {
		_, err := ask(x.model, x.version, x.path)
		w.refused(name, err, x.code, x.field, x.words, before)
	}
}
