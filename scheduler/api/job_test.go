package api

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestSubmitCompletesTheSpec(t *testing.T) {
	w := newWorld(t)
	w.furnishJobs()
	resp, err := w.submit(w.scoring(nil), "r1")
	if err != nil {
		t.Fatal(err)
	}
	j := resp.GetJob()
	want := &fleetv1.JobSpec{Pool: "shared", Model: "rows", ModelVersion: "0.0.2", Flavor: "cpu.1u1g", Instances: 1, MinInstances: 1, TimeoutMinutes: 20,
		Nodes: 1, Network: "bridge", Input: w.url("in/"), Output: w.url("out/"), RequestPath: "/", InputFormat: "json", BatchRows: 1,
		ItemTimeoutSeconds: 40, MaxConcurrency: 64, ItemRetries: proto.Int32(0), ModelRetries: proto.Int32(3)}
	if !proto.Equal(j.GetSpec(), want) {
		t.Errorf("spec %v\nwant %v", j.GetSpec(), want)
	}
	if m := j.GetMeta(); m.GetGeneration() != 1 || m.GetCreatedBy() != "root" || m.GetProject() != "default" || m.GetAccount() != "default" || m.GetId() == "" {
		t.Errorf("meta %v", m)
	}
	if d := j.GetDesired(); d.GetState() != "running" || d.GetRun() != 1 || j.GetStatus().GetState() != "Deploying" || !resp.GetChanged() {
		t.Errorf("desired %v, status %v, changed %v", d, j.GetStatus(), resp.GetChanged())
	}
	if l := w.store.View().JobLedger(j.GetMeta().GetId()); l.GetMeta().GetProject() != "default" || l.GetListed() || l.GetItems() != 0 {
		t.Errorf("ledger %v", l)
	}
	if n := len(w.events); n != 1 || w.events[0].GetReason() != "JobSubmitted" || w.events[0].GetObjects()[0].GetKind() != "job" {
		t.Errorf("events %v", w.events)
	}
	w.file("out/infer-result-t.manifest", "a job that runs has results")
	index := w.store.View().Index()
	for _, id := range []string{"r1", ""} {
		again, err := w.submit(w.scoring(func(j *fleetv1.Job) { j.Spec.Input += "/" }), id)
		if id == "r1" {
			again, err = w.submit(w.scoring(nil), id)
		}
		if err != nil || again.GetJob().GetMeta().GetId() != j.GetMeta().GetId() || w.store.View().Index() != index || again.GetChanged() != (id == "r1") {
			t.Errorf("again with request ID %q: %v, %v", id, again, err)
		}
	}
}

func TestSubmitFormats(t *testing.T) {
	for name, x := range map[string]struct {
		edit func(*fleetv1.JobSpec)
		want string
	}{
		"mapped":    {func(s *fleetv1.JobSpec) { s.Mapping = structOf(t, rowMapped); s.BatchRows = 10 }, "csv"},
		"multipart": {func(s *fleetv1.JobSpec) { s.RequestPath = "/image" }, "file"},
		"by name":   {func(*fleetv1.JobSpec) {}, ""},
		"lines":     {func(s *fleetv1.JobSpec) { s.InputFormat = "jsonl" }, "jsonl"},
	} {
		w := newWorld(t)
		w.furnishJobs()
		resp, err := w.submit(w.scoring(func(j *fleetv1.Job) { j.Spec.InputFormat = ""; x.edit(j.Spec) }), "")
		if err != nil || resp.GetJob().GetSpec().GetInputFormat() != x.want {
			t.Errorf("%s: format %q, want %q; %v", name, resp.GetJob().GetSpec().GetInputFormat(), x.want, err)
		}
	}
}

