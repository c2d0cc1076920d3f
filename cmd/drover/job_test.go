package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/cmd/drover/manifest"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// jobEnv is the environment of a command line that talks to a new fake.
func jobEnv(t *testing.T) func(string) string {
	t.Helper()
	addr := serveFake(t, filepath.Join(t.TempDir(), "s"))
	return func(name string) string {
		return map[string]string{"DROVER_ADDR": addr, "DROVER_TOKEN": fakeToken, "NO_COLOR": "1"}[name]
	}
}

func submitArgs(name string, more ...string) []string {
	return append([]string{"job", "submit", name, "--pool", "p", "--model", "iris", "--flavor", "f", "--input", "s3://b/in/", "--output-path", "s3://b/out/"}, more...)
}

func TestJobProgressMovesOnATerminal(t *testing.T) {
	code, out, errOut := runApp(t, &app{terminal: true, getenv: jobEnv(t), size: func() (int, int, error) { return 140, 24, nil }}, submitArgs("flowers", "--wait")...)
	if code != 0 || errOut != "" {
		t.Errorf("code %d, %q", code, errOut)
	}
	for _, want := range []string{
		"job/flowers created\n",
		"\x1b[3A\r\x1b[Kjob/flowers Running\n",
		"[###.............]  24%  240 of 1000 items, 0 failed, 12.5/s, 63s left\n",
		"task/a                  dev-1  Running, ready  243 done, 3 failed, 12.5/s, 7 in flight  waits: the storage answers 503\n",
		"task/b                  dev-2  is gone\n",
		"instance/job.flowers-2  dev-1  Pulling\n",
		"[################] 100%  1000 of 1000 items, 0 failed\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
}

// TestJobProgressFitsTheTerminal: a line that wraps or scrolls away couldn't be replaced by the next picture.
func TestJobProgressFitsTheTerminal(t *testing.T) {
	r := &fleetv1.WatchJobResponse{
		Job:      &fleetv1.Job{Status: &fleetv1.JobStatus{State: fleetv1.JobRunning, Reason: strings.Repeat("words ", 30)}},
		Progress: &fleetv1.JobProgress{Items: 1 << 40, Rate: 1e9, LeftSeconds: 1e6},
		Waiting:  &fleetv1.Explanation{Summary: strings.Repeat("CPU ", 30)},
	}
	for i := range 30 {
		r.Tasks = append(r.Tasks, &fleetv1.JobTask{Task: fmt.Sprintf("task%d", i), Node: "dev-1", Progress: &fleetv1.TaskProgress{Trouble: strings.Repeat("é", 100)}})
	}
	const columns, rows = 50, 12
	a := &app{terminal: true, getenv: func(string) string { return "1" }}
	lines := a.newProgress("job/flowers").jobPicture(r, columns, rows)
	if len(lines) >= rows {
		t.Errorf("%d lines on a terminal of %d", len(lines), rows)
	}
	for _, l := range lines {
		if n := len([]rune(l)); n >= columns {
			t.Errorf("%d columns: %q", n, l)
		}
	}
	if last := lines[len(lines)-1]; last != "  and 23 more" {
		t.Errorf("last line %q", last)
	}
}

func TestInterruptedWaitLeavesTheJobRunning(t *testing.T) {
	env := jobEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var errOut bytes.Buffer
	a := &app{out: &cancelOn{text: "Running 50 of 1000", cancel: cancel}, err: &errOut, now: time.Now, getenv: env}
	if code := a.execute(ctx, submitArgs("endless", "--wait")); code != exitFailed {
		t.Errorf("code %d", code)
	}
	if want := "drover: job/endless: no longer waited for; it goes on without us: see `drover job show endless`\n"; errOut.String() != want {
		t.Errorf("said %q, want %q", errOut.String(), want)
	}
	if _, out, _ := runApp(t, &app{getenv: env}, "job", "show", "endless"); !strings.Contains(out, "Asked to be:  running\n") {
		t.Errorf("after it: %q", out)
	}
}

// TestJobGoals: a state that was there before the call is no answer to it.
func TestJobGoals(t *testing.T) {
	job := func(desired string, run uint64, state string, of uint64) *fleetv1.Job {
		return &fleetv1.Job{Meta: &fleetv1.Meta{Name: "j"}, Desired: &fleetv1.JobDesired{State: desired, Run: run}, Status: &fleetv1.JobStatus{State: state, Run: of}}
	}
	for _, tc := range []struct {
		name string
		goal jobGoal
		job  *fleetv1.Job
		done bool
		err  string
	}{
		{"complete", jobEnded, job("running", 2, fleetv1.JobCompleted, 2), true, ""},
		{"complete before", jobEnded, job("running", 2, fleetv1.JobCompleted, 1), false, ""},
		{"failed before", jobEnded, job("running", 2, fleetv1.JobFailed, 1), false, ""},
		{"failed", jobEnded, job("running", 2, fleetv1.JobFailed, 2), false, "Failed: no reason given"},
		{"stopping", jobEnded, job("stopped", 1, fleetv1.JobRunning, 1), false, ""},
		{"stopped", jobEnded, job("stopped", 1, fleetv1.JobStopped, 1), false, "Stopped with 0 of 0+ items done; `drover job start j` goes on with the others"},
		{"to stop, running", jobStopped, job("stopped", 1, fleetv1.JobRunning, 1), false, ""},
		{"to stop, stopped", jobStopped, job("stopped", 1, fleetv1.JobStopped, 1), true, ""},
		{"to stop, complete first", jobStopped, job("stopped", 1, fleetv1.JobCompleted, 1), true, ""},
		{"to stop, started again", jobStopped, job("running", 2, fleetv1.JobStopped, 1), false, "it was started again meanwhile"},
		{"to go", jobGone, job("deleted", 1, fleetv1.JobStopped, 1), false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reached, err := tc.goal.check(tc.job, nil)
			if got := fmt.Sprint(err); reached != tc.done || (err == nil) != (tc.err == "") || (err != nil && got != tc.err) {
				t.Errorf("done %t, %v; want %t, %s", reached, err, tc.done, tc.err)
			}
		})
	}
}

