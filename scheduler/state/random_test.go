package state

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func at(seconds int64) *timestamppb.Timestamp {
	return timestamppb.New(time.Unix(1_700_000_000+seconds, 0))
}

func writeCommand(seconds int64, mutations ...*fleetv1.Mutation) *fleetv1.Command {
	return &fleetv1.Command{Time: at(seconds), Introduced: 1, Op: &fleetv1.Command_Write{Write: &fleetv1.Write{
		Mutations: mutations, Events: []*fleetv1.Event{{Type: "Normal", Reason: "Wrote"}},
	}}}
}

func testNode(name string) *fleetv1.Node {
	n := &fleetv1.Node{
		Meta: &fleetv1.Meta{Name: name, Id: "id-" + name},
		Facts: &fleetv1.NodeFacts{
			CpuMillis: 8000, ReservedCpuMillis: 1000, MemoryBytes: 1000, DiskBytes: 1000,
			Labels: map[string]string{"zone": name, "all": "yes"},
		},
		Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady},
	}
	for i := range 4 {
		n.Facts.Devices = append(n.Facts.Devices, &fleetv1.Device{Id: fmt.Sprint("d", i), Model: []string{"H100", "A100"}[i/2], Health: fleetv1.Healthy})
	}
	n.Facts.Devices[2].ParentId = "whole"
	n.Facts.Devices[3].Health = fleetv1.Unhealthy
	return n
}

func testService(name string) *fleetv1.Service {
	return &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: name, Id: "id-" + name, Project: "default", Generation: 1},
		Spec: &fleetv1.ServiceSpec{Pool: "p", Versions: []*fleetv1.ServiceVersion{
			{Model: "m", ModelVersion: "0.0.1", Flavor: "f", Weight: 100},
		}},
		Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning},
	}
}

// randomOwner makes, hands over or deletes one of a few services that have no instances.
func randomOwner(r *rand.Rand, v ReadView) *fleetv1.Mutation {
	s := testService(fmt.Sprint("owned-", r.IntN(4)))
	revision := v.Service("default", s.GetMeta().GetName()).GetMeta().GetRevision()
	if revision > 0 && r.IntN(3) == 0 {
		return Delete(revision, ServiceKey("default", s.GetMeta().GetName()))
	}
	s.Meta.CreatedBy = fmt.Sprint("user-", r.IntN(3))
	return Put(revision, s)
}

func testInstance(id, service, node string, devices ...string) *fleetv1.Instance {
	return &fleetv1.Instance{
		Meta: &fleetv1.Meta{Id: id, Name: service + "-" + id, Project: "default"},
		Spec: &fleetv1.InstanceSpec{
			ServiceId: "id-" + service, ServiceName: service, ServiceGeneration: 1, Node: node, DeviceIds: devices,
			CpuMillis: 1000, MemoryBytes: 100, DiskBytes: 10, Flavor: "f", Model: "m", ModelVersion: "0.0.1",
		},
		Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
	}
}

func planCommand(service string, instances ...*fleetv1.Instance) *fleetv1.Command {
	return &fleetv1.Command{Time: at(1), Introduced: 1, Op: &fleetv1.Command_Plan{Plan: &fleetv1.Plan{
		Parts: []*fleetv1.PlanPart{{ServiceId: "id-" + service, ServiceGeneration: 1, Instances: instances}},
	}}}
}

func reportCommand(node string, reports ...*fleetv1.InstanceReport) *fleetv1.Command {
	return &fleetv1.Command{Time: at(2), Introduced: 1, Op: &fleetv1.Command_Report{Report: &fleetv1.Report{
		Node: node, Instances: reports,
	}}}
}

// testGang is a gang of two on the nodes n1 and n2.
func testGang(id, service string, devices ...string) []*fleetv1.Instance {
	members := []*fleetv1.Instance{testInstance(id+"-0", service, "n1", devices...), testInstance(id+"-1", service, "n2", devices...)}
	for rank, m := range members {
		m.Spec.Gang = &fleetv1.Gang{Id: id, Rank: int32(rank), Size: 2}
	}
	return members
}

