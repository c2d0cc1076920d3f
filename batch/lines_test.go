package batch

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestRequests(t *testing.T) {
	long := `{"x":"` + strings.Repeat("x", MaxRequestBytes) + `"}`
	r := NewRequests(strings.NewReader(bom + "{\"a\":1}\r\n\n  \n[2] \n{\n" + long + "\n\"last\""))
	var got []string
	for {
		q, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if q.Err != nil {
			got = append(got, fmt.Sprintf("%d:%v", q.Line, q.Err))
		} else {
			got = append(got, fmt.Sprintf("%d:%d:%s", q.Line, q.Number, q.Body))
		}
	}
	want := []string{`1:1:{"a":1}`, "4:2:[2]", "5:row 3: line 5 is not JSON", "6:row 4: it is longer than 12582912 bytes", `7:5:"last"`}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if _, err := NewRequests(strings.NewReader("")).Next(); !errors.Is(err, io.EOF) {
		t.Errorf("empty: %v", err)
	}
}

func TestSources(t *testing.T) {
	for _, c := range []struct{ line, source, err string }{
		{`{"source":"s3://b/k"}`, "s3://b/k", ""},
		{`{"source":"obs://b/图 1.png","annotation":[{"name":"x"}]}`, "obs://b/图 1.png", ""},
		{`{"source":"file:///d/a?b"}`, "file:///d/a?b", ""},
		{`{"source":"https://h/p?sig=a/"}`, "https://h/p?sig=a/", ""},
		{`{"src":"s3://b/k"}`, "", `line 2 of the manifest: it has no "source"`},
		{`{"Source":"s3://b/k"}`, "", `it has no "source"`},
		{`{"source":7}`, "", `"source" is no string`},
		{`{"source":null}`, "", `"source" is no string`},
		{`null`, "", `it is no JSON object`},
		{`["s3://b/k"]`, "", `it is no JSON object`},
		{`s3://b/k`, "", `it is no JSON object`},
		{`{"source":"s3://b/k"} {}`, "", `it is no JSON object`},
		{`{"source":"s3://b/dir/"}`, "", `source "s3://b/dir/" names a folder`},
		{`{"source":"file:///d/"}`, "", `names a folder`},
		{`{"source":"s3://b"}`, "", `names a folder`},
		{`{"source":"https://h?sig=a/b"}`, "", `source "https://h" names a folder`},
		{`{"source":"ftp://h/p?secret"}`, "", `source "ftp://h/p" has an unknown scheme`},
		{`{"source":"http://h/p"}`, "", `unknown scheme`},
		{`{"source":"/d/a"}`, "", `unknown scheme`},
		{`{"source":""}`, "", `unknown scheme`},
		{`{"source":"s3://b/` + strings.Repeat("k", maxSource) + `"}`, "", `source has 8199 bytes`},
		{`{"source":"s3://b/k","x":"` + strings.Repeat("x", maxLine) + `"}`, "", `line 2 of the manifest: it is longer than 65536 bytes`},
	} {
		s := NewSources(strings.NewReader(bom + "\r\n" + c.line + "\r\n\n{\"source\":\"s3://b/next\"}"))
		got, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got.URL != c.source || got.Line != 2 {
			t.Errorf("%.80s: %q, line %d", c.line, got.URL, got.Line)
		}
		wantError(t, got.Err, c.err)
		if got.Err != nil && strings.Contains(got.Err.Error(), "secret") {
			t.Errorf("%v tells the query of a link", got.Err)
		}
		if next, err := s.Next(); next.URL != "s3://b/next" || next.Line != 4 || err != nil {
			t.Errorf("%.80s: then %+v, %v", c.line, next, err)
		}
		if _, err := s.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestManifestLines(t *testing.T) {
	outcomes, _ := someOutcomes()
	var file []byte
	for _, o := range outcomes[:2] {
		file = o.ManifestLine("s3://out/" + o.Name).Append(file)
	}
	want := `{"source":"s3://b/in/图40.png?<&>","result":"SUCCESSFUL","inference-loc":"s3://out/图40.png_result.txt"}
{"source":"s3://b/in/图41.png?<&>","result":"FAILED","error_message":"the model answers 400"}
`
	if string(file) != want {
		t.Errorf("got  %s\nwant %s", file, want)
	}
	m := NewManifestReader(strings.NewReader(want))
	for i, o := range outcomes[:2] {
		if l, err := m.Next(); err != nil || l != o.ManifestLine("s3://out/"+o.Name) {
			t.Errorf("line %d: %+v, %v", i+1, l, err)
		}
	}
	if _, err := m.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	for line, reason := range map[string]string{
		`{"source":"a","result":"SUCCESSFUL"}`:                                     "SUCCESSFUL needs an inference-loc",
		`{"source":"a","result":"FAILED"}`:                                         "FAILED needs an error_message",
		`{"source":"a","result":"FAILED","error_message":"x","inference-loc":"b"}`: "and no inference-loc",
		`{"source":"a","result":"done"}`:                                           `result is "done"`,
		`{"result":"FAILED","error_message":"x"}`:                                  "it has no source",
		`{"source":"a","result":"FAILED","error_message":"x","more":1}`:            `unknown field "more"`,
		`{"source":"a","res`:                                                       "not JSON",
		`{"source":"` + strings.Repeat("a", maxLine) + `"}`:                        "the line is too long",
	} {
		_, err := NewManifestReader(strings.NewReader("\n" + line)).Next()
		wantError(t, err, "line 2 of the manifest: ")
		wantError(t, err, reason)
	}
}

func TestNamesOfTheOutput(t *testing.T) {
	if got := ManifestName("t", 0) + " " + ManifestName("t", 2) + " " + ResultDirectory("t"); got != "infer-result-t.manifest infer-result-t_2.manifest infer-result-t" {
		t.Error(got)
	}
}

func FuzzSources(f *testing.F) {
	f.Add("{\"source\":\"s3://b/k\"}\n\n{\"source\":\"https://h/?\"}\r\nx")
	f.Fuzz(func(t *testing.T, content string) {
		s, m := NewSources(strings.NewReader(content)), NewManifestReader(strings.NewReader(content))
		for {
			got, err := s.Next()
			if err != nil {
				break
			}
			if (got.URL == "") != (got.Err != nil) {
				t.Errorf("%+v", got)
			}
		}
		for {
			l, err := m.Next()
			if err != nil {
				break
			}
			if err := l.check(); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzRequests(f *testing.F) {
	f.Add(bom + "{}\n\r\n1\n{")
	f.Fuzz(func(t *testing.T, content string) {
		r := NewRequests(strings.NewReader(content))
		for n := 1; ; n++ {
			q, err := r.Next()
			if err != nil {
				return
			}
			if q.Number != n || q.Err == nil && len(q.Body) == 0 {
				t.Errorf("%+v is request %d", q, n)
			}
		}
	})
}
