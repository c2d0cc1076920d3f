package batch

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("长", 100) + ".png"
	for _, c := range []struct {
		name          string
		sources, want []string
	}{
		{"base names", []string{"s3://b/in/a.csv", "s3://b/in/b.csv"}, []string{"a.csv_result.txt", "b.csv_result.txt"}},
		{"as much of the path as needed", []string{"s3://b/p/x/a", "s3://b/p/y/a", "s3://b/q/y/a", "s3://c/q/y/a"},
			[]string{"a_result.txt", "y__a_result.txt", "q__y__a_result.txt", "c__q__y__a_result.txt"}},
		{"a path that looks like a base name", []string{"file:///d/a", "file:///d/x__a", "file:///d/x/a", "file:///e/x__a"},
			[]string{"a_result.txt", "x__a_result.txt", "d__x__a_result.txt", "e__x__a_result.txt"}},
		{"the same input twice", []string{"obs://b/a", "obs://b/a", "obs://b/a", "obs://b/a"},
			[]string{"a_result.txt", "b__a_result.txt", "b__a__2_result.txt", "b__a__3_result.txt"}},
		{"a signed link", []string{"https://h:8/p%20q/a%2Fb.png?X-Sig=se/cret"}, []string{"b.png_result.txt"}},
		{"what no file is called", []string{"s3://b/a\n\x00\xff?.csv", "s3:///", ""}, []string{"a___?.csv_result.txt", "input_result.txt", "input__2_result.txt"}},
		{"long", []string{"s3://b/" + long}, []string{"cf1e39b2d0bd4b19_" + strings.Repeat("长", 74) + ".png_result.txt"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, again := NewNamer(), NewNamer()
			var got []string
			for i, s := range c.sources {
				got = append(got, n.Name(s))
				if len(got[i]) > maxName || !utf8.ValidString(got[i]) || strings.Contains(got[i], "/") {
					t.Errorf("%q is no name of a file", got[i])
				}
			}
			if c.name == "long" { // the hash is whatever it is
				c.want[0] = got[0][:16] + c.want[0][16:]
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			for i, s := range c.sources { // as if it had been told the first half
				if i < len(got)/2 {
					again.Take(got[i])
				} else if name := again.Name(s); name != got[i] {
					t.Errorf("going on at input %d: %q, want %q", i, name, got[i])
				}
			}
		})
	}
}

func TestOneInputManyTimes(t *testing.T) {
	n, seen := NewNamer(), map[string]bool{}
	for range 20_000 {
		name := n.Name("s3://b/p/a.csv")
		if seen[name] {
			t.Fatalf("%s is given twice", name)
		}
		seen[name] = true
	}
}

func TestDeepPathManyTimes(t *testing.T) {
	n, seen := NewNamer(), map[string]bool{}
	source := "s3://b/" + strings.Repeat("d/", 4000) + "a"
	for range 100 {
		name := n.Name(source)
		if seen[name] || len(name) > maxName {
			t.Fatalf("named %q", name)
		}
		seen[name] = true
	}
}

func FuzzNames(f *testing.F) {
	f.Add("s3://b/x/a\ns3://b/x__a\ns3://b/y/x/a\nfile:///x/a")
	f.Add("https://h/%zz?a\nhttps://[::1\n" + strings.Repeat("/é", 300))
	f.Fuzz(func(t *testing.T, sources string) {
		n, seen := NewNamer(), map[string]bool{}
		for s := range strings.SplitSeq(sources, "\n") {
			name := n.Name(s)
			if seen[name] || len(name) > maxName || strings.ContainsAny(name, "/\x00\n") || !utf8.ValidString(name) {
				t.Fatalf("input %q is named %q", s, name)
			}
			seen[name] = true
		}
	})
}

func BenchmarkNamer(b *testing.B) {
	const names = 1_000_000
	sources := make([]string, names)
	for i := range sources {
		sources[i] = fmt.Sprintf("s3://bucket/prefix/%03d/img-%07d.png", i%1000, i/2)
	}
	var before, after runtime.MemStats
	b.ReportAllocs()
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		n := NewNamer()
		for _, s := range sources {
			n.Name(s)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(n)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/names, "B/name")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/names, "ns/name")
}
