package member

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// parse reads members such as "V:alive v:dead n:ready n": V leads, v votes, n doesn't.
func parse(text string) []standing {
	var all []standing
	for i, word := range strings.Fields(text) {
		kind, state, _ := strings.Cut(word, ":")
		all = append(all, standing{
			id: string(rune('a' + i)), name: string(rune('A' + i)), voter: strings.EqualFold(kind, "v"), self: kind == "V",
			alive: kind == "V" || state == "alive" || state == "ready", dead: state == "dead", ready: state == "ready",
		})
	}
	return all
}

func TestNext(t *testing.T) {
	for _, c := range []struct{ members, want string }{
		{"V", ""},
		{"V n:ready", ""}, // two voters fail more often than one
		{"V n:ready n:alive", ""},
		{"V n:ready n:ready", "promote b"},
		{"V v:alive n:ready", "promote c"},
		{"V v:alive n:alive", ""},
		{"V v:alive v:alive n:ready", ""}, // a spare
		{"V v:alive v:alive n:ready n:ready", "promote d"},
		{"V v:alive v:alive v:alive n:ready", "promote e"},
		{"V v:alive v:alive v:alive v:alive n:ready n:ready", ""},
		{"V v:alive v:down", ""},
		{"V v:alive v:down n:ready", ""},
		{"V v:alive v:dead", ""}, // never fewer than three of three
		{"V v:alive v:dead n:alive", ""},
		{"V v:alive v:dead n:ready", "promote d"},
		{"V v:alive v:dead v:alive", "remove c"},
		{"V v:alive v:dead v:alive n:ready", "remove c"},
		{"V v:alive v:dead v:alive v:alive", "remove c"},
		{"V v:alive v:dead v:dead v:alive", "remove c"},
		{"V v:alive v:dead v:dead v:down", ""}, // two alive: less than MinVoters
		{"V v:alive n:dead", "remove c"},
		{"V v:alive v:alive n:dead n:ready", "remove d"},
		{"V n:dead", "remove b"},
	} {
		got := next(parse(c.members), 3)
		text := ""
		if got.promote != "" {
			text = "promote " + got.promote
		}
		if got.remove != "" {
			text += "remove " + got.remove
		}
		if text != c.want {
			t.Errorf("%s: %q (%s), want %q", c.members, text, got.why, c.want)
		}
	}
}

// Whatever the members are, a removal leaves a majority alive, and nobody is removed who answers.
func TestNextNeverLosesQuorum(t *testing.T) {
	words := []string{"v:alive", "v:down", "v:dead", "n:ready", "n:alive", "n:dead"}
	var walk func(prefix string, left int)
	seen := 0
	walk = func(prefix string, left int) {
		all := parse(prefix)
		c := next(all, 1) // no floor but the majority
		voters, alive := 0, 0
		for _, s := range all {
			if s.id == c.remove {
				seen++
				if s.alive || s.self {
					t.Fatalf("%s: %s is alive and would be removed", prefix, s.id)
				}
				continue
			}
			if s.voter {
				voters++
				if s.alive {
					alive++
				}
			}
		}
		if c.remove != "" && alive < majority(voters) && next(all, 1).why != "it is dead and has no vote" {
			t.Fatalf("%s: after removing %s %d of %d voters are alive", prefix, c.remove, alive, voters)
		}
		if left > 0 {
			for _, w := range words {
				walk(prefix+" "+w, left-1)
			}
		}
	}
	walk("V", 5)
	if seen == 0 {
		t.Error("nothing was ever removed")
	}
}

func TestJudge(t *testing.T) {
	const s, h = time.Second, time.Hour
	for _, c := range []struct {
		offsets []time.Duration
		voters  int
		want    verdict
		by      time.Duration
	}{
		{nil, 1, clockInLine, 0},
		{[]time.Duration{s / 10, -s / 10}, 3, clockInLine, 0},
		{[]time.Duration{h, s / 10}, 3, clockInLine, 0}, // it is the other one
		{[]time.Duration{h, h + s/10}, 3, clockOutOfLine, -h - s/10},
		{[]time.Duration{-h, -h}, 3, clockOutOfLine, h},
		{[]time.Duration{h, -h}, 3, clockUnknown, 0},
		{[]time.Duration{h}, 3, clockUnknown, 0}, // one against one
		{[]time.Duration{s / 10}, 3, clockInLine, 0},
		{nil, 3, clockUnknown, 0},
		{[]time.Duration{h}, 2, clockUnknown, 0},
		{[]time.Duration{h, h, h, 0}, 5, clockOutOfLine, -h},
		{[]time.Duration{h, h, 0, 0}, 5, clockInLine, 0},
		{[]time.Duration{h, h, 0}, 5, clockUnknown, 0},
	} {
		if v, by := judge(c.offsets, c.voters, s); v != c.want || by != c.by {
			t.Errorf("%v of %d: %v by %v, want %v by %v", c.offsets, c.voters, v, by, c.want, c.by)
		}
	}
}

func TestClockDoesNotFollowJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var shift time.Duration
		c := NewClock(func() time.Time { return time.Now().Add(shift) })
		passed := func() time.Duration { return c.Now().Sub(start) }
		time.Sleep(time.Minute)
		shift = 300 * time.Millisecond // a step of the kind that an NTP client makes
		if got := passed(); got != time.Minute+shift {
			t.Fatalf("%v have passed, want a minute and the step", got)
		}
		for _, jumpBy := range []time.Duration{time.Hour, -time.Hour} {
			before := shift
			shift += jumpBy
			at := passed()
			time.Sleep(90 * time.Minute)
			if got := passed() - at; got != 90*time.Minute {
				t.Errorf("after a jump by %v: 90 minutes took %v", jumpBy, got)
			}
			if by, jumped := c.Jumped(); !jumped || by != jumpBy {
				t.Errorf("jumped %v by %v, want by %v", jumped, by, jumpBy)
			}
			shift = before // the operator puts it right
			if _, jumped := c.Jumped(); jumped {
				t.Error("the clock is back and still counts as jumped")
			}
		}
		shift += time.Hour
		c.Accept()
		if got := c.Now(); !got.Equal(c.Wall()) {
			t.Errorf("after it was accepted: %v, the wall clock shows %v", got, c.Wall())
		}
	})
}

func TestFresh(t *testing.T) {
	var f fresh
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	if !f.since(100).IsZero() {
		t.Error("nothing was told yet")
	}
	f.told(at(1), 10, 9)
	if !f.since(9).IsZero() {
		t.Error("it is not caught up yet")
	}
	f.told(at(2), 20, 9)
	if got := f.since(10); !got.Equal(at(1)) {
		t.Errorf("what was told first is reached: %v", got)
	}
	f.told(at(3), 20, 15)
	f.told(at(4), 30, 15)
	if got := f.since(20); !got.Equal(at(3)) {
		t.Errorf("as of %v, want 3", got)
	}
	f.told(at(5), 20, 20)
	if got := f.since(20); !got.Equal(at(5)) {
		t.Errorf("as of %v, want 5", got)
	}
}
