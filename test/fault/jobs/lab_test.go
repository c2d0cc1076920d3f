package jobs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

func TestMain(m *testing.M) { os.Exit(machine.Main(m)) }

// limit is for what no fault holds up.
const limit = 60 * time.Second

// lab is a machine with a model for batch jobs, and storage that schedulers and nodes share: in/ is the input of its jobs,
// out-NAME/ the output of each.
type lab struct {
	*machine.Machine
	t      *testing.T
	shared string // the storage's directory
	base   string // URL of it, without the last slash
}

func newLab(t *testing.T, options machine.Options) *lab {
	t.Helper()
	l := &lab{t: t, shared: t.TempDir()}
	l.base = "file://" + l.shared
	l.start(options)
	return l
}

// start starts the machine, and makes all that jobs need.
func (l *lab) start(options machine.Options) {
	t := l.t
	t.Helper()
	dirs := map[string]any{"storage_dirs": []string{l.shared}}
	maps.Copy(dirs, options.AgentConfig)
	options.AgentConfig = dirs
	scheduler := map[string]any{"storage_dirs": []string{l.shared}}
	maps.Copy(scheduler, options.SchedulerConfig)
	options.SchedulerConfig = scheduler
	l.Machine = machine.Start(t, options)
	l.PrepareBatch(50, "n2")
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// url is that of a path in the storage, and path that of a URL.
func (l *lab) url(path string) string { return l.base + "/" + path }

func (l *lab) path(url string) string {
	l.t.Helper()
	rest, ok := strings.CutPrefix(url, l.base+"/")
	if !ok {
		l.t.Errorf("%s is not below %s", url, l.base)
	}
	return filepath.Join(l.shared, rest)
}

// items writes n inputs below in/; do is what the model does with each.
func (l *lab) items(n int, do func(i int) string) {
	l.t.Helper()
	l.must(os.MkdirAll(filepath.Join(l.shared, "in"), 0o755))
	for i := range n {
		body, err := json.Marshal(map[string]any{"id": i, "do": do(i)})
		l.must(err)
		l.must(os.WriteFile(filepath.Join(l.shared, "in", name(i)), body, 0o644))
	}
}

func name(i int) string { return fmt.Sprintf("item-%05d.json", i) }

// every does the same with each item.
func every(do string) func(int) string { return func(int) string { return do } }

func (l *lab) submit(jobName string, edit func(*fleetv1.JobSpec)) *fleetv1.Job {
	l.t.Helper()
	spec := &fleetv1.JobSpec{Pool: "all", Model: "answers", Flavor: "small", Instances: 1, RequestPath: "/predict",
		Input: l.url("in") + "/", Output: l.url("out-"+jobName) + "/"}
	if edit != nil {
		edit(spec)
	}
	l.must(os.MkdirAll(l.path(spec.GetOutput()), 0o755))
	resp, err := l.Client.Jobs.SubmitJob(l.t.Context(), &fleetv1.SubmitJobRequest{Job: &fleetv1.Job{Meta: &fleetv1.Meta{Name: jobName}, Spec: spec}})
	l.must(err)
	return resp.GetJob()
}

func (l *lab) job(jobName string) (*fleetv1.GetJobResponse, error) {
	ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Second)
	defer cancel()
	return l.Client.Jobs.GetJob(ctx, &fleetv1.GetJobRequest{Name: jobName})
}

// until waits until the job is as it should be.
func (l *lab) until(jobName, what string, within time.Duration, holds func(*fleetv1.GetJobResponse) bool) *fleetv1.GetJobResponse {
	l.t.Helper()
	var last *fleetv1.GetJobResponse
	l.Within(within, "job "+jobName+": "+what, func() error {
		got, err := l.job(jobName)
		if err != nil {
			return err
		}
		if last = got; !holds(got) {
			return fmt.Errorf("it is %s: %s; %v; tasks %v", got.GetJob().GetStatus().GetState(), got.GetJob().GetStatus().GetReason(), got.GetProgress(), got.GetTasks())
		}
		return nil
	})
	return last
}

