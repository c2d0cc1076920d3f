package task

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-fleet/drover/batch"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/storage"
)

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// echoed checks that every item was echoed, but those that are named.
func (w *world) echoed(lines map[string]batch.ManifestLine, but ...int64) {
	w.t.Helper()
	excused := map[int64]bool{}
	for _, n := range but {
		excused[n] = true
	}
	for n := range w.leader.items {
		line := lines[fmt.Sprintf("i-%05d.json", n)]
		if want := fmt.Sprintf(`{"echo":{"n":%d}}`, n); !excused[n] && (line.Result != batch.Successful || w.result(line) != want) {
			w.t.Errorf("item %d: %+v", n, line)
		}
	}
}

// asked counts how often each body was sent, and passes it on.
func (w *world) asked(model func(c *container, body string, rw http.ResponseWriter, r *http.Request)) {
	w.model = func(c *container, rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.mu.Lock()
		w.requests[string(body)]++
		w.mu.Unlock()
		model(c, string(body), rw, r)
	}
}

// times answers how often an item was sent.
func (w *world) times(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests[fmt.Sprintf(`{"n":%d}`, n)]
}

func answer200(body string, rw http.ResponseWriter) { fmt.Fprintf(rw, `{"echo":%s}`, body) }

func TestJob(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(300)).add("a", "b").begin()
		w.echoed(w.finish(time.Minute))
	})
}

func TestFaultsOfItemsAndOfTheModel(t *testing.T) {
	const items = 30
	big := strings.Repeat("x", maxAnswer)
	for name, c := range map[string]struct {
		spec    *fleetv1.JobSpec
		answer  func(w *world, rw http.ResponseWriter, r *http.Request) // of item 7
		times   int                                                     // that it's sent
		message string                                                  // why it fails; empty: it doesn't
	}{
		"refused":         {answer: status(400, "no such\nspecies"), times: 1, message: "the model answered 400 Bad Request: no such species"},
		"refused, often":  {spec: &fleetv1.JobSpec{ItemRetries: new(int32(2))}, answer: status(422, ""), times: 3, message: "the model answered 422 Unprocessable Entity"},
		"broken":          {answer: status(500, "oops"), times: 4, message: "the model answered 500 Internal Server Error: oops"},
		"broken, at once": {spec: &fleetv1.JobSpec{ModelRetries: new(int32(0))}, answer: status(500, "oops"), times: 1, message: "the model answered 500 Internal Server Error: oops"},
		"flaky": {times: 3, answer: func(w *world, rw http.ResponseWriter, _ *http.Request) {
			if w.times(7) < 3 {
				rw.WriteHeader(503)
				return
			}
			answer200(`{"n":7}`, rw)
		}},
		"garbage":          {answer: status(200, "<html>"), times: 1, message: `the answer isn't JSON: "<html>"`},
		"another schema":   {spec: &fleetv1.JobSpec{Strict: true}, answer: status(200, "[1]"), times: 1, message: "the answer doesn't match the declared response"},
		"too large":        {answer: status(200, big+big), times: 4, message: "the answer has more than 12582912 bytes"},
		"nothing, in time": {spec: &fleetv1.JobSpec{ItemTimeoutSeconds: 5}, answer: func(_ *world, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, times: 4, message: "no answer within 5s"},
		"hangs up":         {answer: func(*world, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, times: 4, message: "EOF"},
		"a redirect":       {answer: status(302, ""), times: 4, message: "the model answered 302 Found"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				spec := c.spec
				if spec == nil {
					spec = &fleetv1.JobSpec{}
				}
				w := newWorld(t, spec, inputs(items)).add("a")
				w.asked(func(_ *container, body string, rw http.ResponseWriter, r *http.Request) {
					if body == `{"n":7}` {
						c.answer(w, rw, r)
						return
					}
					answer200(body, rw)
				})
				lines := w.begin().finish(5 * time.Minute)
				if c.message == "" {
					w.echoed(lines)
				} else {
					w.echoed(lines, 7)
					if line := lines["i-00007.json"]; line.Result != batch.Failed || !strings.Contains(line.Message, c.message) {
						t.Errorf("item 7: %+v", line)
					}
				}
				if got := w.times(7); got != c.times {
					t.Errorf("it was sent %d times, want %d", got, c.times)
				}
			})
		})
	}
}

func status(code int, body string) func(*world, http.ResponseWriter, *http.Request) {
	return func(_ *world, rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(code)
		_, _ = io.WriteString(rw, body)
	}
}

