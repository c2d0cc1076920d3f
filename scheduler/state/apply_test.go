package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// fixture is a store with the base objects and a way to apply the next command.
type fixture struct {
	*Store
	t     *testing.T
	index uint64
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{Store: New(), t: t}
	for _, c := range baseCommands() {
		f.must(c)
	}
	return f
}

func (f *fixture) apply(c *fleetv1.Command) (Result, []*fleetv1.Event) {
	f.index++
	return f.Apply(f.index, c)
}

func (f *fixture) must(c *fleetv1.Command) []*fleetv1.Event {
	f.t.Helper()
	r, evs := f.apply(c)
	if len(r.Rejections) > 0 {
		f.t.Fatalf("refused: %+v", r.Rejections)
	}
	return evs
}

func (f *fixture) refused(c *fleetv1.Command, reason RejectReason, detail string) {
	f.t.Helper()
	before := f.View()
	r, evs := f.apply(c)
	if len(r.Rejections) != 1 || r.Rejections[0].Reason != reason || !strings.Contains(r.Rejections[0].Detail, detail) {
		f.t.Errorf("got %+v, want %s: …%s…", r.Rejections, reason, detail)
	}
	if len(evs) > 0 {
		f.t.Errorf("a refused command made %d events", len(evs))
	}
	after := f.View()
	if len(before.Instances()) != len(after.Instances()) || len(before.Flavors()) != len(after.Flavors()) {
		f.t.Error("a refused command changed the store")
	}
}

func TestWriteIsAllOrNone(t *testing.T) {
	f := newFixture(t)
	f.refused(writeCommand(1, Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "new"}}),
		Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "f"}})), RejectExists, "flavor f exists already")
	f.refused(writeCommand(1, Put(9, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "new"}})), RejectNotFound, "flavor new")
	f.refused(writeCommand(1, Put(9, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "f"}})), RejectRevision, "revision 1, not 9")
	f.refused(writeCommand(1, Delete(9, Key{"flavor", "f"})), RejectRevision, "revision 1")
	f.refused(writeCommand(1, Delete(9, Key{"flavor", "none"})), RejectNotFound, "flavor none")
	f.refused(writeCommand(1, Delete(1, Key{"cluster", "cluster"})), RejectInvalid, "cluster")
	f.refused(writeCommand(1, Put(0, &fleetv1.Flavor{})), RejectInvalid, "meta")
	f.refused(writeCommand(1, Put(0, &fleetv1.Meta{})), RejectInvalid, "kind")
	f.refused(writeCommand(1, &fleetv1.Mutation{}), RejectUnknownCommand, "unknown type")
	if f.View().Flavor("f").GetMeta().GetRevision() != 1 || f.View().Index() != f.index {
		t.Error("revision or index is wrong")
	}
}

func TestReferencesHold(t *testing.T) {
	f := newFixture(t)
	f.must(planCommand("a", testInstance("i1", "a", "n1")))
	revision := func(name string) uint64 { return f.View().Node(name).GetMeta().GetRevision() }
	for _, tt := range []struct {
		key      Key
		revision uint64
		detail   string
	}{
		{Key{"flavor", "f"}, 1, "service default/a uses it"},
		{Key{"pool", "p"}, 1, "service default/a uses it"},
		{ModelKey("default", "m", "0.0.1"), 1, "service default/a uses it"},
		{ServiceKey("default", "a"), 1, "a-i1"},
		{Key{"node", "n1"}, revision("n1"), "a-i1"},
	} {
		f.refused(writeCommand(1, Delete(tt.revision, tt.key)), RejectInUse, tt.detail)
	}
	f.must(writeCommand(1, Delete(revision("n2"), Key{"node", "n2"}), Delete(1, ServiceKey("default", "b"))))
	for want, change := range map[string]func(*fleetv1.Service){
		"pool none":     func(s *fleetv1.Service) { s.Spec.Pool = "none" },
		"flavor none":   func(s *fleetv1.Service) { s.Spec.Versions[0].Flavor = "none" },
		"model m 9.9.9": func(s *fleetv1.Service) { s.Spec.Versions[0].ModelVersion = "9.9.9" },
	} {
		s := testService("c")
		change(s)
		f.refused(writeCommand(1, Put(0, s)), RejectNotFound, want)
	}
}

