package task

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// row is the mapping of a request with two columns in an array.
func row(indexed bool) map[string]any {
	leaf := func(kind string, index int) map[string]any {
		l := map[string]any{"type": kind}
		if indexed {
			l["index"] = index
		}
		return l
	}
	return map[string]any{"type": "object", "properties": map[string]any{"rows": map[string]any{
		"type": "array", "items": []any{map[string]any{"type": "object", "properties": map[string]any{"a": leaf("integer", 0), "b": leaf("string", 1)}}},
	}}}
}

// TestRows: a CSV file has a result with a line for each row, in order; one row that fails fails it, and is named.
func TestRows(t *testing.T) {
	var long strings.Builder
	for i := range 500 {
		fmt.Fprintf(&long, "%d,x\n", i)
	}
	files := []file{
		{"good.csv", "\xef\xbb\xbf1,\"é,\"\"\"\r\n2,中文\r\n"}, {"bad.csv", "1,x\nseven,x\n3,x\n4\n"}, {"refused.csv", "1,x\n13,x\n"}, {"empty.csv", ""}, {"long.csv", long.String()},
	}
	for _, rows := range []int32{1, 2} {
		t.Run(fmt.Sprint(rows), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, &fleetv1.JobSpec{Mapping: object(row(true)), BatchRows: rows}, files).add("a")
				w.leader.setup.Route.Request = &fleetv1.APISchema{Data: object(row(false))}
				w.leader.setup.Route.Response = &fleetv1.APISchema{Data: object(row(false))}
				requests := 0
				w.asked(func(_ *container, body string, rw http.ResponseWriter, _ *http.Request) {
					w.mu.Lock()
					requests++
					late := requests%5 == 0
					w.mu.Unlock()
					if late { // lines don't end in the order of the rows
						time.Sleep(100 * time.Millisecond)
					}
					if strings.Contains(body, `"a":13,`) && !strings.Contains(body, `"a":12,`) {
						rw.WriteHeader(http.StatusBadRequest)
						return
					}
					_, _ = io.WriteString(rw, body)
				})
				lines := w.begin().finish(5 * time.Minute)
				if got, want := w.result(lines["good.csv"]), `{"rows":[{"a":1,"b":"é,\""}]}`+"\n"+`{"rows":[{"a":2,"b":"中文"}]}`+"\n"; got != want {
					t.Errorf("good.csv: %q", got)
				}
				if got := w.result(lines["empty.csv"]); got != "" {
					t.Errorf("empty.csv: %q", got)
				}
				if line := lines["bad.csv"]; line.Result != batch.Failed || !strings.HasPrefix(line.Message, "rows 2, 4 failed: row 2, column 0: ") {
					t.Errorf("bad.csv: %+v", line)
				}
				line := lines["refused.csv"]
				if want := map[int32]string{1: "row 2 failed: row 2: the model answered 400", 2: "rows 1, 2 failed: row 1: the model answered 400"}[rows]; !strings.HasPrefix(line.Message, want) {
					t.Errorf("refused.csv: %+v", line)
				}
				if rows == 1 {
					if line := lines["long.csv"]; !strings.HasPrefix(line.Message, "row 14 failed") {
						t.Errorf("long.csv: %+v", line)
					}
					return
				}
				for i, got := range strings.Split(strings.TrimSpace(w.result(lines["long.csv"])), "\n") {
					if want := fmt.Sprintf(`{"rows":[{"a":%d,"b":"x"}]}`, i); got != want {
						t.Fatalf("row %d: %s", i+1, got)
					}
				}
			})
		})
	}
}

// TestLines: of JSON Lines each line is a request, and its result's line stands in its place. A table without a mapping isn't sent.
func TestLines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, []file{{"x.jsonl", "{\"n\":1}\n\n{\"n\": 2}\n"}, {"y.JSONL", "{\"n\":1}\n{\n"}, {"a.CSV", "1,2\n"}, {"z.json", `{"n":3}`}}).add("a").begin()
		lines := w.finish(time.Minute)
		if got, want := w.result(lines["x.jsonl"]), "{\"echo\":{\"n\":1}}\n{\"echo\":{\"n\":2}}\n"; got != want {
			t.Errorf("%q", got)
		}
		if line := lines["y.JSONL"]; line.Message != "row 2 failed: row 2: line 2 is not JSON" {
			t.Errorf("%+v", line)
		}
		if got := w.result(lines["z.json"]); got != `{"echo":{"n":3}}` {
			t.Errorf("%q", got)
		}
		if line := lines["a.CSV"]; line.Result != batch.Failed || !strings.Contains(line.Message, "needs a mapping") {
			t.Errorf("%+v", line)
		}
	})
}

// TestFiles: a file is sent as a form has it, also one that doesn't stay in memory; one that is too large isn't sent.
func TestFiles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		files := []file{{"small.bin", "abc"}, {"large.bin", strings.Repeat("0123456789abcdef", largeBytes/8)}, {"image.png", strings.Repeat("x", batch.MaxImageBytes)}}
		w := newWorld(t, &fleetv1.JobSpec{}, files).add("a")
		w.leader.setup.Route.Request = &fleetv1.APISchema{ContentType: "multipart/form-data", Data: object(map[string]any{
			"type": "object", "properties": map[string]any{"images": map[string]any{"type": "file"}},
		})}
		w.model = func(_ *container, rw http.ResponseWriter, r *http.Request) {
			_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
			if err != nil {
				t.Error(err)
			}
			part, err := multipart.NewReader(r.Body, params["boundary"]).NextPart()
			if err != nil {
				t.Error(err)
				return
			}
			content, err := io.ReadAll(part)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(rw, `{"field":%q,"name":%q,"bytes":%d}`, part.FormName(), part.FileName(), len(content))
		}
		lines := w.begin().finish(time.Minute)
		for _, f := range files[:2] {
			if got, want := w.result(lines[f.name]), fmt.Sprintf(`{"field":"images","name":%q,"bytes":%d}`, f.name, len(f.content)); got != want {
				t.Errorf("%s: %s", f.name, got)
			}
		}
		if line := lines["image.png"]; line.Result != batch.Failed || !strings.Contains(line.Message, "under 10 MB") {
			t.Errorf("%+v", line)
		}
	})
}

// TestBadSetup: a job that can't be worked on is told as trouble, and begun when it can.
func TestBadSetup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(10)).add("a")
		good := w.leader.setup.Directory
		w.leader.setup.Directory = "nowhere"
		w.begin()
		time.Sleep(5 * time.Second)
		if trouble := w.leader.lastOf("a").GetProgress().GetTrouble(); !strings.Contains(trouble, "directory") {
			t.Errorf("trouble %q", trouble)
		}
		w.leader.with(func(l *leader) { l.setup.Version, l.setup.Directory = "2", good })
		w.echoed(w.finish(time.Minute))
	})
}
