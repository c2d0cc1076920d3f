package jobs

import (
	"math"
	"strings"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Bounds of what an agent may have the leader keep, log and show, whatever it sends.
const (
	mostAdopted = 256  // leases of an instance that an earlier leader has given
	mostAttempt = 64   // bytes
	mostTold    = 5    // items of a kind, in a task's progress
	mostText    = 2048 // bytes of a source or a message there
	mostBuckets = 64   // likewise
	mostRate    = 1e9  // likewise
)

// bounded is what is kept of a task's progress.
func bounded(p *fleetv1.TaskProgress) *fleetv1.TaskProgress {
	if p == nil {
		return nil
	}
	rate := p.GetRate()
	if math.IsNaN(rate) {
		rate = 0
	}
	return &fleetv1.TaskProgress{
		Successful: p.GetSuccessful(), Failed: p.GetFailed(), Retries: p.GetRetries(), InFlight: p.GetInFlight(), Concurrency: p.GetConcurrency(),
		Rate: min(max(rate, 0), mostRate), MedianMillis: p.GetMedianMillis(), SlowestMillis: p.GetSlowestMillis(),
		InputBytes: p.GetInputBytes(), OutputBytes: p.GetOutputBytes(), Slow: boundedItems(p.GetSlow()), Failing: boundedItems(p.GetFailing()),
		Trouble: atMost(p.GetTrouble()), LatencyBuckets: p.GetLatencyBuckets()[:min(len(p.GetLatencyBuckets()), mostBuckets)],
		LatencySumSeconds: p.GetLatencySumSeconds(),
	}
}

func boundedItems(items []*fleetv1.TaskItem) []*fleetv1.TaskItem {
	var out []*fleetv1.TaskItem
	for _, i := range items[:min(len(items), mostTold)] {
		out = append(out, &fleetv1.TaskItem{Source: atMost(i.GetSource()), Millis: i.GetMillis(), Message: atMost(i.GetMessage())})
	}
	return out
}

// atMost is a text that is cut to mostText bytes, between two characters.
func atMost(s string) string {
	if len(s) <= mostText {
		return s
	}
	return strings.ToValidUTF8(s[:mostText], "") + "…"
}

// packedOf is what a task says of the chunk that it was leased, to be committed: nothing else goes into the log.
func packedOf(l *lease, c *fleetv1.Chunk) *fleetv1.Chunk {
	packed := proto.CloneOf(l.Chunk)
	packed.To, packed.Successful, packed.Failed = c.GetTo(), c.GetSuccessful(), c.GetFailed()
	packed.InputBytes, packed.OutputBytes = c.GetInputBytes(), c.GetOutputBytes()
	return packed
}