func TestPlanChecksEachPart(t *testing.T) {
	f := newFixture(t)
	cordoned := proto.CloneOf(f.View().Node("n2"))
	cordoned.Spec = &fleetv1.NodeSpec{Cordoned: true}
	f.must(writeCommand(1, Put(1, cordoned)))
	strange := proto.CloneOf(f.View().Node("n1"))
	strange.Meta.Name, strange.Meta.Id = "n3", "n3"
	strange.Facts.Hold = &fleetv1.NodeHold{RestoreEpoch: 9, Strangers: []*fleetv1.Stranger{{InstanceId: "s"}}}
	f.must(writeCommand(1, Put(0, strange)))
	big := testInstance("x", "a", "n1")
	big.Spec.CpuMillis = 7001
	memory := testInstance("x", "a", "n1")
	memory.Spec.MemoryBytes = 1001
	disk := testInstance("x", "a", "n1")
	disk.Spec.DiskBytes = 1001
	for _, tt := range []struct {
		instances []*fleetv1.Instance
		reason    RejectReason
		detail    string
	}{
		{[]*fleetv1.Instance{testInstance("x", "a", "n9")}, RejectNotFound, "node n9"},
		{[]*fleetv1.Instance{testInstance("x", "a", "n2")}, RejectUnfit, "cordoned"},
		{[]*fleetv1.Instance{testInstance("x", "a", "n3")}, RejectUnfit, "runs what isn't known"},
		{[]*fleetv1.Instance{testInstance("x", "a", "n1", "d3")}, RejectUnfit, "unhealthy"},
		{[]*fleetv1.Instance{testInstance("x", "a", "n1", "d9")}, RejectNotFound, "no device d9"},
		{[]*fleetv1.Instance{testInstance("x", "a", "n1", "d0", "d0")}, RejectInUse, "twice"},
		{[]*fleetv1.Instance{testInstance("x", "a", "n1", "d0"), testInstance("y", "a", "n1", "d0")}, RejectInUse, "twice"},
		{[]*fleetv1.Instance{testInstance("x", "a", "n1"), testInstance("x", "a", "n1")}, RejectExists, "x"},
		{[]*fleetv1.Instance{testInstance("x", "b", "n1")}, RejectInvalid, "another service"},
		{[]*fleetv1.Instance{big}, RejectCapacity, "7000 of 7001 millicores"},
		{[]*fleetv1.Instance{memory}, RejectCapacity, "memory"},
		{[]*fleetv1.Instance{disk}, RejectCapacity, "disk"},
	} {
		f.refused(planCommand("a", tt.instances...), tt.reason, tt.detail)
	}
	stale := planCommand("a", testInstance("x", "a", "n1"))
	stale.GetPlan().Parts[0].ServiceGeneration = 2
	f.refused(stale, RejectRevision, "generation 1, not 2")
	f.refused(planCommand("none", testInstance("x", "none", "n1")), RejectNotFound, "id-none")

	// The bad part is refused, the good ones around it are applied and see each other.
	c := planCommand("a", testInstance("i1", "a", "n1", "d0"))
	c.GetPlan().Parts = append(c.GetPlan().Parts,
		planCommand("b", testInstance("i2", "b", "n1", "d0")).GetPlan().Parts[0],
		planCommand("b", testInstance("i3", "b", "n1", "d1")).GetPlan().Parts[0])
	r, _ := f.apply(c)
	if len(r.Rejections) != 1 || r.Rejections[0].Part != 1 || r.Rejections[0].Reason != RejectInUse {
		t.Errorf("%+v", r.Rejections)
	}
	v := f.View()
	if v.Instance("i1").GetSpec().GetEpoch() != f.index || v.Instance("i2") != nil || v.DeviceHolder("n1", "d1").GetMeta().GetId() != "i3" {
		t.Error("the plan's parts are not as they should be")
	}
	if v.Node("n1").GetStatus().GetAssignmentGeneration() != f.index {
		t.Error("the assignment generation didn't move")
	}
	stopped := proto.CloneOf(v.Service("default", "a"))
	stopped.Desired.State = fleetv1.DesiredStopped
	f.must(writeCommand(1, Put(1, stopped)))
	f.refused(planCommand("a", testInstance("i9", "a", "n1")), RejectRevision, "not running")
}

