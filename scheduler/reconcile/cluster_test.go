package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

const gib = 1 << 30

// cluster is a real store, loops on it, and agents that do what the test says.
type cluster struct {
	t        *testing.T
	store    *state.Store
	sessions *fakeSessions
	work     Work // may be nil

	mu        sync.Mutex
	index     uint64
	proposals int
	events    []*fleetv1.Event
	refuse    func(*fleetv1.Command) error
	// behave changes what the agents would report next; it may be nil.
	behave func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved
}

// run calls f in a bubble with a cluster of so many nodes (4 cores, 8 GiB, 2 devices each).
func run(t *testing.T, nodes int, f func(*cluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, nodes)
		defer c.lead()()
		c.settled()
		f(c)
	})
}

func newCluster(t *testing.T, nodes int) *cluster {
	c := &cluster{t: t, store: state.New(), sessions: &fakeSessions{lost: map[string]bool{}}}
	c.must(&fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c"}})
	for i := range nodes {
		c.addNode(fmt.Sprintf("n%d", i+1))
	}
	c.must(&fleetv1.Pool{Meta: &fleetv1.Meta{Name: "p", Id: "p"}, Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Selector: map[string]string{"pool": "p"}}})
	c.must(&fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "one", Id: "one"}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: gib}})
	c.must(&fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "gpu", Id: "gpu"}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: gib,
		Accelerator: &fleetv1.Accelerator{Vendor: "fake", Count: 1}, Limits: &fleetv1.Limits{ShmBytes: 7, Pids: 9}}})
	c.must(&fleetv1.Model{Meta: &fleetv1.Meta{Name: "m", Id: "m", Project: "default"}, Spec: &fleetv1.ModelSpec{Version: "0.0.1", Image: "r/m:1",
		Health: &fleetv1.HealthCheck{CheckMethod: "HTTP", PeriodSeconds: 2}}, Status: &fleetv1.ModelStatus{State: fleetv1.ModelNormal, ImageDigest: "sha256:1", Arches: []string{"amd64"}}})
	return c
}

// lead starts loops and agents; the answer ends them and waits.
func (c *cluster) lead() (stop func()) { return c.leadWith(func(*serviceLoop) {}) }

// leadWith is lead with a service loop that change has changed.
func (c *cluster) leadWith(change func(*serviceLoop)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		loops := New(Config{State: c.store, Proposer: c, Sessions: c.sessions, Work: c.work})
		term := loops.Begin()
		change(term.service)
		if err := loops.run(ctx, term); !errors.Is(err, context.Canceled) {
			c.t.Errorf("loops ended with %v", err)
		}
	})
	work.Go(func() { c.agents(ctx) })
	return func() {
		cancel()
		work.Wait()
	}
}

func (c *cluster) addNode(name string) {
	c.must(&fleetv1.Node{Meta: &fleetv1.Meta{Name: name, Id: "id-" + name}, Spec: &fleetv1.NodeSpec{},
		Facts: &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 4000, MemoryBytes: 8 * gib, Labels: map[string]string{"pool": "p"}, AdvertiseAddress: "10.0.0.1",
			Devices: []*fleetv1.Device{{Id: name + "-d0", Vendor: "fake", Model: "X1", Health: fleetv1.Healthy}, {Id: name + "-d1", Vendor: "fake", Model: "X1", Health: fleetv1.Healthy}}},
		Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady}})
}

// Propose implements Proposer.
func (c *cluster) Propose(_ context.Context, cmd *fleetv1.Command) (state.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		if err := c.refuse(cmd); err != nil {
			return state.Result{}, err
		}
	}
	return c.applyLocked(cmd), nil
}

func (c *cluster) applyLocked(cmd *fleetv1.Command) state.Result {
	c.index++
	c.proposals++
	if cmd.Introduced == 0 {
		cmd.Introduced = state.Introduced(cmd)
	}
	r, events := c.store.Apply(c.index, cmd)
	c.events = append(c.events, events...)
	return r
}