// TestCrash: items that kill the container fail in the end, and cost no other item its result.
func TestCrash(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(60)).add("a")
		w.asked(func(c *container, body string, rw http.ResponseWriter, _ *http.Request) {
			time.Sleep(10 * time.Millisecond)
			if body == `{"n":17}` || body == `{"n":19}` {
				c.die()
			}
			answer200(body, rw)
		})
		lines := w.begin().finish(5 * time.Minute)
		w.echoed(lines, 17, 19)
		for _, n := range []int{17, 19} {
			line := lines[fmt.Sprintf("i-%05d.json", n)]
			if line.Result != batch.Failed || line.Message != "the container exited each of the 4 times that it was sent" {
				t.Errorf("item %d: %+v", n, line)
			}
		}
		if exits := w.containers["a"].exits; exits > 8 {
			t.Errorf("two items killed the container %d times", exits)
		}
	})
}

// TestStorageFaults: what the storage does to one item doesn't hurt another, and what passes hurts none.
func TestStorageFaults(t *testing.T) {
	fail := func(kind error) func(op string, u storage.URL) error {
		return func(op string, u storage.URL) error {
			if op == "read" && strings.HasSuffix(u.Key, "i-00007.json") {
				return &storage.Error{Op: op, URL: u, Kind: kind, Why: "of the test"}
			}
			return nil
		}
	}
	bubble(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			fault   func(op string, u storage.URL) error
			message string
		}{
			"gone":    {fail(storage.ErrNotFound), "not found: of the test"},
			"changed": {fail(storage.ErrChanged), "changed: of the test"},
			"denied":  {fail(storage.ErrDenied), "access denied: of the test"},
			"outside": {fail(storage.ErrForbidden), "access denied for good: of the test"},
			"large":   {fail(storage.ErrTooLarge), "too large: of the test"},
		} {
			began := time.Now()
			w := newWorld(t, &fleetv1.JobSpec{}, inputs(30)).add("a")
			w.setFault(c.fault)
			lines := w.begin().finish(5 * time.Minute)
			w.echoed(lines, 7)
			if line := lines["i-00007.json"]; line.Result != batch.Failed || !strings.Contains(line.Message, c.message) {
				t.Errorf("%s: %+v", name, line)
			}
			if waited := time.Since(began) >= deniedFor; waited != (name == "denied") {
				t.Errorf("%s: it took %s", name, time.Since(began))
			}
		}
	})
}

// TestStorageIsAway: for a minute nothing can be read or written, which the task tells; then it goes on.
func TestStorageIsAway(t *testing.T) {
	for _, kind := range []error{storage.ErrTemporary, storage.ErrFull, storage.ErrDenied} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, &fleetv1.JobSpec{}, inputs(200)).add("a")
			began := time.Now()
			away := func() bool { return time.Since(began) > time.Second && time.Since(began) < time.Minute }
			w.setFault(func(op string, u storage.URL) error {
				if away() && (op == "write" || errors.Is(kind, storage.ErrTemporary)) {
					return &storage.Error{Op: op, URL: u, Kind: kind, Why: "of the test"}
				}
				return nil
			})
			w.asked(func(_ *container, body string, rw http.ResponseWriter, _ *http.Request) {
				time.Sleep(100 * time.Millisecond)
				answer200(body, rw)
			})
			w.begin()
			time.Sleep(30 * time.Second)
			if trouble := w.leader.lastOf("a").GetProgress().GetTrouble(); !strings.Contains(trouble, kind.Error()) {
				t.Errorf("the task's trouble is %q", trouble)
			}
			w.echoed(w.finish(5 * time.Minute))
			if trouble := w.leader.lastOf("a").GetProgress().GetTrouble(); trouble != "" {
				t.Errorf("in the end the task's trouble is %q", trouble)
			}
		})
	}
}

// TestLeaderIsAway: what was leased is run meanwhile, and told afterwards.
func TestLeaderIsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(60)).add("a")
		w.asked(func(_ *container, body string, rw http.ResponseWriter, _ *http.Request) {
			time.Sleep(100 * time.Millisecond)
			answer200(body, rw)
		})
		w.begin()
		time.Sleep(100 * time.Millisecond)
		w.leader.with(func(l *leader) { l.away = true })
		time.Sleep(time.Minute)
		w.leader.with(func(l *leader) { l.away = false })
		w.echoed(w.finish(time.Minute))
		for n := range 20 { // the chunk that it held
			if times := w.times(n); times != 1 {
				t.Errorf("item %d was sent %d times", n, times)
			}
		}
	})
}

