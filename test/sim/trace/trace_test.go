package trace

import (
	"bytes"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestExample(t *testing.T) {
	f, err := os.Open("testdata/jobs.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	jobs, err := ReadJobs(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(jobs.Events) != 18 || jobs.Skipped != 2 {
		t.Fatalf("%d jobs, %d left out", len(jobs.Events), jobs.Skipped)
	}
	i := slices.IndexFunc(jobs.Events, func(e Event) bool { return strings.HasSuffix(e.Service, "llm-pretrain") })
	if e := jobs.Events[i]; e.At != 90 || e.Run != 14400 || e.Shape.Nodes != 4 || e.Shape.Devices != 8 || !e.Shape.Preemptible {
		t.Errorf("the pretraining is %+v, %+v", e, e.Shape)
	}
}

func TestReadJobs(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []Event // At, Run, Instances and Shape are compared
	}{
		"names of other traces, in any order": {"Duration,jobid,timestamp,GPU_NUM\n60,a,1000,4\n30,b,990,1\n", []Event{
			{At: 0, Run: 30, Instances: 1, Shape: &Shape{Devices: 1, Nodes: 1}}, {At: 10, Run: 60, Instances: 1, Shape: &Shape{Devices: 4, Nodes: 1}}}},
		"hundredths of a GPU, end times, instances": {"job_name,inst_num,start_time,end_time,plan_gpu\nx,3,100,160.5,50\ny,1,100,400,1600\n", []Event{
			{Run: 60.5, Instances: 3, Shape: &Shape{Devices: 1, Nodes: 1}}, {Run: 300, Instances: 1, Shape: &Shape{Devices: 8, Nodes: 2}}}},
		"dates": {"job,submit,gpus,duration\na,2017-10-09 07:01:00,1,5\nb,2017-10-09 07:02:30,9,5\n", []Event{
			{Run: 5, Instances: 1, Shape: &Shape{Devices: 1, Nodes: 1}}, {At: 90, Run: 5, Instances: 1, Shape: &Shape{Devices: 8, Nodes: 2}}}},
		"nothing": {"job,submit,gpus,duration\n", nil},
	} {
		jobs, err := ReadJobs(strings.NewReader(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(jobs.Events) != len(c.want) {
			t.Fatalf("%s: %+v", name, jobs.Events)
		}
		for i, e := range jobs.Events {
			w := c.want[i]
			if e.At != w.At || e.Run != w.Run || e.Instances != w.Instances || e.Shape.Devices != w.Shape.Devices || e.Shape.Nodes != w.Shape.Nodes {
				t.Errorf("%s: %+v with %+v, want %+v with %+v", name, e, e.Shape, w, w.Shape)
			}
		}
	}
}

func TestReadJobsRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "line 1: it is empty",
		"job,gpus\n":                          "line 1: it must name columns",
		"job,submit,gpus,duration,job_id\n":   "line 1: columns 1 and 5",
		"job,submit,gpus,duration\na,1,x,1\n": `line 2: GPUs: "x" is not a number`,
		"job,submit,gpus,duration\na,1,1,1\nb,noon,1,1\n":           `line 3: submit time: "noon" is neither`,
		"job,submit,gpus,duration\na,1,-1,1\n":                      `line 2: GPUs: "-1" is not within`,
		"job,submit,gpus,duration\na,1,99999,1\n":                   `line 2: GPUs: "99999" is not within`,
		"job,submit,gpus,duration\na,1,1,-5\n":                      "line 2: duration: -5 s is less than 0",
		"job,submit,gpus,duration\na,1,1,NaN\n":                     `line 2: duration: "NaN"`,
		"job,submit,gpus,end_time\na,10,1,5\n":                      "line 2: duration: -5 s",
		"job,submit,gpus,duration\n,1,1,1\n":                        "line 2: the job has no name",
		"job,submit,gpus,duration\na,1,1\n":                         "line 2",
		"job,submit,gpus,duration,instances\na,1,1,1,2.5\n":         `line 2: instances: "2.5"`,
		"job,submit,gpus,duration\na,1,1,1e300\n":                   "is not within",
		"job,submit,gpus,duration\n\"a\nb\",1,1,1\nc,1,what,1\n\"d": "line 4",
	} {
		if jobs, err := ReadJobs(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %q", text, jobs, err, want)
		}
	}
}

