package quality

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Fragmentation is what Fragment measures.
type Fragmentation struct {
	// Load is the share of the devices that were held, in the mean.
	Load float64
	// Unusable is the share of the free devices that are on nodes with fewer than 8 free, in the mean.
	Unusable float64
	// Refused requests found no room though so many devices were free, of Asked ones.
	Refused, Asked int
}

// Churn is what Fragment does.
type Churn struct {
	Seed    uint64
	Nodes   int
	Load    float64
	Changes int // how many jobs come; as many go
}

// Fragment keeps the fleet at a load while jobs of 1, 2, 4 and 8 devices (weights 50, 20, 15, 15) come, and others,
// drawn evenly, go. It measures after each change once the first half of them is over.
func Fragment(p Policy, c Churn) (Fragmentation, error) {
	rng := rand.New(rand.NewPCG(c.Seed, 3))
	sizes := []int{1, 2, 4, 8}
	total := c.Nodes * PerNode
	var out Fragmentation
	var running []Job
	held, samples := 0, 0
	for id := 0; id < c.Changes; id++ {
		j := Job{ID: id, Devices: sizes[weighted(rng, 50, 20, 15, 15)], Nodes: 1}
		for held+j.Devices > int(c.Load*float64(total)) {
			at := rng.IntN(len(running))
			if err := p.End(running[at].ID); err != nil {
				return out, fmt.Errorf("end job %d: %w", running[at].ID, err)
			}
			held -= running[at].Devices
			running[at] = running[len(running)-1]
			running = running[:len(running)-1]
		}
		started, err := p.Place(0, []Job{j})
		if err != nil {
			return out, fmt.Errorf("place job %d: %w", id, err)
		}
		out.Asked++
		if len(started) == 0 {
			out.Refused++
			continue
		}
		running, held = append(running, j), held+j.Devices
		if id < c.Changes/2 {
			continue
		}
		free, unusable := 0, 0
		for _, n := range p.Free() {
			free += n
			if n < PerNode {
				unusable += n
			}
		}
		out.Load += 1 - float64(free)/float64(total)
		out.Unusable += float64(unusable) / float64(max(free, 1))
		samples++
	}
	out.Load, out.Unusable = out.Load/float64(max(samples, 1)), out.Unusable/float64(max(samples, 1))
	return out, nil
}

func weighted(rng *rand.Rand, weights ...int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := rng.IntN(sum)
	for i, w := range weights {
		if n -= w; n < 0 {
			return i
		}
	}
	return len(weights) - 1
}

// seconds is a time of a trace.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