func testQuota(edit func(*fleetv1.QuotaSpec)) *fleetv1.Quota {
	q := &fleetv1.Quota{Meta: &fleetv1.Meta{Name: "default", Project: "default"}, Spec: &fleetv1.QuotaSpec{}}
	edit(q.Spec)
	return q
}

// baseCommands make the flavor, pool, model, nodes n1 and n2, and services: a, b of more priority, and g of gangs.
func baseCommands() []*fleetv1.Command {
	b, g := testService("b"), testService("g")
	b.Spec.Versions[0].Priority, g.Spec.Versions[0].Nodes = 5, 2
	return []*fleetv1.Command{
		writeCommand(0,
			Put(0, &fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c"}}),
			Put(0, &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "f"}}),
			Put(0, &fleetv1.Pool{Meta: &fleetv1.Meta{Name: "p"}, Spec: &fleetv1.PoolSpec{Selector: map[string]string{"all": "yes"}}}),
			Put(0, &fleetv1.Model{Meta: &fleetv1.Meta{Name: "m", Project: "default"}, Spec: &fleetv1.ModelSpec{Version: "0.0.1"}}),
			Put(0, testNode("n1")), Put(0, testNode("n2")), Put(0, testService("a")), Put(0, b), Put(0, g),
		),
	}
}

// randomCommand draws from everything that a log can hold, stale and impossible things too.
func randomCommand(r *rand.Rand, i int, v ReadView) *fleetv1.Command {
	node, service := fmt.Sprint("n", 1+r.IntN(2)), string(rune('a'+r.IntN(2)))
	var c *fleetv1.Command
	switch r.IntN(11) {
	case 10:
		c = randomJob(r, i, v)
	case 9:
		c = writeCommand(int64(i), randomOwner(r, v))
	case 6:
		c = randomGangOrPreemption(r, i, v)
	case 7:
		c = writeCommand(int64(i), randomQuota(r, v), randomIdentity(r, v), randomScheduler(r, v), randomTenant(r, v))
	case 8:
		c = writeCommand(int64(i))
		for _, in := range v.Instances() {
			if r.IntN(4) == 0 {
				in = proto.CloneOf(in)
				in.Desired = &fleetv1.InstanceDesired{State: []string{fleetv1.DesiredRunning, fleetv1.DesiredStopped}[r.IntN(2)]}
				c.GetWrite().Mutations = append(c.GetWrite().Mutations, Put(in.GetMeta().GetRevision(), in))
			}
		}
	case 0, 1:
		var instances []*fleetv1.Instance
		for n := range 1 + r.IntN(2) {
			var devices []string
			for d := range r.IntN(3) {
				devices = append(devices, fmt.Sprint("d", (d+r.IntN(4))%4))
			}
			in := testInstance(fmt.Sprintf("i%d-%d", i, n), service, node, devices...)
			in.Spec.Preemptible = r.IntN(2) == 0
			instances = append(instances, in)
		}
		c = planCommand(service, instances...)
	case 2, 3:
		var reports []*fleetv1.InstanceReport
		for _, in := range v.InstancesOnNode(node) {
			if r.IntN(2) == 0 {
				reports = append(reports, &fleetv1.InstanceReport{
					InstanceId: in.GetMeta().GetId(),
					Observed: &fleetv1.InstanceObserved{
						Sequence: uint64(r.IntN(6)), Attempt: uint32(r.IntN(3)),
						State: []string{fleetv1.InstanceRunning, fleetv1.InstanceExited, fleetv1.InstanceReaped}[r.IntN(3)],
					},
					Events: []*fleetv1.ReportedEvent{{Sequence: uint64(r.IntN(6)), Type: "Normal", Reason: "X", TimeUnixNano: int64(i)}},
				})
			}
		}
		c = reportCommand(node, reports...)
	case 4:
		c = writeCommand(int64(i))
		for _, in := range v.Instances() {
			if r.IntN(3) == 0 {
				c.GetWrite().Mutations = append(c.GetWrite().Mutations,
					Delete(in.GetMeta().GetRevision()-uint64(r.IntN(10)/9), InstanceKey(in.GetMeta().GetId())))
			}
		}
	case 5:
		n := proto.CloneOf(v.Node(node))
		expect := n.GetMeta().GetRevision()
		randomNode(r, i, n)
		n.GetMeta().Tags = map[string]string{"x": "1", "y": "2", "z": "3", fmt.Sprint(i): ""}
		c = writeCommand(int64(i), Put(expect, n))
	}
	if r.IntN(2) == 0 {
		c.RequestScope = []string{"", "a/p", "b/p"}[r.IntN(3)]
		c.RequestId, c.RequestDigest = fmt.Sprint("r", r.IntN(20)), []byte{byte(r.IntN(2))}
	}
	c.Time = at(int64(i) * 3600)
	return c
}

