package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// drawn is a table as a terminal of this width shows it; 0 is no terminal.
func drawn(t *testing.T, tab *table, width int) (out, note string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{out: &stdout, err: &stderr, terminal: width > 0, getenv: func(string) string { return "1" },
		size: func() (int, int, error) { return width, 24, nil }}
	if err := a.draw(tab, ""); err != nil {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String()
}

func TestTablesFitTheTerminal(t *testing.T) {
	tab := &table{head: []string{"NAME", "USE", "KIND", "REASON"}, spare: []string{"KIND", "USE…", "USE"}}
	tab.add(text("iris"), cell{text: "[####......]  40%", short: "40%"}, text("service"), text("two words and then some more of them, so that it is long"))
	tab.add(text("rose"), cell{}, text("service"), cell{})
	for _, tc := range []struct {
		width     int
		out, note string
	}{
		{0, "NAME  USE                KIND     REASON\n" +
			"iris  [####......]  40%  service  two words and then some more of them, so that it is long\n" +
			"rose  -                  service  -\n", ""},
		{60, "NAME  USE                KIND     REASON\n" +
			"iris  [####......]  40%  service  two words and then some\n" +
			"                                  more of them, so that it\n" +
			"                                  is long\n" +
			"rose  -                  service  -\n", ""},
		{50, "NAME  USE                REASON\n" +
			"iris  [####......]  40%  two words and then some\n" +
			"                         more of them, so that it\n" +
			"                         is long\n" +
			"rose  -                  -\n", "no room for KIND\n"},
		{40, "NAME  USE  REASON\n" +
			"iris  40%  two words and then some more\n" +
			"           of them, so that it is long\n" +
			"rose  -    -\n", "no room for KIND\n"},
		{30, "NAME  REASON\n" +
			"iris  two words and then some\n" +
			"      more of them, so that it\n" +
			"      is long\n" +
			"rose  -\n", "no room for KIND, USE\n"},
		{10, "NAME  REASON\n" +
			"iris  two words and then some more of them, so that it is long\n" +
			"rose  -\n", "no room for KIND, USE\n"},
	} {
		out, note := drawn(t, tab, tc.width)
		note = strings.NewReplacer("\x1b[2m", "", "\x1b[0m", "").Replace(note)
		if out != tc.out || note != tc.note {
			t.Errorf("width %d:\n%s%s\nwant\n%s%s", tc.width, out, note, tc.out, tc.note)
		}
	}
}

// TestLongWordsAreNotBroken: an ID that can't be copied is worse than one that the terminal wraps.
func TestLongWordsAreNotBroken(t *testing.T) {
	tab := &table{head: []string{"NAME", "ID"}, spare: []string{"NAME"}}
	id := strings.Repeat("x", 40)
	tab.add(text("iris"), text("%s", id))
	if out, note := drawn(t, tab, 42); out != "ID\n"+id+"\n" || !strings.Contains(note, "NAME") {
		t.Errorf("%q, %q", out, note)
	}
	if got := wrap("see "+id+" for more of it", 30); strings.Join(got, "|") != "see|"+id+"|for more of it" {
		t.Errorf("%q", got)
	}
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 90 * time.Second: "90s", 7 * time.Minute: "7m", 7*time.Minute + 10*time.Second: "7m10s",
		10 * time.Hour: "10h", 10*time.Hour + 10*time.Minute: "10h10m", 47*time.Hour + time.Minute: "47h1m", 50 * time.Hour: "2d",
	} {
		if got := duration(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}

func TestRangesAndParts(t *testing.T) {
	for want, numbers := range map[string][]int{"": nil, "3": {3}, "0, 1": {0, 1}, "0–2": {0, 1, 2}, "0–2, 4, 6, 7": {0, 1, 2, 4, 6, 7}} {
		if got := ranges(numbers); got != want {
			t.Errorf("%v: %q, want %q", numbers, got, want)
		}
	}
	for want, p := range map[string][2]int64{"0/0": {0, 0}, "0/80 GiB": {0, 80 << 30}, "1.5/80 GiB": {3 << 29, 80 << 30}, "0.5/80 GiB": {512 << 20, 80 << 30}, "12 MiB/80 GiB": {12 << 20, 80 << 30}, "130/512 B": {130, 512}, "0.5/1 TiB": {512 << 30, 1 << 40}} {
		if got := ofText(p[0], p[1]); got != want {
			t.Errorf("%v: %q, want %q", p, got, want)
		}
	}
}
