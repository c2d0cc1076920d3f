package lookup

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/lookup/rate"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Store is the scheduler's picture of the cluster.
type Store interface {
	View() state.ReadView
	Subscribe() state.Feed
}

// Config is what a Table is made of.
type Config struct {
	Store Store
	// LeaseValid says whether a node counts as alive.
	LeaseValid func(node string) bool
	// Staleness is how old the store may be: 0 on the leader; known is false when that can't be said. Unset, it is never
	// old.
	Staleness func() (age time.Duration, known bool)
	// MaxAge is how long a client may use an answer; whole seconds.
	MaxAge time.Duration
	// Authenticate finds out who makes a request, and that he may look services up, as auth.Authenticator's Request does.
	// Errors are shown to the caller.
	Authenticate func(*http.Request) (auth.Caller, error)
	// Valid says whether who has opened a stream would still be let in, nil when so; unset, they always are.
	Valid func(ctx context.Context) error
	// Limiter admits look-ups; nil admits all.
	Limiter *rate.Limiter
	// Hold admits a watch or a request that waits, until release is called; ok is false when there are too many. request
	// says that it is one of HTTP. Unset, there is no limit.
	Hold func(account string, request bool) (release func(), ok bool)
}

// Table holds the answer of every service. It is an http.Handler. Its methods may be called from any
// goroutine; answers are current only while Run runs.
type Table struct {
	cfg   Config
	now   atomic.Pointer[snapshot]
	wake  chan struct{} // holds one token when nodes or all has something
	fresh []string      // value of headerStaleness on a leader

	freshness atomic.Pointer[freshness]
	networks  atomic.Pointer[networks]

	// Run's alone:
	big  map[string]*pause // services of many instances, by ID
	live map[string]*entry // all that can be found, by ID
	// Of how many nodes' addresses each network is known.
	origins map[origin]int
	counted map[string]map[string]string // by node

	// Watches whose connections were taken over end with ctx.
	ctx      context.Context
	cancel   context.CancelFunc
	watching sync.WaitGroup
	begin    sync.Mutex // held to begin a watch, so that none begins when ctx has ended

	mu    sync.Mutex
	nodes map[string]bool // whose lease changed
	all   bool
}

type key struct{ project, service string }

// snapshot is what requests read. It is replaced, never changed.
type snapshot struct {
	services *directory
}

// entry is one service; only its answer changes.
type entry struct {
	id     string
	answer atomic.Pointer[answer]
}

// New makes a table without services.
func New(cfg Config) *Table {
	if cfg.Staleness == nil {
		cfg.Staleness = func() (time.Duration, bool) { return 0, true }
	}
	if cfg.Valid == nil {
		cfg.Valid = func(context.Context) error { return nil }
	}
	if cfg.Hold == nil {
		cfg.Hold = func(string, bool) (func(), bool) { return func() {}, true }
	}
	t := &Table{cfg: cfg, fresh: []string{"0"}, wake: make(chan struct{}, 1), nodes: map[string]bool{}, big: map[string]*pause{}, live: map[string]*entry{},
		origins: map[origin]int{}, counted: map[string]map[string]string{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.networks.Store(&networks{})
	t.freshness.Store(&freshness{next: make(chan struct{})})
	t.now.Store(&snapshot{services: newDirectory()})
	return t
}

// NodeChanged says that a node's lease was lost or has returned. It does not block.
func (t *Table) NodeChanged(node string) {
	t.mu.Lock()
	t.nodes[node] = true
	t.mu.Unlock()
	t.signal()
}

// Refresh makes everything be rendered anew: leadership has changed. It does not block.
func (t *Table) Refresh() {
	t.mu.Lock()
	t.all = true
	t.mu.Unlock()
	t.signal()
}

func (t *Table) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// ErrNotFound is what Endpoints answers for a service that does not exist.
var ErrNotFound = errors.New("there is no such service")

// Endpoints answers what the HTTP look-up does, but that a stopped service has none. The response is shared and must
// not be written to.
func (t *Table) Endpoints(project, service string) (*fleetv1.ListEndpointsResponse, error) {
	e := t.now.Load().services.at(key{project, service})
	if e == nil {
		return nil, ErrNotFound
	}
	a := e.answer.Load()
	if a.refusal != nil && a.refusal.reason != reasonStopped {
		return nil, a.refusal
	}
	return a.page.resp, nil
}

// Resolve answers a service's endpoints in the network of a caller, given as "IP:port"; one that can't be looked up has none.
func (t *Table) Resolve(project, service, remote string) (resp *fleetv1.ListEndpointsResponse, exists bool) {
	e := t.now.Load().services.at(key{project, service})
	if e == nil {
		return nil, false
	}
	network, _ := t.networkOf("", remote) // which refuses names alone
	return e.answer.Load().in(network).resp, true
}

// news is what a feed of the store says at once.
type news struct {
	sets   []state.ChangeSet
	resync bool
}

// read hands on what the feed says until ctx ends.
func read(ctx context.Context, feed state.Feed, changes chan<- news) {
	for {
		sets, resync, err := feed.Next(ctx)
		if err != nil {
			return
		}
		select {
		case changes <- news{sets, resync}:
		case <-ctx.Done():
			return
		}
	}
}

// Run keeps the answers current until ctx ends. Watches end then. It is called once.
func (t *Table) Run(ctx context.Context) {
	defer func() {
		t.begin.Lock()
		t.cancel()
		t.begin.Unlock()
		t.watching.Wait()
	}()
	feed := t.cfg.Store.Subscribe()
	defer feed.Close()
	changes := make(chan news)
	var reading sync.WaitGroup
	defer reading.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reading.Go(func() { t.followStaleness(ctx) })
	reading.Go(func() { read(ctx, feed, changes) })
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(t.nextDue())
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			t.render(t.cfg.Store.View(), t.due())
		case n := <-changes:
			t.apply(n.sets, n.resync)
		case <-t.wake:
			t.mu.Lock()
			nodes, all := t.nodes, t.all
			t.nodes, t.all = map[string]bool{}, false
			t.mu.Unlock()
			if all {
				t.rebuild()
				continue
			}
			view := t.cfg.Store.View()
			dirty := services{}
			for n := range nodes {
				markNode(view, n, dirty)
			}
			t.render(view, dirty)
		}
	}
}

