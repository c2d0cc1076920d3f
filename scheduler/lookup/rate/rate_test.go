package rate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is several limiters that call each other, within a synctest bubble.
type cluster struct {
	t    *testing.T
	mu   sync.Mutex
	side map[string]int // schedulers on different sides aren't connected; 0: it is down
	all  map[string]*Limiter
	ids  []string

	admitted []time.Time
}

const latency = 2 * time.Millisecond

func run(t *testing.T, limits Limits, n int, test func(*cluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, side: map[string]int{}, all: map[string]*Limiter{}}
		for i := range n {
			id := string(rune('a' + i))
			c.ids, c.side[id] = append(c.ids, id), 1
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, id := range c.ids {
			c.all[id] = New(Config{Limits: limits, Self: id, Now: time.Now,
				Members: func() ([]string, []string) { return c.ids, c.reach(id) },
				Call: func(ctx context.Context, to string, req *fleetv1.CountLookupsRequest) (*fleetv1.CountLookupsResponse, error) {
					time.Sleep(latency)
					if !slices.Contains(c.reach(id), to) {
						return nil, errors.New("it doesn't answer")
					}
					return c.all[to].Count(req), nil
				}})
		}
		for _, l := range c.all {
			running.Go(func() { l.Run(ctx) })
		}
		synctest.Wait()
		test(c)
		cancel()
		running.Wait()
	})
}

// reach are those that a scheduler is connected to, and itself.
func (c *cluster) reach(id string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, other := range c.ids {
		if other == id || c.side[other] == c.side[id] {
			out = append(out, other)
		}
	}
	return out
}

func (c *cluster) put(side int, ids ...string) {
	c.mu.Lock()
	for _, id := range ids {
		c.side[id] = side
	}
	c.mu.Unlock()
	time.Sleep(3 * tick) // the others find out
}

// offer asks the schedulers in turn, so often, and answers how many were admitted. The exchanges go on meanwhile.
func (c *cluster) offer(n int, every time.Duration, account, user string, at ...string) (admitted int) {
	for i := range n {
		if c.all[at[i%len(at)]].Take(account, user) == nil {
			admitted++
			c.admitted = append(c.admitted, time.Now())
		}
		time.Sleep(every)
	}
	return admitted
}

