package session

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestPaceFollowsTheFleet(t *testing.T) {
	least := pace{heartbeat: time.Second, lease: 4 * time.Second}
	for _, tt := range []struct {
		nodes            int
		heartbeat, lease time.Duration
	}{
		{0, time.Second, 4 * time.Second}, {1000, time.Second, 4 * time.Second}, {2500, time.Second, 4 * time.Second},
		{5000, 2 * time.Second, 6 * time.Second}, {10_000, 4 * time.Second, 12 * time.Second}, {50_000, 20 * time.Second, time.Minute},
	} {
		if p := paceOf(tt.nodes, least); p.heartbeat != tt.heartbeat || p.lease != tt.lease {
			t.Errorf("%d nodes: %v, %v", tt.nodes, p.heartbeat, p.lease)
		}
	}
	p := paceOf(10_000, least)
	for _, tt := range []struct {
		nodes   int
		another bool
	}{{10_000, false}, {12_000, false}, {8000, false}, {12_001, true}, {7999, true}} {
		if next := p.next(tt.nodes, least); (next != &p) != tt.another {
			t.Errorf("from 10,000 nodes to %d: %v", tt.nodes, next)
		}
	}
}

// However the fleet grows and shrinks and whoever leads, no lease that an earlier leader may have told is longer than
// what the next one begins with.
func TestInheritedLeaseIsTheLongest(t *testing.T) {
	least := pace{heartbeat: time.Second, lease: 4 * time.Second}
	rng := rand.New(rand.NewPCG(5, 6))
	first := paceOf(1, least)
	p, nodes := &first, 1
	for range 10_000 {
		nodes = min(40_000, max(1, nodes+rng.IntN(1+nodes/5)-nodes/10+rng.IntN(3)-1))
		p = p.next(nodes, least)
		if next := paceOf(nodes, least); p.lease > next.inherited() {
			t.Fatalf("%d nodes go by %v, a new leader begins with %v", nodes, p.lease, next.inherited())
		}
	}
}

// No lease ends before the longest time that its agent may go by, whatever was told and confirmed in which order.
func TestLeaseIsNeverShorterThanTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(7, 8))
		l := &leases{}
		l.init()
		l.start([]string{"n0"}, 7*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.run(ctx) }()
		type agent struct {
			renewed time.Time
			going   *pace   // by which its agent goes
			coming  []*pace // that it was told of since
			ended   bool    // its lease has, since it was heard of
		}
		agents := map[string]*agent{"n0": {renewed: time.Now(), going: &pace{lease: 7 * time.Second}}}
		current := &pace{number: 1, lease: 4 * time.Second}
		ended := 0
		for range 20_000 {
			name := fmt.Sprint("n", rng.IntN(6))
			a := agents[name]
			switch what := rng.IntN(20); {
			case what == 0:
				current = &pace{number: current.number + 1, lease: time.Duration(1+rng.IntN(20)) * time.Second}
			case a == nil || what == 1: // it connects
				l.renew(name, current)
				going := current
				if a != nil && a.going.lease > going.lease {
					going = a.going // the welcome is on its way
				}
				agents[name] = &agent{renewed: time.Now(), going: going, coming: []*pace{current}}
			case what < 5:
				l.promise(name, current)
				a.coming = append(a.coming, current)
			case what < 10:
				if len(a.coming) > 0 {
					a.going, a.coming = a.coming[0], a.coming[1:]
				}
				l.renew(name, nil)
				l.confirm(name, a.going.number)
				a.renewed, a.ended = time.Now(), false
			default:
				time.Sleep(time.Duration(rng.Int64N(int64(2 * time.Second))))
				synctest.Wait()
			}
			for name, a := range agents {
				longest := a.going.lease
				for _, p := range a.coming {
					longest = max(longest, p.lease)
				}
				valid, _ := l.valid(name)
				if valid || a.ended {
					continue
				}
				a.ended = true
				ended++
				if time.Since(a.renewed) < longest {
					t.Fatalf("the lease of %s has ended %v after it was heard of; its agent may go by %v", name, time.Since(a.renewed), longest)
				}
			}
		}
		if ended == 0 {
			t.Error("no lease has ever ended")
		}
		time.Sleep(21 * time.Second) // all are silent
		synctest.Wait()
		if n := l.count(); n != 0 || len(l.told) != 0 {
			t.Errorf("%d leases are left, %v are counted", n, l.told)
		}
		cancel()
		<-done
	})
}

