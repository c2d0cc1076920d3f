package task

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// drive keeps as many requests in flight as the pace allows, for so long, and answers the limits that it had in the last
// half of that and how many answers there were. The model tells how long a request takes when so many are in flight,
// and whether it is refused.
func drive(p *pace, during time.Duration, model func(inFlight int) (time.Duration, bool)) (low, high, answers int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	began, inFlight := time.Now(), 0
	low = 1 << 20
	var fill func()
	fill = func() { // under mu
		for inFlight < p.limit && time.Since(began) < during {
			inFlight++
			p.used(inFlight)
			wg.Go(func() {
				mu.Lock()
				took, refused := model(inFlight)
				mu.Unlock()
				time.Sleep(took)
				mu.Lock()
				defer mu.Unlock()
				inFlight--
				answers++
				p.answered(time.Now(), took, refused)
				if time.Since(began) > during/2 {
					low, high = min(low, p.limit), max(high, p.limit)
				}
				fill()
			})
		}
	}
	mu.Lock()
	fill()
	mu.Unlock()
	wg.Wait()
	return low, high, answers
}

// queue is a model that works on so many requests at a time, each for so long, in the order of their arrival.
func queue(workers int, each time.Duration) func(int) (time.Duration, bool) {
	free := make([]time.Time, workers)
	return func(int) (time.Duration, bool) {
		i := 0
		for j := range free {
			if free[j].Before(free[i]) {
				i = j
			}
		}
		if now := time.Now(); free[i].Before(now) {
			free[i] = now
		}
		free[i] = free[i].Add(each)
		return time.Until(free[i]), false
	}
}

func TestPace(t *testing.T) {
	const unit = 50 * time.Millisecond
	for name, c := range map[string]struct {
		most      int
		model     func(n int) (time.Duration, bool)
		low, high int // bounds of the limit in the long run
	}{
		"one at a time":   {64, queue(1, unit), 1, 5},
		"eight at a time": {64, queue(8, unit), 8, 24},
		"any number":      {64, func(int) (time.Duration, bool) { return unit, false }, 64, 64},
		"a maximum":       {3, func(int) (time.Duration, bool) { return unit, false }, 3, 3},
		"refuses ten":     {64, func(n int) (time.Duration, bool) { return unit, n > 10 }, 6, 11},
		"batches: slower, and worth it": {64, func(n int) (time.Duration, bool) {
			return unit + time.Duration(n)*unit/16, false
		}, 24, 64},
		"refuses all": {64, func(int) (time.Duration, bool) { return unit, true }, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				low, high, _ := drive(newPace(c.most), 5*time.Minute, c.model)
				if low < c.low || high > c.high {
					t.Errorf("the limit was %d–%d, not within %d–%d", low, high, c.low, c.high)
				}
			})
		})
	}
}

// TestPaceOfSlowerItems: items that take longer for their own sake don't throttle the task for good.
func TestPaceOfSlowerItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(32)
		drive(p, time.Minute, func(int) (time.Duration, bool) { return 10 * time.Millisecond, false })
		if low, _, _ := drive(p, 10*time.Minute, func(int) (time.Duration, bool) { return 100 * time.Millisecond, false }); low < 30 {
			t.Errorf("the limit fell to %d and didn't come back", low)
		}
	})
}

// TestPaceStarts: a model of slow answers isn't kept waiting for as many rounds as it could take requests.
func TestPaceStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(64)
		const took = 30 * time.Second
		if drive(p, 10*took, func(int) (time.Duration, bool) { return took, false }); p.limit != 64 {
			t.Errorf("after ten rounds the limit is %d", p.limit)
		}
	})
}

// TestPaceUnused: what isn't used doesn't grow.
func TestPaceUnused(t *testing.T) {
	p, now := newPace(64), time.Unix(1000, 0)
	for range 1000 {
		p.used(1)
		now = now.Add(time.Millisecond)
		p.answered(now, time.Millisecond, false)
	}
	if p.limit > 2 {
		t.Errorf("one request at a time raised the limit to %d", p.limit)
	}
}

func BenchmarkPace(b *testing.B) {
	p, now := newPace(64), time.Unix(1000, 0)
	for b.Loop() {
		now = now.Add(time.Millisecond)
		p.used(p.limit)
		p.answered(now, time.Millisecond, false)
	}
}
