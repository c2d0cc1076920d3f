package reconcile

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Whatever is put down and dropped, the agenda answers what a map of the earliest times would.
func TestAgendaIsAMapOfEarliestTimes(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var a agenda
		want := map[string]time.Time{}
		start := time.Unix(1000, 0)
		for range 200 {
			name, at := string(rune('a'+rng.IntN(8))), start.Add(time.Duration(rng.IntN(50))*time.Second)
			switch rng.IntN(4) {
			case 0:
				a.drop(name)
				delete(want, name)
			case 1:
				var got, due []string
				a.due(at, func(name string) { got = append(got, name) })
				for _, n := range slices.Sorted(maps.Keys(want)) {
					if !at.Before(want[n]) {
						due = append(due, n)
						delete(want, n)
					}
				}
				if slices.Sort(got); !slices.Equal(got, due) {
					t.Fatalf("seed %d: due %v, want %v", seed, got, due)
				}
			default:
				a.at(name, at)
				want[name] = earlier(want[name], at)
			}
			var next time.Time
			for _, w := range want {
				next = earlier(next, w)
			}
			if !a.next().Equal(next) {
				t.Fatalf("seed %d: next %v, want %v", seed, a.next(), next)
			}
		}
		a.at("zero", time.Time{})
		a.due(start.Add(time.Hour), func(name string) {
			if name == "zero" {
				t.Error("a zero time was put down")
			}
		})
	}
}
