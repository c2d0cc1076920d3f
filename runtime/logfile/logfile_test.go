package logfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func write(t *testing.T, w *Writer, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := w.WriteLine(t0.Add(time.Duration(i)*time.Second), Stdout, fmt.Appendf(nil, "line %d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, dir string, q Query) []Line {
	t.Helper()
	var lines []Line
	err := Read(t.Context(), dir, q, func(batch []Line) error {
		lines = append(lines, batch...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func texts(lines []Line) string {
	var all []string
	for _, l := range lines {
		all = append(all, l.Text)
	}
	return strings.Join(all, "|")
}

func TestRotationKeepsTheNewest(t *testing.T) {
	dir := t.TempDir()
	w := NewWriter(filepath.Join(dir, "1"), Options{MaxBytes: 100, MaxFiles: 3})
	write(t, w, 0, 100)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	numbers, err := segmentNumbers(filepath.Join(dir, "1"))
	if err != nil || len(numbers) != 3 {
		t.Fatalf("segments %v, %v; want 3", numbers, err)
	}
	for _, n := range numbers {
		info, err := os.Stat(filepath.Join(dir, "1", segmentName(n)))
		if err != nil || info.Size() > 100 {
			t.Errorf("segment %d: %v, %v; want at most 100 bytes", n, info, err)
		}
	}
	lines := read(t, dir, Query{})
	if len(lines) < 3 || lines[len(lines)-1].Text != "line 99" {
		t.Fatalf("read %q; want the newest lines", texts(lines))
	}
	for i := 1; i < len(lines); i++ {
		if lines[i].Time.Sub(lines[i-1].Time) != time.Second {
			t.Fatalf("hole between %v and %v", lines[i-1], lines[i])
		}
	}
}

func TestReadSelects(t *testing.T) {
	dir := t.TempDir()
	for attempt := 1; attempt <= 2; attempt++ {
		w := NewWriter(filepath.Join(dir, fmt.Sprint(attempt)), Options{MaxBytes: 120, MaxFiles: 10})
		write(t, w, (attempt-1)*10, attempt*10)
		w.Close()
	}
	search, err := ParseSearch("line 1?")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		q     Query
		count int
		first string
	}{
		"all":          {Query{}, 20, "line 0"},
		"attempt":      {Query{Attempt: 2}, 10, "line 10"},
		"tail":         {Query{Tail: 13}, 13, "line 7"},
		"tail of one":  {Query{Tail: 3, Attempt: 1}, 3, "line 7"},
		"tail of more": {Query{Tail: 99}, 20, "line 0"},
		"since":        {Query{Since: t0.Add(15 * time.Second)}, 5, "line 15"},
		"until":        {Query{Until: t0.Add(4 * time.Second)}, 5, "line 0"},
		"search":       {Query{Search: search}, 10, "line 10"},
		"search tail":  {Query{Search: search, Tail: 2}, 2, "line 18"},
		"nothing":      {Query{Attempt: 7}, 0, ""},
	} {
		lines := read(t, dir, c.q)
		if len(lines) != c.count || (c.count > 0 && lines[0].Text != c.first) {
			t.Errorf("%s: %q; want %d lines from %q", name, texts(lines), c.count, c.first)
		}
	}
	if lines := read(t, filepath.Join(dir, "none"), Query{}); len(lines) != 0 {
		t.Errorf("missing directory: %v; want nothing", lines)
	}
	fails := errors.New("client left")
	if err := Read(t.Context(), dir, Query{}, func([]Line) error { return fails }); !errors.Is(err, fails) {
		t.Errorf("emit's error: %v; want it", err)
	}
}

func TestCorruptAndPartialLines(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "1"), 0o755); err != nil {
		t.Fatal(err)
	}
	stamp := t0.Format(time.RFC3339Nano)
	first := stamp + " stdout good\n" + "garb\xffage\n" + stamp + " stdnone x\n" + strings.Repeat("x", lineBuffer+10) + "\n" + stamp + " stderr cut off"
	second := stamp + " stdout next\n" + stamp + " stdout not yet a li"
	for name, content := range map[string]string{"00000001.log": first, "00000002.log": second, "other": "ignored"} {
		if err := os.WriteFile(filepath.Join(dir, "1", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	lines := read(t, dir, Query{})
	got := make([]string, len(lines))
	for i, l := range lines {
		got[i] = fmt.Sprintf("%s:%.20s", l.Stream, l.Text)
		if !l.Time.Equal(t0) {
			t.Errorf("line %d has time %v; want %v", i, l.Time, t0)
		}
	}
	want := []string{"stdout:good", "corrupt:garb\uFFFDage", "corrupt:" + stamp, "corrupt:xxxxxxxxxxxxxxxxxxxx", "corrupt:xxxxxxxxxx", "stderr:cut off", "stdout:next"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("read %q\nwant %q", got, want)
	}
}

func TestWriterSurvivesAFailedWrite(t *testing.T) {
	dir := t.TempDir()
	w := NewWriter(filepath.Join(dir, "1"), Options{})
	write(t, w, 0, 1)
	kept := w.file
	broken, err := os.Open(os.DevNull) // read only: every write fails
	if err != nil {
		t.Fatal(err)
	}
	w.file = broken
	if err := w.WriteLine(t0, Stdout, []byte("lost")); err == nil {
		t.Fatal("a write to a read-only file succeeded")
	}
	broken.Close()
	w.file, w.torn = kept, true
	write(t, w, 1, 2)
	w.Close()
	if got := texts(read(t, dir, Query{})); got != "line 0|line 1" {
		t.Errorf("read %q", got)
	}
	if err := NewWriter("/dev/null/x", Options{}).WriteLine(t0, Stdout, nil); err == nil {
		t.Error("a directory that cannot be made gave no error")
	}
}

func TestFollow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "instance")
	w := NewWriter(filepath.Join(dir, "1"), Options{MaxBytes: 100, MaxFiles: 100})
	write(t, w, 0, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan Line, 1000)
	done := make(chan error, 1)
	go func() {
		done <- Read(ctx, dir, Query{Tail: 1, Follow: true}, func(lines []Line) error {
			for _, l := range lines {
				got <- l
			}
			return nil
		})
	}()
	expect := func(text string, attempt uint32) {
		t.Helper()
		select {
		case l := <-got:
			if l.Text != text || l.Attempt != attempt {
				t.Fatalf("got %+v; want %q of attempt %d", l, text, attempt)
			}
		case err := <-done:
			t.Fatalf("follow ended: %v", err)
		}
	}
	expect("line 2", 1)
	for i := 3; i < 30; i++ { // over several segments
		write(t, w, i, i+1)
		expect(fmt.Sprintf("line %d", i), 1)
	}
	w.Close()
	w = NewWriter(filepath.Join(dir, "2"), Options{})
	write(t, w, 30, 31)
	expect("line 30", 2)
	if _, err := w.file.WriteString(t0.Format(time.RFC3339Nano) + " stdout in "); err != nil {
		t.Fatal(err)
	}
	if _, err := w.file.WriteString("two\n"); err != nil {
		t.Fatal(err)
	}
	expect("in two", 2)
	w.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("after the directory went: %v; want nil", err)
	}
}

func TestFollowEnds(t *testing.T) {
	dir := t.TempDir()
	none := func([]Line) error { return nil }
	if err := Read(t.Context(), dir, Query{Follow: true, Until: time.Now().Add(10 * time.Millisecond)}, none); err != nil {
		t.Errorf("until: %v; want nil", err)
	}
	for _, missing := range []string{dir, filepath.Join(dir, "none")} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := Read(ctx, missing, Query{Follow: true}, none); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ctx: %v; want its error", err)
		}
		cancel()
	}
}

func TestFollowWaitsForTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	enough := errors.New("enough")
	done := make(chan error, 1)
	go func() {
		done <- Read(ctx, dir, Query{Follow: true}, func([]Line) error { return enough })
	}()
	write(t, NewWriter(filepath.Join(dir, "1"), Options{}), 0, 1)
	if err := <-done; !errors.Is(err, enough) {
		t.Errorf("follow: %v; want the line", err)
	}
}
