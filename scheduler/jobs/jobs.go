package jobs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Store is what the coordinator reads.
type Store interface {
	View() state.ReadView
	Subscribe() state.Feed
}

// Proposer commits commands. It answers when the command has been applied here.
type Proposer interface {
	Propose(ctx context.Context, cmd *fleetv1.Command) (state.Result, error)
}

// Config is what a Coordinator is made from. All fields but Leader, Now, NewAttempt and Logger are needed.
type Config struct {
	State    Store
	Proposer Proposer
	// Storage opens what the jobs of a project may use; the coordinator closes it.
	Storage func(project string) (Storage, error)
	// Access is what tasks need to use it: it holds secrets.
	Access func(project string) ([]*fleetv1.StorageAccess, error)
	// Leader answers the gRPC address that agents should dial instead of this scheduler; empty when unknown.
	Leader func() string
	// Now is the wall clock that commands carry; default time.Now. Leases go by the monotonic one.
	Now func() time.Time
	// NewAttempt makes the names of leases, none twice; default random.
	NewAttempt func() string
	Logger     *slog.Logger
}

// proposeTimeout bounds each commit; what it brought is found in the store afterwards.
const proposeTimeout = 10 * time.Second

// Bounds of listing for all jobs: a lister holds up to 20 bytes of memory for each item.
const (
	listers          = 4          // inputs that are listed at once
	listersOfProject = 2          // of them, so that one whose storage is slow doesn't keep all others waiting
	mostItemsOfJob   = 10_000_000 // beyond which a job fails
)

// Coordinator implements fleetv1.TaskServiceServer. Its methods may be called from any goroutine.
type Coordinator struct {
	fleetv1.UnimplementedTaskServiceServer
	cfg   Config
	hooks hooks

	lead sync.Mutex // one Lead or Resign at a time

	mu   sync.Mutex
	term *term // nil while not leading
}

// term is one leadership; ctx ends with it.
type term struct {
	*Coordinator
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	lists  chan struct{} // holds a token for each input that is being listed

	mu      sync.Mutex
	runs    map[string]*run          // by job ID
	listsOf map[string]chan struct{} // likewise, by project
}

// New makes a coordinator that does not lead.
func New(cfg Config) *Coordinator {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NewAttempt == nil {
		cfg.NewAttempt = rand.Text
	}
	if cfg.Leader == nil {
		cfg.Leader = func() string { return "" }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Coordinator{cfg: cfg}
}

// Lead starts leadership, which lasts until Resign or until ctx ends. It does not block. While leading it does nothing.
func (c *Coordinator) Lead(ctx context.Context) {
	c.lead.Lock()
	defer c.lead.Unlock()
	if t := c.current(); t != nil && t.ctx.Err() == nil {
		return
	}
	c.resign()
	t := &term{Coordinator: c, runs: map[string]*run{}, lists: make(chan struct{}, listers), listsOf: map[string]chan struct{}{}}
	t.ctx, t.cancel = context.WithCancel(ctx)
	feed := c.cfg.State.Subscribe()
	t.work.Go(func() { t.follow(feed) })
	c.mu.Lock()
	c.term = t
	c.mu.Unlock()
}

// Resign ends leadership and forgets all leases. It returns when the coordinator's goroutines have stopped.
func (c *Coordinator) Resign() {
	c.lead.Lock()
	defer c.lead.Unlock()
	c.resign()
}

func (c *Coordinator) resign() {
	c.mu.Lock()
	t := c.term
	c.term = nil
	c.mu.Unlock()
	if t != nil {
		t.cancel()
		t.work.Wait()
	}
}

func (c *Coordinator) current() *term {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.term
}

// run is that of a job, or nil.
func (c *Coordinator) run(jobID string) *run {
	t := c.current()
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.runs[jobID]
}

// follow begins and ends runs as jobs come, go and end, until the leadership does.
func (t *term) follow(feed state.Feed) {
	defer feed.Close()
	for {
		sets, resync, err := feed.Next(t.ctx)
		if err != nil {
			return // ctx has ended: Next has no other error
		}
		view := t.cfg.State.View()
		if resync {
			for _, job := range view.Jobs("") {
				t.consider(view, job.GetMeta().GetId())
			}
		}
		for _, set := range sets {
			for _, c := range set.Changes {
				if c.Key.Kind == fleetv1.KindJob {
					for _, o := range []*fleetv1.Object{c.Before, c.After} {
						if id := o.GetJob().GetMeta().GetId(); id != "" {
							t.consider(view, id)
						}
					}
				}
				if c.Key.Kind == fleetv1.KindJobLedger {
					t.consider(view, c.Key.Key)
				}
			}
		}
	}
}

// isRun says whether a job has a run that isn't over.
func isRun(view state.ReadView, id string) bool {
	job := view.JobByID(id)
	return job != nil && !state.JobEnded(job) && view.JobLedger(id) != nil
}

// consider begins or ends the run of a job, or tells it that something has changed.
func (t *term) consider(view state.ReadView, id string) {
	runs := isRun(view, id)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch r := t.runs[id]; {
	case runs && r == nil:
		r = newRun(t, id)
		t.runs[id] = r
		t.work.Go(r.work)
	case !runs && r != nil:
		r.end()
		delete(t.runs, id)
	case r != nil:
		r.wake()
	}
}

// ExchangeTask implements fleetv1.TaskServiceServer.
func (c *Coordinator) ExchangeTask(ctx context.Context, req *fleetv1.ExchangeTaskRequest) (*fleetv1.ExchangeTaskResponse, error) {
	t := c.current()
	if t == nil || t.ctx.Err() != nil {
		if leader := c.cfg.Leader(); leader != "" {
			return nil, status.Errorf(codes.Unavailable, "not the leader; the leader is at %s", leader)
		}
		return nil, status.Error(codes.Unavailable, "this scheduler is not the leader")
	}
	view := c.cfg.State.View()
	inst := view.Instance(req.GetInstanceId())
	id := inst.GetSpec().GetJobId()
	if inst.GetMeta().GetId() != req.GetInstanceId() || id == "" {
		return nil, status.Errorf(codes.NotFound, "there is no instance %q of a job", req.GetInstanceId())
	}
	if who, ok := identity.PeerOf(ctx); ok && (who.Role != fleetv1.RoleAgent || who.Name != inst.GetSpec().GetNode()) {
		c.cfg.Logger.Warn("a call is refused", "audit", "refused", "who", who.String(), "instance", req.GetInstanceId(), "error", "the instance is on another node")
		return nil, status.Errorf(codes.PermissionDenied, "the certificate is that of %s: instance %s is not on that node", who, req.GetInstanceId())
	}
	if inst.GetSpec().GetGang().GetRank() != 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "instance %s is rank %d of its gang: rank 0 is given the items", req.GetInstanceId(), inst.GetSpec().GetGang().GetRank())
	}
	t.mu.Lock()
	r := t.runs[id]
	t.mu.Unlock()
	if r == nil && isRun(view, id) {
		return nil, status.Error(codes.Unavailable, "this scheduler has just become the leader: try again")
	}
	if r == nil { // it has ended, and its instances are about to
		return &fleetv1.ExchangeTaskResponse{Task: req.GetTask(), Stop: true, NextMillis: 2000}, nil
	}
	return r.exchange(view, inst, req), nil
}

