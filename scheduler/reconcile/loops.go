package reconcile

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Store is what the loops read.
type Store interface {
	View() state.ReadView
	Subscribe() state.Feed
}

// Proposer commits commands. It answers when the command has been applied here.
type Proposer interface {
	Propose(ctx context.Context, cmd *fleetv1.Command) (state.Result, error)
}

// Sessions is what the loops know of the agents beyond the store. The functions given to OnLease and
// OnPull don't block.
type Sessions interface {
	LeaseValid(node string) bool
	// OnLease calls f when a node's lease is lost or returns.
	OnLease(f func(node string)) (cancel func())
	// OnPull calls f when an instance's pull has moved on.
	OnPull(f func(instanceID string)) (cancel func())
}

// Config is what Loops are made from.
type Config struct {
	State    Store
	Proposer Proposer
	Sessions Sessions
	// Work is that of jobs; nil where nobody runs their items.
	Work   Work
	Logger *slog.Logger
	// Now is the wall clock; default time.Now.
	Now func() time.Time
	// NewID makes the IDs of instances, gangs and the services of jobs; default as neighbours does.
	NewID func() string
	// LookupMaxAge is how long clients may use an endpoint that was withdrawn: instances serve that much
	// longer. Default 3 s.
	LookupMaxAge time.Duration
	// ReserveAfter is how long a request waits before what becomes free is kept for it. Default 30 s.
	ReserveAfter time.Duration
}

// reserveAfter is Config.ReserveAfter when it is unset.
const reserveAfter = 30 * time.Second

// retryDelay is how long a loop waits after a proposal failed or was refused again and again.
const retryDelay = time.Second

// writeTries is how often a write that lost a race is computed again at once.
const writeTries = 4

// Loops are the leader's loops.
type Loops struct {
	cfg Config
}

// neighbours makes UUIDs that are random but for their first four bytes, which count up from a random number. So what is
// placed together stands together in the store's trees, of which it then copies fewer branches, and the names of
// instances, which end in these bytes, differ as long as this process leads.
func neighbours() func() string {
	var last atomic.Uint32
	last.Store(rand.Uint32())
	return func() string {
		id := uuid.New()
		binary.BigEndian.PutUint32(id[:], last.Add(1))
		return id.String()
	}
}

// New makes loops that do not run yet.
func New(cfg Config) *Loops {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NewID == nil {
		cfg.NewID = neighbours()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Work == nil {
		cfg.Work = noWork{}
	}
	if cfg.LookupMaxAge <= 0 {
		cfg.LookupMaxAge = 3 * time.Second
	}
	if cfg.ReserveAfter <= 0 {
		cfg.ReserveAfter = reserveAfter
	}
	return &Loops{cfg: cfg}
}

// Run runs every loop until ctx ends, which is how leadership is given up. It may be called again after it
// has returned, but not twice at once: one planner. The error is ctx's.
func (l *Loops) Run(ctx context.Context) error {
	return l.run(ctx, l.Begin())
}

func (l *Loops) run(ctx context.Context, term *Term) error {
	defer term.End()
	term.service.ahead = true
	var loops sync.WaitGroup
	for _, one := range term.loops {
		loops.Go(func() { l.drive(ctx, one) })
	}
	loops.Wait()
	return ctx.Err()
}

// drive steps a loop when it has something to do, until ctx ends.
func (l *Loops) drive(ctx context.Context, one loop) {
	feed, told := one.wakes()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-feed:
		case <-told:
		case <-timer.C:
		}
		wait := time.Hour
		if next := one.step(ctx, l.cfg.Now()); !next.IsZero() {
			wait = max(0, next.Sub(l.cfg.Now()))
		}
		timer.Reset(wait)
	}
}

// loop is one of the leader's loops. It is used by one goroutine, but what it has registered with Sessions may be
// called by any.
type loop interface {
	// step does all that is to be done now, and answers when to step again if nothing happens before: now when
	// something has happened meanwhile, zero for never.
	step(ctx context.Context, now time.Time) (next time.Time)
	// wakes receive when there is something to do.
	wakes() (feed, told <-chan struct{})
	end()
}

// Term is one leadership, with all that the loops remember during it. Run drives one with goroutines and the wall
// clock; a simulation steps it. There is one at a time.
type Term struct {
	service *serviceLoop
	loops   []loop
}

// Begin starts a leadership; its owner ends it.
func (l *Loops) Begin() *Term {
	service := newServiceLoop(l.cfg)
	return &Term{service: service, loops: []loop{newLivenessLoop(l.cfg), newDrainLoop(l.cfg), newJobLoop(l.cfg), service}}
}

// Step lets every loop do what is to be done at the time now, without waiting for anything but the Proposer. It
// answers when to step again if nothing changes before: now when a step has changed something that another is to
// look at, zero for never.
func (t *Term) Step(ctx context.Context, now time.Time) (next time.Time) {
	for _, one := range t.loops {
		next = earlier(next, one.step(ctx, now))
	}
	return next
}

// End gives back what Begin took.
func (t *Term) End() {
	for _, one := range t.loops {
		one.end()
	}
}

// proposer commits in the name of the scheduler.
type proposer struct {
	cfg Config
}

// propose waits for the outcome until ctx ends, which is when leadership does: a loop that gave up earlier would
// plan again while its first plan may still be committed, and place twice.
func (p proposer) propose(ctx context.Context, cmd *fleetv1.Command) (state.Result, error) {
	cmd.Time = timestamppb.New(p.cfg.Now())
	cmd.Caller = "scheduler"
	cmd.Introduced = state.Introduced(cmd)
	return p.cfg.Proposer.Propose(ctx, cmd)
}

// earlier is the earlier one of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// serviceEvent tells something about a service.
func serviceEvent(svc *fleetv1.Service, now time.Time, kind, reason, message string) *fleetv1.Event {
	return &fleetv1.Event{Time: timestamppb.New(now), Type: kind, Reason: reason, Message: message,
		Objects: []*fleetv1.ObjectRef{{Kind: fleetv1.KindService, Id: svc.GetMeta().GetId(), Name: svc.GetMeta().GetName(), Project: svc.GetMeta().GetProject()}}}
}

// instanceEvent tells something about an instance, its service and its node.
func instanceEvent(inst *fleetv1.Instance, node *fleetv1.Node, now time.Time, kind, reason, message string) *fleetv1.Event {
	return &fleetv1.Event{Time: timestamppb.New(now), Type: kind, Reason: reason, Message: message, Objects: state.InstanceRefs(inst, node)}
}
