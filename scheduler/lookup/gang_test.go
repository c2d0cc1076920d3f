package lookup

import (
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestGangIsOneEndpointWhileAllServe(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		f.put(&fleetv1.Node{Meta: meta("n2", "n2-id")})
		for rank := range int32(2) {
			i := instance([]string{"a", "b"}[rank], "s1", 31000+rank)
			i.Spec.Gang, i.Spec.Node = &fleetv1.Gang{Id: "g", Rank: rank, Size: 2}, []string{"n1", "n2"}[rank]
			f.put(i)
		}
		f.want("all serve", 31000)
		f.editInstance("b", func(i *fleetv1.Instance) { i.Observed.Port = 0 })
		f.want("only rank 0 needs a port", 31000)
		f.editInstance("b", func(i *fleetv1.Instance) { i.Observed.Ready = false })
		f.want("a member does not serve")
		f.editInstance("b", func(i *fleetv1.Instance) { i.Observed.Ready = true })
		f.want("it does again", 31000)
		f.mu.Lock()
		f.lost["n2"] = true
		f.mu.Unlock()
		f.table.NodeChanged("n2")
		f.want("a member's lease is lost")
	})
}
