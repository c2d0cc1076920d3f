package direct

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// want checks what a settled Service has.
func want(t *testing.T, s *Service, what string, list ...Endpoint) {
	t.Helper()
	synctest.Wait()
	got, _, err := s.Endpoints()
	if err != nil || !slices.Equal(got.HostEndpoints, list) {
		t.Fatalf("%s: %v and error %v, want %v", what, got.HostEndpoints, err, list)
	}
}

var e1, e2, e3 = endpoint(1, "1", 100), endpoint(2, "1", 100), endpoint(3, "1", 100)

func TestFollows(t *testing.T) {
	for name, c := range map[string]struct {
		old, older bool
		lag        time.Duration // until a change is seen
		query      string        // part of the last
		most       int           // in ten minutes
	}{
		"by a watch":          {query: "watch=true", most: 1},
		"by blocking queries": {old: true, query: "wait=30s", most: 30},
		"by asking again":     {old: true, older: true, lag: 5 * time.Second, query: "type=host_endpoints", most: 160},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeScheduler(e1)
				f.old, f.older = c.old, c.older
				s := following(t, f)
				if err := s.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				want(t, s, "the first answer", e1)
				f.publish(2, e1, e2)
				time.Sleep(c.lag)
				want(t, s, "one more", e1, e2)
				f.publish(3, e2)
				time.Sleep(c.lag)
				want(t, s, "one has left", e2)
				time.Sleep(10 * time.Minute)
				want(t, s, "a quiet time", e2)
				if _, age, _ := s.Endpoints(); age > 45*time.Second {
					t.Errorf("the list of a scheduler that answers is %v old", age)
				}
				if asked := f.asked(); !strings.Contains(asked[len(asked)-1], c.query) || len(asked) > c.most {
					t.Errorf("%d queries, the last %q; want at most %d, and %q", len(asked), asked[len(asked)-1], c.most, c.query)
				}
			})
		})
	}
}

func TestAnotherSchedulerIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFakeScheduler(e1), newFakeScheduler(e1)
		s := following(t, a, b)
		want(t, s, "the first answer", e1)
		for range 3 { // whichever is followed ends, and the other has news
			for i, f := range []*fakeScheduler{a, b} {
				other := []*fakeScheduler{b, a}[i]
				f.do(func() { f.down, f.refuse = true, refusal(http.StatusServiceUnavailable) })
				other.do(func() {
					other.index, other.list, other.down, other.refuse = other.index+f.index, []Endpoint{e2}, false, nil
				})
				time.Sleep(5 * time.Second)
				want(t, s, "the other's answer", e2)
				other.publish(other.index+1, e3)
				want(t, s, "its news", e3)
				time.Sleep(pollFloor)
			}
		}
	})
}

// A scheduler that ends each watch at once isn't asked all the time.
func TestWatchesThatDoNotLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeScheduler(e1)
		s := following(t, f)
		for range 600 {
			f.do(func() { f.down = true })
			synctest.Wait()
			f.do(func() { f.down = false })
			time.Sleep(time.Second)
		}
		time.Sleep(lastPause)
		want(t, s, "its answer", e1)
		if n := len(f.asked()); n > 240 {
			t.Errorf("asked %d times in ten minutes", n)
		}
	})
}

func TestListStaysWhileNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeScheduler(e1)
		s := following(t, f)
		want(t, s, "the first answer", e1)
		f.do(func() { f.down, f.refuse = true, refusal(http.StatusServiceUnavailable) })
		time.Sleep(time.Hour)
		list, age, err := s.Endpoints()
		var l *LookupError
		if !slices.Equal(list.HostEndpoints, []Endpoint{e1}) || age < time.Hour || !errors.As(err, &l) || l.Status != http.StatusServiceUnavailable {
			t.Errorf("after an hour: %v, %v old, error %v", list.HostEndpoints, age, err)
		}
		if n := len(f.asked()); n < 360 || n > 1000 {
			t.Errorf("asked %d times in an hour", n)
		}
		f.do(func() { f.down, f.refuse = false, nil })
		time.Sleep(lastPause)
		want(t, s, "it answers again", e1)
		if _, age, _ := s.Endpoints(); age > 15*time.Second {
			t.Errorf("the new list is %v old", age)
		}
	})
}

func TestRateLimitIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, g := newFakeScheduler(e1), newFakeScheduler(e1)
		limited := refusal(http.StatusTooManyRequests, "Retry-After", "20")
		f.refuse, g.refuse = limited, limited
		s := following(t, f, g)
		time.Sleep(time.Minute + 5*time.Second)
		if n := len(f.asked()) + len(g.asked()); n > 4 || n < 3 {
			t.Errorf("asked %d times in a minute with Retry-After 20", n)
		}
		if err := s.Wait(deadline(t, time.Second)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for a scheduler that will answer: %v", err)
		}
		f.do(func() { f.refuse = nil })
		g.do(func() { g.refuse = nil })
		time.Sleep(22 * time.Second)
		want(t, s, "the limit has passed", e1)
	})
}

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestWaitEndsWhenRefused(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 409} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeScheduler()
			f.refuse = refusal(status)
			s := following(t, f)
			var l *LookupError
			if err := s.Wait(t.Context()); !errors.As(err, &l) || l.Status != status || l.Message != "refused" {
				t.Errorf("%d: %v", status, err)
			}
			s.Close()
			if _, _, err := s.Endpoints(); err == nil {
				t.Error("no error before the first answer")
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFakeScheduler()
		f.refuse = refusal(503)
		s := following(t, f)
		go func() {
			time.Sleep(time.Second)
			s.Close()
		}()
		if err := s.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "isn't followed any more") {
			t.Errorf("a closed one: %v", err)
		}
	})
}

// An endpoint that has left doesn't come back because a scheduler is asked that has not heard yet.
func TestOlderAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFakeScheduler(e1), newFakeScheduler(e1)
		a.index, b.index = 10, 10
		s := following(t, a, b)
		synctest.Wait()
		if len(b.asked()) > 0 {
			a, b = b, a
		}
		a.publish(12, e2) // b doesn't hear
		want(t, s, "e1 has left", e2)
		a.do(func() { a.down = true; a.refuse = refusal(503) })
		changed := s.Changed()
		for len(b.asked()) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		if list, _, err := s.Endpoints(); !slices.Equal(list.HostEndpoints, []Endpoint{e2}) || err == nil {
			t.Fatalf("an older answer: %v, %v", list.HostEndpoints, err)
		}
		<-changed
		time.Sleep(30 * time.Second) // all have had their turn: it is a restore
		want(t, s, "all are older", e1)
	})
}

func TestServiceThatIsGone(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second func(http.ResponseWriter) bool
		gone          bool
	}{
		{"all say so", refusal(404), refusal(409), true},
		{"one can't know", refusal(404), refusal(503), true},
		{"they hear no leader", refusal(404, "Drover-Stale", "true"), refusal(404, "Drover-Stale", "true"), false},
		{"it may not be looked up", refusal(403), refusal(403), true},
		{"the token is refused", refusal(401), refusal(401), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newFakeScheduler(e1), newFakeScheduler(e1)
				s := following(t, a, b)
				want(t, s, "the first answer", e1)
				a.do(func() { a.down, a.refuse = true, c.first })
				b.do(func() { b.down, b.refuse = true, c.second })
				time.Sleep(lag)
				if list, _, _ := s.Endpoints(); len(list.HostEndpoints) == 0 {
					t.Error("gone at once")
				}
				time.Sleep(3 * lastPause)
				list, _, err := s.Endpoints()
				if gone := len(list.HostEndpoints) == 0; gone != c.gone || err == nil {
					t.Errorf("endpoints %v, error %v", list.HostEndpoints, err)
				}
			})
		})
	}
}

// A watch tells when its scheduler has lost the leader, and another one is asked then.
func TestWatchBecomesStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFakeScheduler(e1), newFakeScheduler(e1)
		s := following(t, a, b)
		want(t, s, "the first answer", e1)
		if len(b.asked()) > 0 {
			a, b = b, a
		}
		a.do(func() { a.leaderless = true })
		synctest.Wait()
		if _, _, err := s.Endpoints(); !errors.Is(err, errStale) {
			t.Errorf("error %v", err)
		}
		b.publish(2, e2)
		time.Sleep(time.Second)
		want(t, s, "the other's", e2)
		b.do(func() { b.leaderless = true })
		time.Sleep(time.Minute)
		if list, _, err := s.Endpoints(); !slices.Equal(list.HostEndpoints, []Endpoint{e2}) || err == nil {
			t.Errorf("nobody hears a leader: %v, %v", list.HostEndpoints, err)
		}
	})
}

