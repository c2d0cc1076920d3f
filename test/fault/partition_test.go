package fault

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/drover-fleet/drover/test/machine"
)

// onHosts starts three schedulers on hosts of their own, with a load on them.
func onHosts(t *testing.T) (*machine.Network, *machine.Schedulers, *load) {
	t.Helper()
	n := machine.NewNetwork(t, 3)
	s := machine.StartSchedulers(t, 3, n.Schedulers())
	watchTerms(t, s)
	l := startLoad(t, s.Clients(), 6)
	l.resumes(limit)
	return n, s, l
}

// others are the hosts of the other schedulers.
func others(host int) (out []int) {
	for o := 1; o <= 3; o++ {
		if o != host {
			out = append(out, o)
		}
	}
	return out
}

// The network between the schedulers fails: never two leaders in a term, one within 15 s of healing, no stale
// linearizable read. Clients reach all of them all the time.
func TestNetworkFails(t *testing.T) {
	cut := scaled(8*time.Second, 30*time.Second)
	for name, inject := range map[string]func(t *testing.T, n *machine.Network, leader int){
		"leader cut off": func(t *testing.T, n *machine.Network, leader int) {
			n.Between(leader, machine.Link{Down: true}, others(leader)...)
			pause(t.Context(), cut)
		},
		"leader hears nobody": func(t *testing.T, n *machine.Network, leader int) {
			for _, o := range others(leader) {
				n.Set(o, leader, machine.Link{Down: true})
			}
			pause(t.Context(), cut)
		},
		"nobody hears leader": func(t *testing.T, n *machine.Network, leader int) {
			for _, o := range others(leader) {
				n.Set(leader, o, machine.Link{Down: true})
			}
			pause(t.Context(), cut)
		},
		"flapping": func(t *testing.T, n *machine.Network, leader int) {
			for i := range scaled(10, 60) {
				n.Between(leader, machine.Link{Down: i%2 == 0}, others(leader)...)
				pause(t.Context(), time.Second)
			}
		},
		"loss and delay": func(t *testing.T, n *machine.Network, _ int) {
			for host := 1; host <= 3; host++ {
				n.Between(host, machine.Link{Loss: 0.3, Delay: 200 * time.Millisecond}, others(host)...)
			}
			pause(t.Context(), cut)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			n, s, l := onHosts(t)
			inject(t, n, s.Leader().Number())
			for host := 1; host <= 3; host++ {
				n.Between(host, machine.Link{}, others(host)...)
			}
			took := l.resumes(limit)
			if t.Logf("a write was acknowledged %s after healing", took); took > healed {
				t.Errorf("writes were back %s after healing, want %s at most", took, healed)
			}
			s.WaitVoters(3)
			l.finish(s.Leader().Client)
		})
	}
}

// A scheduler hears no other for a while, and they don't hear it. When the network is whole, gossip is, too.
func TestGossipIsWholeAfterASplit(t *testing.T) {
	t.Parallel()
	n, s, l := onHosts(t)
	apart := s.Others(s.Leader())[0]
	whole := func() error {
		for _, p := range s.All {
			heard := 0
			all, err := p.Gossip()
			for _, m := range all {
				if m.GetGossipAlive() {
					heard++
				}
			}
			if err != nil || heard != 3 {
				return fmt.Errorf("%s hears %d of %d: %w", p.Name, heard, len(all), err)
			}
		}
		return nil
	}
	s.Within(limit, "gossip is whole at first", whole)
	n.Between(apart.Number(), machine.Link{Down: true}, others(apart.Number())...)
	s.Within(limit, "the split is noticed", func() error {
		if whole() == nil {
			return errors.New("everybody hears everybody")
		}
		return nil
	})
	pause(t.Context(), scaled(8*time.Second, time.Minute))
	n.Between(apart.Number(), machine.Link{}, others(apart.Number())...)
	s.Within(30*time.Second, "gossip is whole again", whole)
	l.resumes(healed)
	l.finish(s.Leader().Client)
}