// markNode marks the services that have instances on the node.
func markNode(view state.ReadView, node string, dirty services) {
	for _, i := range view.InstancesOnNode(node) {
		dirty[i.GetSpec().GetServiceId()] = true
	}
}

// markDevices marks the services whose instances hold a device of the node that has failed or works again.
func markDevices(view state.ReadView, c state.Change, dirty services) {
	for _, i := range view.InstancesOnNode(c.Key.Key) {
		if state.FailedDevice(c.Before.GetNode(), i) != state.FailedDevice(c.After.GetNode(), i) {
			dirty[i.GetSpec().GetServiceId()] = true
		}
	}
}

// sameEndpoint says that the change of an instance changes no answer, as most do on the way to being ready.
func sameEndpoint(before, after *fleetv1.Instance) bool {
	a, b := before.GetObserved(), after.GetObserved()
	return wanted(before) == wanted(after) && (!wanted(before) || a.GetIp() == b.GetIp() && a.GetPort() == b.GetPort())
}

// wanted says that an instance is meant to run and ready, whatever its node is.
func wanted(i *fleetv1.Instance) bool {
	return i.GetDesired().GetState() == fleetv1.DesiredRunning && i.GetObserved().GetReady()
}

// sameQuestion says that a service's answer depends on its instances as before: of its status it does not.
func sameQuestion(a, b *fleetv1.Service) bool {
	return proto.Equal(a.GetSpec(), b.GetSpec()) && proto.Equal(a.GetDesired(), b.GetDesired())
}

// apply takes changes over: those of services that stay as they are by name and ID touch only their own
// answers.
func (t *Table) apply(sets []state.ChangeSet, resync bool) {
	if resync {
		t.rebuild()
		return
	}
	view := t.cfg.Store.View()
	dirty := services{}
	var moved []state.Change
	for _, set := range sets {
		for _, c := range set.Changes {
			switch c.Key.Kind {
			case fleetv1.KindPool, fleetv1.KindCluster:
				t.rebuild()
				return
			case fleetv1.KindService:
				if c.Before == nil || c.After == nil {
					moved = append(moved, c)
				} else if after := c.After.GetService(); !sameQuestion(c.Before.GetService(), after) {
					dirty[after.GetMeta().GetId()] = true
				}
			case fleetv1.KindInstance:
				if sameEndpoint(c.Before.GetInstance(), c.After.GetInstance()) {
					continue
				}
				before, after := c.Before.GetInstance(), c.After.GetInstance()
				withdrawn := meantToServe(before) && !meantToServe(after)
				for _, i := range []*fleetv1.Instance{before, after} {
					if id := i.GetSpec().GetServiceId(); id != "" {
						dirty[id] = dirty[id] || withdrawn
					}
				}
			case fleetv1.KindNode:
				if t.nodeChanged(view, c, dirty) {
					t.rebuild()
					return
				}
			}
		}
	}
	t.move(view, moved)
	t.render(view, dirty)
}

