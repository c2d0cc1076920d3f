package rate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Limits are how many look-ups are admitted in a minute; 0 is no limit.
type Limits struct{ Account, User int }

// Config is what a Limiter is made of. All fields but Limits are needed.
type Config struct {
	Limits
	Self string // ID of this scheduler
	// Members are the IDs of all schedulers of the cluster, and of those that answer, this one among both.
	Members func() (all, alive []string)
	// Call calls PeerService.CountLookups of a scheduler.
	Call func(ctx context.Context, id string, req *fleetv1.CountLookupsRequest) (*fleetv1.CountLookupsResponse, error)
	Now  func() time.Time
}

// Limiter admits look-ups. Its methods may be called from any goroutine; a nil Limiter admits all.
type Limiter struct {
	cfg   Config
	begin time.Time
	wake  chan struct{} // holds one token when an owner should be told soon

	mu       sync.Mutex
	group    group
	accounts map[string]*account
	users    int        // counters of all accounts' users
	swept    int64      // the slot in which sweep was called last
	queue    []*counter // whose owners have to be told
	holding  map[*counter]bool
	flying   map[string]bool      // schedulers that are being called
	failed   map[string]time.Time // schedulers whose last call failed, then
	counts   Counts               // of refusals

	admitted atomic.Uint64
}

// Counts are what a Limiter has done since it was made, and what it holds.
type Counts struct {
	Admitted, RefusedAccount, RefusedUser uint64
	Accounts, Users                       int
}

// group is who counts together.
type group struct {
	epoch     int // grows with each change
	members   int
	connected []string // IDs, ordered
}

type account struct {
	name  string
	own   *counter
	users map[string]*counter
	epoch int
	owner string
}

// counter is of an account or of one of its users.
type counter struct {
	account *account
	user    string // empty: the account's own
	limit   uint32 // before it is shared
	used    window // by everybody, as far as is known here; granted is in it

	// On a scheduler that isn't the owner:
	pending uint32 // admitted, and the owner doesn't know
	spent   uint32 // of what was granted, since the owner was told last
	granted uint32 // to be used without asking
	last    time.Time
	asked   time.Time // the owner was asked for more because of a refusal
	wanted  bool      // likewise, and it isn't told yet
	queued  bool
	told    bool // the owner knows what was counted before it was the owner
}

const (
	maxUsers  = 100_000
	spills    = 1024 // counters of an account for users who have none of their own
	maxCounts = 4096 // of one call
	tick      = 100 * time.Millisecond
	holdTime  = time.Second      // for which a grant is kept without use
	callTime  = time.Second      // for an owner to answer
	retryTime = time.Second      // between calls of an owner that doesn't answer
	soon      = time.Second      // Retry-After of who may be admitted when the owner has answered
	sweepTime = 10 * time.Second // between looks for what can be forgotten
)

// New makes a Limiter that counts alone until Run is called.
func New(cfg Config) *Limiter {
	l := &Limiter{cfg: cfg, begin: cfg.Now(), wake: make(chan struct{}, 1), accounts: map[string]*account{}, holding: map[*counter]bool{},
		flying: map[string]bool{}, failed: map[string]time.Time{}}
	l.regroup()
	return l
}

// slot begins above slots, so that ages count back from it.
func (l *Limiter) slot(now time.Time) int64 { return int64(now.Sub(l.begin)/slotTime) + int64(slots) }

// Refusal is which limit a look-up would exceed.
type Refusal struct {
	User       bool // the user's limit, else the account's
	Limit      int
	RetryAfter time.Duration
}

