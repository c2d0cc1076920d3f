package task

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// echoes checks that every item was echoed.
func (w *world) echoes(lines map[string]batch.ManifestLine) {
	w.t.Helper()
	for i := range w.leader.items {
		line := lines[fmt.Sprintf("i-%05d.json", i)]
		if want := fmt.Sprintf(`{"echo":{"n":%d}}`, i); line.Result != batch.Successful || w.result(line) != want {
			w.t.Errorf("item %d: %+v", i, line)
		}
	}
}

func TestJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(300)).add("a", "b").begin()
		w.echoes(w.finish(time.Minute))
	})
}
