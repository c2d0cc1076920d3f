package sim

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/test/sim/trace"
)

// memory is a log that nobody reads back.
type memory struct{ bytes.Buffer }

func (m *memory) Seek(int64, int) (int64, error) { return 0, io.EOF }

// scene is a fleet of 4 nodes in 2 racks without loops, and a service of 2 devices.
type scene struct {
	*world
	svc  *fleetv1.Service
	made int
}

func newScene(t *testing.T, shape trace.Shape) *scene {
	t.Helper()
	w := newWorld(Config{Seed: 1, Fleet: Fleet{Nodes: 4, PerRack: 2}, Log: &memory{}})
	if err := w.found(); err != nil {
		t.Fatal(err)
	}
	if shape.CPUMillis == 0 {
		shape.CPUMillis = 1000
	}
	shape.Devices, shape.Model, shape.MemoryBytes = 2, "H100-80GB", gib
	w.deploy(&trace.Event{Kind: trace.Deploy, Service: "s", Project: "p", Instances: 3, Shape: &shape})
	s := &scene{world: w, svc: w.store.View().Service("p", "s")}
	if s.svc == nil || len(w.faults) > 0 {
		t.Fatalf("no service: %v", w.faults)
	}
	return s
}

// instance holds two devices of a node from the first on.
func (s *scene) instance(node, first int) *fleetv1.Instance {
	s.made++
	a := s.agents[node]
	v := s.svc.GetSpec().GetVersions()[0]
	f := s.store.View().Flavor(v.GetFlavor()).GetSpec()
	return &fleetv1.Instance{Meta: &fleetv1.Meta{Name: fmt.Sprintf("i%d", s.made), Id: fmt.Sprintf("id%d", s.made), Project: "p"},
		Spec: &fleetv1.InstanceSpec{ServiceId: s.svc.GetMeta().GetId(), Node: a.name, CpuMillis: f.GetCpuMillis(), MemoryBytes: f.GetMemoryBytes(),
			DeviceIds:    []string{a.facts.GetDevices()[first].GetId(), a.facts.GetDevices()[first+1].GetId()},
			DeviceModels: []string{"H100-80GB", "H100-80GB"}, Priority: v.GetPriority(), Preemptible: v.GetPreemptible()},
		Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning}}
}

func (s *scene) gang(rank, size int32, i *fleetv1.Instance) *fleetv1.Instance {
	i.Spec.Gang = &fleetv1.Gang{Id: "g", Rank: rank, Size: size, Addresses: make([]string, size)}
	return i
}

// hear has the ledger take in changes that no store has made.
func (s *scene) hear(befores, afters []*fleetv1.Instance) {
	set := state.ChangeSet{Index: s.log.index}
	for i := range afters {
		c := state.Change{Key: state.Key{Kind: fleetv1.KindInstance}}
		if befores != nil {
			c.Before = state.ObjectOf(befores[i])
		}
		c.After = state.ObjectOf(afters[i])
		set.Changes = append(set.Changes, c)
	}
	s.ledger.applied(&fleetv1.Command{}, state.Result{}, []state.ChangeSet{set})
}

func (s *scene) placed(all ...*fleetv1.Instance) { s.hear(nil, all) }

