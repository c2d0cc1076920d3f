package lookup

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// What happens to a big service shortly after it was rendered is taken in together, a little later.
func TestBigServicesArePaused(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		var all []*fleetv1.Mutation
		for n := range bigService {
			all = append(all, state.Put(0, instance(fmt.Sprintf("i%04d", n), "s1", 30000)))
		}
		f.apply(all...)
		ready := func() int { return len(f.ports(irisPath)) }
		synctest.Wait()
		f.put(instance("one", "s1", 30000))
		synctest.Wait()
		if got := ready(); got != bigService+1 {
			t.Errorf("a service that isn't big yet has %d endpoints", got)
		}
		f.put(instance("two", "s1", 30000))
		synctest.Wait()
		if got := ready(); got != bigService+1 {
			t.Errorf("it was rendered again at once, with %d", got)
		}
		time.Sleep((bigService + 1) * pausePer)
		synctest.Wait()
		if got := ready(); got != bigService+2 {
			t.Errorf("after its pause it has %d endpoints", got)
		}
		f.editInstance("one", func(i *fleetv1.Instance) { i.Observed.Ready = false })
		synctest.Wait()
		if got := ready(); got != bigService+1 {
			t.Errorf("an endpoint that has to go is kept, of %d", got)
		}
		time.Sleep(time.Second)
		f.put(instance("three", "s1", 30000))
		synctest.Wait()
		if got := ready(); got != bigService+2 {
			t.Errorf("rested, it has %d endpoints", got)
		}
	})
}
