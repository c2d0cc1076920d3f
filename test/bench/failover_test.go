//go:build bench

package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

const (
	watched   = "watched"             // service that is looked up
	lookEvery = 5 * time.Millisecond  // at each scheduler
	callLimit = time.Second           // of one try of a write
	tryEvery  = 10 * time.Millisecond // a write, after a try that has failed
)

// watch looks the service up at every scheduler all the time. One that is down is asked, and its answers don't count.
type watch struct {
	down   atomic.Pointer[machine.SchedulerProcess]
	cancel context.CancelFunc
	asking sync.WaitGroup
}

// newWatch hands see, of several goroutines, what was answered when.
func newWatch(ctx context.Context, s *secured, see func(p *machine.SchedulerProcess, at time.Time, found []client.Endpoint, err error)) *watch {
	w := &watch{}
	ctx, w.cancel = context.WithCancel(ctx)
	for _, p := range s.All {
		w.asking.Go(func() {
			for ctx.Err() == nil {
				excused := w.down.Load() == p
				found, err := p.Endpoints(watched)
				if !excused && w.down.Load() != p {
					see(p, time.Now(), found, err)
				}
				select {
				case <-ctx.Done():
				case <-time.After(lookEvery):
				}
			}
		})
	}
	return w
}

func (w *watch) stop() {
	w.cancel()
	w.asking.Wait()
}

// failover kills the leader again and again.
func (b *bench) failover() {
	s := b.newSecured(3)
	s.join(0, failoverNodes)
	b.must(s.agents.add(0, failoverNodes))
	s.deploy(watched, failoverNodes)
	var good, failed atomic.Int64
	w := newWatch(b.t.Context(), s, func(p *machine.SchedulerProcess, _ time.Time, found []client.Endpoint, err error) {
		if err == nil && len(found) == failoverNodes {
			good.Add(1)
			return
		}
		failed.Add(1)
		b.t.Logf("look-up at %s: %d endpoints, %v", p.Name, len(found), err)
	})
	defer w.stop()
	var took []float64
	for range kills {
		leader := s.Leader()
		s.write() // whatever is yet to settle of the last time
		w.down.Store(leader)
		killed := time.Now()
		leader.Kill()
		s.write()
		took = append(took, time.Since(killed).Seconds())
		leader.Start()
		s.WaitVoters(3)
		s.serves(leader, watched, failoverNodes)
		w.down.Store(nil)
	}
	w.stop()
	b.t.Logf("seconds: %.2f", took)
	sorted := slices.Sorted(slices.Values(took))
	b.report.add(figure{Name: "failover: leader of three killed, until the next acknowledged write", Unit: "s", Measured: spreadOf(took), Goal: &goal{AtMost: 1.1}, N: kills})
	b.report.add(figure{Name: "failover: the 99th of 100", Unit: "s", Measured: one(quantile(sorted, 0.99)), N: kills})
	b.report.add(figure{Name: fmt.Sprintf("failover: look-ups failed on the survivors, of %d", good.Load()+failed.Load()), Unit: "",
		Measured: one(float64(failed.Load())), Goal: &goal{None: true}, N: kills})
}

// write tries one write at the schedulers in turn, the same request again and again, until one acknowledges it.
func (s *secured) write() {
	s.b.t.Helper()
	ctx, cancel := context.WithTimeout(s.b.t.Context(), patience)
	defer cancel()
	instances := rand.Int64N(1 << 30)
	request := &fleetv1.SetQuotaRequest{RequestId: uuid.NewString(), Quota: &fleetv1.Quota{Meta: &fleetv1.Meta{Name: "written"}, Spec: &fleetv1.QuotaSpec{Instances: &instances}}}
	for try := 0; ; try++ {
		call, end := context.WithTimeout(ctx, callLimit)
		_, err := s.All[try%len(s.All)].Client.Quotas.SetQuota(call, request)
		end()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.b.t.Fatalf("no write is acknowledged: %v", err)
		case <-time.After(tryEvery):
		}
	}
}

// silent cuts nodes' power off, each at a time of its own, and times until no scheduler's look-up has their endpoints.
func (s *secured) silent(goalSeconds float64) {
	b := s.b
	nodes := s.agents.connected.Load()
	before, err := s.All[0].Endpoints(watched)
	b.must(err)
	type sight struct {
		cut  time.Time
		seen map[string]time.Time // last, by scheduler
		gone map[string]bool
	}
	var mu sync.Mutex
	victims := map[string]*sight{} // by address
	w := newWatch(b.t.Context(), s, func(p *machine.SchedulerProcess, at time.Time, found []client.Endpoint, err error) {
		if err != nil {
			b.t.Errorf("look-up at %s: %v", p.Name, err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for address, v := range victims {
			if slices.ContainsFunc(found, func(e client.Endpoint) bool { return e.IP == address }) {
				delete(v.gone, p.Name)
			} else if !v.gone[p.Name] {
				v.seen[p.Name], v.gone[p.Name] = at, true
			}
		}
	})
	defer w.stop()
	for _, e := range before[:silentNodes] {
		time.Sleep(rand.N(time.Second)) // the beats of the nodes have phases of their own besides
		mu.Lock()
		victims[e.IP] = &sight{cut: time.Now(), seen: map[string]time.Time{}, gone: map[string]bool{}}
		s.agents.silence(numberOf(b, e.IP))
		mu.Unlock()
	}
	s.Within(patience, "no look-up has silent nodes' endpoints", func() error {
		mu.Lock()
		defer mu.Unlock()
		for address, v := range victims {
			if len(v.gone) < len(s.All) {
				return fmt.Errorf("that of %s is gone at %v", address, v.gone)
			}
		}
		return nil
	})
	w.stop()
	var took []float64
	for _, v := range victims {
		longest := time.Duration(0)
		for _, at := range v.seen {
			longest = max(longest, at.Sub(v.cut))
		}
		took = append(took, longest.Seconds())
	}
	what := fmt.Sprintf("silent node of %d: endpoints gone from the look-ups of all three schedulers", nodes)
	b.report.add(figure{Name: what, Unit: "s", Measured: spreadOf(took), Goal: &goal{AtMost: goalSeconds}, N: silentNodes})
	b.report.add(figure{Name: what + ", the slowest", Unit: "s", Measured: one(slices.Max(took)), Goal: &goal{AtMost: goalSeconds}, N: silentNodes})
}

// numberOf is the node's that has the address.
func numberOf(b *bench, address string) int {
	ip := net.ParseIP(address).To4()
	if ip == nil {
		b.t.Fatalf("an endpoint at %s", strconv.Quote(address))
	}
	return int(ip[1])<<8 | int(ip[2])
}