func TestSubmitRefusals(t *testing.T) {
	w := newWorld(t)
	w.furnishJobs()
	w.put(&fleetv1.Quota{Meta: &fleetv1.Meta{Name: "default"}, Spec: &fleetv1.QuotaSpec{CpuMillis: proto.Int64(3500)}})
	before := w.store.View().Index()
	spec := func(edit func(*fleetv1.JobSpec)) func(*fleetv1.Job) {
		return func(j *fleetv1.Job) { edit(j.Spec) }
	}
	const bad, unfit, absent = codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound
	for name, x := range map[string]struct {
		edit  func(*fleetv1.Job)
		code  codes.Code
		field string
		words string
	}{
		"no spec":        {func(j *fleetv1.Job) { j.Spec = nil }, bad, "job.spec", "is missing"},
		"no name":        {func(j *fleetv1.Job) { j.Meta.Name = "" }, bad, "job.meta.name", "is missing"},
		"name":           {func(j *fleetv1.Job) { j.Meta.Name = "a.b" }, bad, "job.meta.name", "'.'"},
		"project":        {func(j *fleetv1.Job) { j.Meta.Project = "nowhere" }, absent, "", `no project "nowhere"`},
		"description":    {spec(func(s *fleetv1.JobSpec) { s.Description = strings.Repeat("x", 101) }), bad, "job.spec.description", "101 characters"},
		"no pool":        {spec(func(s *fleetv1.JobSpec) { s.Pool = "" }), bad, "job.spec.pool", "is missing"},
		"pool":           {spec(func(s *fleetv1.JobSpec) { s.Pool = "share" }), absent, "job.spec.pool", `did you mean "shared"?`},
		"their pool":     {spec(func(s *fleetv1.JobSpec) { s.Pool = "theirs" }), absent, "job.spec.pool", "no pool"},
		"no model":       {spec(func(s *fleetv1.JobSpec) { s.Model = "" }), bad, "job.spec.model", "is missing"},
		"model":          {spec(func(s *fleetv1.JobSpec) { s.Model = "row" }), absent, "job.spec.model", `did you mean "rows"?`},
		"version":        {spec(func(s *fleetv1.JobSpec) { s.ModelVersion = "1" }), bad, "job.spec.model_version", "x.y.z"},
		"absent version": {spec(func(s *fleetv1.JobSpec) { s.ModelVersion = "9.0.0" }), absent, "job.spec.model_version", "0.0.1"},
		"deploy type":    {spec(func(s *fleetv1.JobSpec) { s.Model = "iris" }), unfit, "job.spec.model", "deploys as real-time, not as batch"},
		"ill":            {spec(func(s *fleetv1.JobSpec) { s.Model = "ill" }), unfit, "job.spec.model_version", "only Normal versions deploy"},
		"protocol":       {spec(func(s *fleetv1.JobSpec) { s.Model = "rpc" }), unfit, "job.spec.model", "speaks grpc"},
		"flavor":         {spec(func(s *fleetv1.JobSpec) { s.Flavor = "cpu" }), absent, "job.spec.flavor", "no flavor"},
		"never fits":     {spec(func(s *fleetv1.JobSpec) { s.Flavor = "cpu.huge" }), unfit, "job.spec.flavor", "can ever hold"},
		"instances":      {spec(func(s *fleetv1.JobSpec) { s.Instances = 10_001 }), bad, "job.spec.instances", "1–10000"},
		"no instances":   {spec(func(s *fleetv1.JobSpec) { s.Instances = -1 }), bad, "job.spec.instances", "-1"},
		"minimum":        {spec(func(s *fleetv1.JobSpec) { s.Instances, s.MinInstances = 2, 3 }), bad, "job.spec.min_instances", "3 is out of range 1–2"},
		"no minimum":     {spec(func(s *fleetv1.JobSpec) { s.MinInstances = -1 }), bad, "job.spec.min_instances", "-1"},
		"priority":       {spec(func(s *fleetv1.JobSpec) { s.Priority = 101 }), bad, "job.spec.priority", "0–100"},
		"nodes":          {spec(func(s *fleetv1.JobSpec) { s.Nodes = 257 }), bad, "job.spec.nodes", "1–256"},
		"env":            {spec(func(s *fleetv1.JobSpec) { s.Env = map[string]string{"1": ""} }), bad, `job.spec.env["1"]`, "digit"},
		"timeout":        {spec(func(s *fleetv1.JobSpec) { s.TimeoutMinutes = 2 }), bad, "job.spec.timeout_minutes", "3–120"},
		"network":        {spec(func(s *fleetv1.JobSpec) { s.Network = "none" }), bad, "job.spec.network", "bridge"},
		"limits":         {spec(func(s *fleetv1.JobSpec) { s.Limits = &fleetv1.Limits{Pids: -1} }), bad, "job.spec.limits.pids", "-1"},
		"labels":         {spec(func(s *fleetv1.JobSpec) { s.Placement = &fleetv1.PlacementRules{Spread: []*fleetv1.SpreadRule{{}}} }), bad, "job.spec.placement.spread[0].label", "missing"},
		"public mounts":  {spec(func(s *fleetv1.JobSpec) { s.Mounts = []*fleetv1.Mount{{Source: "/data/models", Path: "/m"}} }), unfit, "job.spec.mounts", "dedicated pools only"},
		"batch rows":     {spec(func(s *fleetv1.JobSpec) { s.BatchRows = 1001 }), bad, "job.spec.batch_rows", "1–1000"},
		"item time":      {spec(func(s *fleetv1.JobSpec) { s.ItemTimeoutSeconds = 3601 }), bad, "job.spec.item_timeout_seconds", "1–3600"},
		"concurrency":    {spec(func(s *fleetv1.JobSpec) { s.MaxConcurrency = 1025 }), bad, "job.spec.max_concurrency", "1–1024"},
		"item retries":   {spec(func(s *fleetv1.JobSpec) { s.ItemRetries = proto.Int32(11) }), bad, "job.spec.item_retries", "0–10"},
		"model retries":  {spec(func(s *fleetv1.JobSpec) { s.ModelRetries = proto.Int32(-1) }), bad, "job.spec.model_retries", "0–10"},
		"quota":          {spec(func(s *fleetv1.JobSpec) { s.Instances = 4 }), codes.ResourceExhausted, "", "never lets 4 tasks of the job run: CPU: 4 cores are asked for at least, the limit is 3.5 cores"},

		"no path":            {spec(func(s *fleetv1.JobSpec) { s.RequestPath = "x" }), bad, "job.spec.request_path", "URL path"},
		"request path":       {spec(func(s *fleetv1.JobSpec) { s.RequestPath = "/flats" }), absent, "job.spec.request_path", `did you mean "/flat"?`},
		"no apis":            {spec(func(s *fleetv1.JobSpec) { s.Model = "rough" }), unfit, "job.spec.request_path", "has no apis"},
		"no response":        {spec(func(s *fleetv1.JobSpec) { s.RequestPath = "/silent" }), unfit, "job.spec.request_path", "lacks response.Content-type"},
		"no data":            {spec(func(s *fleetv1.JobSpec) { s.RequestPath = "/bare" }), unfit, "job.spec.request_path", "lacks request.data"},
		"method":             {spec(func(s *fleetv1.JobSpec) { s.RequestPath = "/get" }), unfit, "job.spec.request_path", "POST, PUT or PATCH"},
		"format":             {spec(func(s *fleetv1.JobSpec) { s.InputFormat = "xml" }), bad, "job.spec.input_format", `"xml" is not one of`},
		"csv":                {spec(func(s *fleetv1.JobSpec) { s.InputFormat = "csv" }), bad, "job.spec.mapping", "is missing"},
		"mapped JSON":        {spec(func(s *fleetv1.JobSpec) { s.Mapping = structOf(t, rowMapped) }), bad, "job.spec.mapping", "leave one of them out"},
		"rows of JSON":       {spec(func(s *fleetv1.JobSpec) { s.BatchRows = 2 }), bad, "job.spec.batch_rows", "CSV files alone"},
		"file":               {spec(func(s *fleetv1.JobSpec) { s.InputFormat = "file" }), unfit, "job.spec.input_format", "csv, jsonl, json"},
		"no file":            {spec(func(s *fleetv1.JobSpec) { s.RequestPath = "/image" }), unfit, "job.spec.input_format", `use "file"`},
		"lines of forms":     {spec(func(s *fleetv1.JobSpec) { s.RequestPath, s.InputFormat = "/form", "jsonl" }), unfit, "job.spec.input_format", "application/json"},
		"negative index":     {spec(csvOf(t, strings.Replace(rowMapped, `"index":0`, `"index":-1`, 1))), bad, "job.spec.mapping", "index"},
		"index of an object": {spec(csvOf(t, strings.Replace(rowMapped, `"data":{`, `"data":{"index":0,`, 1))), bad, "job.spec.mapping", "index"},
		"other schema":       {spec(csvOf(t, flatMap)), bad, "job.spec.mapping", "x"},
		"rows of one":        {spec(func(s *fleetv1.JobSpec) { csvOf(t, flatMap)(s); s.RequestPath, s.BatchRows = "/flat", 2 }), bad, "job.spec.batch_rows", "array"},

		"no input":        {spec(func(s *fleetv1.JobSpec) { s.Input = "" }), bad, "job.spec.input", "is missing"},
		"no URL":          {spec(func(s *fleetv1.JobSpec) { s.Input = "/data" }), bad, "job.spec.input", "scheme"},
		"unknown scheme":  {spec(func(s *fleetv1.JobSpec) { s.Input = "ftp://h/x/" }), bad, "job.spec.input", "unknown scheme"},
		"link":            {spec(func(s *fleetv1.JobSpec) { s.Input = "https://h/x?sig=secret" }), bad, "job.spec.input", "is a link"},
		"long URL":        {spec(func(s *fleetv1.JobSpec) { s.Input = "s3://bkt/" + strings.Repeat("x", 2048) }), bad, "job.spec.input", "2048"},
		"parent":          {spec(func(s *fleetv1.JobSpec) { s.Output = w.url("in/../out") }), bad, "job.spec.output", `".."`},
		"no output":       {spec(func(s *fleetv1.JobSpec) { s.Output = "" }), bad, "job.spec.output", "is missing"},
		"long output":     {spec(func(s *fleetv1.JobSpec) { s.Output = "s3://bkt/" + strings.Repeat("x", 700) }), bad, "job.spec.output", "701 bytes"},
		"output to link":  {spec(func(s *fleetv1.JobSpec) { s.Output = "https://h/x" }), bad, "job.spec.output", "can't be written"},
		"output manifest": {spec(func(s *fleetv1.JobSpec) { s.Output = w.url("x.manifest") }), bad, "job.spec.output", "name a folder"},
		"output is input": {spec(func(s *fleetv1.JobSpec) { s.Output = s.Input + "/" }), bad, "job.spec.output", "is the input"},
		"output in input": {spec(func(s *fleetv1.JobSpec) { s.Output = s.Input + "/x" }), bad, "job.spec.output", "lies in the input"},
		"input in output": {spec(func(s *fleetv1.JobSpec) { s.Output = w.url("") }), bad, "job.spec.output", "the input"},
		"manifest in it":  {spec(func(s *fleetv1.JobSpec) { s.Input, s.Output = w.url("in/x.manifest"), w.url("in") }), bad, "job.spec.output", "the input"},
		"empty input":     {spec(func(s *fleetv1.JobSpec) { s.Input = w.url("empty") }), unfit, "job.spec.input", "nothing is in"},
		"absent input":    {spec(func(s *fleetv1.JobSpec) { s.Input = w.url("absent/") }), unfit, "job.spec.input", "nothing is in"},
		"outside":         {spec(func(s *fleetv1.JobSpec) { s.Input = "file:///etc/" }), unfit, "job.spec.input", "/etc"},
		"no store":        {spec(func(s *fleetv1.JobSpec) { s.Input = "s3://bkt/x/" }), unfit, "job.spec.input", "s3"},
		"absent manifest": {spec(func(s *fleetv1.JobSpec) { s.Input = w.url("absent.manifest") }), unfit, "job.spec.input", "not found"},
		"void manifest":   {spec(func(s *fleetv1.JobSpec) { s.Input = w.url("void.manifest") }), unfit, "job.spec.input", "has no lines"},
		"no source":       {spec(func(s *fleetv1.JobSpec) { s.Input = w.url("nosource.manifest") }), unfit, "job.spec.input", "source"},
		"not JSON":        {spec(func(s *fleetv1.JobSpec) { s.Input = w.url("nojson.manifest") }), unfit, "job.spec.input", "JSON"},
		"names a folder":  {spec(func(s *fleetv1.JobSpec) { s.Input = w.url("folder.manifest") }), unfit, "job.spec.input", "folder"},
		"source's scheme": {spec(func(s *fleetv1.JobSpec) { s.Input = w.url("scheme.manifest") }), unfit, "job.spec.input", "scheme"},
		"used output":     {spec(func(s *fleetv1.JobSpec) { s.Output = w.url("used") }), unfit, "job.spec.output", "isn't empty"},
		"mixed output":    {spec(func(s *fleetv1.JobSpec) { s.Output = w.url("mixed") }), unfit, "job.spec.output", "z.txt"},
	} {
		_, err := w.submit(w.scoring(x.edit), "")
		w.refused(name, err, x.code, x.field, x.words, before)
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the query of a link is shown: %v", name, err)
		}
	}
	for name, edit := range map[string]func(*fleetv1.JobSpec){
		"what jobs keep": func(s *fleetv1.JobSpec) { s.Output = w.url("kept") },
		"manifest":       func(s *fleetv1.JobSpec) { s.Input = w.url("list.manifest") },
	} {
		j := w.scoring(spec(edit))
		resp, err := w.jobClient().SubmitJob(t.Context(), &fleetv1.SubmitJobRequest{Job: j, DryRun: true})
		if err != nil || !resp.GetChanged() || resp.GetJob().GetSpec().GetModelVersion() != "0.0.2" || w.store.View().Index() != before {
			t.Errorf("%s, dry: %v, %v", name, resp, err)
		}
	}
}