func TestReportTouchesObservedAlone(t *testing.T) {
	f := newFixture(t)
	f.must(planCommand("a", testInstance("i1", "a", "n1", "d0")))
	generation := f.index
	report := func(node string, seq uint64, attempt uint32, state string) []*fleetv1.Event {
		return f.must(reportCommand(node, &fleetv1.InstanceReport{
			InstanceId: "i1", Observed: &fleetv1.InstanceObserved{Sequence: seq, Attempt: attempt, State: state},
			Events: []*fleetv1.ReportedEvent{
				{Sequence: seq - 1, Reason: "Old", Type: "Normal"}, {Sequence: seq, Reason: "New", Type: "Normal", TimeUnixNano: 5},
			},
		}))
	}
	if evs := report("n1", 2, 1, "Running"); len(evs) != 2 || len(evs[0].GetObjects()) != 3 || evs[0].GetId() != fmt.Sprintf("%d-1", f.index) {
		t.Errorf("events %v", evs)
	}
	if evs := report("n1", 3, 2, "Starting"); len(evs) != 1 || evs[0].GetReason() != "New" || evs[0].GetTime().GetNanos() != 5 {
		t.Errorf("events %v", evs)
	}
	if evs := report("n1", 3, 2, "Running"); len(evs) != 0 { // sent again
		t.Errorf("events %v", evs)
	}
	report("n1", 4, 1, "Running") // an attempt that went back
	report("n2", 5, 3, "Running") // not its node
	f.must(reportCommand("n1", &fleetv1.InstanceReport{InstanceId: "gone", Observed: &fleetv1.InstanceObserved{Sequence: 1}}))
	i := f.View().Instance("a-i1")
	if o := i.GetObserved(); o.GetState() != "Starting" || o.GetSequence() != 3 || o.GetAttempt() != 2 {
		t.Errorf("observed %v", o)
	}
	if f.View().Node("n1").GetStatus().GetAssignmentGeneration() != generation {
		t.Error("a report moved the assignment generation")
	}
	report("n1", 9, 2, "Reaped")
	if f.View().DeviceHolder("n1", "d0") != nil || f.View().Allocated("n1") != (Allocation{}) {
		t.Error("a reaped instance holds something")
	}
	report("n1", 10, 2, "Running")
	if s := f.View().Instance("i1").GetObserved().GetState(); s != "Reaped" {
		t.Errorf("a reaped instance became %s", s)
	}
}

func TestNodeWritesKeepTheAssignmentGeneration(t *testing.T) {
	f := newFixture(t)
	seen := proto.CloneOf(f.View().Node("n1"))
	f.must(planCommand("a", testInstance("i1", "a", "n1")))
	placed := f.index
	f.refused(writeCommand(1, Put(seen.GetMeta().GetRevision(), seen)), RejectRevision, "node n1 has changed")
	seen.Status.AllocatedCpuMillis, seen.Status.AssignmentGeneration = 5, 1
	f.must(writeCommand(1, Put(f.View().Node("n1").GetMeta().GetRevision(), seen)))
	if s := f.View().Node("n1").GetStatus(); s.GetAssignmentGeneration() != placed || s.GetAllocatedCpuMillis() != 0 {
		t.Errorf("status %v", s)
	}
	i := proto.CloneOf(f.View().Instance("i1"))
	i.Desired.State = fleetv1.DesiredStopped
	f.must(writeCommand(1, Put(i.GetMeta().GetRevision(), i)))
	if g := f.View().Node("n1").GetStatus().GetAssignmentGeneration(); g != f.index {
		t.Errorf("generation %d after a change of desired at %d", g, f.index)
	}
}

// A command is in the log for good: one that the store can't take as a rule may not end the scheduler.
func TestNodeMayLoseItsFacts(t *testing.T) {
	f := newFixture(t)
	n := proto.CloneOf(f.View().Node("n1"))
	n.Facts = nil
	f.must(writeCommand(1, Put(n.GetMeta().GetRevision(), n)))
	for _, v := range []ReadView{f.View(), restored(t, f.Store).View()} {
		if stored := v.Node("n1"); stored == nil || stored.GetFacts() != nil {
			t.Errorf("node %v", stored)
		}
	}
}