// put stores an object as the API would.
func (c *cluster) put(m proto.Message, revision uint64) state.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applyLocked(putCommand(m, revision))
}

func putCommand(m proto.Message, revision uint64) *fleetv1.Command {
	return &fleetv1.Command{Time: timestamppb.Now(), Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(revision, m)}}}}
}

func (c *cluster) must(m proto.Message) {
	c.t.Helper()
	if r := c.put(m, 0); len(r.Rejections) > 0 {
		c.t.Fatalf("put: %v", r.Rejections)
	}
}

// agents report for every node that has its lease, until ctx ends.
func (c *cluster) agents(ctx context.Context) {
	feed := c.store.Subscribe()
	defer feed.Close()
	for {
		if _, _, err := feed.Next(ctx); err != nil {
			return
		}
		c.act()
	}
}

// act lets every agent take one step for each of its instances.
func (c *cluster) act() {
	for _, inst := range c.store.View().Instances() {
		if !c.sessions.LeaseValid(inst.GetSpec().GetNode()) {
			continue
		}
		c.mu.Lock()
		next := agentStep(inst)
		if c.behave != nil {
			next = c.behave(inst, next)
		}
		if next != nil {
			c.reportLocked(inst, next)
		}
		c.mu.Unlock()
	}
}

// agentStep is what a healthy instance's agent reports next, or nil.
func agentStep(inst *fleetv1.Instance) *fleetv1.InstanceObserved {
	o := inst.GetObserved()
	switch {
	case o.GetState() == fleetv1.InstanceReaped:
		return nil
	case inst.GetDesired().GetState() == fleetv1.DesiredStopped:
		return &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: max(1, o.GetAttempt())}
	case o.GetReason() == state.ReasonUnconfirmed: // an agent that is back reports everything
		o = proto.CloneOf(o)
		o.Ready, o.Health, o.Reason = true, fleetv1.Healthy, ""
		return o
	case inst.GetDesired().GetRestart() > o.GetRestarted():
		return &fleetv1.InstanceObserved{State: fleetv1.InstanceAccepted, Attempt: o.GetAttempt() + 1, Restarted: inst.GetDesired().GetRestart(),
			LastExit: &fleetv1.ExitStatus{Reason: "Stopped"}}
	case o.GetState() == "" || o.GetState() == fleetv1.InstanceAccepted:
		return &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: max(1, o.GetAttempt()), Ready: true, Health: fleetv1.Healthy,
			Restarted: o.GetRestarted(), LastExit: o.GetLastExit(), Ip: "10.0.0.1", Port: 30000}
	}
	return nil
}

func (c *cluster) reportLocked(inst *fleetv1.Instance, o *fleetv1.InstanceObserved) {
	o.Sequence = inst.GetObserved().GetSequence() + 1
	c.applyLocked(&fleetv1.Command{Time: timestamppb.Now(), Op: &fleetv1.Command_Report{Report: &fleetv1.Report{Node: inst.GetSpec().GetNode(),
		Instances: []*fleetv1.InstanceReport{{InstanceId: inst.GetMeta().GetId(), Observed: o}}}}})
}

// agentsDo changes what the agents report from now on; nil is what healthy instances report.
func (c *cluster) agentsDo(f func(*fleetv1.Instance, *fleetv1.InstanceObserved) *fleetv1.InstanceObserved) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behave = f
}

// report has the instance's agent say o.
func (c *cluster) report(inst *fleetv1.Instance, o *fleetv1.InstanceObserved) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reportLocked(c.store.View().Instance(inst.GetMeta().GetId()), o)
}

// settled waits until nothing moves.
func (c *cluster) settled() { synctest.Wait() }

// after lets time pass.
func (c *cluster) after(d time.Duration) {
	time.Sleep(d) // synctest's clock
	synctest.Wait()
}

// deploy makes service s with so many instances, and waits until nothing moves.
func (c *cluster) deploy(instances int32, change ...func(*fleetv1.Service)) {
	c.t.Helper()
	c.add("s", instances, change...)
	c.settled()
}