func TestSubmitAgain(t *testing.T) {
	w := newWorld(t)
	w.furnishJobs()
	w.put(&fleetv1.Quota{Meta: &fleetv1.Meta{Name: "default"}, Spec: &fleetv1.QuotaSpec{Instances: proto.Int64(5)}})
	j := w.mustSubmit(w.scoring(nil))
	w.put(model("rows", "0.0.3", nil)) // which the job doesn't take up
	scaled, err := w.submit(w.scoring(func(j *fleetv1.Job) { j.Spec.Instances, j.Spec.MinInstances = 4, 2 }), "")
	if err != nil || !scaled.GetChanged() || scaled.GetJob().GetSpec().GetInstances() != 4 || scaled.GetJob().GetMeta().GetGeneration() != 2 ||
		scaled.GetJob().GetMeta().GetId() != j.GetMeta().GetId() || scaled.GetJob().GetDesired().GetRun() != 1 {
		t.Errorf("scaled: %v, %v", scaled, err)
	}
	if last := w.events[len(w.events)-1]; last.GetMessage() != "root scaled it from 1–1 tasks to 2–4 tasks" {
		t.Errorf("event %v", last)
	}
	before := w.store.View().Index()
	for name, x := range map[string]struct {
		edit  func(*fleetv1.Job)
		code  codes.Code
		words string
	}{
		"priority": {func(j *fleetv1.Job) { j.Spec.Priority = 1 }, codes.FailedPrecondition, "differs in spec.priority (0 → 1)"},
		"output":   {func(j *fleetv1.Job) { j.Spec.Output = w.url("other") }, codes.FailedPrecondition, "spec.output"},
		"tags":     {func(j *fleetv1.Job) { j.Meta.Tags = map[string]string{"a": "b"} }, codes.FailedPrecondition, "meta.tags"},
		"quota":    {func(j *fleetv1.Job) { j.Spec.Instances = 6 }, codes.ResourceExhausted, "instances: 6 are asked for at least, the limit is 5"},
	} {
		_, err := w.submit(w.scoring(x.edit), "")
		w.refused(name, err, x.code, "", x.words, before)
	}
	w.setJob("score", fleetv1.JobCompleted)
	before = w.store.View().Index()
	_, err = w.submit(w.scoring(nil), "")
	w.refused("when it has completed", err, codes.FailedPrecondition, "", "is Completed and can't be changed now; allowed: retry, delete", before)
}