// move takes services in that were made, and out that were deleted.
func (t *Table) move(view state.ReadView, changes []state.Change) {
	if len(changes) == 0 {
		return
	}
	last := t.now.Load()
	next := &snapshot{services: last.services.copy()}
	for _, c := range changes {
		if m := c.Before.GetService().GetMeta(); c.Before != nil {
			for _, k := range []key{{m.GetProject(), m.GetName()}, {m.GetProject(), m.GetId()}} {
				if e := next.services.at(k); e != nil && e.id == m.GetId() {
					next.services.set(k, nil)
				}
			}
			t.live[m.GetId()].end()
			delete(t.live, m.GetId())
			continue
		}
		if s := view.ServiceByID(c.After.GetService().GetMeta().GetId()); s != nil { // else it is gone again
			t.add(view, next.services, s)
		}
	}
	t.now.Store(next)
}

// end tells watches that the service is gone.
func (e *entry) end() {
	if e == nil {
		return
	}
	last := e.answer.Swap(&answer{refusal: refuse(http.StatusNotFound, "the service has been deleted"), page: render(&fleetv1.ListEndpointsResponse{}), next: make(chan struct{})})
	if last != nil {
		close(last.next)
	}
}

// add puts a service's entry in under its name and its ID; a name wins over an ID, as it does in the store.
// Nobody calls the instances of jobs: their services have none.
func (t *Table) add(view state.ReadView, services *directory, s *fleetv1.Service) {
	if s.GetSpec().GetJobId() != "" {
		return
	}
	m := s.GetMeta()
	e := t.live[m.GetId()]
	if e == nil {
		e = &entry{id: m.GetId()}
		t.live[e.id] = e
	}
	t.update(view, e, s)
	services.set(key{m.GetProject(), m.GetName()}, e)
	if byID := (key{m.GetProject(), m.GetId()}); services.at(byID) == nil {
		services.set(byID, e)
	}
}

// render renders the answers of some services anew, or notes that they have to be.
func (t *Table) render(view state.ReadView, dirty services) {
	services := t.now.Load().services
	for id, now := range dirty {
		if !now && t.paused(id) {
			continue
		}
		s := view.ServiceByID(id)
		if e := services.at(key{s.GetMeta().GetProject(), id}); e != nil && s != nil {
			t.update(view, e, s)
		}
	}
}

func (t *Table) update(view state.ReadView, e *entry, s *fleetv1.Service) {
	last := e.answer.Load()
	after := uint64(0)
	if last != nil {
		after = last.page.resp.GetIndex()
	}
	next, instances := t.answerOf(view, s, after)
	t.pause(s.GetMeta().GetId(), instances)
	switch {
	case last == nil:
		e.answer.Store(next)
	case !sameAnswer(last, next):
		e.answer.Store(next)
		close(last.next)
	}
}

func sameAnswer(a, b *answer) bool {
	if (a.refusal == nil) != (b.refusal == nil) || a.refusal != nil && *a.refusal != *b.refusal {
		return false
	}
	return samePage(a.page, b.page) && maps.EqualFunc(a.others, b.others, samePage)
}

func samePage(a, b *page) bool {
	x, y := a.resp.GetEndpoints(), b.resp.GetEndpoints()
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if rendered(x[i]) != rendered(y[i]) {
			return false
		}
	}
	return true
}

// rebuild replaces the snapshot; answers that have not changed stay.
func (t *Table) rebuild() {
	view := t.cfg.Store.View()
	t.recount(view)
	next := &snapshot{services: newDirectory()}
	before := t.live
	t.live = make(map[string]*entry, len(before))
	for _, s := range view.Services("") {
		if e := before[s.GetMeta().GetId()]; e != nil {
			t.live[e.id] = e
		}
		t.add(view, next.services, s)
	}
	t.now.Store(next)
	for id, e := range before {
		if t.live[id] == nil {
			e.end()
		}
	}
}