// ends waits until the job is in the state in which it ends.
func (l *lab) ends(jobName, state string, within time.Duration) *fleetv1.GetJobResponse {
	l.t.Helper()
	return l.until(jobName, "it is "+state, within, func(j *fleetv1.GetJobResponse) bool { return j.GetJob().GetStatus().GetState() == state })
}

// underway waits until some of the job is committed, and not all of it.
func (l *lab) underway(jobName string, items int64) {
	l.t.Helper()
	got := l.until(jobName, fmt.Sprintf("%d items are done", items), limit, func(j *fleetv1.GetJobResponse) bool {
		return j.GetProgress().GetSuccessful()+j.GetProgress().GetFailed() >= items
	})
	if got.GetProgress().GetLeft() == 0 {
		l.t.Fatalf("job %s is done before anything could happen to it: %v", jobName, got.GetProgress())
	}
}

// manifests reads all lines of a job's output.
func (l *lab) manifests(dir string) map[string]batch.ManifestLine {
	l.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "infer-result-*.manifest"))
	l.must(err)
	lines := map[string]batch.ManifestLine{}
	for _, path := range files {
		f, err := os.Open(path)
		l.must(err)
		for r := batch.NewManifestReader(f); ; {
			line, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			l.must(err)
			if _, twice := lines[line.Source]; twice {
				l.t.Errorf("%s stands twice in the manifests, again in %s", line.Source, filepath.Base(path))
			}
			lines[line.Source] = line
		}
		l.must(f.Close())
	}
	return lines
}

// check holds the job's output against its input: failed says with which words an item fails, or "".
func (l *lab) check(jobName string, items int, failed func(i int) string) {
	l.t.Helper()
	dir := filepath.Join(l.shared, "out-"+jobName)
	lines := l.manifests(dir)
	if len(lines) != items {
		l.t.Errorf("the manifests have %d inputs; want %d", len(lines), items)
	}
	results := map[string]bool{}
	for i := range items {
		source := l.url("in/" + name(i))
		line, ok := lines[source]
		words := ""
		if failed != nil {
			words = failed(i)
		}
		switch {
		case !ok:
			l.t.Errorf("%s is in no manifest", source)
		case words != "":
			if line.Result != batch.Failed || !strings.Contains(line.Message, words) {
				l.t.Errorf("%s: %+v; want FAILED with …%s…", source, line, words)
			}
		case line.Result != batch.Successful:
			l.t.Errorf("%s: %+v; want SUCCESSFUL", source, line)
		default:
			path := l.path(line.Location)
			results[path] = true
			l.sameAnswer(filepath.Join(l.shared, "in", name(i)), path)
		}
	}
	l.nothingElse(dir, results)
}

// sameAnswer checks that a result is the model's answer to the input.
func (l *lab) sameAnswer(input, result string) {
	l.t.Helper()
	body, err := os.ReadFile(input)
	l.must(err)
	raw, err := os.ReadFile(result)
	if err != nil {
		l.t.Error(err)
		return
	}
	var got struct{ Answer string }
	sum := sha256.Sum256(body)
	if err := json.Unmarshal(raw, &got); err != nil || got.Answer != hex.EncodeToString(sum[:]) {
		l.t.Errorf("%s is %q, %v: not the answer to %s", result, raw, err, body)
	}
}

// nothingElse checks that the output holds manifests and results alone, besides what Drover keeps for itself.
func (l *lab) nothingElse(dir string, results map[string]bool) {
	l.t.Helper()
	l.must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), "."): // Drover's, or the store's own
			return filepath.SkipDir
		case d.IsDir() || strings.HasSuffix(path, ".manifest") && filepath.Dir(path) == dir || results[path]:
			return nil
		}
		l.t.Errorf("%s is in no manifest", path)
		return nil
	}))
}