// TestOutputsAndTheQuota: no two jobs write to one place, and a project has so many jobs.
func TestOutputsAndTheQuota(t *testing.T) {
	w := newWorld(t)
	w.furnishJobs()
	named := func(name, output string) *fleetv1.Job {
		return w.scoring(func(j *fleetv1.Job) { j.Meta.Name, j.Spec.Output = name, w.url(output) })
	}
	w.put(&fleetv1.Project{Meta: &fleetv1.Meta{Name: "other", Account: "default"}})
	w.mustSubmit(named("a", "out"))
	w.setJob("a", fleetv1.JobStopped)
	for name, output := range map[string]string{"same": "out", "inside": "out/x", "around": ""} {
		before := w.store.View().Index()
		_, err := w.submit(w.scoring(func(j *fleetv1.Job) {
			j.Meta.Name, j.Spec.Output, j.Spec.Input = "b", w.url(output), "file:///elsewhere.manifest"
		}), "")
		if name != "around" { // there, the input is looked at first
			_, err = w.submit(named("b", output), "")
			w.refused(name, err, codes.FailedPrecondition, "job.spec.output", `is used by job "a"`, before)
		} else {
			w.refused(name, err, codes.FailedPrecondition, "job.spec.input", "elsewhere", before)
		}
	}
	w.put(&fleetv1.Model{Meta: &fleetv1.Meta{Name: "rows", Id: "o", Project: "other", Account: "default"},
		Spec: w.store.View().Model("default", "rows", "0.0.1").GetSpec(), Status: w.store.View().Model("default", "rows", "0.0.1").GetStatus()})
	before := w.store.View().Index()
	_, err := w.submit(w.scoring(func(j *fleetv1.Job) { j.Meta.Project = "other" }), "")
	w.refused("in another project", err, codes.FailedPrecondition, "job.spec.output", "is used by a job of another project", before)
	if strings.Contains(err.Error(), `"a"`) {
		t.Errorf("another project's job is named: %v", err)
	}
	w.mustSubmit(named("b", "out-b"))
	w.before = func() { // another call is quicker
		w.mustSubmit(named("c", "out-c"))
	}
	if again, err := w.submit(named("c", "out-c"), ""); err != nil || again.GetChanged() {
		t.Errorf("the same job at the same time: %v, %v", again, err)
	}
	before = w.store.View().Index()
	_, err = w.submit(named("d", "out-d"), "")
	w.refused("too many", err, codes.ResourceExhausted, "", `project "default" has 3 jobs already`, before)
	if _, err := w.submit(w.scoring(func(j *fleetv1.Job) { j.Meta.Project, j.Spec.Output = "other", w.url("out-o") }), ""); err != nil {
		t.Errorf("of another project: %v", err)
	}
}

func TestConcurrentSubmissions(t *testing.T) {
	w := newWorld(t)
	w.furnishJobs()
	var wg sync.WaitGroup
	made := make(chan string, 20)
	for i := range 20 {
		wg.Go(func() {
			name := fmt.Sprint("j", i)
			if _, err := w.submit(w.scoring(func(j *fleetv1.Job) { j.Meta.Name, j.Spec.Output = name, w.url(fmt.Sprint("out", i%5)) }), ""); err == nil {
				made <- name
			}
		})
	}
	wg.Wait()
	outputs := map[string]bool{}
	for _, j := range w.store.View().Jobs("") {
		outputs[j.GetSpec().GetOutput()] = true
	}
	if n := len(made); n != 3 || len(outputs) != 3 {
		t.Errorf("%d jobs with %d outputs were made, want 3", n, len(outputs))
	}
}