// Reports in one entry are merged as if they had come one after the other.
func TestReports(t *testing.T) {
	f := newFixture(t)
	f.must(planCommand("a", testInstance("i1", "a", "n1"), testInstance("i2", "a", "n2")))
	seen := func(node, instance string, sequence uint64) *fleetv1.Report {
		return &fleetv1.Report{Node: node, Instances: []*fleetv1.InstanceReport{{InstanceId: instance,
			Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Sequence: sequence}}}}
	}
	cmd := &fleetv1.Command{Time: at(1), Op: &fleetv1.Command_Reports{Reports: &fleetv1.Reports{Reports: []*fleetv1.Report{
		seen("n1", "i1", 1), seen("n2", "i2", 3), seen("n1", "i1", 2), seen("n1", "i2", 9)}}}}
	cmd.Introduced = Introduced(cmd)
	f.must(cmd)
	if one, two := f.View().Instance("i1").GetObserved().GetSequence(), f.View().Instance("i2").GetObserved().GetSequence(); one != 2 || two != 3 {
		t.Errorf("stored %d and %d", one, two)
	}
}

func TestRequestIDs(t *testing.T) {
	f := newFixture(t)
	request := func(seconds int64, name string, digest byte) *fleetv1.Command {
		c := writeCommand(seconds, Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: name}}))
		c.RequestId, c.RequestDigest = "r", []byte{digest}
		return c
	}
	f.refused(request(1, "f", 1), RejectExists, "f") // refused: not remembered
	f.must(request(1, "one", 1))
	first := f.index
	if r, evs := f.apply(request(2, "one", 1)); !r.Repeated || r.Index != first || len(r.Rejections) > 0 || len(evs) > 0 {
		t.Errorf("repeated: %+v", r)
	}
	f.refused(request(3, "two", 2), RejectRequestBody, `"r"`)
	if f.View().Request("", "r").GetIndex() != first {
		t.Error("the request isn't remembered")
	}
	day := int64(24 * 3600)
	if r, _ := f.apply(request(1+day, "one", 1)); !r.Repeated {
		t.Error("forgotten within 24 hours")
	}
	f.must(request(2+day, "two", 2)) // forgotten
	if n := f.view().t.requestsByAge.Len(); n != 1 || f.view().t.requests.Len() != 1 {
		t.Errorf("%d requests are kept", n)
	}
}

func TestUnknownCommands(t *testing.T) {
	f := newFixture(t)
	f.refused(&fleetv1.Command{Time: at(1)}, RejectUnknownCommand, "command version 0")
	for _, m := range []*fleetv1.Mutation{Put(0, &fleetv1.JoinToken{}), Delete(1, CertificateKey(fleetv1.RoleAgent, "n")),
		Put(0, &fleetv1.Scheduler{}), Delete(1, SchedulerKey("s"))} {
		if got := Introduced(writeCommand(1, Put(0, &fleetv1.Flavor{}), m)); got != 3 {
			t.Errorf("%v came with %d", m, got)
		}
	}
	for _, m := range []*fleetv1.Mutation{Put(0, &fleetv1.Project{}), Delete(1, AppKey("p", "a")), Put(0, &fleetv1.Token{ExpireTime: at(1)}), Put(0, &fleetv1.Token{User: "u"})} {
		if got := Introduced(writeCommand(1, Put(0, &fleetv1.Scheduler{}), m)); got != 4 {
			t.Errorf("%v came with %d", m, got)
		}
	}
	if got := Introduced(writeCommand(1, Put(0, &fleetv1.Token{Role: "admin"}))); got != 1 {
		t.Errorf("a token of the bootstrap came with %d", got)
	}
	newer := writeCommand(1)
	newer.Introduced = CommandVersion + 1
	f.refused(newer, RejectUnknownCommand, fmt.Sprintf("knows up to %d", CommandVersion))
}

