package reconcile

import (
	"context"
	"log/slog"
	"sync"
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
	Logger   *slog.Logger
	// Now is the wall clock; default time.Now.
	Now func() time.Time
	// LookupMaxAge is how long clients may use an endpoint that was withdrawn: instances serve that much
	// longer. Default 3 s.
	LookupMaxAge time.Duration
}

// retryDelay is how long a loop waits after a proposal failed or was refused again and again.
const retryDelay = time.Second

// writeTries is how often a write that lost a race is computed again at once.
const writeTries = 4

// Loops are the leader's loops.
type Loops struct {
	cfg Config
}

// New makes loops that do not run yet.
func New(cfg Config) *Loops {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.LookupMaxAge <= 0 {
		cfg.LookupMaxAge = 3 * time.Second
	}
	return &Loops{cfg: cfg}
}

// Run runs every loop until ctx ends, which is how leadership is given up. It may be called again after it
// has returned, but not twice at once: one planner. The error is ctx's, or a feed's that was closed.
func (l *Loops) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var loops sync.WaitGroup
	for _, run := range []func(context.Context) error{newServiceLoop(l.cfg).run, newLivenessLoop(l.cfg).run} {
		loops.Go(func() { cancel(run(ctx)) })
	}
	loops.Wait()
	return context.Cause(ctx)
}

// delivery is one answer of a feed.
type delivery struct {
	sets   []state.ChangeSet
	resync bool
}

// deliver hands on what the feed answers until ctx ends or the feed fails; then it closes out.
func deliver(ctx context.Context, feed state.Feed, out chan<- delivery) error {
	defer feed.Close()
	defer close(out)
	for {
		sets, resync, err := feed.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case out <- delivery{sets, resync}:
		case <-ctx.Done():
			return ctx.Err()
		}
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

// write commits what compute answers, which may be nil for nothing. When the store has changed meanwhile it
// asks again. done is false when that happened too often.
func (p proposer) write(ctx context.Context, compute func(state.ReadView) *fleetv1.Write) (done bool, err error) {
	for range writeTries {
		w := compute(p.cfg.State.View())
		if w == nil || len(w.GetMutations()) == 0 && len(w.GetEvents()) == 0 {
			return true, nil
		}
		result, err := p.propose(ctx, &fleetv1.Command{Op: &fleetv1.Command_Write{Write: w}})
		if err != nil {
			return false, err
		}
		if len(result.Rejections) == 0 {
			return true, nil
		}
		r := result.Rejections[0]
		p.cfg.Logger.Debug("write refused", "reason", r.Reason, "detail", r.Detail)
	}
	return false, nil
}

func newID() string { return uuid.NewString() }

// serviceEvent tells something about a service.
func serviceEvent(svc *fleetv1.Service, now time.Time, kind, reason, message string) *fleetv1.Event {
	return &fleetv1.Event{Time: timestamppb.New(now), Type: kind, Reason: reason, Message: message,
		Objects: []*fleetv1.ObjectRef{{Kind: fleetv1.KindService, Id: svc.GetMeta().GetId(), Name: svc.GetMeta().GetName(), Project: svc.GetMeta().GetProject()}}}
}

// instanceEvent tells something about an instance, its service and its node.
func instanceEvent(inst *fleetv1.Instance, node *fleetv1.Node, now time.Time, kind, reason, message string) *fleetv1.Event {
	project := inst.GetMeta().GetProject()
	return &fleetv1.Event{Time: timestamppb.New(now), Type: kind, Reason: reason, Message: message,
		Objects: []*fleetv1.ObjectRef{
			{Kind: fleetv1.KindInstance, Id: inst.GetMeta().GetId(), Name: inst.GetMeta().GetName(), Project: project},
			{Kind: fleetv1.KindService, Id: inst.GetSpec().GetServiceId(), Name: inst.GetSpec().GetServiceName(), Project: project},
			{Kind: fleetv1.KindNode, Id: node.GetMeta().GetId(), Name: inst.GetSpec().GetNode()},
		}}
}