func TestWriteAndRead(t *testing.T) {
	events := Synthetic(Options{Seed: 3, Nodes: 50, Hours: 24, ServiceLoad: 0.3, JobLoad: 0.3, Trouble: 5})
	kinds := map[string]int{}
	for i := range events {
		kinds[events[i].Kind]++
		if err := events[i].Check(); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
	}
	for _, k := range []string{Deploy, Scale, Delete, Crash, Partition, Fault, Cordon, Drain, Quota, Leader} {
		if kinds[k] == 0 {
			t.Errorf("no event %s in %v", k, kinds)
		}
	}
	var b bytes.Buffer
	if err := Write(&b, events); err != nil {
		t.Fatal(err)
	}
	again, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(events, again) {
		t.Error("what was written isn't what was read")
	}
	if !reflect.DeepEqual(events, Synthetic(Options{Seed: 3, Nodes: 50, Hours: 24, ServiceLoad: 0.3, JobLoad: 0.3, Trouble: 5})) {
		t.Error("a seed gives two traces")
	}
}

func TestReadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"\n{":                           "line 2: unexpected EOF",
		`{"at":1,"kind":"sleep"}`:       `line 1: kind "sleep" is unknown`,
		`{"at":1,"kind":"crash","x":1}`: `line 1: json: unknown field "x"`,
		`{"at":1,"kind":"crash"}{}`:     "line 1: something follows",
		"{\"at\":2,\"kind\":\"crash\"}\n{\"at\":1,\"kind\":\"crash\"}": "line 2: it is earlier",
		`{"at":-1,"kind":"crash"}`:                                     "line 1: a time of -1 s",
		`{"at":1,"kind":"deploy","service":"a"}`:                       "line 1: a deployment needs",
		`{"at":1,"kind":"scale","service":"a"}`:                        "line 1: a scale needs",
		`{"at":1,"kind":"quota"}`:                                      "line 1: a quota needs",
		`{"at":1,"kind":"fault","device":-1}`:                          "line 1: node, device",
		`{"at":1,"kind":"deploy","service":"a","instances":1,"shape":{"cpu_millis":1,"memory_bytes":1}}`: "line 1: a shape has",
	} {
		if events, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", text, events, err, want)
		}
	}
}

func FuzzReadJobs(f *testing.F) {
	f.Add("job_id,submit_time,num_gpus,duration\na,0,1,60\nb,2017-10-09 07:02:30,32,1e3\n")
	f.Add("job_name,inst_num,start_time,end_time,plan_gpu\nx,3,100,160.5,50\n\"y\nz\",1,1,2,3\n")
	f.Fuzz(func(t *testing.T, text string) {
		jobs, err := ReadJobs(strings.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := Write(&b, jobs.Events); err != nil {
			t.Fatal(err)
		}
		if again, err := Read(&b); err != nil || len(again) != len(jobs.Events) {
			t.Fatalf("what was read is no trace: %v", err)
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add("{\"at\":1,\"kind\":\"crash\",\"node\":3,\"for\":60}\n\n{\"at\":2,\"kind\":\"leader\"}")
	f.Add(`{"at":1,"kind":"deploy","service":"a","instances":1,"run":5,"shape":{"devices":8,"cpu_millis":1000,"memory_bytes":1073741824,"nodes":2}}`)
	f.Fuzz(func(t *testing.T, text string) {
		events, err := Read(strings.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := Write(&b, events); err != nil {
			t.Fatal(err)
		}
		if again, err := Read(&b); err != nil || !reflect.DeepEqual(events, again) {
			t.Fatalf("%v is written and read as %v: %v", events, again, err)
		}
	})
}
