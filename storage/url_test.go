package storage_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/storage"
)

func TestParseURL(t *testing.T) {
	for s, want := range map[string]struct {
		bucket, key string
		folder      bool
	}{
		"file:///srv/in":              {"", "srv/in", false},
		"file:///srv/in/":             {"", "srv/in/", true},
		"file:///":                    {"", "", true},
		"file:///a b/100%+#?x":        {"", "a b/100%+#?x", false},
		"s3://jobs":                   {"jobs", "", true},
		"s3://jobs/":                  {"jobs", "", true},
		"s3://jobs/in/文件.csv":         {"jobs", "in/文件.csv", false},
		"s3://jobs/a//b":              {"jobs", "a//b", false},
		"obs://jobs/in/..x/x../...":   {"jobs", "in/..x/x../...", false},
		"https://h.example:8443/a%2B": {"h.example:8443", "a%2B", false},
		"https://h.example/a?X=y&z":   {"h.example", "a", false},
		"https://h.example":           {"h.example", "", true},
	} {
		u, err := storage.ParseURL(s)
		if err != nil || u.Bucket != want.bucket || u.Key != want.key || u.IsFolder() != want.folder {
			t.Errorf("%s: %q %q, folder %v, error %v", s, u.Bucket, u.Key, u.IsFolder(), err)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for s, want := range map[string]string{
		"":                                 "no scheme",
		"/srv/in":                          "no scheme",
		"gs://jobs/x":                      "unknown scheme",
		"http://h.example/x":               "unknown scheme",
		"S3://jobs/x":                      "unknown scheme",
		"file://srv/in":                    "three slashes",
		"file:///srv//in":                  "empty segment",
		"file:////srv":                     "empty segment",
		"file:///srv/../etc/passwd":        `".."`,
		"file:///srv/.":                    `"."`,
		"file:///srv/a\x00b":               "control characters",
		"file:///srv/a\nb":                 "control characters",
		"s3://jobs/\xff":                   "UTF-8",
		"s3:///x":                          "no valid bucket",
		"s3://a/x":                         "no valid bucket",
		"s3://jobs?x/y":                    "no valid bucket",
		"s3://jobs/../x":                   `".."`,
		"s3://jobs/" + longKey:             "1025 bytes",
		"https://":                         "not a link",
		"https://h.example/%zz":            "not a link",
		"https://h.example/a/%2e%2e/b":     `".."`,
		"https://me:pw@h.example/a":        "a user or a fragment",
		"https://h.example/a?secret=1#end": "a user or a fragment",
		"https:///a":                       "not a link",
	} {
		_, err := storage.ParseURL(s)
		if !errors.Is(err, storage.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error %v, want one that says %q", s, err, want)
		}
	}
}

var longKey = strings.Repeat("k", 1025)

func TestUnsigned(t *testing.T) {
	for s, want := range map[string]string{
		"https://h.example/a b?sig=secret":   "https://h.example/a%20b",
		"https://h.example/a?sig=secret#end": "https://h.example/a", // no URL that is taken
		"file:///a b/100%+#?x":               "file:///a b/100%+#?x",
		"s3://jobs/in/文件.csv?x":              "s3://jobs/in/文件.csv?x",
		"a.manifest:3":                       "a.manifest:3",
	} {
		if got := storage.Unsigned(s); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
}

// The query of a link is in nothing but Signed.
func TestSignatureIsHidden(t *testing.T) {
	u := parse(t, "https://h.example/a?sig=secret")
	if got := u.Signed(); got != "https://h.example/a?sig=secret" {
		t.Errorf("signed %s", got)
	}
	for _, got := range []string{u.String(), fmt.Sprint(u), fmt.Sprintf("%v %+v %#v %s", u, u, u, u)} {
		if strings.Contains(got, "secret") {
			t.Errorf("shown as %s", got)
		}
	}
	for _, s := range []string{"https://h.example/%zz?sig=secret", "https://x:secret@h.example/%zz", "https://h.example/a?sig=secret#x", "https://h.example/..?sig=secret", "https://h\x01/?secret", "http://x:secret@h.example/?secret", "HTTPS://h.example/a?secret", "h.example?secret"} {
		if _, err := storage.ParseURL(s); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %v", s, err)
		}
	}
}

func TestJoin(t *testing.T) {
	for _, c := range []struct{ folder, name, want string }{
		{"s3://jobs/out", "x.json", "s3://jobs/out/x.json"},
		{"s3://jobs", "a/b", "s3://jobs/a/b"},
		{"file:///srv/out/", "a b", "file:///srv/out/a b"},
		{"file:///srv/out/", "../etc", ""},
		{"file:///srv/out/", "/etc", ""},
		{"https://h.example/a", "b", ""},
	} {
		got, err := parse(t, c.folder).Join(c.name)
		if (err != nil) != (c.want == "") || err == nil && got.String() != c.want {
			t.Errorf("%s and %s: %v, error %v; want %q", c.folder, c.name, got, err, c.want)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"file:///srv/a b", "s3://jobs/文件?x#y", "obs://jobs/", "https://h.example:1/a%2Fb?sig=x", "https://u@h/", "https://%80", "s3://../x", "file:///a/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := storage.ParseURL(s)
		if err != nil {
			if !errors.Is(err, storage.ErrInvalid) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v", err)
			}
			return
		}
		if again, err := storage.ParseURL(u.Signed()); err != nil || again != u {
			t.Errorf("%q is %#v, which is read as %#v, error %v", s, u, again, err)
		}
		for part := range strings.SplitSeq(u.Key, "/") {
			if part == "." || part == ".." {
				t.Errorf("%q has the key %q", s, u.Key)
			}
		}
	})
}

// TestUnsignedSources: what signs a link is in no line of a manifest, also when the link is wrong.
func TestUnsignedSources(t *testing.T) {
	for source, want := range map[string]string{
		"https://h/a?sig=secret":      "https://h/a",
		"https://h/a/../b?sig=secret": "https://h/a/../b",
		"https://h/a?sig=secret#x":    "https://h/a",
		"file:///d/a?b":               "file:///d/a?b",
		"s3://bucket/a?b":             "s3://bucket/a?b",
		"in.manifest:7":               "in.manifest:7",
	} {
		if got := storage.Unsigned(source); got != want {
			t.Errorf("%s is shown as %s, want %s", source, got, want)
		}
	}
}