// TestFence: a chunk that another task has committed meanwhile is given up, and its results aren't published.
func TestFence(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(40)).add("a", "b")
		w.asked(func(c *container, body string, rw http.ResponseWriter, _ *http.Request) {
			if c.inst.GetMeta().GetId() == "a" {
				time.Sleep(20 * time.Second)
			}
			answer200(body, rw)
		})
		w.begin()
		time.Sleep(500 * time.Millisecond)
		w.leader.with(func(l *leader) {
			for attempt, le := range l.leases {
				if le.instance == "a" {
					delete(l.leases, attempt)
				}
			}
		})
		lines := w.finish(10 * time.Minute)
		w.echoed(lines)
		published := 0
		for _, task := range w.leader.tasks {
			files, err := os.ReadDir(filepath.Join(w.dir, "out", batch.ResultDirectory(task)))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			published += len(files)
		}
		if published != 40 {
			t.Errorf("%d results are published", published)
		}
	})
}

// TestStop: items that have begun end, the rest is given back, and a start goes on with it.
func TestStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(100)).add("a")
		w.asked(func(_ *container, body string, rw http.ResponseWriter, _ *http.Request) {
			time.Sleep(3 * time.Second)
			answer200(body, rw)
		})
		w.begin()
		time.Sleep(10 * time.Second)
		w.leader.with(func(l *leader) { l.stop = true })
		time.Sleep(10 * time.Second)
		done := 0
		w.leader.with(func(l *leader) {
			for _, attempt := range l.committed {
				if attempt != "" {
					done++
				}
			}
			if len(l.leases)+len(l.publishing)+len(l.unsealed)+len(l.sealed) > 0 {
				t.Errorf("something is in hand after the stop: %v", l.leases)
			}
			l.stop = false
		})
		if sent := len(w.requests); done == 0 || done != sent {
			t.Errorf("%d items were sent and %d are committed", sent, done)
		}
		w.echoed(w.finish(10 * time.Minute))
		for body, times := range w.requests {
			if times != 1 {
				t.Errorf("%s was sent %d times", body, times)
			}
		}
	})
}

// TestLeave: a task whose instance is to be stopped ends what it has begun and says when that is done; another goes on.
func TestLeave(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(60)).add("a", "b")
		w.asked(func(_ *container, body string, rw http.ResponseWriter, _ *http.Request) {
			time.Sleep(3 * time.Second)
			answer200(body, rw)
		})
		w.begin()
		time.Sleep(10 * time.Second)
		began, left := time.Now(), make(chan struct{})
		if most := w.m.Leave(w.containers["a"].inst, func() { close(left) }); most != defaultItemTimeout+10*time.Second {
			t.Errorf("it is to take %s at most", most)
		}
		w.containers["a"].tell(fleetv1.InstanceDraining, "a:80")
		<-left
		// An item whose input was read late may be sent when one that comes after it has ended.
		if took := time.Since(began); took > 7*time.Second {
			t.Errorf("it left after %s", took)
		}
		w.m.Drop("a")
		w.echoed(w.finish(10 * time.Minute))
		for body, times := range w.requests {
			if times != 1 {
				t.Errorf("%s was sent %d times", body, times)
			}
		}
	})
}

// TestLeaveInTime: neither a model that gives no answer nor a storage that is away keeps an instance for ever.
func TestLeaveInTime(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"no answer": func(w *world) {
			w.asked(func(_ *container, _ string, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		},
		"no storage": func(w *world) {
			w.setFault(func(op string, u storage.URL) error {
				if op == "write" {
					return &storage.Error{Op: op, URL: u, Kind: storage.ErrTemporary, Why: "of the test"}
				}
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, &fleetv1.JobSpec{ItemTimeoutSeconds: 20, ModelRetries: new(int32(10))}, inputs(10)).add("a")
				spoil(w)
				w.begin()
				time.Sleep(5 * time.Second)
				began, left := time.Now(), make(chan struct{})
				most := w.m.Leave(w.containers["a"].inst, func() { close(left) })
				<-left
				if took := time.Since(began); took > most || most != 30*time.Second {
					t.Errorf("it left after %s, and was to by %s", took, most)
				}
				w.end()
			})
		})
	}
}

// unpublishable is a fault for which results get no names.
func unpublishable(op string, u storage.URL) error {
	if op == "write" && strings.Contains(u.Key, "infer-result") {
		return &storage.Error{Op: op, URL: u, Kind: storage.ErrTemporary, Why: "of the test"}
	}
	return nil
}

