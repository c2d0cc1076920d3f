package place

import (
	"fmt"
	"iter"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// counted counts the nodes that were looked at one after the other.
type counted struct {
	state.ReadView
	seen int
}

func (c *counted) PoolMembers(pool *fleetv1.Pool) iter.Seq[*fleetv1.Node] {
	return func(yield func(*fleetv1.Node) bool) {
		for n := range c.ReadView.PoolMembers(pool) {
			if c.seen++; !yield(n) {
				return
			}
		}
	}
}

// TestWhatWasPossibleIsForgotten drives random histories: what is remembered never makes another answer.
func TestWhatWasPossibleIsForgotten(t *testing.T) {
	for seed := range uint64(20) {
		h := newHistory(t, seed, 6, true)
		var all Possible
		never, known := 0, 0
		for step := range 150 {
			h.change()
			for _, r := range h.requests(3) {
				view := &counted{ReadView: h.store.View()}
				why, got := all.NeverFits(view, r)
				if !got && view.seen == 0 {
					known++
				}
				if got {
					never++
				}
				if reason, want := new(Possible).NeverFits(view, r); got != want || why != reason {
					t.Fatalf("seed %d, step %d: %v (%s), without what is remembered %v (%s), of %+v", seed, step, got, why, want, reason, r)
				}
			}
		}
		if never == 0 || known == 0 {
			t.Errorf("seed %d: %d of the requests could never be placed, of %d it was remembered that they can: both must happen", seed, never, known)
		}
	}
}

func apply(t *testing.T, s *state.Store, m ...*fleetv1.Mutation) {
	t.Helper()
	if r, _ := s.Apply(s.View().Index()+1, &fleetv1.Command{Introduced: 1, Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: m}}}); len(r.Rejections) > 0 {
		t.Fatal(r.Rejections)
	}
}

func TestPossibleIsRemembered(t *testing.T) {
	s := store(t, host("a", 1), host("b", 8), host("c", 8))
	view := &counted{ReadView: s.View()}
	var p Possible
	ask := func(looks int, r Request) {
		t.Helper()
		r.Pool, view.seen = "p", 0
		if reason, never := p.NeverFits(view, r); never || view.seen != looks {
			t.Errorf("never %v (%s); %d nodes were looked at, not %d", never, reason, view.seen, looks)
		}
	}
	ask(2, Request{Service: "s", Version: "m@1", Accelerator: gpus(8)})
	ask(0, Request{Service: "t", Version: "n@1", Accelerator: gpus(8)})
	ask(3, Request{Nodes: 2, Accelerator: gpus(8)})
	ask(0, Request{Nodes: 2, Accelerator: gpus(8)})
	// What runs there, and whether it is cordoned, is another matter; what it has isn't.
	eight := Request{Accelerator: gpus(8)}
	apply(t, s, state.Put(0, &fleetv1.Instance{Meta: &fleetv1.Meta{Id: "i"}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
		Spec: &fleetv1.InstanceSpec{Node: "b", ServiceId: "x", DeviceIds: []string{"b-0"}}}))
	b := proto.CloneOf(s.View().Node("b"))
	b.Spec.Cordoned = true
	apply(t, s, state.Put(b.GetMeta().GetRevision(), b))
	view.ReadView = s.View()
	ask(0, eight)
	b = proto.CloneOf(s.View().Node("b"))
	b.Facts.CpuMillis = 4000
	apply(t, s, state.Put(b.GetMeta().GetRevision(), b))
	view.ReadView = s.View()
	ask(2, eight)
	for i := range maxProofs {
		ask(1, Request{CPUMillis: int64(i)})
	}
	if n := len(p.known); n > maxProofs {
		t.Errorf("%d are remembered", n)
	}
}

// BenchmarkNeverFits asks whether a request could be placed for which the last of 10,000 nodes alone would do.
func BenchmarkNeverFits(b *testing.B) {
	var nodes []proto.Message
	for i := range 10_000 {
		nodes = append(nodes, host(fmt.Sprintf("n%05d", i), 1+i/9999))
	}
	view := store(b, nodes...).View()
	r := Request{Pool: "p", Accelerator: gpus(2)}
	var p Possible
	for name, at := range map[string]func() *Possible{"remembered": func() *Possible { return &p }, "at first": func() *Possible { return new(Possible) }} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if reason, never := at().NeverFits(view, r); never {
					b.Fatal(reason)
				}
			}
		})
	}
}