// Each invariant can fail.
func TestLedgerFindsFaults(t *testing.T) {
	for name, c := range map[string]struct {
		shape trace.Shape
		do    func(*scene)
		want  string // in each fault; empty for none
	}{
		"all is well": {do: func(s *scene) {
			s.placed(s.instance(0, 0), s.instance(0, 2))
			s.placed(s.gang(0, 2, s.instance(1, 0)), s.gang(1, 2, s.instance(2, 0)))
			s.ledger.quiet()
		}},
		"two holders": {do: func(s *scene) { s.placed(s.instance(0, 0), s.instance(0, 1)) }, want: "has two holders"},
		"a cordoned node": {do: func(s *scene) {
			s.spec("n00001", func(n *fleetv1.NodeSpec) { n.Cordoned = true })
			s.placed(s.instance(1, 0))
		}, want: "placed on a cordoned node"},
		"an unreachable node": {do: func(s *scene) {
			n := proto.CloneOf(s.store.View().Node("n00001"))
			n.Status.State = fleetv1.NodeUnreachable
			s.write("test", &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(n.GetMeta().GetRevision(), n)}})
			s.placed(s.instance(1, 0))
		}, want: "a node that is Unreachable"},
		"a failed device": {do: func(s *scene) {
			s.agents[1].breakDevice(1, false, time.Hour)
			s.placed(s.instance(1, 0))
		}, want: "which takes nothing new"},
		"a cordoned device": {do: func(s *scene) {
			s.spec("n00001", func(n *fleetv1.NodeSpec) { n.DeviceCordons = []*fleetv1.DeviceCordon{{DeviceId: "GPU-00001-0"}} })
			s.placed(s.instance(1, 0))
		}, want: "which takes nothing new"},
		"too much CPU": {shape: trace.Shape{CPUMillis: 100_000}, do: func(s *scene) { s.placed(s.instance(0, 0), s.instance(0, 2)) }, want: "node n00000 gives 200000"},
		"over quota": {do: func(s *scene) {
			s.quota(&trace.Event{Project: "p", Devices: 3})
			s.placed(s.instance(0, 0), s.instance(1, 0))
		}, want: "its quota is 3"},
		"half a gang":       {do: func(s *scene) { s.placed(s.gang(0, 2, s.instance(0, 0))) }, want: "placed in part"},
		"a gang on a node":  {do: func(s *scene) { s.placed(s.gang(0, 2, s.instance(0, 0)), s.gang(1, 2, s.instance(0, 2))) }, want: "on 1 nodes"},
		"two of a rank":     {do: func(s *scene) { s.placed(s.gang(0, 2, s.instance(0, 0)), s.gang(0, 2, s.instance(1, 0))) }, want: "with 1 ranks"},
		"a member too many": {do: func(s *scene) { s.placed(s.gang(0, 1, s.instance(0, 0)), s.gang(1, 1, s.instance(1, 0))) }, want: "gang g of size 1"},
		"a gang in pieces": {do: func(s *scene) {
			a, b := s.gang(0, 2, s.instance(0, 0)), s.gang(1, 2, s.instance(1, 0))
			s.placed(a, b)
			stopped := proto.CloneOf(a)
			stopped.Desired.State = fleetv1.DesiredStopped
			s.hear([]*fleetv1.Instance{a}, []*fleetv1.Instance{stopped})
			s.ledger.quiet()
			s.ledger.quiet()
		}, want: "1 members are to run, 0 failed, 1 are to stop"},
		"skew": {shape: trace.Shape{Spread: "rack", Skew: 1, Strict: true}, do: func(s *scene) { s.placed(s.instance(0, 0), s.instance(1, 0)) }, want: `2 instances in rack "r0000" and 0`},
		"no skew where it isn't strict": {shape: trace.Shape{Spread: "rack", Skew: 1}, do: func(s *scene) {
			s.placed(s.instance(0, 0), s.instance(1, 0))
		}},
		"anti-affinity": {shape: trace.Shape{AntiAffinity: true}, do: func(s *scene) { s.placed(s.instance(0, 0), s.instance(0, 2)) }, want: "in spite of anti-affinity"},
		"waiting for nothing": {do: func(s *scene) {
			s.now = s.now.Add(time.Minute)
			s.checkAll()
		}, want: "though n00000 has room"},
		"waiting for a rack": {shape: trace.Shape{Spread: "rack", Skew: 1, Strict: true}, do: func(s *scene) {
			// One rack is full, the other has one already: none may be added.
			for _, n := range []int{2, 3} {
				s.ledger.nodes[s.agents[n].name] = use{cpu: 124_000}
			}
			s.placed(s.instance(0, 0))
			s.now = s.now.Add(time.Minute)
			s.ledger.checkWaiting()
		}},
		"a plan that is refused": {do: func(s *scene) {
			s.ledger.applied(&fleetv1.Command{Op: &fleetv1.Command_Plan{Plan: &fleetv1.Plan{}}},
				state.Result{Rejections: []state.Rejection{{Reason: state.RejectCapacity, Detail: "full"}}}, nil)
		}, want: "refused what the planner had just planned: capacity: full"},
		"a plan that came too late": {do: func(s *scene) {
			s.ledger.applied(&fleetv1.Command{Op: &fleetv1.Command_Plan{Plan: &fleetv1.Plan{}}},
				state.Result{Rejections: []state.Rejection{{Reason: state.RejectRevision}}}, nil)
		}},
	} {
		s := newScene(t, c.shape)
		c.do(s)
		other := slices.ContainsFunc(s.faults, func(f string) bool { return c.want == "" || !strings.Contains(f, c.want) })
		if other || c.want != "" && len(s.faults) == 0 {
			t.Errorf("%s: faults %q, want %q", name, s.faults, c.want)
		}
	}
}

// What the store sums up is compared with the instances.
func TestAuditFindsDifferences(t *testing.T) {
	s := newScene(t, trace.Shape{})
	s.ledger.hold(s.instance(0, 0), true) // which the store doesn't have
	s.audit()
	found := strings.Join(s.faults, "\n")
	for _, want := range []string{"0 devices are held, the ledger has 2", "node n00000: instances hold"} {
		if !strings.Contains(found, want) {
			t.Errorf("%s\nhas no %q", found, want)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no nodes":     {Config{Log: &memory{}}, "a fleet needs nodes"},
		"a bad event":  {Config{Log: &memory{}, Fleet: Fleet{Nodes: 1}, Trace: []trace.Event{{Kind: "sleep"}}}, "event 1 of the trace"},
		"a broken log": {Config{Log: &broken{}, Fleet: Fleet{Nodes: 1}}, "the disk is full"},
	} {
		if r, err := Run(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// broken is a log that can't be written.
type broken struct{ memory }

func (*broken) Write([]byte) (int, error) { return 0, fmt.Errorf("the disk is full") }