// TestAgentRestart: an agent that begins anew has nothing in hand; what is committed is published from its packs.
func TestAgentRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(60)).add("a")
		w.asked(func(_ *container, body string, rw http.ResponseWriter, _ *http.Request) { answer200(body, rw) })
		w.setFault(unpublishable)
		w.begin()
		time.Sleep(10 * time.Second)
		w.m.Drop("a")
		w.setFault(nil)
		w.containers["a"].tell(fleetv1.InstanceRunning, "a:80")
		w.echoed(w.finish(time.Minute))
		for body, times := range w.requests {
			if times != 1 {
				t.Errorf("%s was sent %d times", body, times)
			}
		}
	})
}

// TestPacksAreLost: who has the results doesn't need their packs. Who hasn't says which ones aren't there, until they are, or
// until it needs them no more.
func TestPacksAreLost(t *testing.T) {
	for name, c := range map[string]struct {
		restarted, back bool
		sent            int // how often the items of the lost packs are
	}{
		"it has the results": {sent: 1},
		"they come back":     {restarted: true, back: true, sent: 1},
		"they are gone":      {restarted: true, sent: 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, &fleetv1.JobSpec{}, inputs(60)).add("a")
				w.leader.seal = 100 // all in one manifest
				w.asked(func(_ *container, body string, rw http.ResponseWriter, _ *http.Request) { answer200(body, rw) })
				w.setFault(unpublishable)
				w.begin()
				time.Sleep(10 * time.Second)
				packs, err := filepath.Glob(filepath.Join(w.dir, "out/.drover/job/pack-*"))
				if err != nil || len(packs) != 3 {
					t.Fatalf("the packs are %v, %v", packs, err)
				}
				for _, path := range packs[:2] {
					if err := os.Rename(path, path+".away"); err != nil {
						t.Fatal(err)
					}
				}
				if c.restarted {
					w.m.Drop("a")
					w.containers["a"].tell(fleetv1.InstanceRunning, "a:80")
				}
				time.Sleep(20 * time.Second)
				if lost := w.leader.lastOf("a").GetLost(); c.restarted != (len(lost) == 2) || !c.restarted && len(lost) > 0 {
					t.Errorf("it says that %v are lost", lost)
				}
				if c.back {
					for _, path := range packs[:2] {
						if err := os.Rename(path+".away", path); err != nil {
							t.Fatal(err)
						}
					}
				} else {
					w.leader.with(func(l *leader) { l.again = true })
				}
				w.setFault(nil)
				w.echoed(w.finish(2 * time.Minute))
				if lost := w.leader.lastOf("a").GetLost(); len(lost) > 0 {
					t.Errorf("in the end it says that %v are lost", lost)
				}
				sent := map[int]int{}
				for n := range 60 {
					sent[w.times(n)]++
				}
				if want := map[int]int{c.sent: 40, 1: 20}; c.sent > 1 && !maps.Equal(sent, want) || c.sent == 1 && sent[1] != 60 {
					t.Errorf("items by how often they were sent: %v", sent)
				}
			})
		})
	}
}

// TestTaken: what another task is to have of a chunk is given up, unless it has begun.
func TestTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &fleetv1.JobSpec{MaxConcurrency: 1}, inputs(40)).add("a")
		w.leader.size = 40
		w.asked(func(_ *container, body string, rw http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			answer200(body, rw)
		})
		w.begin()
		time.Sleep(10500 * time.Millisecond)
		take := func(to int64) (has int64) {
			w.leader.with(func(l *leader) {
				for _, le := range l.leases {
					le.ask = to
				}
			})
			time.Sleep(2500 * time.Millisecond)
			for _, c := range w.leader.lastOf("a").GetChunks() {
				if c.GetChunk().GetFrom() == 0 {
					has = c.GetChunk().GetTo()
				}
			}
			return has
		}
		w.leader.with(func(l *leader) { l.size = 0 }) // nothing more is leased
		if has := take(30); has != 30 {
			t.Errorf("asked to end at 30, it has items up to %d", has)
		}
		if has := take(5); has >= 30 { // where it has been by then; it may have ended
			t.Errorf("asked to end where it has been, it has items up to %d", has)
		}
		w.leader.with(func(l *leader) { l.size = 20 })
		w.echoed(w.finish(time.Minute))
		for body, times := range w.requests {
			if times != 1 {
				t.Errorf("%s was sent %d times", body, times)
			}
		}
	})
}
