package trace

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// gpusPerNode is how many devices a node of a gang has.
const gpusPerNode = 8

// Jobs are the deployments that a file of jobs asks for.
type Jobs struct {
	Events []Event // ordered by time
	// Skipped rows have no duration, or no GPUs.
	Skipped int
}

// column is what is read from a file, under the names that it may have there.
type column int

const (
	colJob column = iota
	colSubmit
	colGPUs
	colGPUPercent
	colDuration
	colEnd
	colInstances
	columns
)

func columnOf(name string) (column, bool) {
	switch strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff"))) {
	case "job", "job_id", "jobid", "job_name":
		return colJob, true
	case "submit", "submit_time", "submitted_time", "start_time", "timestamp":
		return colSubmit, true
	case "gpus", "num_gpus", "num_gpu", "gpu_num":
		return colGPUs, true
	case "plan_gpu":
		return colGPUPercent, true
	case "duration", "run_time", "runtime":
		return colDuration, true
	case "end_time":
		return colEnd, true
	case "instances", "inst_num", "num_inst":
		return colInstances, true
	}
	return 0, false
}

// ReadJobs reads a CSV file of jobs, each of which becomes a preemptible deployment with Run set. An error
// names its line.
func ReadJobs(r io.Reader) (*Jobs, error) {
	in := csv.NewReader(r)
	in.ReuseRecord = true
	first, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("line 1: it is empty: the first line names the columns")
	}
	if err != nil {
		return nil, err // names its line
	}
	var at [columns]int
	for i := range at {
		at[i] = -1
	}
	for i, name := range first {
		if c, ok := columnOf(name); ok {
			if at[c] >= 0 {
				return nil, fmt.Errorf("line 1: columns %d and %d (%q) mean the same", at[c]+1, i+1, name)
			}
			at[c] = i
		}
	}
	if at[colJob] < 0 || at[colSubmit] < 0 || at[colGPUs] < 0 && at[colGPUPercent] < 0 || at[colDuration] < 0 && at[colEnd] < 0 {
		return nil, errors.New("line 1: it must name columns for job, submit time, GPUs, and duration or end time")
	}
	jobs := &Jobs{}
	for {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		line, _ := in.FieldPos(0)
		e, err := job(row{record, at}, len(jobs.Events))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		if e == nil {
			jobs.Skipped++
			continue
		}
		jobs.Events = append(jobs.Events, *e)
	}
	return jobs, jobs.begin()
}

// begin orders the jobs and has the first one at 0.
func (j *Jobs) begin() error {
	if len(j.Events) == 0 {
		return nil
	}
	slices.SortStableFunc(j.Events, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	start := j.Events[0].At
	for i := range j.Events {
		j.Events[i].At -= start
		if err := j.Events[i].Check(); err != nil {
			return fmt.Errorf("job %s: %w", j.Events[i].Service, err)
		}
	}
	return nil
}

// row is a record and where its columns are.
type row struct {
	fields []string
	at     [columns]int
}

// text is empty when the column is missing.
func (r row) text(c column) string {
	if i := r.at[c]; i >= 0 && i < len(r.fields) {
		return strings.TrimSpace(r.fields[i])
	}
	return ""
}

// job makes the deployment of one row; nil for one that is to be left out.
func job(r row, n int) (*Event, error) {
	name := r.text(colJob)
	if name == "" {
		return nil, errors.New("the job has no name")
	}
	submit, err := seconds("submit time", r.text(colSubmit))
	if err != nil {
		return nil, err
	}
	run, ok, err := r.run(submit)
	if !ok || err != nil {
		return nil, err
	}
	gpus, err := r.gpus()
	if gpus == 0 || err != nil {
		return nil, err
	}
	instances := 1
	if text := r.text(colInstances); text != "" {
		f, err := number("instances", text)
		if err != nil {
			return nil, err
		}
		if instances = int(f); f != math.Trunc(f) || instances < 1 || f > maxInstances {
			return nil, fmt.Errorf("instances: %q is not a whole number of 1–%d", text, maxInstances)
		}
	}
	shape := jobShape(gpus)
	if shape.Nodes > maxNodes {
		return nil, fmt.Errorf("GPUs: %d are more than %d nodes have", gpus, maxNodes)
	}
	return &Event{At: submit, Kind: Deploy, Service: fmt.Sprintf("j%d-%s", n+1, word(name)), Project: "jobs", Shape: shape, Instances: instances, Run: run}, nil
}

// run is how long the job ran; ok is false when it isn't known.
func (r row) run(submit float64) (run float64, ok bool, err error) {
	if text := r.text(colDuration); text != "" {
		run, err = number("duration", text)
	} else if text := r.text(colEnd); text != "" {
		run, err = seconds("end time", text)
		run -= submit
	}
	if err == nil && run < 0 {
		err = fmt.Errorf("duration: %g s is less than 0", run)
	}
	return run, run > 0, err
}

func (r row) gpus() (int, error) {
	text, unit := r.text(colGPUs), 1.0
	if text == "" {
		text, unit = r.text(colGPUPercent), 100
	}
	if text == "" {
		return 0, nil
	}
	f, err := number("GPUs", text)
	if err != nil {
		return 0, err
	}
	if f < 0 || f > unit*maxNodes*gpusPerNode {
		return 0, fmt.Errorf("GPUs: %q is not within 0–%g", text, unit*maxNodes*gpusPerNode)
	}
	return int(math.Ceil(f / unit)), nil
}

// jobShape asks for so many devices, with a share of a node's CPU and memory.
func jobShape(gpus int) *Shape {
	s := &Shape{Devices: gpus, Preemptible: true, Nodes: 1}
	if gpus > gpusPerNode {
		s.Devices, s.Nodes = gpusPerNode, (gpus+gpusPerNode-1)/gpusPerNode
	}
	s.CPUMillis, s.MemoryBytes = int64(s.Devices)*8000, int64(s.Devices)*64<<30
	return s
}

func number(what, text string) (float64, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, fmt.Errorf("%s: %q is not a number", what, text)
	}
	return f, nil
}

// seconds reads a point in time: a number of seconds, or a date with its time.
func seconds(what, text string) (float64, error) {
	for _, layout := range []string{time.DateTime, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return float64(t.UnixMilli()) / 1000, nil
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, fmt.Errorf("%s: %q is neither seconds nor a date such as 2006-01-02 15:04:05", what, text)
	}
	return f, nil
}

// word makes a name that a service may have of what a file calls a job.
func word(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if b.Len() == 32 {
			break
		}
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
		}
	}
	return b.String()
}