// Take admits a look-up with nil, or says why not.
func (l *Limiter) Take(account, user string) *Refusal {
	if l == nil {
		return nil
	}
	if l.cfg.Account == 0 && l.cfg.User == 0 {
		l.admitted.Add(1)
		return nil
	}
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	slot := l.slot(now)
	a := l.accountLocked(account)
	u := l.userLocked(a, user, slot)
	if wait, ok := l.admitsLocked(a.own, slot, now); !ok {
		l.counts.RefusedAccount++
		return &Refusal{false, l.cfg.Account, wait}
	}
	if wait, ok := l.admitsLocked(u, slot, now); !ok {
		l.counts.RefusedUser++
		return &Refusal{true, l.cfg.User, wait}
	}
	l.keepLocked(u)
	l.takeLocked(a.own, slot, now)
	l.takeLocked(u, slot, now)
	l.admitted.Add(1)
	return nil
}

// Counts answers what it has done.
func (l *Limiter) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts
	c.Admitted, c.Accounts, c.Users = l.admitted.Load(), len(l.accounts), l.users
	return c
}

// userLocked is the counter of a user, which may have to be kept; nil without a limit.
func (l *Limiter) userLocked(a *account, user string, slot int64) *counter {
	if c := a.users[user]; c != nil || l.cfg.User == 0 {
		return c
	}
	if !l.roomLocked(a) && l.swept < slot {
		l.sweepLocked(slot)
		l.accounts[a.name] = a // it is not idle from now on
	}
	if !l.roomLocked(a) && !strings.HasPrefix(user, spillPrefix) {
		if user = spillOf(user); a.users[user] != nil {
			return a.users[user]
		}
	}
	return &counter{account: a, user: user, limit: uint32(l.cfg.User)}
}

// roomLocked says whether a user may have a counter of his own: an account never takes more of them than it leaves to the others.
func (l *Limiter) roomLocked(a *account) bool { return len(a.users) < maxUsers-l.users }

// spillPrefix begins what a counter is called that several users share. No user's name begins so.
const spillPrefix = "spill/"

// spillOf is the counter that a user shares: on all schedulers the same.
func spillOf(user string) string {
	sum := sha256.Sum256([]byte(user))
	return spillPrefix + strconv.Itoa(int(binary.BigEndian.Uint64(sum[:])%spills))
}

func (l *Limiter) keepLocked(c *counter) {
	if c != nil && c.account.users[c.user] == nil {
		c.account.users[c.user] = c
		l.users++
	}
}

// accountLocked finds an account, and who owns it now.
func (l *Limiter) accountLocked(name string) *account {
	a := l.accounts[name]
	if a == nil {
		a = &account{name: name, users: map[string]*counter{}, epoch: -1}
		if l.cfg.Account > 0 {
			a.own = &counter{account: a, limit: uint32(l.cfg.Account)}
		}
		l.accounts[name] = a
	}
	if a.epoch == l.group.epoch {
		return a
	}
	a.epoch = l.group.epoch
	if owner := l.group.owner(name); owner != a.owner {
		a.owner = owner
		l.disownLocked(a.own)
		for _, u := range a.users {
			l.disownLocked(u)
		}
	}
	return a
}

// disownLocked forgets what was between this scheduler and the owner before, and has the new one told what is known.
func (l *Limiter) disownLocked(c *counter) {
	if c == nil {
		return
	}
	c.pending, c.spent, c.granted, c.told = 0, 0, 0, false
	if c.account.owner != l.cfg.Self && c.used.sum(l.slot(l.cfg.Now())) > 0 {
		l.queueLocked(c)
	}
}

// owner is the scheduler that counts an account: the one that hashes highest with its name.
func (g group) owner(account string) (owner string) {
	best := uint64(0)
	for _, id := range g.connected {
		sum := sha256.Sum256([]byte(id + "\x00" + account))
		if h := binary.BigEndian.Uint64(sum[:]); h > best || owner == "" {
			best, owner = h, id
		}
	}
	return owner
}

// shareLocked is what of a limit is the group's.
func (l *Limiter) shareLocked(limit uint32) uint32 {
	if len(l.group.connected) >= l.group.members {
		return limit
	}
	return uint32(max(1, uint64(limit)*uint64(len(l.group.connected))/uint64(l.group.members)))
}