// randomNode changes one writer's part of a node.
func randomNode(r *rand.Rand, i int, n *fleetv1.Node) {
	if n.Spec == nil {
		n.Spec = &fleetv1.NodeSpec{}
	}
	switch r.IntN(3) {
	case 0:
		n.Spec.Cordoned = r.IntN(3) == 0
	case 1:
		id := []string{"d0", "d1", "d2", "whole"}[r.IntN(4)]
		n.Spec.DeviceCordons = slices.DeleteFunc(n.Spec.DeviceCordons, func(c *fleetv1.DeviceCordon) bool { return c.GetDeviceId() == id })
		if r.IntN(3) > 0 {
			n.Spec.DeviceCordons = append(n.Spec.DeviceCordons, &fleetv1.DeviceCordon{DeviceId: id, Reason: fmt.Sprint(i), Time: at(int64(i))})
		}
	case 2:
		n.Facts.Devices[r.IntN(3)].Quarantined = r.IntN(3) == 0
	}
}

// randomGangOrPreemption is a part with a gang, now and then one that isn't whole, or with victims, now and
// then such as can't be preempted.
func randomGangOrPreemption(r *rand.Rand, i int, v ReadView) *fleetv1.Command {
	gang := testGang(fmt.Sprint("g", i-r.IntN(3)), "g", []string{"d0", "d1", "d2"}[:r.IntN(2)]...)
	c := planCommand("g", gang[:2-r.IntN(5)/4]...)
	part := c.GetPlan().Parts[0]
	if r.IntN(2) == 0 {
		part.ServiceId, part.Instances = "id-b", []*fleetv1.Instance{testInstance(fmt.Sprint("p", i), "b", "n1")}
		for _, in := range v.Instances() {
			if r.IntN(4) == 0 && (in.GetSpec().GetPreemptible() || r.IntN(4) == 0) {
				part.Preemptions = append(part.Preemptions, &fleetv1.Preemption{
					InstanceId: in.GetMeta().GetId(), Revision: in.GetMeta().GetRevision() - uint64(r.IntN(10)/9), Reason: "for b",
				})
			}
		}
	}
	return c
}

func randomQuota(r *rand.Rand, v ReadView) *fleetv1.Mutation {
	old := v.Quota("default").GetMeta().GetRevision()
	if old != 0 && r.IntN(3) == 0 {
		return Delete(old, Key{fleetv1.KindQuota, "default"})
	}
	return Put(old, testQuota(func(s *fleetv1.QuotaSpec) {
		s.CpuMillis, s.Instances = proto.Int64(int64(r.IntN(9000))), proto.Int64(int64(r.IntN(9)))
		s.Devices = []*fleetv1.DeviceQuota{{Model: "H*", Count: int64(r.IntN(4))}, {Model: "A100", Count: 1}}
	}))
}

// randomScheduler writes or deletes a scheduler.
func randomScheduler(r *rand.Rand, v ReadView) *fleetv1.Mutation {
	id := fmt.Sprint("s", r.IntN(3))
	old := v.Scheduler(id).GetMeta().GetRevision()
	if old != 0 && r.IntN(3) == 0 {
		return Delete(old, SchedulerKey(id))
	}
	return Put(old, &fleetv1.Scheduler{Meta: &fleetv1.Meta{Id: id, Name: "host"}, RaftAddress: fmt.Sprint("h:", r.IntN(9)), CommandVersion: uint32(r.IntN(4))})
}

