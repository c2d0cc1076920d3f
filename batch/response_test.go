package batch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const irisResponse = `{"type":"object","properties":{"model":{"type":"string"},"data":{"type":"object","properties":{"resp_data":{"type":"array","items":[
	{"type":"object","properties":{"class":{"type":"integer"}},"required":["class"]}]}},"required":["resp_data"]},"other":{"type":"array"}},"required":["data"]}`

func mustResponse(t testing.TB, contentType, schema string) *Response {
	t.Helper()
	r, err := NewResponse(contentType, []byte(schema))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCheckAnswer(t *testing.T) {
	r := mustResponse(t, "application/json", irisResponse)
	for _, c := range []struct{ answer, loose, strict string }{
		{`{"data":{"resp_data":[{"class":1}]}}`, "", ""},
		{`{"data":{"resp_data":[{"class":1.0}]},"more":1}`, "", ""},
		{`{"data":{"resp_data":[{"class":"1"}]}}`, "", "the answer doesn't match the declared response: at '/data/resp_data/0/class': got string, want integer"},
		{`{"data":{}}`, "", "at '/data': missing property 'resp_data'"},
		{`[]`, "", "at '': got array, want object"},
		{``, `the answer isn't JSON: ""`, "isn't JSON"},
		{`{"data":{"resp_data":[{"class":1`, "the answer isn't JSON", "isn't JSON"},
		{"<html>\n502", `the answer isn't JSON: "<html>\n502"`, "isn't JSON"},
		{`{} {}`, "isn't JSON", "isn't JSON"},
		{strings.Repeat("\x00\xff", 1000), "isn't JSON", "isn't JSON"},
	} {
		wantError(t, r.Check([]byte(c.answer), false), c.loose)
		wantError(t, r.Check([]byte(c.answer), true), c.strict)
	}
	text := mustResponse(t, "multipart/form-data", `{}`)
	wantError(t, text.Check([]byte("any"), true), "")
	wantError(t, text.CheckRows(), "has to be application/json")
	wantError(t, text.CheckBatch(), "has to be application/json")
}

func TestBadResponseSchema(t *testing.T) {
	for _, c := range []struct{ schema, want string }{
		{`{"type":"file"}`, "the model's response schema: at '/type'"},
		{`{"$ref":"file:///etc/passwd"}`, "the model's response schema: "},
		{`{"$ref":"https://example.com/schema"}`, "the model's response schema: "},
		{`{"pattern":"("}`, "the model's response schema: "},
		{`{`, "not JSON"},
		{`7`, "the model's response schema: "},
	} {
		_, err := NewResponse("", []byte(c.schema))
		wantError(t, err, c.want)
	}
}

func TestSplit(t *testing.T) {
	r := mustResponse(t, "", irisResponse)
	for _, c := range []struct {
		name, answer string
		rows         int
		want         []string
		err          string
	}{
		{"a line a row", "{\"other\":[1,2],\n \"data\": {\"x\":{\"resp_data\":1}, \"resp_data\": [ {\"class\": 1}, {\"class\":[2]} ]}, \"y\":[]}", 2, []string{
			`{"other":[1,2],"data":{"x":{"resp_data":1},"resp_data":[{"class":1}]},"y":[]}`,
			`{"other":[1,2],"data":{"x":{"resp_data":1},"resp_data":[{"class":[2]}]},"y":[]}`}, ""},
		{"one row is the whole answer", `{"a": 1}`, 1, []string{`{"a":1}`}, ""},
		{"too few", `{"data":{"resp_data":[1]}}`, 2, nil, "the answer for 2 rows has 1 elements in $.data.resp_data"},
		{"too many", `{"data":{"resp_data":[1,2,3]}}`, 2, nil, "has 3 elements"},
		{"none", `{"data":{"resp_data":[]}}`, 2, nil, "has 0 elements"},
		{"no array", `{"data":{"resp_data":{}}}`, 2, nil, "the answer has no array $.data.resp_data"},
		{"property missing", `{"data":{}}`, 2, nil, "the answer has no array $.data.resp_data"},
		{"other shape", `[{"data":1}]`, 2, nil, "the answer has no array $.data.resp_data"},
		{"other shape within", `{"data":"resp_data"}`, 2, nil, "the answer has no array $.data.resp_data"},
		{"not JSON", `{"data":`, 2, nil, "the answer isn't JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lines, err := r.Split([]byte(c.answer), c.rows)
			wantError(t, err, c.err)
			if c.err != "" {
				return
			}
			var got []string
			for l := range lines {
				got = append(got, string(l))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			for range lines {
				break // a caller may stop early
			}
		})
	}
	whole := mustResponse(t, "", `{"type":"array"}`)
	if lines, err := whole.Split([]byte(`[1, 2]`), 2); err != nil {
		t.Error(err)
	} else {
		for l := range lines {
			if len(l) != 3 {
				t.Errorf("got %s", l)
			}
		}
	}
	_, err := mustResponse(t, "", `{}`).Split([]byte(`[1,2]`), 2)
	wantError(t, err, "its schema has none: use one row a request")
}

func FuzzResponse(f *testing.F) {
	f.Add(irisResponse, `{"data":{"resp_data":[1,{"class":2}]}}`, 2)
	f.Add(`{"items":{"$ref":"#"}}`, `[[],[[]]]`, 2)
	f.Fuzz(func(t *testing.T, schema, answer string, rows int) {
		r, err := NewResponse("", []byte(schema))
		if err != nil {
			return
		}
		_ = r.Check([]byte(answer), true)
		lines, err := r.Split([]byte(answer), rows)
		if err != nil {
			return
		}
		n := 0
		for l := range lines {
			if n++; !json.Valid(l) || bytes.ContainsAny(l, "\n") {
				t.Errorf("line %q", l)
			}
		}
		if n != rows {
			t.Errorf("%d lines for %d rows", n, rows)
		}
	})
}

func BenchmarkCheckAnswer(b *testing.B) {
	r := mustResponse(b, "", irisResponse)
	answer := []byte(`{"data":{"resp_data":[{"class":1}]}}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Check(answer, true); err != nil {
			b.Fatal(err)
		}
	}
}

func TestFileField(t *testing.T) {
	for _, c := range []struct{ properties, want, err string }{
		{`"images":{"type":"file"}`, "images", ""},
		{`"note":{"type":"string"},"images":{"type":"string","format":"binary"}`, "images", ""},
		{`"n":{"type":"number"},"images":{"type":"string"}`, "images", ""},
		{`"a":{"type":"file"},"b":{"type":"file"}`, "", "takes several files (a, b)"},
		{`"a":{"type":"string"},"b":{"type":"string"}`, "", `no property for a file: give one "type": "file"`},
		{``, "", "no property for a file"},
	} {
		got, err := FileField([]byte(`{"type":"object","properties":{` + c.properties + `}}`))
		wantError(t, err, c.err)
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.properties, got, c.want)
		}
	}
	_, err := FileField([]byte(`{}`))
	wantError(t, err, "no property for a file")
	_, err = FileField([]byte(`{`))
	wantError(t, err, "not JSON")
}

func TestMultipart(t *testing.T) {
	const name, content = `图 "1".png`, "\x89PNG\r\n--x"
	body, contentType, length, err := Multipart("images", name, strings.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(body)
	if err != nil || int64(len(data)) != length {
		t.Fatalf("%d bytes, %v, want %d", len(data), err, length)
	}
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		t.Fatal(err)
	}
	form, err := multipart.NewReader(bytes.NewReader(data), params["boundary"]).ReadForm(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	file, err := form.File["images"][0].Open()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(file); string(got) != content || form.File["images"][0].Filename != name {
		t.Errorf("%q named %q, %v", got, form.File["images"][0].Filename, err)
	}
	if _, _, length, _ := Multipart("f", "n", strings.NewReader(""), -1); length != -1 {
		t.Errorf("length %d of a file of unknown size", length)
	}
}

func TestCheckSize(t *testing.T) {
	for _, c := range []struct {
		format, source string
		size           int64
		err            string
	}{
		{CSV, "s3://b/a.csv", 12 << 20, ""},
		{CSV, "s3://b/a.csv", 10_000_000_000, "the CSV file has 10000000000 bytes: at most 12 MB are allowed"},
		{JSON, "s3://b/a.json", 12<<20 + 1, "the request has 12582913 bytes"},
		{File, "s3://b/a.PNG", 10<<20 - 1, ""},
		{File, "https://h/a.jpg?x=.txt", 10 << 20, "the image has 10485760 bytes: it has to be under 10 MB"},
		{File, "s3://b/a.wav", 1 << 40, ""},
		{JSONLines, "s3://b/a.jsonl", 1 << 40, ""},
		{CSV, "https://h/a.csv", -1, ""},
	} {
		wantError(t, CheckSize(c.format, c.source, c.size), c.err)
	}
}

func TestFaults(t *testing.T) {
	for status, want := range map[int]Fault{200: NoFault, 204: NoFault, 302: ModelFault, 400: ItemFault, 404: ItemFault, 408: ModelFault, 413: ItemFault, 422: ItemFault, 429: ModelFault, 500: ModelFault, 503: ModelFault, 0: ModelFault} {
		if got := StatusFault(status); got != want {
			t.Errorf("%d is the fault of %q, want %q", status, got, want)
		}
	}
	reset := fmt.Errorf("post: %w", syscall.ECONNRESET)
	for _, c := range []struct {
		err     error
		leaving bool
		want    Fault
	}{
		{nil, true, NoFault}, {reset, false, ModelFault}, {reset, true, InfrastructureFault}, {errors.New("EOF"), false, ModelFault},
		{context.DeadlineExceeded, false, ModelFault}, {fmt.Errorf("post: %w", context.Canceled), false, InfrastructureFault},
	} {
		if got := RequestFault(c.err, c.leaving); got != c.want {
			t.Errorf("%v, leaving %v: the fault of %q, want %q", c.err, c.leaving, got, c.want)
		}
	}
}
