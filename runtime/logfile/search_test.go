package logfile

import (
	"strings"
	"testing"
)

func TestSearch(t *testing.T) {
	const text = `2026-01-02 ERROR [worker-3] request failed: path="/v1/predict", code=503 (upstream gone)`
	for query, want := range map[string]bool{
		"error":                        true,
		"erro":                         false,
		"erro*":                        true,
		"*ror":                         true,
		"e??or":                        true,
		"e?or":                         false,
		"*":                            true,
		"50?":                          true,
		"request failed":               true,
		"failed request":               false,
		"worker-* request fail*":       true,
		"predict && 503":               true,
		"predict AND 504":              false,
		"predict&&503":                 true,
		"504 || upstream gone":         true,
		"504 OR 505":                   false,
		"504 || predict && 503":        true,
		"504 && predict || 503":        true,
		"and":                          false,
		"code 503 upstream":            true,
		"failed path v1 predict code":  true,
		"ERROR AND request OR missing": true,
	} {
		s, err := ParseSearch(query)
		if err != nil {
			t.Errorf("%q: %v", query, err)
		} else if got := s.Match(text); got != want {
			t.Errorf("%q matches %v; want %v", query, got, want)
		}
	}
}

func TestSearchErrors(t *testing.T) {
	for query, want := range map[string]string{
		"":                        "empty",
		"   ":                     "empty",
		"&&":                      "no word at its start before &&",
		"a &&":                    "no word after &&",
		"a || || b":               "no word after || before ||",
		"AND b":                   "no word at its start before AND",
		"path:x":                  `delimiter ':'`,
		"a\tb":                    `delimiter '\t'`,
		"(a)":                     `delimiter '('`,
		"it's":                    `delimiter '\''`,
		"\xff":                    "UTF-8",
		strings.Repeat("a", 1025): "1025 bytes",
	} {
		if _, err := ParseSearch(query); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want an error with %q", query, err, want)
		}
	}
}

func FuzzParseSearch(f *testing.F) {
	f.Add("a* && b?c || d e", "x abc d e")
	f.Add("***?*", "")
	f.Add("a OR", "a")
	f.Fuzz(func(t *testing.T, query, text string) {
		s, err := ParseSearch(query)
		if err != nil {
			if s != nil {
				t.Fatal("both a search and an error")
			}
			return
		}
		s.Match(text)
		plain := strings.ToLower(strings.Join(strings.Fields(query), " "))
		if !strings.ContainsAny(query, "?*&|") && !strings.Contains(query, "AND") && !strings.Contains(query, "OR") && !s.Match(plain) {
			t.Fatalf("%q does not match itself", query)
		}
	})
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05.6Z stdout hello world"))
	f.Add([]byte("2026-01-02T03:04:05Z stderr "))
	f.Add([]byte("x \xff"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l := parseLine(raw, t0)
		if l.Stream == Corrupt {
			return
		}
		if strings.ContainsRune(string(raw), '\n') {
			return // a reader never passes one
		}
		again := AppendLine(nil, l.Time, l.Stream, []byte(l.Text))
		if back := parseLine(again[:len(again)-1], t0); !back.Time.Equal(l.Time) || back.Text != l.Text || back.Stream != l.Stream {
			t.Fatalf("%q read as %+v, written as %q, read as %+v", raw, l, again, back)
		}
	})
}
