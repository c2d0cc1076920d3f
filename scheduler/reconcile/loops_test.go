package reconcile

import (
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A write of a service's status takes nothing from it, also not what only a newer version knows.
func TestDraftIsWhole(t *testing.T) {
	svc := &fleetv1.Service{}
	m := svc.ProtoReflect()
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		m.Set(f, m.NewField(f)) // each is a message
	}
	m.SetUnknown([]byte{0xf8, 0x07, 0x01})
	next := draft(svc)
	if !proto.Equal(next, svc) {
		t.Errorf("%v is not %v", next, svc)
	}
	next.Desired.State, next.Status.State = "x", "y"
	if svc.GetDesired().GetState() != "" || svc.GetStatus().GetState() != "" {
		t.Error("the draft shares what is changed in it")
	}
}

// IDs are UUIDs, the next one stands beside the last, and no two names, which have eight digits, are equal.
func TestNeighbours(t *testing.T) {
	next := neighbours()
	const each, hands = 500, 4
	ids := make([][]string, hands)
	var all sync.WaitGroup
	for h := range hands {
		all.Go(func() {
			for range each {
				ids[h] = append(ids[h], next())
			}
		})
	}
	all.Wait()
	names, tails := map[string]bool{}, map[string]bool{}
	for _, mine := range ids {
		if first, last := mine[0], mine[each-1]; first < last && !slices.IsSorted(mine) { // but where the number begins again at 0
			t.Errorf("not in order: %v", mine)
		}
		for _, id := range mine {
			if u, err := uuid.Parse(id); err != nil || u.Version() != 4 || u.Variant() != uuid.RFC4122 {
				t.Fatalf("%s: version %v, variant %v, error %v", id, u.Version(), u.Variant(), err)
			}
			names[id[:8]], tails[id[8:]] = true, true
		}
	}
	if len(names) != hands*each || len(tails) != hands*each {
		t.Errorf("%d names and %d random parts of %d IDs differ", len(names), len(tails), hands*each)
	}
}
