package storage

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"testing"
)

// A directory that is read in parts is listed as one that is read at once, from wherever a listing begins.
func TestWalkInParts(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the names of a test
	var keys []string
	for i := range 300 {
		key := fmt.Sprintf("%c", "a-./0b"[random.IntN(6)])
		if key == "." || key == "/" {
			key = "d" + key
		}
		for range random.IntN(3) {
			key += fmt.Sprintf("%c", "-./0z"[random.IntN(5)])
		}
		key = path.Clean(key + fmt.Sprint(i))
		keys = append(keys, key)
		if err := root.MkdirAll(path.Dir(key), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := root.WriteFile(key, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(keys)
	for _, atOnce := range []int{1, 2, 7, 1000} {
		for _, after := range append([]string{"", "d", "d/", "zz"}, keys[0], keys[150], keys[299]) {
			var got []string
			w := walk{ctx: t.Context(), root: root, atOnce: atOnce, yield: func(o Object, err error) bool {
				if err != nil {
					t.Error(err)
				}
				got = append(got, o.URL.Key)
				return true
			}}
			w.dir(".", URL{Scheme: File}, after)
			want := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k <= after })
			if !slices.Equal(got, want) {
				t.Fatalf("%d at once behind %q: %d of %d keys, or another order", atOnce, after, len(got), len(want))
			}
		}
	}
}

func BenchmarkListFiles(b *testing.B) {
	dir := b.TempDir()
	for i := range 10_000 {
		if err := os.WriteFile(path.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	s, err := Open(Config{Dirs: []string{dir}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range s.List(b.Context(), URL{Scheme: File, Key: dir[1:]}, "") {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 10_000 {
			b.Fatalf("listed %d files", n)
		}
	}
}

func BenchmarkWriteAndReadFile(b *testing.B) {
	dir := b.TempDir()
	s, err := Open(Config{Dirs: []string{dir}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	u := URL{Scheme: File, Key: dir[1:] + "/x"}
	content := bytes.NewReader(make([]byte, 4096))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Write(b.Context(), u, content, content.Size()); err != nil {
			b.Fatal(err)
		}
		body, _, err := s.Read(b.Context(), u, ReadOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			b.Fatal(err)
		}
		body.Close()
	}
}
