//go:build bench

package bench

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

const (
	clusterReport  = "cluster"
	foundings      = 3
	kills          = 30
	failoverNodes  = 4
	smallFleet     = 1000
	silentNodes    = 8
	spareNodes     = 4 // for what replaces the instances of silent nodes
	streamNodes    = 1000
	snapshotNodes  = 100_000 / devicesPerNode
	snapshotRounds = 5
)

// TestClusterFigures measures several schedulers with TLS, prints the table, and writes it down.
func TestClusterFigures(t *testing.T) {
	b := &bench{t: t, report: &report{name: clusterReport, title: "Figures of several schedulers"}}
	b.report.describeMachine()
	b.measureGroups([]group{{"founding", b.founding}, {"snapshot", b.snapshots}, {"streams", b.streams}, {"failover", b.failover}, {"fleet", b.fleet}})
}

// fleet measures silent nodes in a small and a large fleet, and what becomes of the large one when its leader dies.
func (b *bench) fleet() {
	s := b.newSecured(3)
	grow := func(from, to int) {
		term := s.term()
		start := time.Now()
		s.join(from, to)
		b.report.add(figure{Name: fmt.Sprintf("fleet of %d: nodes join by tokens of %d uses", to, tokenUses), Unit: "1/s",
			Measured: one(float64(to-from) / time.Since(start).Seconds()), N: to - from})
		start = time.Now()
		b.must(s.agents.add(from, to))
		b.report.add(figure{Name: fmt.Sprintf("fleet of %d: nodes register", to), Unit: "1/s", Measured: one(float64(to-from) / time.Since(start).Seconds()), N: to - from})
		b.report.add(figure{Name: fmt.Sprintf("fleet of %d: elections meanwhile", to), Unit: "", Measured: one(float64(s.term() - term)), N: 1})
		time.Sleep(settleTime) // for the pace of so many
	}
	grow(0, smallFleet)
	s.deploy(watched, silentNodes+spareNodes)
	s.silent(5)
	grow(smallFleet, fleetNodes)
	for _, p := range s.All {
		s.serves(p, watched, silentNodes+spareNodes)
	}
	s.silent(15)
	s.storm()
}

// founding measures the first scheduler of a cluster, and the third: two have one vote.
func (b *bench) founding() {
	var first, serves, voter []float64
	for range foundings {
		start := time.Now()
		s := b.newSecured(1)
		s.write()
		first = append(first, time.Since(start).Seconds())
		s.Add()
		start = time.Now()
		s.Add()
		serves = append(serves, time.Since(start).Seconds())
		s.WaitVoters(3)
		voter = append(voter, time.Since(start).Seconds())
		for _, p := range s.All {
			p.Stop()
		}
	}
	add := func(name string, values []float64) {
		b.report.add(figure{Name: name, Unit: "s", Measured: spreadOf(values), N: foundings})
	}
	add("bootstrap: start with an empty directory, until the first acknowledged write", first)
	add("join: start of the third scheduler, until it serves", serves)
	add("join: start of the third scheduler, until it has a vote", voter)
}

// snapshots measures the state by itself, in this process.
func (b *bench) snapshots() {
	s := fullStore(b)
	var wrote, read []float64
	var buf bytes.Buffer
	for range snapshotRounds {
		buf.Reset()
		start := time.Now()
		_, err := s.Snapshot().WriteTo(&buf)
		b.must(err)
		wrote = append(wrote, time.Since(start).Seconds())
		restored := state.New()
		start = time.Now()
		b.must(restored.Restore(bytes.NewReader(buf.Bytes())))
		read = append(read, time.Since(start).Seconds())
		if n := len(restored.View().Instances()); n != snapshotNodes*devicesPerNode {
			b.t.Fatalf("%d instances are restored", n)
		}
	}
	what := fmt.Sprintf("state of %d nodes, %d instances: ", snapshotNodes, snapshotNodes*devicesPerNode)
	b.report.add(figure{Name: what + "a snapshot, into memory", Unit: "s", Measured: spreadOf(wrote), N: snapshotRounds})
	b.report.add(figure{Name: what + "restored", Unit: "s", Measured: spreadOf(read), N: snapshotRounds})
	b.report.add(figure{Name: what + "size", Unit: "MiB", Measured: one(mib(int64(buf.Len()))), N: 1})
}

// fullStore has an instance that runs on each device.
func fullStore(b *bench) *state.Store {
	s, index, at := state.New(), uint64(0), timestamppb.Now()
	apply := func(c *fleetv1.Command) {
		index++
		c.Time, c.Introduced = at, state.Introduced(c)
		if r, _ := s.Apply(index, c); len(r.Rejections) > 0 {
			b.t.Fatal(r.Rejections)
		}
	}
	write := func(m ...*fleetv1.Mutation) {
		apply(&fleetv1.Command{Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: m}}})
	}
	meta := func(name string) *fleetv1.Meta {
		return &fleetv1.Meta{Name: name, Id: "id-" + name, Account: fleetv1.Default, Project: fleetv1.Default, Generation: 1, CreateTime: at}
	}
	write(state.Put(0, &fleetv1.Service{Meta: meta("web"), Spec: &fleetv1.ServiceSpec{Versions: []*fleetv1.ServiceVersion{{}}},
		Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning}}))
	for n := range snapshotNodes {
		name, facts := nodeName(n), nodeFacts(n)
		write(state.Put(0, &fleetv1.Node{Meta: meta(name), Facts: facts, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady, StateTime: at}}))
		plan, reports := &fleetv1.Plan{}, []*fleetv1.InstanceReport{}
		for d, device := range facts.GetDevices() {
			i := &fleetv1.Instance{Meta: meta(fmt.Sprintf("web-%08x", n*devicesPerNode+d)), Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
				Spec: &fleetv1.InstanceSpec{ServiceId: "id-web", ServiceName: "web", ServiceGeneration: 1, Node: name, Flavor: "gpu", Model: "app", ModelVersion: "0.0.1",
					CpuMillis: 1000, MemoryBytes: 1 << 30, DeviceIds: []string{device.GetId()}, DeviceModels: []string{device.GetModel()},
					Image: "registry.example.org/web:1.0", ImageDigest: "sha256:4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865",
					Api: &fleetv1.ModelAPI{Protocol: "http", Port: 8080}}}
			plan.Parts = append(plan.Parts, &fleetv1.PlanPart{ServiceId: "id-web", ServiceGeneration: 1, Instances: []*fleetv1.Instance{i}})
			reports = append(reports, &fleetv1.InstanceReport{InstanceId: i.GetMeta().GetId(), Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning,
				Attempt: 1, Sequence: 1, Ready: true, Health: fleetv1.Healthy, Ip: "10.0.0.1", Port: 30000, StartTime: at}})
		}
		apply(&fleetv1.Command{Op: &fleetv1.Command_Plan{Plan: plan}})
		apply(&fleetv1.Command{Op: &fleetv1.Command_Report{Report: &fleetv1.Report{Node: name, Instances: reports}}})
	}
	return s
}