func TestJobCompletion(t *testing.T) {
	env := jobEnv(t)
	for _, name := range []string{"roses", "tulips"} {
		if code, _, errOut := runApp(t, &app{getenv: env}, submitArgs(name)...); code != 0 {
			t.Fatal(errOut)
		}
	}
	for line, want := range map[string]string{
		"job show ":                  "roses tulips",
		"job logs roses ":            "",
		"job submit --input-format ": "csv jsonl json file",
		"storage set ":               "s3 obs",
		"storage delete ":            "",
	} {
		_, out, _ := runApp(t, &app{getenv: env}, append([]string{"__complete"}, strings.Split(line, " ")...)...)
		words := strings.Fields(out)
		if got := strings.Join(words[:max(len(words)-1, 0)], " "); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestShownTasksAreBounded(t *testing.T) {
	addr := serveFake(t, filepath.Join(t.TempDir(), "s"))
	cl, err := client.Dial(client.Config{Addr: addr, Token: fakeToken})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	r := &fleetv1.GetJobResponse{Job: &fleetv1.Job{Meta: &fleetv1.Meta{Name: "wide"}}}
	for i := range shownTasks + 7 {
		r.Tasks = append(r.Tasks, &fleetv1.JobTask{Task: fmt.Sprint(i)})
	}
	var out bytes.Buffer
	a := &app{out: &out, err: &out, now: time.Now, timeout: time.Minute, getenv: func(string) string { return "" }}
	if err := a.drawJob(t.Context(), cl, r); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "  and 7 more: -o json lists all\n") || strings.Contains(out.String(), fmt.Sprintf("\n  %d ", shownTasks)) {
		t.Errorf("shown: %s", out.String())
	}
}

// FuzzParseMapping: what is read is a JSON object that reads as the same again, and what isn't is told in one line.
func FuzzParseMapping(f *testing.F) {
	for _, seed := range []string{`{"type": "number", "index": 0}`, `{"a": {"index": 1}, "a": {}}`, `null`, `[1]`, `{"a": [1, {"b": null}, true, "x"]}`, `{`, "{\"\xff\": 1}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMapping(data)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\u00a0") {
				t.Errorf("the error is more than a line: %q", err)
			}
			return
		}
		again, err := m.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := parseMapping(again); err != nil || !proto.Equal(m, n) {
			t.Errorf("%s reads otherwise than %q: %v", again, data, err)
		}
	})
}

func TestSecretKeyIsNotTyped(t *testing.T) {
	code, _, errOut := runApp(t, &app{keyboard: true, getenv: jobEnv(t)}, "storage", "set", "s3", "--access-key", "AK")
	if code != exitUsage || !strings.Contains(errOut, "standard input is a keyboard") {
		t.Errorf("code %d, %q", code, errOut)
	}
}

func TestTimesOfRequests(t *testing.T) {
	for ms, want := range map[float64]string{0: "", 0.42: "0.4ms", 12.6: "13ms", 999: "999ms", 2500: "2.5s", 150_000: "2m30s"} {
		if got := millisText(ms); got != want {
			t.Errorf("%v ms: %q, want %q", ms, got, want)
		}
	}
	for rate, want := range map[float64]string{0: "0/s", 12.5: "12.5/s", 3: "3/s", 1234.5: "1234/s"} {
		if got := rateText(rate); got != want {
			t.Errorf("%v a second: %q, want %q", rate, got, want)
		}
	}
}

func TestJobManifestsParse(t *testing.T) {
	docs, err := manifest.Load([]string{"../../examples/jobs"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) != 2 || docs[0].Name() != "model/iris-batch@1.0.0" || docs[1].Name() != "job/flowers" {
		t.Fatalf("objects = %v", docs)
	}
	mapping, err := docs[1].Object.(*fleetv1.Job).GetSpec().GetMapping().MarshalJSON()
	if err != nil || !strings.Contains(strings.ReplaceAll(string(mapping), " ", ""), `"petal_width":{"index":3,"type":"number"}`) {
		t.Errorf("mapping = %s, %v", mapping, err)
	}
}
