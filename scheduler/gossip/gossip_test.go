package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const limit = 30 * time.Second

// log collects what is logged.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) has(part string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), part)
}

type node struct {
	*Gossip
	log  *log
	stop func()
}

// start starts a member that knows the addresses of others.
func start(t *testing.T, id string, edit func(*Config), others ...*node) *node {
	t.Helper()
	out := &log{}
	cfg := Config{
		Addr: "127.0.0.1:0", Label: "c1", Logger: slog.New(slog.NewTextHandler(out, nil)), RejoinInterval: 100 * time.Millisecond,
		Self: &fleetv1.Scheduler{Meta: &fleetv1.Meta{Id: id, Name: "name-" + id}, GrpcAddress: "10.0.0.1:7400", Version: "v1"},
		Known: func() (addrs []string) {
			for _, o := range others {
				addrs = append(addrs, o.Addr())
			}
			return addrs
		},
	}
	edit(&cfg)
	g, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { g.Run(ctx) })
	var once sync.Once
	n := &node{g, out, func() {
		once.Do(func() {
			cancel()
			wg.Wait()
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		})
	}}
	t.Cleanup(n.stop)
	return n
}

func keys(k ...[]byte) func(*Config) { return func(c *Config) { c.Keys = k } }

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// hears waits until a takes b to be alive at b's address.
func hears(t *testing.T, a, b *node) {
	t.Helper()
	id := b.cfg.Self.GetMeta().GetId()
	await(t, fmt.Sprintf("%s hears %s", a.cfg.Self.GetMeta().GetId(), id), func() bool {
		s, alive := a.Heard(id)
		return alive && s.GetGossipAddress() == b.Addr()
	})
}

func TestMembersFindEachOther(t *testing.T) {
	k := NewKey()
	a := start(t, "a", keys(k))
	b := start(t, "b", keys(k), a)
	c := start(t, "c", keys(k), b)
	hears(t, a, c) // which it was never told of
	hears(t, c, a)
	s, _ := a.Heard("b")
	if s.GetMeta().GetName() != "name-b" || s.GetGrpcAddress() != "10.0.0.1:7400" || len(a.All()) != 3 {
		t.Errorf("a heard %v of %d", s, len(a.All()))
	}
	b.stop()
	await(t, "b to be gone", func() bool { _, alive := a.Heard("b"); return !alive })
	if s, _ := a.Heard("b"); s.GetGrpcAddress() == "" {
		t.Error("what b said last is forgotten")
	}
	// It comes back at another port, and knows only one of the others.
	b = start(t, "b", keys(k), c)
	hears(t, a, b)
}

// Both halves of a healed split find each other without being told: everyone who is known and not heard is asked again.
func TestHalvesRejoin(t *testing.T) {
	k := NewKey()
	var mu sync.Mutex
	var known []string
	late := func(c *Config) {
		c.Keys = [][]byte{k}
		c.Known = func() []string { mu.Lock(); defer mu.Unlock(); return known }
	}
	a := start(t, "a", late)
	b := start(t, "b", late)
	mu.Lock()
	known = []string{a.Addr(), b.Addr()}
	mu.Unlock()
	hears(t, a, b)
	hears(t, b, a)
}

func TestStrangersAreRefused(t *testing.T) {
	k := NewKey()
	a := start(t, "a", keys(k))
	for name, c := range map[string]struct {
		edit func(*Config)
		says string // in a's log
	}{
		"wrong-key": {keys(NewKey()), "could decrypt"},
		"other-cluster": {func(c *Config) {
			c.Keys, c.Label = [][]byte{k}, "c2"
		}, "label"},
	} {
		t.Run(name, func(t *testing.T) {
			x := start(t, name, c.edit, a)
			await(t, "a line in the log", func() bool { return a.log.has(c.says) })
			if s, _ := a.Heard(name); s != nil {
				t.Errorf("a hears %v", s)
			}
			if s, _ := x.Heard("a"); s != nil {
				t.Errorf("the stranger hears %v", s)
			}
		})
	}
	// From a network that isn't allowed.
	closed := start(t, "closed", func(c *Config) {
		c.Keys, c.CIDRs, c.Addr = [][]byte{k}, []string{"127.9.0.0/16"}, "127.9.0.1:0"
	})
	inside := start(t, "inside", func(c *Config) { c.Keys, c.Addr = [][]byte{k}, "127.9.0.2:0" }, closed)
	hears(t, closed, inside)
	start(t, "outside", func(c *Config) { c.Keys, c.Addr = [][]byte{k}, "127.8.0.1:0" }, closed)
	await(t, "a line in the log", func() bool { return closed.log.has("127.8.0.1") })
	if s, alive := closed.Heard("outside"); alive {
		t.Errorf("a member of another network is heard: %v", s)
	}
}

// A key is replaced while members talk: in every state that the leader's steps lead through, each pair still
// understands each other.
func TestKeysAreRotatedWithoutAGap(t *testing.T) {
	old, fresh := NewKey(), NewKey()
	a := start(t, "a", keys(old))
	b := start(t, "b", keys(old), a)
	hears(t, a, b)
	steps := [][][]byte{{old}, {old, fresh}, {fresh, old}, {fresh}}
	for i := 1; i < len(steps); i++ {
		for _, first := range []*node{a, b} { // one is a step ahead of the other
			if err := first.SetKeys(steps[i]); err != nil {
				t.Fatal(err)
			}
			if err := a.list.UpdateNode(limit); err != nil {
				t.Fatal(err)
			}
			x := start(t, fmt.Sprintf("x%d%s", i, first.cfg.Self.GetMeta().GetId()), keys(steps[i-1]...), a)
			if first == b { // both have taken the step, so the newcomer has as well
				if err := x.SetKeys(steps[i]); err != nil {
					t.Fatal(err)
				}
			}
			hears(t, b, x)
			x.stop()
		}
		if got := a.Keys(); got[0] != KeyID(steps[i][0]) || len(got) != len(steps[i]) {
			t.Errorf("step %d: the keys are %v", i, got)
		}
	}
	if a.log.has("decrypt") || b.log.has("decrypt") {
		t.Error("a message could not be read")
	}
	start(t, "late", keys(old), a)
	await(t, "the old key to be refused", func() bool { return a.log.has("decrypt") })
}

func TestConfigIsChecked(t *testing.T) {
	for want, edit := range map[string]func(*Config){
		"no key":        func(c *Config) { c.Keys = nil },
		"not a network": func(c *Config) { c.CIDRs = []string{"10.0.0.1"} },
		"not host:port": func(c *Config) { c.Addr = "7403" },
		"size must be":  func(c *Config) { c.Keys = [][]byte{{1, 2}} },
		"cannot assign": func(c *Config) { c.Addr = "192.0.2.1:7403" },
	} {
		cfg := Config{Addr: "127.0.0.1:0", Keys: [][]byte{NewKey()}, Self: &fleetv1.Scheduler{Meta: &fleetv1.Meta{Id: "a"}}, Logger: slog.New(slog.DiscardHandler)}
		edit(&cfg)
		g, err := Start(cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if g != nil {
			t.Error(g.Close())
		}
	}
	if !slices.Equal(keyIDs([][]byte{{1}}), []string{"4bf5122f344554c5"}) {
		t.Errorf("key ID %v", keyIDs([][]byte{{1}}))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x0a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decode(b)
		if err == nil {
			_ = s.GetMeta().GetId() // what the caller looks at
		}
	})
}
