package gossip

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// keySize: AES-256.
const keySize = 32

const (
	rejoinInterval = 15 * time.Second
	leaveTimeout   = time.Second
	dialTimeout    = 3 * time.Second
	reclaimAfter   = time.Second
)

// Config is what a Gossip is made of.
type Config struct {
	// Addr to listen on, TCP and UDP, "host:port"; port 0 takes a free one. Advertise is the host told to others when it
	// isn't the one listened on.
	Addr, Advertise string
	// Label is the cluster's ID.
	Label string
	// Self is told to the others, with the gossip address filled in; its meta carries ID and name.
	Self *fleetv1.Scheduler
	// Keys open what comes, the first one seals what goes.
	Keys [][]byte
	// CIDRs are the networks that members may be in; none allows all.
	CIDRs []string
	// Known answers the gossip addresses of the other schedulers.
	Known  func() []string
	Logger *slog.Logger
	// RejoinInterval is how often those that aren't heard are asked again; default 15 s.
	RejoinInterval time.Duration
}

// Gossip is one scheduler's part. Its methods may be called from any goroutine.
type Gossip struct {
	cfg  Config
	self *fleetv1.Scheduler
	list *memberlist.Memberlist
	ring *memberlist.Keyring
	addr string
	wake chan struct{} // holds one token when Known may answer more

	mu    sync.Mutex
	order []string // IDs of the keys, that of our own messages first
	heard map[string]*hearing
}

type hearing struct {
	what  *fleetv1.Scheduler
	addr  string
	alive bool
}

// NewKey makes a key.
func NewKey() []byte {
	k := make([]byte, keySize)
	rand.Read(k) // never fails
	return k
}

// KeyID is what a key is called: it says nothing about it.
func KeyID(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// ParseCIDRs reads networks.
func ParseCIDRs(texts []string) ([]net.IPNet, error) {
	var nets []net.IPNet
	for _, text := range texts {
		_, n, err := net.ParseCIDR(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a network such as 10.0.0.0/8", text)
		}
		nets = append(nets, *n)
	}
	return nets, nil
}

// FixPort takes a free port for an address with port 0, and gives it back for Start: others are told the address before
// there is a key to gossip with.
func FixPort(addr string) (string, error) {
	if _, port, err := net.SplitHostPort(addr); err != nil || port != "0" {
		return addr, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// Start listens. Its owner calls Run, and Close at the end.
func Start(cfg Config) (*Gossip, error) {
	if cfg.RejoinInterval <= 0 {
		cfg.RejoinInterval = rejoinInterval
	}
	g := &Gossip{cfg: cfg, self: proto.CloneOf(cfg.Self), heard: map[string]*hearing{}, wake: make(chan struct{}, 1)}
	conf, err := g.config()
	if err != nil {
		return nil, fmt.Errorf("start gossip: %w", err)
	}
	if g.list, err = memberlist.Create(conf); err != nil {
		return nil, fmt.Errorf("start gossip on %s: %w", cfg.Addr, err)
	}
	// The port may have been chosen just now.
	g.mu.Lock()
	g.addr = g.heard[g.self.GetMeta().GetId()].addr
	g.self.GossipAddress = g.addr
	g.mu.Unlock()
	if err := g.list.UpdateNode(0); err != nil {
		return nil, errors.Join(fmt.Errorf("start gossip: %w", err), g.list.Shutdown())
	}
	return g, nil
}

func (g *Gossip) config() (*memberlist.Config, error) {
	host, port, err := net.SplitHostPort(g.cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("%q is not host:port", g.cfg.Addr)
	}
	conf := memberlist.DefaultLANConfig()
	conf.Name, conf.Label = g.self.GetMeta().GetId(), g.cfg.Label
	conf.BindAddr = host
	if conf.BindPort, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("%q is not host:port", g.cfg.Addr)
	}
	conf.AdvertiseAddr, conf.AdvertisePort = g.cfg.Advertise, conf.BindPort
	if host == "localhost" {
		conf.BindAddr = "127.0.0.1"
	}
	if conf.CIDRsAllowed, err = ParseCIDRs(g.cfg.CIDRs); err != nil {
		return nil, err
	}
	if len(g.cfg.Keys) == 0 {
		return nil, errors.New("there is no key")
	}
	if g.ring, err = memberlist.NewKeyring(g.cfg.Keys, g.cfg.Keys[0]); err != nil {
		return nil, err
	}
	g.order = keyIDs(g.cfg.Keys)
	conf.Keyring = g.ring
	conf.TCPTimeout, conf.DeadNodeReclaimTime = dialTimeout, reclaimAfter
	conf.Delegate, conf.Events = meta{g}, events{g}
	conf.LogOutput = newLog(g.cfg.Logger)
	return conf, nil
}

// Run asks everyone who is known and isn't heard to join, until ctx ends.
func (g *Gossip) Run(ctx context.Context) {
	tick := time.NewTicker(g.cfg.RejoinInterval)
	defer tick.Stop()
	for {
		g.rejoin()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-g.wake:
		}
	}
}

// Nudge has those that aren't heard asked at once: Known may answer more.
func (g *Gossip) Nudge() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// rejoin is done when everybody has answered or has had dialTimeout to.
func (g *Gossip) rejoin() {
	heard := map[string]bool{}
	g.mu.Lock()
	for _, h := range g.heard { // not memberlist's own list, which changes under its readers' hands
		heard[h.addr] = h.alive || heard[h.addr]
	}
	g.mu.Unlock()
	var wg sync.WaitGroup
	for _, addr := range g.cfg.Known() {
		if addr == "" || heard[addr] {
			continue
		}
		heard[addr] = true
		wg.Go(func() {
			if _, err := g.list.Join([]string{addr}); err != nil {
				g.cfg.Logger.Debug("a scheduler doesn't answer by gossip", "address", addr, "error", err)
			}
		})
	}
	wg.Wait()
}

// Addr is where others reach this one.
func (g *Gossip) Addr() string { return g.addr }

// Keys are the IDs of the keys in use, that of our own messages first.
func (g *Gossip) Keys() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.order
}

// SetKeys replaces the keys, without a moment in which one that stays isn't accepted.
func (g *Gossip) SetKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("set the gossip keys: there is none")
	}
	var errs []error
	for _, k := range keys {
		errs = append(errs, g.ring.AddKey(k))
	}
	errs = append(errs, g.ring.UseKey(keys[0]))
	for _, old := range g.ring.GetKeys() {
		if !contains(keys, old) {
			errs = append(errs, g.ring.RemoveKey(old))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("set the gossip keys: %w", err)
	}
	g.mu.Lock()
	g.order = keyIDs(keys)
	g.mu.Unlock()
	return nil
}

func contains(keys [][]byte, key []byte) bool {
	for _, k := range keys {
		if bytes.Equal(k, key) {
			return true
		}
	}
	return false
}

func keyIDs(keys [][]byte) []string {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = KeyID(k)
	}
	return ids
}

// Heard is what a scheduler last said of itself, nil when it was never heard, and whether it is taken to be alive.
func (g *Gossip) Heard(id string) (*fleetv1.Scheduler, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h := g.heard[id]; h != nil {
		return h.what, h.alive
	}
	return nil, false
}

// All is what every scheduler last said of itself.
func (g *Gossip) All() []*fleetv1.Scheduler {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []*fleetv1.Scheduler
	for _, h := range g.heard {
		all = append(all, h.what)
	}
	return all
}

// Close tells the others, and stops.
func (g *Gossip) Close() error {
	return errors.Join(g.list.Leave(leaveTimeout), g.list.Shutdown())
}