// randomTenant writes or deletes an app or a key.
func randomTenant(r *rand.Rand, v ReadView) *fleetv1.Mutation {
	if r.IntN(2) == 0 {
		old := v.Key("AK").GetMeta().GetRevision()
		if old != 0 && r.IntN(3) == 0 {
			return Delete(old, Key{fleetv1.KindKey, "AK"})
		}
		return Put(old, &fleetv1.Key{Meta: &fleetv1.Meta{Name: "AK"}, User: "ann", Scopes: []*fleetv1.Scope{{Project: "default", Role: fmt.Sprint(r.IntN(3))}}})
	}
	name := fmt.Sprint("app", r.IntN(2))
	old := v.App("default", name).GetMeta().GetRevision()
	if old != 0 && r.IntN(3) == 0 {
		return Delete(old, AppKey("default", name))
	}
	return Put(old, &fleetv1.App{Meta: &fleetv1.Meta{Name: name, Project: "default"}, AppKey: name + fmt.Sprint(r.IntN(3)),
		Codes: []*fleetv1.AppCode{{Id: "c", Sha256: []byte(name + fmt.Sprint("code", r.IntN(3)))}}})
}

// randomIdentity writes or deletes a join token or a certificate.
// randomJob makes or deletes a job with its ledger, or moves it on.
func randomJob(r *rand.Rand, i int, v ReadView) *fleetv1.Command {
	job := testJob("j")
	job.Spec = &fleetv1.JobSpec{Pool: "p", Model: "m", ModelVersion: "0.0.1", Flavor: "f"}
	if stored := v.Job("default", "j"); stored == nil {
		return writeCommand(int64(i), Put(0, job), Put(0, testLedger("j")))
	} else if l := v.JobLedger("id-j"); r.IntN(20) == 0 {
		return writeCommand(int64(i), Delete(stored.GetMeta().GetRevision(), JobKey("default", "j")), Delete(l.GetMeta().GetRevision(), JobLedgerKey("id-j")))
	}
	from, task := r.Int64N(200), string(rune('a'+r.IntN(3)))
	chunk := testChunk(from, from+1+r.Int64N(9), task)
	chunk.Attempt = fmt.Sprint("x", i)
	c := commitCommand(&fleetv1.JobCommit{JobId: "id-j", Chunks: []*fleetv1.Chunk{chunk}, Events: []*fleetv1.Event{{Reason: "JobMoved"}}})
	switch r.IntN(5) {
	case 4:
		for _, m := range append(v.JobLedger("id-j").GetSealed(), &fleetv1.Manifest{Chunks: v.JobLedger("id-j").GetUnsealed()}) {
			if n := len(m.GetChunks()); n > 0 {
				c.GetJobCommit().Lost = append(c.GetJobCommit().Lost, m.GetChunks()[r.IntN(n)].GetAttempt())
			}
		}
	case 0:
		c.GetJobCommit().Parts = []*fleetv1.InputPart{{From: v.JobLedger("id-j").GetItems(), Items: 1 + r.Int64N(20), Object: "o"}}
	case 1:
		c.GetJobCommit().Seal = []string{task}
	case 2:
		c.GetJobCommit().Written = []*fleetv1.Manifest{{Task: task, Number: r.Int32N(3)}}
	}
	return c
}

func randomIdentity(r *rand.Rand, v ReadView) *fleetv1.Mutation {
	if r.IntN(2) == 0 {
		old := v.Certificate(fleetv1.RoleAgent, "n1").GetMeta().GetRevision()
		if old != 0 && r.IntN(3) == 0 {
			return Delete(old, CertificateKey(fleetv1.RoleAgent, "n1"))
		}
		return Put(old, &fleetv1.Certificate{Meta: &fleetv1.Meta{Name: "agent/n1"}, Role: fleetv1.RoleAgent, Name: "n1", Serial: fmt.Sprint(r.IntN(9))})
	}
	var old uint64
	for _, t := range v.JoinTokens() {
		old = t.GetMeta().GetRevision()
	}
	if old != 0 && r.IntN(3) == 0 {
		return Delete(old, Key{fleetv1.KindJoinToken, "t"})
	}
	return Put(old, &fleetv1.JoinToken{Meta: &fleetv1.Meta{Name: "t"}, MaxUses: int32(r.IntN(9))})
}