// add makes a service; that of name s has the ID sid.
func (c *cluster) add(name string, instances int32, change ...func(*fleetv1.Service)) {
	c.t.Helper()
	now := timestamppb.Now()
	svc := &fleetv1.Service{Meta: &fleetv1.Meta{Name: name, Id: name + "id", Project: "default", Generation: 1, CreateTime: now},
		Spec:    &fleetv1.ServiceSpec{Pool: "p", Versions: []*fleetv1.ServiceVersion{{Model: "m", ModelVersion: "0.0.1", Weight: 100, Flavor: "one", Instances: instances}}},
		Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning, StartTime: now}}
	for _, f := range change {
		f(svc)
	}
	c.must(svc)
}

// change writes service s as the API would.
func (c *cluster) change(f func(*fleetv1.Service)) {
	c.t.Helper()
	svc := proto.CloneOf(c.service())
	f(svc)
	if r := c.put(svc, svc.GetMeta().GetRevision()); len(r.Rejections) > 0 {
		c.t.Fatalf("change: %v", r.Rejections)
	}
	c.settled()
}

func (c *cluster) scale(n int32) {
	c.t.Helper()
	c.change(func(s *fleetv1.Service) { s.Spec.Versions[0].Instances = n; s.Meta.Generation++ })
}

func (c *cluster) service() *fleetv1.Service { return c.store.View().ServiceByID("sid") }

func (c *cluster) instances() []*fleetv1.Instance { return c.store.View().InstancesOfService("sid") }

func (c *cluster) nodesUsed() []string {
	var names []string
	for _, i := range c.instances() {
		if i.GetDesired().GetState() == fleetv1.DesiredRunning {
			names = append(names, i.GetSpec().GetNode())
		}
	}
	slices.Sort(names)
	return names
}

// expect checks state and number of instances in the store.
func (c *cluster) expect(state string, instances int) {
	c.t.Helper()
	if got := c.service().GetStatus(); got.GetState() != state || len(c.instances()) != instances {
		c.t.Fatalf("service is %s (%s) with %d instances, want %s with %d\nevents: %v", got.GetState(), got.GetReason(), len(c.instances()), state, instances, c.reasons())
	}
}

func (c *cluster) reasons() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, e := range c.events {
		out = append(out, e.GetReason())
	}
	return out
}

// told checks that the events with these reasons came in this order.
func (c *cluster) told(reasons ...string) {
	c.t.Helper()
	all := c.reasons()
	for _, r := range reasons {
		i := slices.Index(all, r)
		if i < 0 {
			c.t.Fatalf("no event %s in its order %v; all: %v", r, reasons, c.reasons())
		}
		all = all[i+1:]
	}
}

func (c *cluster) count(reason string) int {
	return strings.Count(" "+strings.Join(c.reasons(), "  ")+" ", " "+reason+" ")
}

func (c *cluster) proposed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.proposals
}

// quiet checks that nothing is proposed in the next minute.
func (c *cluster) quiet() {
	c.t.Helper()
	c.settled()
	before := c.proposed()
	c.after(time.Minute)
	if n := c.proposed() - before; n != 0 {
		c.t.Fatalf("%d proposals at a fixed point; events: %v", n, c.reasons())
	}
}

// fakeSessions has leases that the test takes and gives.
type fakeSessions struct {
	mu    sync.Mutex
	lost  map[string]bool
	lease func(string)
	pull  func(string)
}

func (s *fakeSessions) LeaseValid(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.lost[node]
}

func (s *fakeSessions) OnLease(f func(string)) func() { s.lease = f; return func() {} }
func (s *fakeSessions) OnPull(f func(string)) func()  { s.pull = f; return func() {} }

func (s *fakeSessions) set(node string, lost bool) {
	s.mu.Lock()
	s.lost[node] = lost
	s.mu.Unlock()
	s.lease(node)
}
