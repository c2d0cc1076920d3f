package quality

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// Outcome is what has come of a batch of requests on few nodes.
type Outcome struct {
	Placed int // devices
	Whole  int // nodes left whole
}

// better says that more is placed, or as much with more nodes left whole.
func (o Outcome) better(than Outcome) bool {
	return o.Placed > than.Placed || o.Placed == than.Placed && o.Whole > than.Whole
}

// Case is a small fleet and requests for so many devices each, which come one after the other.
type Case struct {
	Nodes    int
	Requests []int
}

// RandomCase draws 2 to 5 nodes, and requests of 1, 2, 4 or 8 devices that ask for 60 to 110 % of them.
func RandomCase(rng *rand.Rand) Case {
	c := Case{Nodes: 2 + rng.IntN(4)}
	want := float64(c.Nodes*PerNode) * (0.6 + 0.5*rng.Float64())
	for sum := 0; float64(sum) < want; {
		n := []int{1, 2, 4, 8}[weighted(rng, 40, 25, 20, 15)]
		c.Requests = append(c.Requests, n)
		sum += n
	}
	return c
}

// Try has a policy of as many empty nodes place the requests, each as it comes.
func (c Case) Try(p Policy) (Outcome, error) {
	if len(p.Free()) != c.Nodes {
		return Outcome{}, fmt.Errorf("the policy has %d nodes, the case %d", len(p.Free()), c.Nodes)
	}
	var out Outcome
	for id, n := range c.Requests {
		started, err := p.Place(0, []Job{{ID: id, Devices: n, Nodes: 1}})
		if err != nil {
			return Outcome{}, fmt.Errorf("place request %d: %w", id, err)
		}
		if len(started) > 0 {
			out.Placed += n
		}
	}
	for _, n := range p.Free() {
		if n == PerNode {
			out.Whole++
		}
	}
	return out, nil
}

// Optimum is the best that any choice of requests and nodes gives. It tries all of them: equal remainders once.
func (c Case) Optimum() Outcome {
	free := make([]int, c.Nodes)
	for i := range free {
		free[i] = PerNode
	}
	return c.best(0, free, map[string]Outcome{})
}

// best is the optimum of the requests from the i-th on. free is ordered.
func (c Case) best(i int, free []int, known map[string]Outcome) Outcome {
	if i == len(c.Requests) {
		whole := 0
		for _, n := range free {
			if n == PerNode {
				whole++
			}
		}
		return Outcome{Whole: whole}
	}
	key := fmt.Sprint(i, free)
	if o, ok := known[key]; ok {
		return o
	}
	best := c.best(i+1, free, known) // without it
	for n := range free {
		if free[n] < c.Requests[i] || n > 0 && free[n] == free[n-1] {
			continue
		}
		left := slices.Clone(free)
		left[n] -= c.Requests[i]
		slices.Sort(left)
		o := c.best(i+1, left, known)
		if o.Placed += c.Requests[i]; o.better(best) {
			best = o
		}
	}
	known[key] = best
	return best
}

// Shares compare a policy with the optimum over many cases.
type Shares struct {
	Cases int
	// Placed is how many of the devices that the optimum places were placed, Whole how many of the nodes that it
	// leaves whole, of the cases in which as much was placed.
	Placed, Whole float64
	// Worst is the least share of the devices placed in one case.
	Worst float64
	// Best is the share of the cases in which nothing was lost.
	Best float64
}

// Compare has policies, each made for so many nodes, try random cases.
func Compare(seed uint64, cases int, policy func(nodes int) (Policy, error)) (Shares, error) {
	rng := rand.New(rand.NewPCG(seed, 4))
	out := Shares{Cases: cases, Worst: 1}
	var placed, could, whole, couldWhole, best int
	for range cases {
		c := RandomCase(rng)
		p, err := policy(c.Nodes)
		if err != nil {
			return out, err
		}
		got, err := c.Try(p)
		if err != nil {
			return out, err
		}
		optimum := c.Optimum()
		if got.better(optimum) {
			return out, fmt.Errorf("%+v is better than the optimum %+v: %+v", got, optimum, c)
		}
		placed, could = placed+got.Placed, could+optimum.Placed
		out.Worst = min(out.Worst, float64(got.Placed)/float64(optimum.Placed))
		if got.Placed == optimum.Placed {
			whole, couldWhole = whole+got.Whole, couldWhole+optimum.Whole
		}
		if got == optimum {
			best++
		}
	}
	out.Placed, out.Whole, out.Best = float64(placed)/float64(max(could, 1)), float64(whole)/float64(max(couldWhole, 1)), float64(best)/float64(max(cases, 1))
	return out, nil
}