// randomLog makes a log of n commands; each is drawn by looking at the store that the ones before made.
func randomLog(seed uint64, n int) []*fleetv1.Command {
	r, s := rand.New(rand.NewPCG(seed, 1)), New()
	log := baseCommands()
	for i, c := range log {
		s.Apply(uint64(i+1), c)
	}
	for i := len(log); i < n; i++ {
		c := randomCommand(r, i, s.View())
		log = append(log, c)
		s.Apply(uint64(i+1), c)
	}
	return log
}

func replay(s *Store, log []*fleetv1.Command, from int) (events string) {
	for i := from; i < len(log); i++ {
		// As it comes out of the log: decoded anew.
		b, _ := proto.Marshal(log[i])
		c := &fleetv1.Command{}
		if err := proto.Unmarshal(b, c); err != nil {
			panic(err)
		}
		_, evs := s.Apply(uint64(i+1), c)
		for _, e := range evs {
			events += e.GetId() + " " + e.GetReason() + "\n"
		}
	}
	return events
}

func snapshotOf(t testing.TB, s *Store) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReplayIsDeterministic(t *testing.T) {
	for seed := range uint64(20) {
		log := randomLog(seed, 150)
		one, two := New(), New()
		if replay(one, log, 0) != replay(two, log, 0) {
			t.Fatalf("seed %d: replays make different events", seed)
		}
		whole := snapshotOf(t, one)
		if !bytes.Equal(whole, snapshotOf(t, two)) {
			t.Fatalf("seed %d: replays differ", seed)
		}
		for _, cut := range []int{1, 75, 149} {
			s := New()
			replay(s, log[:cut], 0)
			restored := New()
			if err := restored.Restore(bytes.NewReader(snapshotOf(t, s))); err != nil {
				t.Fatal(err)
			}
			replay(restored, log, cut)
			if !bytes.Equal(whole, snapshotOf(t, restored)) {
				t.Fatalf("seed %d: snapshot at %d and the rest differ from the whole", seed, cut)
			}
			checkAllocation(t, restored.View())
		}
	}
}

// checkAllocation compares the incremental sums and holders with a recomputation.
func checkAllocation(t *testing.T, v ReadView) {
	t.Helper()
	sums, holders := map[string]Allocation{}, map[string]string{}
	var usage Usage
	onNode, gangs := map[string]int{}, map[string]int{}
	for _, i := range v.Instances() {
		onNode[i.GetSpec().GetNode()]++
		gangs[i.GetSpec().GetGang().GetId()]++
		if i.GetObserved().GetState() == fleetv1.InstanceReaped {
			continue
		}
		node := i.GetSpec().GetNode()
		x := sums[node]
		x.CPUMillis += i.GetSpec().GetCpuMillis()
		x.MemoryBytes += i.GetSpec().GetMemoryBytes()
		x.DiskBytes += i.GetSpec().GetDiskBytes()
		x.Devices += int64(len(i.GetSpec().GetDeviceIds()))
		x.Instances++
		sums[node] = x
		usage.AddInstance(i.GetSpec(), 1)
		for _, d := range i.GetSpec().GetDeviceIds() {
			if other, held := holders[node+d]; held {
				t.Fatalf("device %s of %s is held by %s and %s", d, node, other, i.GetMeta().GetId())
			}
			holders[node+d] = i.GetMeta().GetId()
		}
	}
	if got := v.ProjectUsage("default"); !sameUsage(got, usage) {
		t.Fatalf("the project uses %+v, recomputed %+v", got, usage)
	}
	ofService := map[string][]*fleetv1.Instance{}
	for _, i := range v.Instances() {
		ofService[i.GetSpec().GetServiceId()] = append(ofService[i.GetSpec().GetServiceId()], i)
	}
	for _, s := range v.Services("") {
		if got := v.InstancesOfService(s.GetMeta().GetId()); !slices.Equal(got, ofService[s.GetMeta().GetId()]) {
			t.Fatalf("service %s has %v, recomputed %v", s.GetMeta().GetName(), got, ofService[s.GetMeta().GetId()])
		}
	}
	owned := map[string]int{"user-0": 0, "user-1": 0, "user-2": 0}
	for _, s := range v.Services("") {
		owned[s.GetMeta().GetCreatedBy()]++
	}
	for user, n := range owned {
		if got := v.OwnedServices(user); got != n {
			t.Fatalf("%q has %d services, recomputed %d", user, got, n)
		}
	}
	for gang, size := range gangs {
		if gang != "" && len(v.InstancesOfGang(gang)) != size {
			t.Fatalf("gang %s has %d members, recomputed %d", gang, len(v.InstancesOfGang(gang)), size)
		}
	}
	for _, n := range v.Nodes() {
		name := n.GetMeta().GetName()
		if got := v.InstancesOnNode(name); len(got) != onNode[name] || slices.ContainsFunc(got, func(i *fleetv1.Instance) bool { return v.Instance(i.GetMeta().GetId()) != i }) {
			t.Fatalf("%s has %v, recomputed %d", name, got, onNode[name])
		}
		if got := v.Allocated(name); got != sums[name] {
			t.Fatalf("%s: allocated %+v, recomputed %+v", name, got, sums[name])
		}
		if over := sums[name].exceeds(n); over != "" {
			t.Fatal(over)
		}
		for _, d := range n.GetFacts().GetDevices() {
			if got := v.DeviceHolder(name, d.GetId()).GetMeta().GetId(); got != holders[name+d.GetId()] {
				t.Fatalf("%s of %s: held by %q, recomputed %q", d.GetId(), name, got, holders[name+d.GetId()])
			}
		}
	}
}

