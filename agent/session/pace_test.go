package session

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// beats are the numbers of the paces that the heartbeats so far went by.
func (w *wire) beats() (numbers []uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.sent {
		if h := m.GetHeartbeat(); h != nil {
			numbers = append(numbers, h.GetPaceNumber())
		}
	}
	return numbers
}

// A pace that comes during a session is gone by from the first heartbeat on, which comes within its interval.
func TestPaceIsTakenOver(t *testing.T) {
	sending(t, func(_ *node, w *wire, s *session) {
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		if got := w.beats(); len(got) != 3 || got[0] != 1 {
			t.Fatalf("heartbeats at 1 s for 3.5 s: %v", got)
		}
		for _, next := range []struct {
			number      uint64
			millis      int64
			during      time.Duration
			least, most int
		}{{2, 10_000, 35 * time.Second, 3, 4}, {3, 100, 950 * time.Millisecond, 9, 10}} {
			before := len(w.beats())
			s.paces <- &fleetv1.Pace{Number: next.number, HeartbeatMillis: next.millis}
			time.Sleep(next.during)
			synctest.Wait()
			got := w.beats()[before:]
			if len(got) < next.least || len(got) > next.most || got[0] != next.number {
				t.Errorf("heartbeats at %d ms for %s: %v", next.millis, next.during, got)
			}
		}
	}, context.Canceled)
}