// busiest is the most that was admitted within a minute.
func (c *cluster) busiest() (most int) {
	from := 0
	for i, at := range c.admitted {
		for at.Sub(c.admitted[from]) >= time.Minute {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}

func within(t *testing.T, what string, got, want, percent int) {
	t.Helper()
	if d := want * percent / 100; got < want-d || got > want+d {
		t.Errorf("%s: %d, want %d ±%d %%", what, got, want, percent)
	}
}

func TestOneScheduler(t *testing.T) {
	run(t, Limits{Account: 100, User: 20}, 1, func(c *cluster) {
		l := c.all["a"]
		for i := range 20 {
			if no := l.Take("acme", "ada"); no != nil {
				t.Fatalf("look-up %d: %+v", i, no)
			}
		}
		no := l.Take("acme", "ada")
		if no == nil || !no.User || no.Limit != 20 || no.RetryAfter < time.Minute || no.RetryAfter > time.Minute+slotTime {
			t.Fatalf("the 21st: %+v", no)
		}
		for i := range 80 {
			if no := l.Take("acme", fmt.Sprint("u", i)); no != nil {
				t.Fatalf("another's: %+v", no)
			}
		}
		if no := l.Take("acme", "eve"); no == nil || no.User || no.Limit != 100 {
			t.Errorf("the account's 101st: %+v", no)
		}
		if no := l.Take("other", "ada"); no != nil {
			t.Errorf("another account: %+v", no)
		}
		time.Sleep(no.RetryAfter)
		if no := l.Take("acme", "ada"); no != nil {
			t.Errorf("after Retry-After: %+v", no)
		}
		if got := l.Counts(); got.Admitted != 102 || got.RefusedUser != 1 || got.RefusedAccount != 1 || got.Accounts != 2 {
			t.Errorf("%+v", got)
		}
	})
}

func TestNoLimits(t *testing.T) {
	run(t, Limits{}, 1, func(c *cluster) { within(t, "off", c.offer(5000, 0, "acme", "ada", "a"), 5000, 0) })
	run(t, Limits{User: 5}, 1, func(c *cluster) { within(t, "for users alone", c.offer(50, 0, "acme", "ada", "a"), 5, 0) })
	run(t, Limits{Account: 5}, 1, func(c *cluster) { within(t, "for accounts alone", c.offer(50, 0, "acme", "ada", "a"), 5, 0) })
	var none *Limiter
	if none.Take("acme", "ada") != nil {
		t.Error("no limiter refuses")
	}
}

// Whichever scheduler owns the account, and whichever are asked, all count together.
func TestThreeSchedulersCountTogether(t *testing.T) {
	for _, account := range []string{"acme", "beta", "gamma", "delta"} {
		for _, at := range [][]string{{"a", "b", "c"}, {"a"}, {"b"}, {"c", "a"}} {
			run(t, Limits{Account: 2000}, 3, func(c *cluster) {
				c.offer(60_000, 3*time.Millisecond, account, "ada", at...) // 333/s for three minutes
				what := fmt.Sprintf("%s of %s, asked at %v", account, c.all["a"].group.owner(account), at)
				within(t, what+": the busiest minute", c.busiest(), 2000, 10)
				within(t, what+": all", len(c.admitted), 3*2000, 10)
			})
			run(t, Limits{Account: 2000, User: 20}, 3, func(c *cluster) {
				c.offer(1800, 100*time.Millisecond, account, "ada", at...)
				within(t, fmt.Sprintf("%s's user at %v", account, at), c.busiest(), 20, 10)
			})
		}
	}
}

// What a scheduler admits before it has told the owner of an account for the first time is added to what the owner has.
func TestFirstTold(t *testing.T) {
	run(t, Limits{Account: 2000}, 3, func(c *cluster) {
		c.offer(90, 0, "acme", "ada", c.ids...)
		time.Sleep(10 * tick)
		owner := c.all[c.all["a"].group.owner("acme")]
		owner.mu.Lock()
		defer owner.mu.Unlock()
		if got := owner.accounts["acme"].own.used.sum(owner.slot(time.Now())); got < 90 {
			t.Errorf("the owner knows of %d of 90", got)
		}
	})
}

// All three are asked at the same moment: by how much a limit is exceeded is bounded.
func TestBurstEverywhere(t *testing.T) {
	for _, account := range []string{"acme", "beta", "gamma"} {
		run(t, Limits{Account: 2000, User: 20}, 3, func(c *cluster) {
			within(t, account+"'s user", c.offer(300, 0, account, "ada", c.ids...), 20, 10)
		})
		run(t, Limits{Account: 2000}, 3, func(c *cluster) {
			within(t, account, c.offer(30_000, 0, account, "ada", c.ids...), 2000, 10)
		})
	}
}

// A user far below the limit is never refused, wherever he asks.
func TestQuietUsersAreAdmitted(t *testing.T) {
	run(t, Limits{Account: 2000, User: 20}, 3, func(c *cluster) {
		if got := c.offer(180, 4*time.Second, "acme", "ada", c.ids...); got != 180 {
			t.Errorf("%d of 180 look-ups, one in 4 s, are admitted", got)
		}
	})
}

func TestPartition(t *testing.T) {
	run(t, Limits{Account: 3000}, 3, func(c *cluster) {
		c.put(2, "c")
		two := c.offer(10_000, time.Millisecond, "acme", "ada", "a", "b")
		one := c.offer(10_000, time.Millisecond, "acme", "ada", "c")
		within(t, "two of three", two, 2000, 10)
		within(t, "one of three", one, 1000, 10)
		time.Sleep(2 * time.Minute)
		c.put(1, "c")
		time.Sleep(retryTime + 2*tick)
		within(t, "together again", c.offer(20_000, time.Millisecond, "acme", "ada", c.ids...), 3000, 10)
	})
}

// The owner is lost when the account has used its limit up: its heir, which nobody has asked before, is told by the other.
func TestHeirKnows(t *testing.T) {
	run(t, Limits{Account: 300, User: 30}, 3, func(c *cluster) {
		owner := c.all["a"].group.owner("acme")
		left := slices.DeleteFunc(slices.Clone(c.ids), func(id string) bool { return id == owner })
		heir := group{connected: left}.owner("acme")
		other := left[0]
		if other == heir {
			other = left[1]
		}
		for i := range 20 { // each user may, but the account mayn't
			c.offer(30, 10*time.Millisecond, "acme", fmt.Sprint("u", i), other)
		}
		within(t, "before", len(c.admitted), 300, 10)
		time.Sleep(2 * holdTime) // nothing is left to be told
		c.put(0, owner)
		time.Sleep(2 * tick)
		for _, id := range left {
			if got := c.offer(50, time.Millisecond, "acme", "eve", id); got > 0 {
				t.Errorf("%d more are admitted by %s when the owner is lost", got, id)
			}
		}
	})
}

// What one scheduler has been granted and doesn't use is there for another that was refused.
func TestGivenBack(t *testing.T) {
	run(t, Limits{Account: 120}, 3, func(c *cluster) {
		owner := c.all["a"].group.owner("acme")
		left := slices.DeleteFunc(slices.Clone(c.ids), func(id string) bool { return id == owner })
		c.offer(1, 2*tick, "acme", "ada", left[0])
		if got := c.offer(200, time.Millisecond, "acme", "ada", left[1]); got >= 115 {
			t.Fatalf("%d are admitted beside what is granted elsewhere", got)
		}
		time.Sleep(holdTime + 2*tick)
		c.offer(200, 5*time.Millisecond, "acme", "ada", left[1])
		within(t, "at last", len(c.admitted), 120, 5)
	})
}

// Schedulers that don't know the call, as older ones, are as if they weren't connected.
func TestOlderScheduler(t *testing.T) {
	run(t, Limits{Account: 200}, 2, func(c *cluster) {
		for _, l := range c.all {
			l.mu.Lock()
			l.cfg.Call = func(context.Context, string, *fleetv1.CountLookupsRequest) (*fleetv1.CountLookupsResponse, error) {
				return nil, errors.New("unimplemented")
			}
			l.mu.Unlock()
		}
		account := ""
		for i := 0; account == "" || c.all["a"].group.owner(account) == "a"; i++ {
			account = fmt.Sprint("x", i)
		}
		within(t, "alone", c.offer(4000, time.Millisecond, account, "ada", "a"), 100, 20)
	})
}

func TestManyUsersTakeBoundedMemory(t *testing.T) {
	run(t, Limits{Account: 2000, User: 20}, 1, func(c *cluster) {
		l := c.all["a"]
		for i := range 100_000 {
			l.Take("acme", fmt.Sprint("u", i))
		}
		if got := l.Counts(); got.Users > 2000 || got.RefusedAccount != 98_000 {
			t.Errorf("%+v", got)
		}
		time.Sleep(time.Minute + 2*slotTime + sweepTime)
		synctest.Wait()
		if got := l.Counts(); got.Users+got.Accounts != 0 {
			t.Errorf("a minute later: %+v", got)
		}
	})
}

// TestFullTable: one account's users, as many as it likes, take no memory without bound, no room of other accounts, and nothing
// from what active users have used.
func TestFullTable(t *testing.T) {
	run(t, Limits{User: 20}, 1, func(c *cluster) {
		l := c.all["a"]
		used := func(account, user string) {
			t.Helper()
			if no := l.Take(account, user); no == nil || !no.User || no.Limit != 20 {
				t.Errorf("%s of %s, who has used the limit up: %+v", user, account, no)
			}
		}
		for range 20 {
			l.Take("acme", "ada")
			l.Take("globex", "bob")
		}
		flood := func() (refused int) {
			for i := range maxUsers {
				if l.Take("acme", fmt.Sprint("u", i)) != nil {
					refused++
				}
			}
			return refused
		}
		first := flood()
		if got := l.Counts(); got.Users > maxUsers/2+spills+1 || first < maxUsers/2-20*spills {
			t.Errorf("%+v, and %d are refused: those beyond share %d counters", got, first, spills)
		}
		used("acme", "ada")
		used("globex", "bob")
		for i := range 1000 { // others' new users have counters of their own
			if no := l.Take("globex", fmt.Sprint("v", i)); no != nil {
				t.Fatalf("user %d of another account: %+v", i, no)
			}
		}
		time.Sleep(time.Minute - 2*slotTime)
		for range 20 {
			l.Take("initech", "eve") // active when all others are idle
		}
		time.Sleep(3 * slotTime) // Run may not have looked since
		if no := l.Take("acme", "ada"); no != nil {
			t.Errorf("a minute later: %+v", no)
		}
		flood()
		used("initech", "eve")
		time.Sleep(time.Minute + 2*slotTime + sweepTime)
		synctest.Wait()
		if got := l.Counts(); got.Users+got.Accounts != 0 {
			t.Errorf("when all are idle: %+v", got)
		}
	})
}

// TestFullTableMakesRoom: who is idle makes room as soon as it is needed, and an account that finds none counts all the same.
func TestFullTableMakesRoom(t *testing.T) {
	now := time.Unix(1, 0)
	l := New(Config{Limits: Limits{User: 20}, Self: "a", Members: func() ([]string, []string) { return []string{"a"}, []string{"a"} }, Now: func() time.Time { return now }})
	for n := 0; l.Counts().Users < maxUsers; n++ {
		for i := range spills {
			l.Take(fmt.Sprint("account", n), fmt.Sprint("u", i))
		}
	}
	full := l.Counts().Users
	admitted := 0
	for i := range 1000 {
		for range 21 {
			if l.Take("last", fmt.Sprint("w", i)) == nil {
				admitted++
			}
		}
	}
	if added := l.Counts().Users - full; added > spills || admitted != 20*added {
		t.Errorf("%d counters are added, and %d look-ups admitted", added, admitted)
	}
	now = now.Add(time.Minute + 2*slotTime)
	if no := l.Take("late", "ada"); no != nil || l.Counts().Users != 1 {
		t.Errorf("when all are idle: %+v, %+v", no, l.Counts())
	}
}

// TestFullTableOfTheOwner: users who find no room at the owner are limited there together, over all schedulers.
func TestFullTableOfTheOwner(t *testing.T) {
	run(t, Limits{User: 20}, 2, func(c *cluster) {
		owner := c.all["a"].group.owner("acme")
		other := c.ids[1-slices.Index(c.ids, owner)]
		for i := range maxUsers / 2 {
			c.all[owner].Take("acme", fmt.Sprint("u", i))
		}
		within(t, "at both", c.offer(400, 5*time.Millisecond, "acme", "nobody before", owner, other), 20, 10)
	})
}

// The window is what a list of all that happened says.
func TestWindow(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var w, copied window
		counts := map[int64]uint32{}
		slot := int64(slots)
		for range 300 {
			slot += int64(rng.IntN(4)) * int64(rng.IntN(8))
			n := uint32(rng.IntN(5))
			if rng.IntN(4) > 0 {
				w.add(slot, n)
				counts[slot] += n
			} else {
				w.takeBack(slot, n)
				for s := slot; s > slot-int64(slots); s-- {
					back := min(n, counts[s])
					counts[s], n = counts[s]-back, n-back
				}
			}
			want := uint32(0)
			for s := slot; s > slot-int64(slots); s-- {
				want += counts[s]
			}
			if got := w.sum(slot); got != want {
				t.Fatalf("slot %d: %d, want %d", slot, got, want)
			}
			copied.set(slot, w.ages(slot))
			if !slices.Equal(copied.ages(slot), w.ages(slot)) || copied.sum(slot) != want {
				t.Fatalf("copied: %v, not %v", copied.ages(slot), w.ages(slot))
			}
			if want > 0 {
				wait := w.frees(slot, want)
				later := slot + int64(wait/slotTime)
				if before := w; before.sum(later-1) < want {
					t.Fatalf("%v are told, and it frees before", wait)
				}
				if after := w; after.sum(later) >= want {
					t.Fatalf("%v are told, and %d are left of %d", wait, after.sum(later), want)
				}
			}
		}
	}
}

// FuzzCount: whatever another scheduler says, the answer has an allowance for each count, within the limit.
func FuzzCount(f *testing.F) {
	f.Add("acme", "ada", uint32(1), uint32(0), uint32(5), true, "\x01\x02")
	f.Add("", "", uint32(1<<31), uint32(1<<31), uint32(1<<31), false, strings.Repeat("\xff", 100))
	f.Fuzz(func(t *testing.T, account, user string, taken, held, returned uint32, wants bool, known string) {
		l := New(Config{Limits: Limits{Account: 100, User: 10}, Self: "a", Members: func() ([]string, []string) { return []string{"a"}, []string{"a"} }, Now: time.Now})
		n := &fleetv1.LookupCount{Account: account, User: user, Taken: taken, Held: held, Returned: returned, Wants: wants}
		for _, b := range []byte(known) {
			n.Known = append(n.Known, uint32(b))
		}
		resp := l.Count(&fleetv1.CountLookupsRequest{Counts: []*fleetv1.LookupCount{n, n}})
		if len(resp.GetAllowances()) != 2 {
			t.Fatal(resp)
		}
		for _, a := range resp.GetAllowances() {
			if a.GetGranted() > 100 || len(a.GetUsed()) > slots {
				t.Error(a)
			}
		}
		l.Take(account, user)
	})
}

func BenchmarkTake(b *testing.B) {
	l := New(Config{Limits: Limits{Account: 1 << 30, User: 1 << 30}, Self: "a", Members: func() ([]string, []string) { return []string{"a"}, []string{"a"} }, Now: time.Now})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Take("acme", "ada")
		}
	})
}

// BenchmarkTakeFull is a look-up of a user who finds no room, while all the others are active.
func BenchmarkTakeFull(b *testing.B) {
	l := New(Config{Limits: Limits{User: 20}, Self: "a", Members: func() ([]string, []string) { return []string{"a"}, []string{"a"} }, Now: time.Now})
	for i := range maxUsers {
		l.Take("acme", fmt.Sprint("u", i))
	}
	b.ReportAllocs()
	for b.Loop() {
		l.Take("acme", "ada")
	}
}