func sameUsage(a, b Usage) bool {
	return a.CPUMillis == b.CPUMillis && a.MemoryBytes == b.MemoryBytes && a.Instances == b.Instances && maps.Equal(a.Devices, b.Devices)
}

func TestAllocationIsIncremental(t *testing.T) {
	placed, refused := 0, 0
	for seed := range uint64(10) {
		s := New()
		for i, c := range randomLog(100+seed, 200) {
			before := s.View()
			of := before.InstancesOfService("id-a")
			r, _ := s.Apply(uint64(i+1), c)
			if !slices.Equal(of, before.InstancesOfService("id-a")) {
				t.Fatalf("seed %d: command %d has changed an earlier view", seed, i)
			}
			for _, x := range r.Rejections {
				if strings.Contains(x.Detail, "is "+BarredCordoned) && strings.HasPrefix(x.Detail, "device") {
					refused++
				}
			}
			checkAllocation(t, s.View())
			checkBarred(t, before, s.View())
			placed = max(placed, len(s.View().Instances()))
		}
	}
	if placed < 4 || refused < 4 {
		t.Errorf("at most %d instances were placed at once, %d parts refused for a cordoned device: the test tries nothing", placed, refused)
	}
}

// checkBarred looks for an instance that was placed on a device that nobody was to get.
func checkBarred(t *testing.T, before, after ReadView) {
	t.Helper()
	for _, i := range after.Instances() {
		if before.Instance(i.GetMeta().GetId()) != nil {
			continue
		}
		n := before.Node(i.GetSpec().GetNode())
		for _, d := range n.GetFacts().GetDevices() {
			cordoned := slices.ContainsFunc(n.GetSpec().GetDeviceCordons(), func(c *fleetv1.DeviceCordon) bool {
				return c.GetDeviceId() == d.GetId() || c.GetDeviceId() == d.GetParentId()
			})
			if slices.Contains(i.GetSpec().GetDeviceIds(), d.GetId()) && (cordoned || d.GetQuarantined() || d.GetHealth() != fleetv1.Healthy) {
				t.Fatalf("instance %s was given device %v of a node with cordons %v", i.GetMeta().GetId(), d, n.GetSpec().GetDeviceCordons())
			}
		}
	}
}

// Whatever is planned in whatever order: parts are applied whole or not at all, and none takes a project past
// a limit of its quota.
func TestPlansAreWholeAndWithinQuotas(t *testing.T) {
	applied := map[string]int{}
	for seed := range uint64(40) {
		s := New()
		for i, c := range randomLog(200+seed, 200) {
			before := s.View()
			result, _ := s.Apply(uint64(i+1), c)
			after := s.View()
			if c.GetPlan() == nil || result.Repeated {
				continue
			}
			refused := map[int]bool{}
			for _, r := range result.Rejections {
				refused[r.Part] = true
				applied["refused for "+string(r.Reason)]++
			}
			for p, part := range c.GetPlan().GetParts() {
				checkPart(t, before, after, part, refused[p])
				if len(part.GetPreemptions()) > 0 && !refused[p] {
					applied["preemption"]++
				}
				if part.GetInstances()[0].GetSpec().GetGang() != nil && !refused[p] {
					applied["gang"]++
				}
			}
			checkQuota(t, before.ProjectUsage("default"), after.ProjectUsage("default"), after.Quota("default").GetSpec())
		}
	}
	for _, what := range []string{"preemption", "gang", "refused for quota", "refused for revision", "refused for invalid", "refused for unfit", "refused for in-use"} {
		if applied[what] == 0 {
			t.Errorf("no %s: the test tries too little; %v", what, applied)
		}
	}
}