// blindLocked is how many may be admitted without a grant before the owner knows.
func (l *Limiter) blindLocked(c *counter) uint32 {
	return max(1, l.shareLocked(c.limit)/10/uint32(max(1, len(l.group.connected)-1)))
}

// admitsLocked says whether one more is admitted, or in what time it may be.
func (l *Limiter) admitsLocked(c *counter, slot int64, now time.Time) (wait time.Duration, ok bool) {
	if c == nil || c.granted > 0 {
		return 0, true
	}
	foreign := c.account.owner != l.cfg.Self
	if share := l.shareLocked(c.limit); c.used.sum(slot) >= share {
		wait = max(soon, c.used.frees(slot, share)-now.Sub(l.begin)%slotTime)
	} else if foreign && c.pending >= l.blindLocked(c) {
		wait = soon
	}
	if wait > 0 && foreign && now.Sub(c.asked) >= soon { // others may have given back
		c.asked, c.wanted = now, true
		l.queueLocked(c)
	}
	return wait, wait == 0
}

func (l *Limiter) takeLocked(c *counter, slot int64, now time.Time) {
	if c == nil {
		return
	}
	c.last = now
	if c.account.owner == l.cfg.Self {
		c.used.add(slot, 1)
		return
	}
	if c.granted > 0 {
		c.granted--
		c.spent++
	} else {
		c.pending++
		c.used.add(slot, 1)
	}
	l.queueLocked(c)
	if c.granted == 0 && 2*c.pending >= l.blindLocked(c) {
		l.signal()
	}
}

func (l *Limiter) queueLocked(c *counter) {
	if !c.queued {
		c.queued = true
		l.queue = append(l.queue, c)
	}
}

func (l *Limiter) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// regroup looks who is connected.
func (l *Limiter) regroup() {
	all, alive := l.cfg.Members()
	l.mu.Lock()
	defer l.mu.Unlock()
	var connected []string
	for _, id := range alive {
		if l.failed[id].IsZero() {
			connected = append(connected, id)
		}
	}
	slices.Sort(connected)
	maps.DeleteFunc(l.failed, func(id string, _ time.Time) bool { return !slices.Contains(all, id) })
	if len(all) == l.group.members && slices.Equal(connected, l.group.connected) {
		return
	}
	l.group = group{l.group.epoch + 1, len(all), connected}
	for name := range l.accounts {
		l.accountLocked(name)
	}
}

// Count implements the owner's side of CountLookups: it takes over what another scheduler has admitted, and grants.
func (l *Limiter) Count(req *fleetv1.CountLookupsRequest) *fleetv1.CountLookupsResponse {
	l.mu.Lock()
	defer l.mu.Unlock()
	slot := l.slot(l.cfg.Now())
	resp := &fleetv1.CountLookupsResponse{}
	for _, n := range req.GetCounts()[:min(len(req.GetCounts()), maxCounts)] {
		resp.Allowances = append(resp.Allowances, l.countLocked(n, slot))
	}
	return resp
}

func (l *Limiter) countLocked(n *fleetv1.LookupCount, slot int64) *fleetv1.LookupAllowance {
	a := l.accountLocked(n.GetAccount())
	c := a.own
	if n.GetUser() != "" {
		c = l.userLocked(a, n.GetUser(), slot)
		l.keepLocked(c)
	}
	if c == nil {
		return &fleetv1.LookupAllowance{}
	}
	c.used.raise(slot, n.GetKnown())
	c.used.add(slot, n.GetTaken())
	c.used.takeBack(slot, n.GetReturned())
	share, used := l.shareLocked(c.limit), c.used.sum(slot)
	left := share - min(share, used)
	out := &fleetv1.LookupAllowance{}
	if want := max(1, left/uint32(2*max(1, len(l.group.connected)))); n.GetWants() && want > n.GetHeld() {
		out.Granted = min(left, want-n.GetHeld())
		c.used.add(slot, out.Granted)
	}
	out.Used = c.used.ages(slot)
	return out
}
