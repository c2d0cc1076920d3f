package place

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// TestSpareTakesOneLine keeps what plans read of a node in one line of the processor's cache.
func TestSpareTakesOneLine(t *testing.T) {
	if size := unsafe.Sizeof(spare{}); size != 64 {
		t.Errorf("a spare takes %d bytes", size)
	}
}

// TestGroupsOnNode joins and leaves at random: more instances than spare.few has room for, of groups with marks
// and without.
func TestGroupsOnNode(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	x := &Index{moved: true}
	n := newNode()
	groups := []*group{{id: 0}, {id: 1}, {id: 0x00ff}, {id: math.MaxUint16 - 1}, {id: math.MaxUint16}, {id: math.MaxUint16 + 1}}
	want := make([]int32, len(groups))
	crowds := 0
	for range 20_000 {
		g := rng.IntN(len(groups))
		d := int32(rng.IntN(5) - 2)
		if d = max(d, -want[g]); rng.IntN(50) == 0 {
			d = -want[g]
		}
		x.join(groups[g], n, d)
		want[g] += d
		if n.crowded {
			crowds++
		}
		seen := map[int32]int32{}
		for _, p := range n.groups(nil) {
			seen[p.group] += p.n
		}
		for i := range groups {
			if got := n.having(groups[i]); got != want[i] || seen[groups[i].id] != want[i] || groups[i].total != int(want[i]) {
				t.Fatalf("group %d has %d instances by having, %d by groups and %d in all, want %d", groups[i].id, got, seen[groups[i].id], groups[i].total, want[i])
			}
		}
		if n.crowded != (len(n.crowd) > 0) {
			t.Fatalf("crowded is %t with %v", n.crowded, n.crowd)
		}
	}
	if crowds < 1000 {
		t.Error("the test tries too little")
	}
}

// TestNumbersGrow counts beyond what a byte holds.
func TestNumbersGrow(t *testing.T) {
	n := numbers{small: make([]uint8, 3)}
	n.add(2, 7)
	for i := range int32(300) {
		if got := n.add(1, 1); got != i+1 || n.of(1) != i+1 || n.of(2) != 7 || n.of(0) != 0 {
			t.Fatalf("after %d: %d, %v", i+1, got, n)
		}
	}
	if n.add(1, -300); n.of(1) != 0 || n.of(2) != 7 {
		t.Error(n)
	}
}

// TestHints looks for images while places and images come and go: a hint must name every word of its bucket that
// has a place with the image. Shapes with the same places and rules share them.
func TestHints(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	f := newFleet(1000)
	x := NewIndex(f)
	one, two := &fleetv1.Accelerator{Count: 1}, &fleetv1.Accelerator{Count: 2}
	rules := &fleetv1.PlacementRules{Spread: []*fleetv1.SpreadRule{{Label: "rack"}}}
	dropped := 0
	for range 300 {
		var requests []Request
		for range 1 + rng.IntN(40) {
			requests = append(requests, Request{Service: fmt.Sprint("s", rng.IntN(5)), Version: "m@1", Pool: "p", CPUMillis: 1000, Rules: rules,
				Image: fmt.Sprint("sha256:", rng.IntN(10)), Accelerator: []*fleetv1.Accelerator{one, two}[rng.IntN(2)]})
		}
		x.Plan(requests)
		dropped += checkHints(t, x)
		if rng.IntN(8) == 0 {
			x.Undo()
			for range 30 {
				n := proto.CloneOf(f.nodes[rng.IntN(len(f.nodes))])
				n.Facts.ImageDigests = []string{fmt.Sprint("sha256:", rng.IntN(10))}
				f.byID[n.GetMeta().GetName()] = n
				x.load(n.GetMeta().GetName())
			}
		}
	}
	if dropped < 1000 {
		t.Errorf("hints left out %d words: the test tries too little", dropped)
	}
	var cells *int32
	for _, s := range x.shapes {
		if cells == nil {
			cells = &s.cells.cellOf[0]
		}
		if len(x.shapes) != 2 || cells != &s.cells.cellOf[0] {
			t.Error("shapes that differ in devices alone do not share their cells")
		}
	}
}

// checkHints answers how many words the hints leave out.
func checkHints(t *testing.T, x *Index) (dropped int) {
	for _, s := range x.shapes {
		for digest, image := range s.images {
			for k, b := range s.buckets {
				if b == nil || b.hinted>>image.number&1 == 0 {
					continue
				}
				for w, v := range b.nodes.words {
					named := b.hints[image.number].summary[w>>6]>>(w&63)&1 != 0
					if v != 0 && !named {
						if dropped++; v&image.places.words[w] != 0 {
							t.Fatalf("bucket %d has a place with %s in word %d, of which its hint knows nothing", k, digest, w)
						}
					}
				}
			}
		}
	}
	return dropped
}
