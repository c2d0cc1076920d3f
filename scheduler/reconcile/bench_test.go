package reconcile

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// fleet is a store and loops that are stepped by hand; what is proposed is applied at once.
type fleet struct {
	b       *testing.B
	store   *state.Store
	index   uint64
	entries int
	term    *Term
	now     time.Time
}

func newFleet(b *testing.B, nodes int) *fleet {
	f := &fleet{b: b, store: state.New(), now: time.Unix(1_000_000, 0)}
	f.put(&fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c"}},
		&fleetv1.Pool{Meta: &fleetv1.Meta{Name: "p", Id: "p"}, Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Selector: map[string]string{"pool": "p"}}},
		&fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "gpu", Id: "gpu"}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: gib, Accelerator: &fleetv1.Accelerator{Vendor: "fake", Count: 1}}},
		&fleetv1.Model{Meta: &fleetv1.Meta{Name: "m", Id: "m", Project: "default"}, Spec: &fleetv1.ModelSpec{Version: "0.0.1", Image: "r/m:1"},
			Status: &fleetv1.ModelStatus{State: fleetv1.ModelNormal, ImageDigest: "sha256:1", Arches: []string{"amd64"}}})
	for i := range nodes {
		name := fmt.Sprintf("node-%05d", i)
		n := &fleetv1.Node{Meta: &fleetv1.Meta{Name: name, Id: name}, Spec: &fleetv1.NodeSpec{}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady},
			Facts: &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 64000, MemoryBytes: 512 * gib, Labels: map[string]string{"pool": "p", "rack": fmt.Sprint(i / 40)}}}
		for d := range 8 {
			n.Facts.Devices = append(n.Facts.Devices, &fleetv1.Device{Id: fmt.Sprintf("%s-d%d", name, d), Index: int32(d), Vendor: "fake", Model: "X1", Health: fleetv1.Healthy, MemoryBytes: 80 * gib})
		}
		f.put(n)
	}
	f.term = New(Config{State: f.store, Proposer: f, Sessions: &fakeSessions{}, Now: func() time.Time { return f.now }}).Begin()
	b.Cleanup(f.term.End)
	return f
}

func (f *fleet) Propose(_ context.Context, cmd *fleetv1.Command) (state.Result, error) {
	f.entries++
	return f.apply(cmd), nil
}

func (f *fleet) apply(cmd *fleetv1.Command) state.Result {
	f.index++
	cmd.Time, cmd.Introduced = timestamppb.New(f.now), state.Introduced(cmd)
	r, _ := f.store.Apply(f.index, cmd)
	return r
}

func (f *fleet) put(all ...proto.Message) {
	w := &fleetv1.Write{}
	for _, m := range all {
		w.Mutations = append(w.Mutations, state.Put(0, m))
	}
	if r := f.apply(&fleetv1.Command{Op: &fleetv1.Command_Write{Write: w}}); len(r.Rejections) > 0 {
		f.b.Fatal(r.Rejections)
	}
}

func (f *fleet) service(name string, instances int32) *fleetv1.Service {
	return &fleetv1.Service{Meta: &fleetv1.Meta{Name: name, Id: name + "-id", Project: "default", Generation: 1, CreateTime: timestamppb.New(f.now)},
		Spec:    &fleetv1.ServiceSpec{Pool: "p", Versions: []*fleetv1.ServiceVersion{{Model: "m", ModelVersion: "0.0.1", Weight: 100, Flavor: "gpu", Instances: instances}}},
		Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning, StartTime: timestamppb.New(f.now)}}
}

// settle steps until nothing is left to do now.
func (f *fleet) settle() (next time.Time) {
	for next = f.term.Step(f.b.Context(), f.now); next.Equal(f.now); next = f.term.Step(f.b.Context(), f.now) {
	}
	return next
}

// acknowledge has every node report its instances as ready, with the loops at work meanwhile.
func (f *fleet) acknowledge() {
	byNode := map[string][]*fleetv1.InstanceReport{}
	for _, i := range f.store.View().Instances() {
		if !i.GetObserved().GetReady() {
			byNode[i.GetSpec().GetNode()] = append(byNode[i.GetSpec().GetNode()], &fleetv1.InstanceReport{InstanceId: i.GetMeta().GetId(),
				Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Sequence: 1, Ready: true, Ip: "10.0.0.1", Port: 30000}})
		}
	}
	reports := 0
	for node, all := range byNode {
		f.apply(&fleetv1.Command{Op: &fleetv1.Command_Report{Report: &fleetv1.Report{Node: node, Instances: all}}})
		if reports++; reports%100 == 0 { // an entry of 100 nodes' reports every 5 ms
			f.now = f.now.Add(5 * time.Millisecond)
			f.term.Step(f.b.Context(), f.now)
		}
	}
	f.now = f.now.Add(time.Second)
	f.settle()
}

func (f *fleet) check(name string) {
	f.b.Helper()
	if st := f.store.View().ServiceByID(name + "-id").GetStatus(); st.GetState() != fleetv1.ServiceRunning {
		f.b.Fatalf("service %s is %s: %s %v", name, st.GetState(), st.GetReason(), st.GetVersions())
	}
}

