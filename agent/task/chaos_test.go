package task

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

var chaosSeeds = flag.Int("task.seeds", 2, "how many random runs TestChaos makes")

// chaos is what may go wrong at random.
type chaos struct {
	mu     sync.Mutex
	random *rand.Rand
	on     bool
	refuse bool // the storage
}

// chance is true once in so many times, while things go wrong.
func (c *chaos) chance(in int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.on && c.random.IntN(in) == 0
}

func (c *chaos) pick(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

func (c *chaos) fault(op string, u storage.URL) error {
	c.mu.Lock()
	refuse := c.refuse
	c.mu.Unlock()
	if refuse || c.chance(10) {
		return &storage.Error{Op: op, URL: u, Kind: storage.ErrTemporary, Why: "of the test"}
	}
	return nil
}

// spoil does one thing that may happen in a fleet.
func (c *chaos) spoil(w *world, id string) {
	container := w.containers[id]
	switch c.pick(9) {
	case 0:
		container.exit()
	case 1: // all leases of an instance
		w.leader.with(func(l *leader) {
			for attempt, le := range l.leases {
				if le.instance == id {
					delete(l.leases, attempt)
				}
			}
		})
	case 2: // a new leader knows none
		w.leader.with(func(l *leader) { clear(l.leases) })
	case 3:
		w.leader.with(func(l *leader) { l.away = !l.away })
	case 4:
		w.leader.with(func(l *leader) { l.stop = !l.stop })
	case 5: // the agent is killed
		w.m.Drop(id)
		container.again()
	case 6: // a restart that was asked for
		left := make(chan struct{})
		w.m.Leave(container.inst, func() { close(left) })
		<-left
		container.again()
	case 7: // it's unhealthy for a while
		container.tell(fleetv1.InstanceRunning, "")
		sleep(w.ctx, time.Second, nil)
		container.again()
	case 8:
		c.mu.Lock()
		c.refuse = !c.refuse
		c.mu.Unlock()
	}
}

// again tells that the container is ready, unless it has exited.
func (c *container) again() {
	c.mu.Lock()
	alive := c.alive
	c.mu.Unlock()
	if alive {
		c.tell(fleetv1.InstanceRunning, c.inst.GetMeta().GetId()+":80")
	}
}

// listedAreThere checks that every result that a manifest lists is whole.
func (w *world) listedAreThere() {
	for name, line := range w.lines() {
		var n int64
		if _, err := fmt.Sscanf(name, "i-%05d.json", &n); err != nil {
			w.t.Error(err)
		}
		if want := fmt.Sprintf(`{"echo":{"n":%d}}`, n); line.Result == batch.Successful && w.result(line) != want {
			w.t.Errorf("%s is listed, and isn't whole", line.Location)
		}
	}
}

// TestRenamed: a chunk belongs to the task that it was leased to, whatever another leader calls the instance by then.
func TestRenamed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(40)).add("a")
		w.asked(func(_ *container, body string, rw http.ResponseWriter, _ *http.Request) {
			time.Sleep(2 * time.Second)
			answer200(body, rw)
		})
		w.begin()
		time.Sleep(1500 * time.Millisecond)
		w.leader.with(func(l *leader) { l.tasks["a"] = "t9" })
		lines := w.finish(time.Minute)
		w.echoed(lines)
		if first := lines["i-00000.json"].Location; !strings.Contains(first, "/infer-result-t0/") {
			t.Errorf("the first result is at %s", first)
		}
	})
}

// TestManifestOfRestoredScheduler: one that was restored from a backup may call another manifest so.
func TestManifestOfRestoredScheduler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(40)).add("a")
		w.leader.seal = 100 // all at the end
		w.setFault(func(op string, u storage.URL) error {
			if op == "write" && strings.HasSuffix(u.Key, ".manifest") {
				return &storage.Error{Op: op, URL: u, Kind: storage.ErrTemporary, Why: "of the test"}
			}
			return nil
		})
		w.begin()
		time.Sleep(10 * time.Second)
		w.leader.with(func(l *leader) {
			m := l.sealed[0]
			l.sealed = []*fleetv1.Manifest{{Task: m.GetTask(), Number: m.GetNumber(), Chunks: m.GetChunks()[:1]}, {Task: m.GetTask(), Number: 5, Chunks: m.GetChunks()[1:]}}
		})
		time.Sleep(10 * time.Second)
		w.setFault(nil)
		w.echoed(w.finish(time.Minute))
	})
}

// TestChaos: whatever happened, in the end every item is in the manifests once, with what the model answered to it.
func TestChaos(t *testing.T) {
	for seed := range uint64(*chaosSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) { runChaos(t, seed) })
		})
	}
}

func runChaos(t *testing.T, seed uint64) {
	c := &chaos{random: rand.New(rand.NewPCG(seed, 7)), on: true}
	w := newWorld(t, &fleetv1.JobSpec{ItemTimeoutSeconds: 5}, inputs(500)).add("a", "b", "c")
	w.setFault(c.fault)
	w.asked(func(container *container, body string, rw http.ResponseWriter, r *http.Request) {
		var n int
		if _, err := fmt.Sscanf(body, `{"n":%d}`, &n); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Duration(n%7) * 50 * time.Millisecond)
		switch {
		case n%100 == 3:
			rw.WriteHeader(http.StatusBadRequest)
		case n%100 == 5:
			rw.WriteHeader(http.StatusInternalServerError)
		case n%100 == 7 && c.chance(2):
			<-r.Context().Done()
		case c.chance(100):
			rw.WriteHeader(http.StatusServiceUnavailable)
		case c.chance(500):
			container.die()
		default:
			answer200(body, rw)
		}
	})
	w.begin()
	for range 60 {
		time.Sleep(time.Duration(c.pick(2000)) * time.Millisecond)
		ids := []string{"a", "b", "c"}
		c.spoil(w, ids[c.pick(len(ids))])
		w.listedAreThere()
	}
	c.mu.Lock()
	c.on, c.refuse = false, false
	c.mu.Unlock()
	w.leader.with(func(l *leader) { l.away, l.stop = false, false })
	for _, container := range w.containers {
		container.again()
	}
	lines := w.finish(10 * time.Minute)
	w.listedAreThere()
	unlucky := 0
	for n := range 500 {
		line := lines[fmt.Sprintf("i-%05d.json", n)]
		switch failed := line.Result == batch.Failed; {
		case n%100 == 3 || n%100 == 5:
			if !failed {
				t.Errorf("item %d: %+v", n, line)
			}
		case failed:
			unlucky++
			if !strings.Contains(line.Message, "no answer") && !strings.Contains(line.Message, "503") && !strings.Contains(line.Message, "exited") {
				t.Errorf("item %d: %+v", n, line)
			}
		}
	}
	if unlucky > 20 {
		t.Errorf("%d items failed that the model would answer", unlucky)
	}
	if left, err := filepath.Glob(filepath.Join(w.dir, "out", "*", "*_result.txt")); err != nil || len(left) < len(lines)-20-unlucky {
		t.Error(errors.Join(err, fmt.Errorf("%d results for %d lines", len(left), len(lines))))
	}
}
