package state

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"
)

// Commands applied together do what they do one by one, and the same feeds tell the same.
func TestApplyAllIsApply(t *testing.T) {
	for seed := range uint64(10) {
		log := randomLog(seed, 400)
		single, together := New(), New()
		one, all := single.Subscribe().(*feed), together.Subscribe().(*feed)
		r := rand.New(rand.NewPCG(seed, 9))
		for at := 0; at < len(log); {
			n := min(1+r.IntN(20), len(log)-at)
			var batch []Indexed
			for i := range n {
				batch = append(batch, Indexed{uint64(at + i + 1), log[at+i]})
			}
			before := together.View()
			index := before.Index()
			for i, got := range together.ApplyAll(batch) {
				result, events := single.Apply(batch[i].Index, batch[i].Command)
				if !reflect.DeepEqual(got.Result, result) || len(got.Events) != len(events) {
					t.Fatalf("seed %d, entry %d: %+v with %d events, want %+v with %d", seed, batch[i].Index, got.Result, len(got.Events), result, len(events))
				}
			}
			if before.Index() != index {
				t.Fatal("a view has changed")
			}
			if len(one.sets) != len(all.sets) {
				t.Fatalf("seed %d: %d change sets, want %d", seed, len(all.sets), len(one.sets))
			}
			for i := range one.sets {
				if one.sets[i].Index != all.sets[i].Index || len(one.sets[i].Changes) != len(all.sets[i].Changes) {
					t.Fatalf("seed %d: change set %+v, want %+v", seed, all.sets[i], one.sets[i])
				}
			}
			one.sets, all.sets = nil, nil
			at += n
		}
		if !bytes.Equal(snapshotOf(t, single), snapshotOf(t, together)) {
			t.Fatalf("seed %d: the stores differ", seed)
		}
	}
}
