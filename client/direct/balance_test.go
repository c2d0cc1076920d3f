package direct

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// clock is one that tests advance.
type clock struct{ now time.Time }

func balancer(seed uint64, list ...Endpoint) (*Balancer, *clock) {
	c := &clock{time.Unix(1_000_000, 0)}
	b := NewBalancer(func() time.Time { return c.now }, rand.New(rand.NewPCG(seed, 1)).IntN)
	b.Update(list)
	return b, c
}

func pick(t *testing.T, b *Balancer, tried ...Endpoint) Pick {
	t.Helper()
	p, ok := b.Pick(tried...)
	if !ok {
		t.Fatalf("no endpoint is left beside %v", tried)
	}
	return p
}

// The share of each version is its weight, whatever the number of its endpoints and whichever of them are ejected.
func TestWeightsAreKept(t *testing.T) {
	const picks = 20_000
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var list []Endpoint
		weights, left := map[string]int{}, 100
		for v := 0; v < 4; v++ {
			w := rng.IntN(left + 1)
			if v == 3 {
				w = left
			}
			left -= w
			name := string(rune('a' + v))
			weights[name] = w
			for range 2 + rng.IntN(6) {
				list = append(list, endpoint(len(list), name, w))
			}
		}
		b, _ := balancer(seed, list...)
		ejected := map[string]bool{}
		for name := range weights { // one of each
			if i := slices.IndexFunc(list, func(e Endpoint) bool { return e.ModelVersion == name && e.Weight > 0 }); i >= 0 {
				pickOf(t, b, list[i]).Done(Failed)
				ejected[list[i].InstanceID] = true
			}
		}
		got := map[string]int{}
		var open []Pick
		for range picks {
			p := pick(t, b)
			got[p.Endpoint.ModelVersion]++
			if ejected[p.Endpoint.InstanceID] {
				t.Fatalf("seed %d: an ejected endpoint was chosen", seed)
			}
			if open = append(open, p); len(open) > 30 {
				i := rng.IntN(len(open))
				open[i].Done(Succeeded)
				open = slices.Delete(open, i, i+1)
			}
		}
		for name, w := range weights {
			want := float64(w) / 100
			if share := float64(got[name]) / picks; math.Abs(share-want) > 5*math.Sqrt(want*(1-want)/picks) {
				t.Errorf("seed %d: version %s with weight %d had %.3f of the calls", seed, name, w, share)
			}
		}
	}
}

// pickOf picks until it gets one endpoint.
func pickOf(t *testing.T, b *Balancer, e Endpoint) Pick {
	t.Helper()
	for range 100_000 {
		p := pick(t, b)
		if p.Endpoint == e {
			return p
		}
		p.Done(Abandoned)
	}
	t.Fatalf("%v is never chosen", e)
	return Pick{}
}

// Whatever happens: who has left is never chosen, who is ejected only while nobody else is there, and somebody always is.
func TestBalancerHolds(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var all []Endpoint
		for i := range 12 {
			all = append(all, endpoint(i, string(rune('a'+i%3)), []int{70, 30, 0}[i%3]))
		}
		b, c := balancer(seed)
		var list []Endpoint
		var open []Pick
		for step := range 3000 {
			c.now = c.now.Add(time.Duration(rng.IntN(50)) * time.Millisecond)
			if step%100 == 0 {
				list = nil
				for _, e := range all {
					if rng.IntN(2) == 0 {
						list = append(list, e)
					}
				}
				b.Update(append(list, list...)) // twice is once
			}
			serve := slices.DeleteFunc(slices.Clone(list), func(e Endpoint) bool { return e.Weight == 0 })
			ejected := func(e Endpoint) bool { return b.targets[key(e)].until.After(c.now) }
			healthy := slices.DeleteFunc(slices.Clone(serve), ejected)
			p, ok := b.Pick()
			switch {
			case ok != (len(serve) > 0):
				t.Fatalf("seed %d: chosen %v of %v", seed, p.Endpoint, serve)
			case !ok:
				continue
			case !slices.Contains(serve, p.Endpoint):
				t.Fatalf("seed %d: chosen %v, which has left or has no weight", seed, p.Endpoint)
			case !slices.Contains(healthy, p.Endpoint):
				t.Fatalf("seed %d: chosen %v, which is ejected, of %v", seed, p.Endpoint, healthy)
			}
			if q, ok := b.Pick(p.Endpoint); ok == (len(serve) == 1) || ok && q.Endpoint == p.Endpoint {
				t.Fatalf("seed %d: chosen %v (%v) after %v", seed, q.Endpoint, ok, p.Endpoint)
			} else if ok {
				q.Done(Abandoned)
			}
			if open = append(open, p); len(open) > 10 {
				i := rng.IntN(len(open))
				open[i].Done(Outcome(rng.IntN(3)))
				open = slices.Delete(open, i, i+1)
			}
		}
		for _, p := range open {
			p.Done(Succeeded)
		}
		for _, target := range b.targets {
			if target.inFlight != 0 {
				t.Errorf("seed %d: %d calls in flight after all have ended", seed, target.inFlight)
			}
		}
	}
}