// beat sends a heartbeat of an agent that goes by the pace of a number.
func beat(p *agentEnd, number uint64) {
	p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Heartbeat{Heartbeat: &fleetv1.Heartbeat{PaceNumber: number}}}
	synctest.Wait()
}

// paces are what an agent has been told besides its welcome.
func (p *pipe[In, Out]) paces() (all []*fleetv1.Pace) {
	for _, m := range p.got() {
		if r, ok := any(m).(*fleetv1.SessionResponse); ok && r.GetPace() != nil {
			all = append(all, r.GetPace())
		}
	}
	return all
}

// With many nodes agents are told to send less often and have longer leases at once; when most are gone again, the
// leases get shorter once the agents say that they know.
func TestAgentsAreToldOfThePace(t *testing.T) {
	run(t, func(w *world) {
		w.hub.least = pace{heartbeat: 100 * time.Millisecond, lease: 300 * time.Millisecond}
		w.hub.Resign()
		w.hub.Lead(context.Background())
		first := w.connect("n0")
		if got := first.heartbeat(); got != 100*time.Millisecond {
			t.Fatalf("welcome says %v", got)
		}
		beating := func(during time.Duration, number uint64) {
			for end := time.Now().Add(during); time.Now().Before(end); {
				time.Sleep(100 * time.Millisecond)
				beat(first.agentEnd, number)
			}
		}
		beating(paceEvery-100*time.Millisecond, 1)
		var others []*greeted
		for i := range 500 {
			others = append(others, w.connect(fmt.Sprint("m", i)))
		}
		time.Sleep(100 * time.Millisecond) // the pace is thought over
		told := first.paces()
		if len(told) != 1 || told[0].GetNumber() != 2 || told[0].GetHeartbeatMillis() != 200 || told[0].GetLeaseMillis() != 601 {
			t.Fatalf("with 501 nodes: %v", told)
		}
		if got := others[7].paces(); len(got) != 1 || got[0].GetNumber() != 2 {
			t.Fatalf("another agent is told %v", got)
		}
		beat(first.agentEnd, 2)
		time.Sleep(500 * time.Millisecond)
		if n := w.hub.leases.count(); n != 501 {
			t.Fatalf("%d leases are left, though the agents may go by 601 ms", n)
		}
		beating(paceEvery, 2)
		if told = first.paces(); len(told) != 1 || told[0].GetNumber() != 3 || told[0].GetLeaseMillis() != 300 {
			t.Fatalf("when the others are gone: %v", told)
		}
		time.Sleep(500 * time.Millisecond)
		if !w.hub.LeaseValid("n0") {
			t.Error("the lease has ended before the agent said that it knows of a shorter one")
		}
		beat(first.agentEnd, 3)
		time.Sleep(301 * time.Millisecond)
		synctest.Wait()
		if w.hub.LeaseValid("n0") {
			t.Error("the lease is longer than its agent goes by")
		}
	})
}

// greeted is an agent with its welcome.
type greeted struct {
	*agentEnd
	began   time.Time
	welcome *fleetv1.Welcome
}

func (g *greeted) heartbeat() time.Duration {
	return time.Duration(g.welcome.GetHeartbeatMillis()) * time.Millisecond
}

func (w *world) connect(node string) *greeted {
	p := open(w.hub.Session)
	p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{NodeName: node, Facts: facts()}}}
	synctest.Wait()
	return &greeted{p, time.Now(), (<-p.out).GetWelcome()}
}

// The first lease of all is as long as the agent is told, from the start: nobody may look in between.
func TestFirstLeaseIsWhole(t *testing.T) {
	var l leases
	l.init()
	l.start(nil, time.Second)
	l.renew("n1", &pace{number: 1, heartbeat: time.Second, lease: time.Minute})
	if lost, next := l.expire(); len(lost) > 0 || next < 59*time.Second {
		t.Errorf("lost %v, and the next one after %s", lost, next)
	}
}
