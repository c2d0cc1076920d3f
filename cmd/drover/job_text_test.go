package main

import (
	"bytes"
	"strings"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestTheJobHasTheLastLine(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out, err: &out, output: "table", getenv: func(string) string { return "" }}
	show := a.newProgress("job/j")
	defer show.end()
	job := &fleetv1.Job{Meta: &fleetv1.Meta{Name: "j"}, Desired: &fleetv1.JobDesired{Run: 1}, Status: &fleetv1.JobStatus{State: fleetv1.JobRunning, Run: 1}}
	r := &fleetv1.WatchJobResponse{Job: job, Progress: &fleetv1.JobProgress{Items: 1, Listed: true}, Tasks: []*fleetv1.JobTask{{Task: "0", State: "Running"}}}
	show.job(r)
	job.Status.State, r.Tasks[0].State = fleetv1.JobCompleted, "Draining"
	show.job(r)
	if got := strings.Split(strings.TrimSpace(out.String()), "\n"); len(got) != 3 || !strings.HasPrefix(got[1], "task/0 Running") || !strings.HasPrefix(got[2], "job/j Completed") {
		t.Errorf("it prints %q", got)
	}
}

func TestWhatTenantsWriteCommandsNoTerminal(t *testing.T) {
	const evil = "a\x1b]0;owned\x07b\u009b2Jc\u202ed"
	var out bytes.Buffer
	a := &app{out: &out, err: &out, output: "table", getenv: func(string) string { return "" }}
	job := &fleetv1.Job{Meta: &fleetv1.Meta{Name: "j"}, Spec: &fleetv1.JobSpec{Description: evil, Env: map[string]string{"X": evil}},
		Status: &fleetv1.JobStatus{State: fleetv1.JobFailed, Reason: evil}}
	items := []*fleetv1.TaskItem{{Source: evil, Message: evil, Millis: 1}}
	task := &fleetv1.JobTask{Task: "0", Progress: &fleetv1.TaskProgress{Trouble: evil, Slow: items, Failing: items}}
	resp := &fleetv1.GetJobResponse{Job: job, Tasks: []*fleetv1.JobTask{task}}
	for name, draw := range map[string]func() error{
		"state": func() error { return a.drawJobState(resp) },
		"spec":  func() error { return a.drawJobSpec(job) },
		"tasks": func() error { return a.draw(taskTable(jobTasks(resp.GetTasks(), nil)), "") },
		"items": func() error { return a.drawItems(jobTasks(resp.GetTasks(), nil)) },
		"error": func() error { return a.printError(&fleetv1.JobError{Source: evil, Message: evil}) },
	} {
		out.Reset()
		if err := draw(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if strings.ContainsAny(out.String(), "\x1b\x07\u009b\u202e") || !strings.Contains(out.String(), "a\ufffd]0;owned\ufffdb") {
			t.Errorf("%s prints %q", name, out.String())
		}
	}
	if got := harmless("Bytes\tund 花\r\n"); got != "Bytes\tund 花\r\n" {
		t.Errorf("harmless text became %q", got)
	}
}