// Progress is how far a job has got and what its tasks have told; nil while this scheduler doesn't run it.
func (c *Coordinator) Progress(jobID string) (*fleetv1.JobProgress, []*fleetv1.JobTask) {
	r := c.run(jobID)
	if r == nil {
		return nil, nil
	}
	return r.progress(c.cfg.State.View())
}

// TasksFor is how many tasks a job has enough to do for; 0 while that isn't known.
func (c *Coordinator) TasksFor(jobID string) int {
	r := c.run(jobID)
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.book.wanted()
}

// Idle says that no task of a job has anything in hand that isn't in its ledger.
func (c *Coordinator) Idle(jobID string) bool {
	r := c.run(jobID)
	if r == nil {
		return false // who has just begun to lead doesn't know
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.book.open && len(r.book.leases) == 0
}

// Tidied says that the packs of a complete job are gone, or were tried to be removed for long enough.
func (c *Coordinator) Tidied(jobID string) bool {
	r := c.run(jobID)
	if r == nil {
		return false // who has just begun to lead doesn't know
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tidied
}

// Trouble is what most of the tasks that can't go on wait for, and the lister; empty when all goes well.
func (c *Coordinator) Trouble(jobID string) string {
	r := c.run(jobID)
	if r == nil {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.troubles()
}

// OnProgress calls f with each job whose progress has changed, at most once a second for each, until cancel is called. f
// must not block.
func (c *Coordinator) OnProgress(f func(jobID string)) (cancel func()) { return c.hooks.add(f) }

// propose commits a change of a ledger.
func (c *Coordinator) propose(ctx context.Context, commit *fleetv1.JobCommit) (state.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	cmd := &fleetv1.Command{Caller: "scheduler", Time: timestampOf(c.cfg.Now()), Op: &fleetv1.Command_JobCommit{JobCommit: commit}}
	cmd.Introduced = state.Introduced(cmd)
	r, err := c.cfg.Proposer.Propose(ctx, cmd)
	if err != nil && !errors.Is(err, context.Canceled) {
		return r, fmt.Errorf("commit items of job %s: %w", commit.GetJobId(), err)
	}
	return r, err
}

// hooks are functions that want to hear of jobs.
type hooks struct {
	mu sync.RWMutex
	fs []*func(string)
}

func (h *hooks) add(f func(string)) (cancel func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fs = append(slices.Clone(h.fs), &f)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.fs = slices.DeleteFunc(slices.Clone(h.fs), func(g *func(string)) bool { return g == &f })
	}
}

func (h *hooks) call(job string) {
	h.mu.RLock()
	fs := h.fs
	h.mu.RUnlock()
	for _, f := range fs {
		(*f)(job)
	}
}
