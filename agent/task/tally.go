package task

import (
	"cmp"
	"slices"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	// window is what rates and latencies are of.
	window = 10 * time.Second
	// samples of latencies are kept at most; of more, the last ones.
	samples = 4096
	// listed items of a kind.
	listed = 5
)

// Bounds answers the upper bounds of latency_buckets in seconds; what took longer than the last is in one bucket more.
func Bounds() []float64 {
	return []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}
}

// sample is one request that was answered.
type sample struct {
	at   time.Time
	took time.Duration
}

// tally counts what a task has done since its instance started. It isn't safe for concurrent use.
type tally struct {
	successful, failed, retries, inputBytes, outputBytes int64

	bounds  []float64
	buckets []int64
	sum     float64
	recent  []sample // a ring
	next    int
	ended   [11]struct { // items by the second, in which they ended
		second int64
		items  int64
	}
	failing []*fleetv1.TaskItem
}

func newTally() tally {
	bounds := Bounds()
	return tally{bounds: bounds, buckets: make([]int64, len(bounds)+1)}
}

// answered counts a request.
func (t *tally) answered(now time.Time, took time.Duration) {
	i, _ := slices.BinarySearch(t.bounds, took.Seconds())
	t.buckets[i]++
	t.sum += took.Seconds()
	if len(t.recent) < samples {
		t.recent = append(t.recent, sample{now, took})
		return
	}
	t.recent[t.next] = sample{now, took}
	t.next = (t.next + 1) % samples
}

// item counts one that has ended; message is why it failed.
func (t *tally) item(now time.Time, source, message string, took time.Duration, in, out int64) {
	t.inputBytes += in
	t.outputBytes += out
	slot := &t.ended[now.Unix()%int64(len(t.ended))]
	if slot.second != now.Unix() {
		slot.second, slot.items = now.Unix(), 0
	}
	slot.items++
	if message == "" {
		t.successful++
		return
	}
	t.failed++
	t.failing = append(t.failing, &fleetv1.TaskItem{Source: source, Millis: took.Milliseconds(), Message: message})
	if n := len(t.failing); n > listed {
		t.failing = t.failing[n-listed:]
	}
}

// progress answers the counts, and the figures of the last seconds.
func (t *tally) progress(now time.Time) *fleetv1.TaskProgress {
	p := &fleetv1.TaskProgress{
		Successful: t.successful, Failed: t.failed, Retries: t.retries, InputBytes: t.inputBytes, OutputBytes: t.outputBytes,
		LatencyBuckets: slices.Clone(t.buckets), LatencySumSeconds: t.sum, Failing: slices.Clone(t.failing),
	}
	var took []time.Duration
	for _, s := range t.recent {
		if now.Sub(s.at) <= window {
			took = append(took, s.took)
		}
	}
	if len(took) > 0 {
		slices.Sort(took)
		p.MedianMillis, p.SlowestMillis = millis(took[len(took)/2]), millis(took[len(took)-1])
	}
	var items int64
	for _, s := range t.ended {
		if age := now.Unix() - s.second; age > 0 && age <= int64(window/time.Second) { // the present second isn't over
			items += s.items
		}
	}
	p.Rate = float64(items) / window.Seconds()
	return p
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// slowest answers the items that have run longest.
func slowest(now time.Time, began map[int64]begun) []*fleetv1.TaskItem {
	var out []*fleetv1.TaskItem
	for _, b := range began {
		out = append(out, &fleetv1.TaskItem{Source: b.source, Millis: now.Sub(b.at).Milliseconds()})
	}
	slices.SortFunc(out, func(a, b *fleetv1.TaskItem) int {
		return cmp.Or(cmp.Compare(b.GetMillis(), a.GetMillis()), cmp.Compare(a.GetSource(), b.GetSource()))
	})
	return out[:min(len(out), listed)]
}