func checkPart(t *testing.T, before, after ReadView, part *fleetv1.PlanPart, refused bool) {
	t.Helper()
	for _, in := range part.GetInstances() {
		id := in.GetMeta().GetId()
		if before.Instance(id) == nil && (after.Instance(id) == nil) != refused {
			t.Fatalf("part refused: %v, but instance %s is there: %v", refused, id, after.Instance(id) != nil)
		}
		if gang := in.GetSpec().GetGang(); gang != nil && !refused && len(after.InstancesOfGang(gang.GetId())) != int(gang.GetSize()) {
			t.Fatalf("gang %s was placed with %d of %d members", gang.GetId(), len(after.InstancesOfGang(gang.GetId())), gang.GetSize())
		}
	}
	for _, p := range part.GetPreemptions() {
		was, is := before.Instance(p.GetInstanceId()), after.Instance(p.GetInstanceId())
		if refused != (was == is) {
			t.Fatalf("part refused: %v, but victim %v became %v", refused, was, is)
		}
		if !refused && (!is.GetSpec().GetPreemptible() || is.GetDesired().GetState() != fleetv1.DesiredStopped || is.GetDesired().GetReason() != p.GetReason()) {
			t.Fatalf("victim %v", is)
		}
	}
}

// checkQuota finds a limit that what was placed has exceeded. What was over before may stay so.
func checkQuota(t *testing.T, before, after Usage, q *fleetv1.QuotaSpec) {
	t.Helper()
	over := func(what string, limit *int64, before, after int64) {
		if limit != nil && after > before && after > *limit {
			t.Fatalf("%s went from %d to %d over the limit of %d", what, before, after, *limit)
		}
	}
	if q == nil {
		return
	}
	over("CPU", q.CpuMillis, before.CPUMillis, after.CPUMillis)
	over("instances", q.Instances, before.Instances, after.Instances)
	for _, d := range q.GetDevices() {
		over(d.GetModel(), &d.Count, before.Matching(d.GetModel()), after.Matching(d.GetModel()))
	}
}

// Feeds tell everything that happened: applying their changes to a copy gives the store.
func TestFeedTellsEverything(t *testing.T) {
	s := New()
	feed := s.Subscribe()
	defer feed.Close()
	if _, resync, err := feed.Next(t.Context()); !resync || err != nil {
		t.Fatalf("first: resync %v, %v", resync, err)
	}
	for i, c := range randomLog(7, 200) {
		s.Apply(uint64(i+1), c)
	}
	sets, resync, err := feed.Next(t.Context())
	if resync || err != nil {
		t.Fatalf("resync %v, %v", resync, err)
	}
	seen := map[Key]*fleetv1.Object{}
	for _, set := range sets {
		for _, c := range set.Changes {
			if !proto.Equal(seen[c.Key], c.Before) {
				t.Fatalf("%d: %s: before is not what the feed told last", set.Index, c.Key)
			}
			if c.After == nil {
				delete(seen, c.Key)
				continue
			}
			seen[c.Key] = c.After
		}
	}
	for _, kind := range objectKinds() {
		for _, o := range list(s.view().t.of(kind), func(o *fleetv1.Object) *fleetv1.Object { return o }, "") {
			if !proto.Equal(seen[KeyOf(o)], o) {
				t.Errorf("%s is not what the feed told", KeyOf(o))
			}
			delete(seen, KeyOf(o))
		}
	}
	if len(seen) > 0 {
		t.Errorf("the feed told of %v, which are not there", slices.Collect(maps.Keys(seen)))
	}
}
