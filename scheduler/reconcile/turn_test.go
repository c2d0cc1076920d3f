package reconcile

import (
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestTurn(t *testing.T) {
	start := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	kept := func(detail string) *fleetv1.Reservation { return &fleetv1.Reservation{Detail: detail} }
	var turn Turn
	rests := func(d time.Duration, want bool) {
		t.Helper()
		if got := turn.Rests(at(d)); got != want {
			t.Errorf("after %s it rests: %v", d, got)
		}
	}
	turn.Note("a", kept("1 of 8"), false, at(0))
	rests(time.Hour, false) // nobody is kept out
	if !turn.Ends().IsZero() {
		t.Errorf("ends at %s", turn.Ends())
	}
	turn.Note("a", kept("1 of 8"), true, at(time.Hour))
	turn.Note("a", kept("2 of 8"), true, at(time.Hour+50*time.Second))
	rests(time.Hour+100*time.Second, false) // something became free
	if want := at(time.Hour + 110*time.Second); !turn.Ends().Equal(want) {
		t.Errorf("ends at %s, want %s", turn.Ends(), want)
	}
	rests(time.Hour+110*time.Second, true)
	over := time.Hour + 110*time.Second + restLonger*110*time.Second
	rests(over-time.Second, true)
	rests(over, false)
	turn.Note("a", kept("2 of 8"), true, at(over))
	rests(over+2*time.Minute-time.Second, false) // twice as long
	rests(over+2*time.Minute, true)
	over += 2*time.Minute + restLonger*2*time.Minute
	turn.Note("b", kept("2 of 8"), true, at(over))
	rests(over+time.Minute, true) // another one begins with a short turn
	turn.Note("", nil, true, at(over+time.Minute))
	rests(over+time.Hour, false)
}