func TestLessLoadedIsChosen(t *testing.T) {
	b, _ := balancer(1, e1, e2)
	for range 10 { // of two, both are looked at
		p, q := pick(t, b), pick(t, b)
		if p.Endpoint == q.Endpoint {
			t.Fatalf("the second call went to %v as well", q.Endpoint)
		}
		p.Done(Succeeded)
		if r := pick(t, b); r.Endpoint != p.Endpoint {
			t.Fatalf("the third call went to the endpoint with one in flight")
		} else {
			r.Done(Succeeded)
		}
		q.Done(Succeeded)
	}
}

func TestEjectionGrows(t *testing.T) {
	b, c := balancer(1, e1, e2)
	for _, seconds := range []float64{1, 2, 4, 8, 16, 32, 60, 60} {
		want := time.Duration(seconds * float64(time.Second))
		pickOf(t, b, e1).Done(Failed)
		for _, part := range []time.Duration{0, want - 1} {
			c.now = c.now.Add(part)
			for range 50 {
				if p := pick(t, b); p.Endpoint != e2 {
					t.Fatalf("an endpoint was chosen that is ejected for %v", want)
				} else {
					p.Done(Succeeded)
				}
			}
		}
		c.now = c.now.Add(1)
	}
	pickOf(t, b, e1).Done(Succeeded)
	c.now = c.now.Add(time.Second)
	pickOf(t, b, e1).Done(Failed)
	c.now = c.now.Add(time.Second)
	pickOf(t, b, e1).Done(Abandoned) // back after 1 s: the answer has reset it
}

// Calls that were in flight together fail together: they are one failure.
func TestOneIncidentIsOneEjection(t *testing.T) {
	b, c := balancer(1, e1, e2)
	var open []Pick
	for range 40 { // half of them go to each
		if p := pick(t, b); p.Endpoint == e1 {
			open = append(open, p)
		}
	}
	late := open[0]
	open = open[1:]
	c.now = c.now.Add(time.Millisecond)
	for _, p := range open {
		p.Done(Failed)
	}
	late.Done(Succeeded) // began before: it doesn't bring e1 back
	if p := pick(t, b); p.Endpoint != e2 {
		t.Error("an old success has ended the ejection")
	}
	c.now = c.now.Add(firstEjection)
	pickOf(t, b, e1).Done(Abandoned)
}

func TestNeverEjectsAll(t *testing.T) {
	b, c := balancer(1, e1, e2)
	pickOf(t, b, e1).Done(Failed)
	c.now = c.now.Add(time.Millisecond)
	pickOf(t, b, e2).Done(Failed)
	c.now = c.now.Add(time.Millisecond)
	pickOf(t, b, e1).Done(Abandoned)
	pickOf(t, b, e2).Done(Abandoned)

	pickOf(t, b, e1).Done(Failed)
	b.Update([]Endpoint{e1}) // the healthy one leaves
	pickOf(t, b, e1).Done(Abandoned)
	b.Update(nil)
	if _, ok := b.Pick(); ok {
		t.Error("an endpoint was chosen, and there is none")
	}
}

func BenchmarkPick(b *testing.B) {
	var list []Endpoint
	for i := range 100 {
		list = append(list, endpoint(i, string(rune('a'+i%2)), 50))
	}
	bal := NewBalancer(nil, nil)
	bal.Update(list)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p, _ := bal.Pick()
			p.Done(Succeeded)
		}
	})
}
