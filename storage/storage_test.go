package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/drover-fleet/drover/storage"
	"github.com/drover-fleet/drover/storage/storagetest"
)

func open(t *testing.T, cfg storage.Config) *storage.Storage {
	t.Helper()
	s, err := storage.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func parse(t *testing.T, s string) storage.URL {
	t.Helper()
	u, err := storage.ParseURL(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func join(t *testing.T, folder storage.URL, name string) storage.URL {
	t.Helper()
	u, err := folder.Join(name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func write(t *testing.T, s *storage.Storage, u storage.URL, content string) {
	t.Helper()
	if err := s.Write(t.Context(), u, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatal(err)
	}
}

func read(ctx context.Context, s *storage.Storage, u storage.URL, opts storage.ReadOptions) (string, error) {
	body, _, err := s.Read(ctx, u, opts)
	if err != nil {
		return "", err
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	return string(content), err
}

func wantContent(t *testing.T, s *storage.Storage, u storage.URL, want string) {
	t.Helper()
	if got, err := read(t.Context(), s, u, storage.ReadOptions{}); err != nil || got != want {
		t.Errorf("%v: %d bytes, error %v; want %d bytes", u, len(got), err, len(want))
	}
}

func wantError(t *testing.T, err, kind error) {
	t.Helper()
	var e *storage.Error
	if !errors.Is(err, kind) || !errors.As(err, &e) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v, want one line of kind %v", err, kind)
	}
}

// list returns the names in a folder.
func list(t *testing.T, s *storage.Storage, folder storage.URL, after string) []string {
	t.Helper()
	var names []string
	for o, err := range s.List(t.Context(), folder, after) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimPrefix(o.URL.Key, folder.Folder().Key))
	}
	return names
}

// TestConformance holds directories and object storage to the same behaviour.
func TestConformance(t *testing.T) {
	server := storagetest.Start(t, "jobs")
	dir := t.TempDir()
	s := open(t, storage.Config{
		Dirs:   []string{dir},
		Stores: map[string]storage.Store{storage.S3: server.Store, storage.OBS: server.Store},
	})
	for scheme, root := range map[string]string{"file": "file://" + dir, "s3": "s3://jobs", "obs": "obs://jobs"} {
		t.Run(scheme, func(t *testing.T) {
			for name, test := range map[string]func(*testing.T, *storage.Storage, storage.URL){
				"names": testNames, "listing": testListing, "pages": testPages, "sizes": testSizes, "conditions": testConditions,
				"missing": testMissing, "refused": testRefused, "writers": testWriters, "ended": testEnded,
			} {
				t.Run(name, func(t *testing.T) { test(t, s, join(t, parse(t, root), scheme+"-"+name+"/")) })
			}
		})
	}
}

func testNames(t *testing.T, s *storage.Storage, root storage.URL) {
	names := []string{"a b.txt", "a+b.txt", "100%.txt", "%41.txt", "文件/图片 一.jpg", "q?x=1&y#z", "deep/er/and/deep/er/x", "it's(1)!*~;,=@$.csv", "é.txt"}
	for _, name := range names {
		write(t, s, join(t, root, name), "content of "+name)
	}
	slices.Sort(names)
	if got := list(t, s, root, ""); !slices.Equal(got, names) {
		t.Errorf("listed %q, want %q", got, names)
	}
	for o, err := range s.List(t.Context(), root, "") {
		if err != nil {
			t.Fatal(err)
		}
		if again := parse(t, o.URL.Signed()); again != o.URL {
			t.Errorf("%v is read as %v", o.URL, again)
		}
		wantContent(t, s, o.URL, "content of "+strings.TrimPrefix(o.URL.Key, root.Key))
		if info, err := s.Stat(t.Context(), o.URL); err != nil || info.Size != o.Size || info.ETag != o.ETag || o.ETag == "" {
			t.Errorf("%v: stat %+v and error %v, listed %+v", o.URL, info, err, o)
		}
	}
}

func testListing(t *testing.T, s *storage.Storage, root storage.URL) {
	// "-" and "." go before "/", "0" behind it.
	names := []string{"a-b", "a.b/c", "a/b", "a/c/d", "a/c0", "a0", "b"}
	for _, name := range names {
		write(t, s, join(t, root, name), "x")
	}
	write(t, s, parse(t, strings.TrimSuffix(root.String(), "/")+"2/x"), "in another folder")
	if got := list(t, s, root, ""); !slices.Equal(got, names) {
		t.Errorf("listed %q, want %q", got, names)
	}
	for _, after := range []string{"a", "a-b", "a.b/c", "a/b", "a/c", "a/c/", "a/c/d", "a/c/e", "a/c0", "a/d", "b", "c"} {
		want := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n <= after })
		if got := list(t, s, root, root.Key+after); !slices.Equal(got, want) {
			t.Errorf("listed %q behind %q, want %q", got, after, want)
		}
	}
	if got := list(t, s, root, "\x00"); !slices.Equal(got, names) {
		t.Errorf("listed %q behind a key before the folder", got)
	}
	if got := list(t, s, root, root.Key+"~"); len(got) > 0 {
		t.Errorf("listed %q behind a key behind the folder", got)
	}
	if got, want := list(t, s, join(t, root, "a"), ""), []string{"b", "c/d", "c0"}; !slices.Equal(got, want) {
		t.Errorf("a folder without its slash: listed %q, want %q", got, want)
	}
	for _, c := range []struct {
		folder storage.URL
		empty  bool
	}{{root, false}, {join(t, root, "nothing/"), true}} {
		if empty, err := s.Empty(t.Context(), c.folder); err != nil || empty != c.empty {
			t.Errorf("%v: empty %v, error %v", c.folder, empty, err)
		}
	}
	for _, name := range names {
		if err := s.Delete(t.Context(), join(t, root, name)); err != nil {
			t.Error(err)
		}
	}
	if got := list(t, s, root, ""); len(got) > 0 {
		t.Errorf("%q is there after it was deleted", got)
	}
}

func testPages(t *testing.T, s *storage.Storage, root storage.URL) {
	var want []string
	for i := range 1100 {
		name := fmt.Sprintf("%d/item %04d.json", i/500, i)
		want = append(want, name)
		write(t, s, join(t, root, name), "")
	}
	if got := list(t, s, root, ""); !slices.Equal(got, want) {
		t.Errorf("listed %d objects, want %d in their order", len(got), len(want))
	}
	if got := list(t, s, root, root.Key+want[1050]); !slices.Equal(got, want[1051:]) {
		t.Errorf("listed %q behind %s", got, want[1050])
	}
	n := 0
	for range s.List(t.Context(), root, "") {
		if n++; n == 3 {
			break
		}
	}
}

func testSizes(t *testing.T, s *storage.Storage, root storage.URL) {
	for _, size := range []int{0, 1, 20 << 20} {
		u := join(t, root, fmt.Sprint(size))
		content := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
		if err := s.Write(t.Context(), u, bytes.NewReader(content), int64(size)); err != nil {
			t.Fatal(err)
		}
		wantContent(t, s, u, string(content))
		if o, err := s.Stat(t.Context(), u); err != nil || o.Size != int64(size) || o.ModTime.IsZero() {
			t.Errorf("%v: %+v, error %v", u, o, err)
		}
	}
}

func testConditions(t *testing.T, s *storage.Storage, root storage.URL) {
	u := join(t, root, "x")
	write(t, s, u, "first")
	first, err := s.Stat(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(t.Context(), s, u, storage.ReadOptions{IfETag: first.ETag, Limit: 5}); got != "first" || err != nil {
		t.Errorf("read %q, error %v", got, err)
	}
	_, err = read(t.Context(), s, u, storage.ReadOptions{Limit: 4})
	wantError(t, err, storage.ErrTooLarge)
	write(t, s, u, "other")
	_, err = read(t.Context(), s, u, storage.ReadOptions{IfETag: first.ETag})
	wantError(t, err, storage.ErrChanged)
}

func testMissing(t *testing.T, s *storage.Storage, root storage.URL) {
	u := join(t, root, "not/there")
	_, err := read(t.Context(), s, u, storage.ReadOptions{})
	wantError(t, err, storage.ErrNotFound)
	_, err = s.Stat(t.Context(), u)
	wantError(t, err, storage.ErrNotFound)
	if err := s.Delete(t.Context(), u); err != nil {
		t.Error(err)
	}
}

func testRefused(t *testing.T, s *storage.Storage, root storage.URL) {
	u := join(t, root, "x")
	write(t, s, u, "before")
	content := strings.NewReader("after")
	wantError(t, s.Write(t.Context(), root, content, 5), storage.ErrInvalid)
	wantError(t, s.Write(t.Context(), u, content, 6), storage.ErrInvalid)
	wantError(t, s.Write(t.Context(), u, content, -1), storage.ErrInvalid)
	wantError(t, s.Delete(t.Context(), root), storage.ErrInvalid)
	_, err := s.Stat(t.Context(), root)
	wantError(t, err, storage.ErrInvalid)
	wantContent(t, s, u, "before")
}

// Of several writers of one name one wins, whole.
func testWriters(t *testing.T, s *storage.Storage, root storage.URL) {
	u := join(t, root, "x")
	contents := map[string]bool{}
	for i := range 6 {
		contents[strings.Repeat(fmt.Sprintf("writer %d ", i), 20_000)] = true
	}
	var wg sync.WaitGroup
	for content := range contents {
		wg.Go(func() {
			for range 3 {
				if err := s.Write(t.Context(), u, strings.NewReader(content), int64(len(content))); err != nil {
					t.Error(err)
				}
				if got, err := read(t.Context(), s, u, storage.ReadOptions{}); err != nil && !errors.Is(err, storage.ErrNotFound) || err == nil && !contents[got] {
					t.Errorf("read %d bytes that nobody wrote, error %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
	if err := s.WriteUnsynced(t.Context(), u, strings.NewReader("last"), 4); err != nil {
		t.Error(err)
	}
	if err := s.Sync(t.Context(), root); err != nil {
		t.Error(err)
	}
	if got, err := read(t.Context(), s, u, storage.ReadOptions{}); err != nil || got != "last" {
		t.Errorf("read %q, error %v", got, err)
	}
	if got := list(t, s, root, ""); !slices.Equal(got, []string{"x"}) {
		t.Errorf("listed %q", got)
	}
}

func testEnded(t *testing.T, s *storage.Storage, root storage.URL) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u := join(t, root, "x")
	wantError(t, s.Write(ctx, u, strings.NewReader("x"), 1), context.Canceled)
	_, err := read(ctx, s, u, storage.ReadOptions{})
	wantError(t, err, context.Canceled)
	_, err = s.Empty(ctx, root)
	wantError(t, err, context.Canceled)
	if _, err := s.Stat(t.Context(), u); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what was never written: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(notPEM, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  storage.Config
		want string
	}{
		"relative directory": {storage.Config{Dirs: []string{"in"}}, "absolute"},
		"unknown scheme":     {storage.Config{Stores: map[string]storage.Store{"gs": {Endpoint: "h"}}}, "only s3 and obs"},
		"no endpoint":        {storage.Config{Stores: map[string]storage.Store{"s3": {}}}, "host or host:port"},
		"endpoint as URL":    {storage.Config{Stores: map[string]storage.Store{"s3": {Endpoint: "https://h"}}}, "without a scheme"},
		"half a credential":  {storage.Config{Stores: map[string]storage.Store{"s3": {Endpoint: "h", AccessKey: "a"}}}, "belong together"},
		"no CA file":         {storage.Config{CAFile: notPEM + ".gone"}, "no such file"},
		"CA file of a store": {storage.Config{Stores: map[string]storage.Store{"s3": {Endpoint: "h", CAFile: notPEM}}}, "no certificate"},
		"attempts":           {storage.Config{Attempts: -1}, "negative"},
	} {
		if _, err := storage.Open(c.cfg); !errors.Is(err, storage.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", name, err, c.want)
		}
	}
}