func TestWatchEnds(t *testing.T) {
	for over, c := range map[string]struct {
		status int
		gone   bool
	}{
		`{"error_code":"DROVER.4092","error_msg":"stopped"}`: {409, true},
		`{"error_code":"DROVER.0404","error_msg":"deleted"}`: {404, true},
		`{"error_code":"DROVER.0403","error_msg":"unbound"}`: {403, true},
		`{"error_code":"DROVER.0401","error_msg":"revoked"}`: {401, false},
		`{"error_code":"DROVER.0503","error_msg":"too old"}`: {503, false},
		`{"error_code":"DROVER.x","error_msg":"?"}`:          {502, false},
		`<html>`: {502, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeScheduler(e1)
			s := following(t, f)
			want(t, s, "the first answer", e1)
			f.do(func() { f.over = over })
			synctest.Wait()
			list, _, err := s.Endpoints()
			var l *LookupError
			if !errors.As(err, &l) || l.Status != c.status || (len(list.HostEndpoints) == 0) != c.gone {
				t.Errorf("%s: %v, %v", over, list.HostEndpoints, err)
			}
			f.do(func() { f.over = "" })
			time.Sleep(time.Second)
			want(t, s, "it goes on", e1)
		})
	}
}

// What an unchanged index hides, such as a lost lease, is seen all the same.
// TestWatchOutlivesItsSignature: a signature is good for so long, and a watch is opened again with a new one when it ends. Who
// uses the endpoints notices nothing, and no change is missed.
func TestWatchOutlivesItsSignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		one, two := newFakeScheduler(endpoint(1, "0.0.1", 100)), newFakeScheduler(endpoint(1, "0.0.1", 100))
		one.secret, two.secret = "sk", "sk"
		s := followingAs(t, Config{Service: "iris", Credentials: Credentials{AccessKey: "AK", SecretKey: "sk"}, Logger: slog.New(slog.NewTextHandler(&log, nil))}, one, two)
		if err := s.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		const hours = 2
		for n := uint64(2); n < hours*3600; n++ {
			time.Sleep(time.Second)
			for _, f := range []*fakeScheduler{one, two} {
				f.publish(n, endpoint(int(n), "0.0.1", 100))
			}
			synctest.Wait()
			if list, age, err := s.Endpoints(); err != nil || age > 0 || list.Index != n {
				t.Fatalf("after %d s: index %d, %v old, %v", n, list.Index, age, err)
			}
		}
		asked, others := one.asked(), two.asked()
		if len(asked) < len(others) {
			asked, others = others, asked
		}
		if want := hours * 4; len(asked) < want || len(asked) > want+1 || len(others) != 0 {
			t.Errorf("the schedulers are asked %d and %d times in %d h", len(asked), len(others), hours)
		}
		if log.Len() > 0 {
			t.Errorf("the log has\n%s", log.String())
		}
		for _, f := range []*fakeScheduler{one, two} {
			f.do(func() { f.secret = "another" }) // the key is revoked
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, _, err := s.Endpoints(); !refused(err) || len(one.asked())+len(two.asked()) > len(asked)+30 {
			t.Errorf("when the key is revoked: %v, %d and %d requests", err, len(one.asked()), len(two.asked()))
		}
	})
}

func TestAnotherAnswerUnderTheSameIndex(t *testing.T) {
	for _, old := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeScheduler(e1, e2)
			f.old = old
			s := following(t, f)
			want(t, s, "the first answer", e1, e2)
			f.publish(1, e2)
			want(t, s, "one has left", e2)
		})
	}
}

func TestStaleSchedulerIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFakeScheduler(e1), newFakeScheduler(e1)
		stale := func(w http.ResponseWriter) bool {
			w.Header().Set("Drover-Stale", "true")
			w.Header().Set("Drover-Staleness", "7.5")
			return false
		}
		a.refuse, b.refuse = stale, stale
		s := following(t, a, b)
		if err := s.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the answer comes before the judgement of it
		if list, age, err := s.Endpoints(); !list.Stale || age < 7*time.Second || !errors.Is(err, errStale) {
			t.Errorf("stale %v, age %v, error %v", list.Stale, age, err)
		}
		a.do(func() { a.refuse = nil })
		time.Sleep(2 * lastPause)
		want(t, s, "the one that hears a leader", e1)
		a.publish(2, e2)
		want(t, s, "it is watched", e2)
	})
}

func TestSilentWatchIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		})
		cfg, err := Config{Service: "iris", Schedulers: []string{"https://a"}}.checked()
		if err != nil {
			t.Fatal(err)
		}
		s := start(cfg, &http.Client{Transport: memoryNetwork{"a": silent}})
		defer s.Close()
		time.Sleep(askLimit + time.Second)
		if _, _, err := s.Endpoints(); !errors.Is(err, errSilent) {
			t.Errorf("error %v", err)
		}
	})
}