// BenchmarkOneService places one service of 50,000 instances on 10,000 nodes and sees it become ready. The store is
// real, the log is not.
func BenchmarkOneService(b *testing.B) {
	const instances = 50_000
	var placing, acknowledging time.Duration
	entries := 0
	for b.Loop() {
		b.StopTimer()
		f := newFleet(b, 10_000)
		f.settle()
		f.entries = 0
		b.StartTimer()
		start := time.Now()
		f.put(f.service("big", instances))
		f.settle()
		placing += time.Since(start)
		entries += f.entries
		start = time.Now()
		f.acknowledge()
		acknowledging += time.Since(start)
		f.check("big")
	}
	b.ReportMetric(float64(b.N*instances)/placing.Seconds(), "placed/s")
	b.ReportMetric(float64(b.N*instances)/acknowledging.Seconds(), "acknowledged/s")
	b.ReportMetric(float64(entries)/float64(b.N), "entries")
}

// BenchmarkManyServices places 1,000 services of one instance that come one after the other.
func BenchmarkManyServices(b *testing.B) {
	f := newFleet(b, 10_000)
	f.settle()
	made := atomic.Int64{}
	f.entries = 0
	start := time.Now()
	for b.Loop() {
		for range 1000 {
			f.put(f.service(fmt.Sprintf("s%d", made.Add(1)), 1))
			if made.Load()%8 == 0 { // submitters
				f.settle()
			}
		}
	}
	b.ReportMetric(float64(made.Load())/time.Since(start).Seconds(), "services/s")
	b.ReportMetric(float64(f.entries)/float64(made.Load()), "entries/service")
	f.check0(fmt.Sprintf("s%d", made.Load()))
}

// check0 checks that the service has been placed.
func (f *fleet) check0(name string) {
	f.b.Helper()
	if v := f.store.View().ServiceByID(name + "-id").GetStatus().GetVersions(); len(v) != 1 || v[0].GetPlaced() != 1 {
		f.b.Fatalf("service %s: %v", name, v)
	}
}

// BenchmarkSteady is a step when one instance of a service of 50,000 has changed.
func BenchmarkSteady(b *testing.B) {
	f := newFleet(b, 10_000)
	f.put(f.service("big", 50_000))
	f.settle()
	f.acknowledge()
	f.check("big")
	one := f.store.View().InstancesOfService("big-id")[0]
	sequence := uint64(1)
	for b.Loop() {
		sequence++
		f.apply(&fleetv1.Command{Op: &fleetv1.Command_Report{Report: &fleetv1.Report{Node: one.GetSpec().GetNode(), Instances: []*fleetv1.InstanceReport{{InstanceId: one.GetMeta().GetId(),
			Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Sequence: sequence, Ready: sequence%2 == 0, Ip: "10.0.0.1", Port: 30000}}}}}})
		f.now = f.now.Add(time.Second)
		f.settle()
	}
}

// BenchmarkWaiting is the end of one instance while 2,000 services wait for devices of a full cluster.
func BenchmarkWaiting(b *testing.B) {
	f := newFleet(b, 1_000)
	f.put(f.service("full", 8_000))
	f.settle()
	f.acknowledge()
	for i := range 2000 {
		f.put(f.service(fmt.Sprintf("w%04d", i), 3))
	}
	f.settle()
	for b.Loop() {
		one := f.store.View().Instances()[0]
		f.apply(&fleetv1.Command{Op: &fleetv1.Command_Report{Report: &fleetv1.Report{Node: one.GetSpec().GetNode(), Instances: []*fleetv1.InstanceReport{{InstanceId: one.GetMeta().GetId(),
			Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: 1, Sequence: one.GetObserved().GetSequence() + 1}}}}}})
		f.now = f.now.Add(100 * time.Millisecond)
		f.settle()
	}
}

// BenchmarkStop stops a service of 50,000 instances until nothing of it is left.
func BenchmarkStop(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		f := newFleet(b, 10_000)
		f.put(f.service("big", 50_000))
		f.settle()
		f.acknowledge()
		f.entries = 0
		b.StartTimer()
		svc := proto.CloneOf(f.store.View().ServiceByID("big-id"))
		svc.Desired.State = fleetv1.DesiredStopped
		f.apply(&fleetv1.Command{Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(svc.GetMeta().GetRevision(), svc)}}}})
		f.now = f.now.Add(time.Second)
		f.settle()
		byNode := map[string][]*fleetv1.InstanceReport{}
		for _, i := range f.store.View().Instances() {
			byNode[i.GetSpec().GetNode()] = append(byNode[i.GetSpec().GetNode()], &fleetv1.InstanceReport{InstanceId: i.GetMeta().GetId(),
				Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: 1, Sequence: 2}})
		}
		for node, all := range byNode {
			f.apply(&fleetv1.Command{Op: &fleetv1.Command_Report{Report: &fleetv1.Report{Node: node, Instances: all}}})
		}
		f.now = f.now.Add(time.Second)
		for range 3 {
			f.settle()
			f.now = f.now.Add(time.Second)
		}
		if st := f.store.View().ServiceByID("big-id").GetStatus(); st.GetState() != fleetv1.ServiceStopped || len(f.store.View().Instances()) > 0 {
			b.Fatalf("%s with %d instances", st.GetState(), len(f.store.View().Instances()))
		}
		b.ReportMetric(float64(f.entries), "entries")
	}
}
