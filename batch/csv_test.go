package batch

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// readRows shows each row as its fields or its error.
func readRows(t testing.TB, content string) []string {
	t.Helper()
	r := NewRows(strings.NewReader(content))
	var out []string
	for {
		row, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if row.Number != len(out)+1 {
			t.Errorf("row %d has the number %d", len(out)+1, row.Number)
		}
		if row.Err != nil {
			out = append(out, row.Err.Error())
		} else {
			out = append(out, fmt.Sprintf("%d:%s", row.Line, strings.Join(row.Fields, "|")))
		}
	}
}

func TestRows(t *testing.T) {
	for _, c := range []struct {
		name, content string
		want          []string
	}{
		{"empty", "", nil},
		{"byte order mark alone", bom, nil},
		{"blank lines", "\n\r\n1,2\n\n3,4\n\n", []string{"3:1|2", "5:3|4"}},
		{"byte order mark, CRLF", bom + "1,2\r\n3,4\r\n", []string{"1:1|2", "2:3|4"}},
		{"no end of the last line", "1,2\n3,4", []string{"1:1|2", "2:3|4"}},
		{"quotes", "\"a,b\",\"c\"\"d\"\n\"two\r\nlines\",x\n1,2\n", []string{`1:a,b|c"d`, "2:two\nlines|x", "4:1|2"}},
		{"byte order mark before a quote", bom + "\"a,b\",c\n", []string{"1:a,b|c"}},
		{"Chinese", "花瓣,长度\n“引”,2\n", []string{"1:花瓣|长度", "2:“引”|2"}},
		{"ragged", "1,2\n3\n4,5,6\n7,8\n", []string{"1:1|2", "row 2: line 2: it has 1 columns, and the first row has 2",
			"row 3: line 3: it has 3 columns, and the first row has 2", "4:7|8"}},
		{"quote within a field", "1,2\n3,a\"b\n5,6\n", []string{"1:1|2", `row 2: line 2: a " within a field that doesn't begin with one: quote the field and double the "`, "3:5|6"}},
		{"text after a quote", "1,2\n\"3\"x,4\n5,6\n", []string{"1:1|2", `row 2: line 2: a quoted field doesn't end as it should: double each " within it`, "3:5|6"}},
		{"quote that isn't closed", "1,2\n3,\"4\n5,6\n", []string{"1:1|2", `row 2: line 3: a quoted field doesn't end as it should: double each " within it`}},
		{"first row is bad", "a\"b\n1,2\n3,4\n", []string{`row 1: line 1: a " within a field that doesn't begin with one: quote the field and double the "`, "2:1|2", "3:3|4"}},
		{"not UTF-8", "1,\xc4\xe3\n3,4\n", []string{"row 1, column 1: line 1: it is not UTF-8", "2:3|4"}},
		{"semicolons", "1;2\n", []string{"1:1;2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := readRows(t, c.content); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestReadersPassErrorsOn(t *testing.T) {
	gone := errors.New("the storage is gone")
	broken := func() io.Reader { return io.MultiReader(strings.NewReader("{}\n{"), iotest.ErrReader(gone)) }
	rows, requests, sources, results := NewRows(broken()), NewRequests(broken()), NewSources(broken()), NewManifestReader(iotest.ErrReader(gone))
	for name, next := range map[string]func() error{
		"rows":     func() error { _, err := rows.Next(); return err },
		"requests": func() error { _, err := requests.Next(); return err },
		"sources":  func() error { _, err := sources.Next(); return err },
		"part":     func() error { _, err := ReadPart(iotest.ErrReader(gone), 0, 0, 1); return err },
		"pack":     func() error { _, err := NewPackReader(iotest.ErrReader(gone)); return err },
		"results":  func() error { _, err := results.Next(); return err },
	} {
		var err error
		for range 3 {
			if err = next(); err != nil {
				break
			}
		}
		if !errors.Is(err, gone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add(bom + "1,2\r\n\"a\"\"\n\",\"\n\n3")
	f.Add("a\"b\n\"c")
	f.Fuzz(func(t *testing.T, content string) {
		if got := readRows(t, content); len(got) > len(content) {
			t.Errorf("%d rows of %d bytes", len(got), len(content))
		}
	})
}

func BenchmarkRows(b *testing.B) {
	const rows = 10_000
	content := strings.Repeat("5.1,3.5,1.4,0.2\n", rows)
	b.ReportAllocs()
	for b.Loop() {
		r := NewRows(strings.NewReader(content))
		n := 0
		for ; ; n++ {
			if _, err := r.Next(); err != nil {
				break
			}
		}
		if n != rows {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.N)*rows/b.Elapsed().Seconds(), "rows/s")
}