func TestViews(t *testing.T) {
	f := newFixture(t)
	for _, version := range []string{"0.0.9", "0.0.10", "0.1.0"} {
		f.must(writeCommand(1, Put(0, &fleetv1.Model{Meta: &fleetv1.Meta{Name: "m", Project: "default"}, Spec: &fleetv1.ModelSpec{Version: version}})))
	}
	f.must(writeCommand(1, Put(0, &fleetv1.Model{Meta: &fleetv1.Meta{Name: "mm", Project: "default"}, Spec: &fleetv1.ModelSpec{Version: "9.0.0"}}),
		Put(0, &fleetv1.Token{Meta: &fleetv1.Meta{Name: "admin"}, SecretSha256: []byte{0, 1}})))
	old := f.View()
	f.must(planCommand("a", testInstance("i1", "a", "n1")))
	v := f.View()
	if len(old.Instances()) != 0 || len(v.Instances()) != 1 {
		t.Error("a view changed")
	}
	if got := v.Model("default", "m", "").GetSpec().GetVersion(); got != "0.1.0" {
		t.Errorf("latest is %s", got)
	}
	if CompareVersions("0.0.10", "0.0.9") <= 0 || CompareVersions("1.0", "1.0.0") >= 0 || CompareVersions("1.x", "1.9") <= 0 {
		t.Error("versions compare as text")
	}
	if len(v.Models("default", "m")) != 4 || len(v.Models("", "")) != 5 || len(v.Models("", "mm")) != 1 || len(v.Models("default", "")) != 5 {
		t.Error("models")
	}
	if v.Node("id-n1") != v.Node("n1") || v.Node("nobody") != nil || v.Service("default", "id-a") != v.Service("default", "a") ||
		v.Service("other", "id-a") != nil || v.TokenBySecret([]byte{0, 1}).GetMeta().GetName() != "admin" || v.TokenBySecret(nil) != nil {
		t.Error("look-ups")
	}
	if n := v.PoolNodes(v.Pool("p")); len(n) != 2 || n[0].GetMeta().GetName() != "n1" {
		t.Errorf("pool has %v", n)
	}
	listed := &fleetv1.Pool{Spec: &fleetv1.PoolSpec{Nodes: []string{"n2", "gone", "n2"}}}
	if n := v.PoolNodes(listed); len(n) != 1 || n[0].GetMeta().GetName() != "n2" {
		t.Errorf("pool has %v", n)
	}
	if len(v.InstancesOfService("id-a")) != 1 || len(v.InstancesOnNode("n1")) != 1 || len(v.InstancesOnNode("n")) != 0 {
		t.Error("instances")
	}
}

func TestFeedResyncsWhenItFallsBehind(t *testing.T) {
	f := newFixture(t)
	feed := f.Subscribe()
	if _, resync, _ := feed.Next(t.Context()); !resync {
		t.Error("the first call asks for no resync")
	}
	for i := range feedLimit + 1 {
		f.must(writeCommand(1, Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: fmt.Sprint("f", i)}})))
	}
	if sets, resync, err := feed.Next(t.Context()); !resync || len(sets) > 0 || err != nil {
		t.Errorf("%d sets, resync %v, %v", len(sets), resync, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := feed.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	feed.Close()
	if _, _, err := feed.Next(t.Context()); !errors.Is(err, ErrFeedClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Readers and snapshots need no lock: a view stays whole while later commands are applied.
func TestViewsWhileCommandsAreApplied(t *testing.T) {
	s := New()
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				v := s.View()
				first := len(v.Instances())
				for _, n := range v.Nodes() {
					for _, i := range v.InstancesOnNode(n.GetMeta().GetName()) {
						if v.Instance(i.GetMeta().GetId()) != i {
							t.Errorf("index %d: instance %s is not what its node has", v.Index(), i.GetMeta().GetId())
							return
						}
					}
				}
				var b bytes.Buffer
				if _, err := s.Snapshot().WriteTo(&b); err != nil || len(v.Instances()) != first {
					t.Errorf("index %d: the view went from %d to %d instances, %v", v.Index(), first, len(v.Instances()), err)
					return
				}
			}
		})
	}
	for i, c := range randomLog(9, 300) {
		s.Apply(uint64(i+1), c)
	}
	close(done)
	readers.Wait()
}
