package lookup

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// A published directory stays as it is whatever is done to copies of it, and each copy has exactly what was put in.
func TestDirectoryCopies(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	d, want := newDirectory(), map[key]*entry{}
	for round := range 50 {
		next, expected := d.copy(), map[key]*entry{}
		for k, e := range want {
			expected[k] = e
		}
		for range 40 {
			k := key{"p", fmt.Sprint("s", rng.IntN(600))}
			if rng.IntN(3) == 0 {
				next.set(k, nil)
				delete(expected, k)
			} else {
				expected[k] = &entry{id: fmt.Sprint(round)}
				next.set(k, expected[k])
			}
		}
		for i := range 600 {
			k := key{"p", fmt.Sprint("s", i)}
			if d.at(k) != want[k] {
				t.Fatalf("round %d: the copied directory has changed at %v", round, k)
			}
			if next.at(k) != expected[k] {
				t.Fatalf("round %d: the copy has %v at %v, not %v", round, next.at(k), k, expected[k])
			}
		}
		d, want = next, expected
	}
}

// BenchmarkServiceComes is what a new service costs that is one of many.
func BenchmarkServiceComes(b *testing.B) {
	d := newDirectory()
	for i := range 10_000 {
		d.set(key{"default", fmt.Sprint("service-", i)}, &entry{})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		next := d.copy()
		next.set(key{"default", fmt.Sprint("other-", i)}, &entry{})
		next.set(key{"default", fmt.Sprint("id-", i)}, &entry{})
	}
}
