package state

import (
	"errors"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestFeedPolledWithoutWaiting(t *testing.T) {
	f := newFixture(t)
	feed := f.Subscribe()
	<-feed.Ready()
	if _, resync, err := feed.Poll(); !resync || err != nil {
		t.Errorf("first: resync %v, %v", resync, err)
	}
	if sets, resync, err := feed.Poll(); len(sets) > 0 || resync || err != nil {
		t.Errorf("nothing new: %v, resync %v, %v", sets, resync, err)
	}
	for _, name := range []string{"a", "b"} {
		f.must(writeCommand(1, Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: name}})))
	}
	<-feed.Ready()
	sets, resync, err := feed.Poll()
	if len(sets) != 2 || sets[0].Index+1 != sets[1].Index || resync || err != nil {
		t.Errorf("two changes: %v, resync %v, %v", sets, resync, err)
	}
	f.must(writeCommand(1, Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "c"}})))
	if sets, _, err := feed.Next(t.Context()); len(sets) != 1 || err != nil {
		t.Errorf("Next after Poll: %v, %v", sets, err)
	}
	feed.Close()
	<-feed.Ready()
	if _, _, err := feed.Poll(); !errors.Is(err, ErrFeedClosed) {
		t.Errorf("closed: %v", err)
	}
}
