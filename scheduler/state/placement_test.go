package state

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (f *fixture) editNode(name string, edit func(*fleetv1.Node)) {
	f.t.Helper()
	n := proto.CloneOf(f.View().Node(name))
	edit(n)
	f.must(writeCommand(1, Put(n.GetMeta().GetRevision(), n)))
}

func TestGangsAreWholeOrAbsent(t *testing.T) {
	f := newFixture(t)
	edited := func(edit func(members []*fleetv1.Instance) []*fleetv1.Instance) *fleetv1.Command {
		return planCommand("g", edit(testGang("x", "g", "d0"))...)
	}
	for _, tt := range []struct {
		edit   func(m []*fleetv1.Instance) []*fleetv1.Instance
		reason RejectReason
		detail string
	}{
		{func(m []*fleetv1.Instance) []*fleetv1.Instance { return m[:1] }, RejectInvalid, "has 1 members, not 2"},
		{func(m []*fleetv1.Instance) []*fleetv1.Instance { m[1].Spec.Gang.Rank = 0; return m }, RejectInvalid, "a rank beside 0"},
		{func(m []*fleetv1.Instance) []*fleetv1.Instance { m[1].Spec.Gang.Rank = 2; return m }, RejectInvalid, "a rank beside 2"},
		{func(m []*fleetv1.Instance) []*fleetv1.Instance { m[1].Spec.Gang.Id = "y"; return m }, RejectInvalid, "1 members"},
		{func(m []*fleetv1.Instance) []*fleetv1.Instance { m[1].Spec.Gang = nil; return m }, RejectInvalid, "is one of 1, but instances of m 0.0.1 span 2 nodes"},
		{func(m []*fleetv1.Instance) []*fleetv1.Instance { m[0].Spec.Gang.Size = 3; return m }, RejectInvalid, "is one of 3"},
		{func(m []*fleetv1.Instance) []*fleetv1.Instance {
			m[1].Spec.Node, m[1].Spec.DeviceIds = "n1", nil
			return m
		}, RejectInvalid, "two members on node n1"},
		{func(m []*fleetv1.Instance) []*fleetv1.Instance { m[1].Spec.DeviceIds = []string{"d3"}; return m }, RejectUnfit, "d3 of node n2"},
	} {
		f.refused(edited(tt.edit), tt.reason, tt.detail)
	}
	f.must(edited(func(m []*fleetv1.Instance) []*fleetv1.Instance { return m }))
	if m := f.View().InstancesOfGang("x"); len(m) != 2 || m[0].GetSpec().GetGang().GetRank() != 0 || m[1].GetSpec().GetDeviceModels()[0] != "H100" {
		t.Errorf("gang %v", m)
	}
	again := testGang("x", "g")
	again[0].Meta.Id, again[1].Meta.Id = "new-0", "new-1"
	f.refused(planCommand("g", again...), RejectExists, "gang x exists")
	alone := testInstance("z", "a", "n1")
	alone.Spec.Gang = &fleetv1.Gang{Id: "z", Size: 1}
	f.refused(planCommand("a", alone), RejectInvalid, "is one of 1, but instances of m 0.0.1 span 1")
}

func TestPreemptionsAreCheckedAndWhole(t *testing.T) {
	f := newFixture(t)
	place := func(preemptible bool, priority int32, instances ...*fleetv1.Instance) {
		for _, i := range instances {
			i.Spec.Preemptible, i.Spec.Priority = preemptible, priority
		}
		f.must(planCommand(instances[0].GetSpec().GetServiceName(), instances...))
	}
	place(true, 4, testInstance("v", "a", "n1", "d0"))
	place(true, 5, testInstance("high", "a", "n1"))
	place(false, 0, testInstance("fixed", "a", "n1"))
	place(true, 0, testGang("k", "g", "d1")...)
	preempt := func(part *fleetv1.Command, ids ...string) *fleetv1.Command {
		for _, id := range ids {
			part.GetPlan().Parts[0].Preemptions = append(part.GetPlan().Parts[0].Preemptions,
				&fleetv1.Preemption{InstanceId: id, Revision: f.View().Instance(id).GetMeta().GetRevision(), Reason: "for b"})
		}
		return part
	}
	stale := preempt(planCommand("b"), "v")
	stale.GetPlan().Parts[0].Preemptions[0].Revision--
	for _, tt := range []struct {
		c      *fleetv1.Command
		reason RejectReason
		detail string
	}{
		{stale, RejectRevision, "a-v, which was to be preempted, is at revision"},
		{preempt(planCommand("b"), "gone"), RejectNotFound, "gone"},
		{preempt(planCommand("b"), "fixed"), RejectUnfit, "not preemptible"},
		{preempt(planCommand("b"), "high"), RejectUnfit, "priority 5, which is not less than 5"},
		{preempt(planCommand("a"), "v"), RejectUnfit, "not less than 0"},
		{preempt(planCommand("b"), "v", "v"), RejectInvalid, "twice"},
		{preempt(planCommand("b"), "k-0"), RejectInvalid, "one gang"},
		{preempt(planCommand("b", testInstance("p", "b", "n1", "d0")), "v"), RejectInUse, "held by instance a-v"},
		{preempt(planCommand("b"), "v", "fixed"), RejectUnfit, "not preemptible"},
	} {
		f.refused(tt.c, tt.reason, tt.detail)
		if f.View().Instance("v").GetDesired().GetState() != fleetv1.DesiredRunning {
			t.Fatalf("a victim of a refused part was stopped: %s", tt.detail)
		}
	}
	c := preempt(planCommand("b", testInstance("p", "b", "n1", "d2")), "v", "k-0", "k-1")
	f.must(c)
	for _, id := range []string{"v", "k-0", "k-1"} {
		if d := f.View().Instance(id).GetDesired(); d.GetState() != fleetv1.DesiredStopped || d.GetReason() != "for b" {
			t.Errorf("%s: %v", id, d)
		}
	}
	if f.View().DeviceHolder("n1", "d0").GetMeta().GetId() != "v" || f.View().Node("n2").GetStatus().GetAssignmentGeneration() != f.index {
		t.Error("a victim holds nothing any more, or its node's assignment set is the old one")
	}
	f.refused(preempt(planCommand("b"), "v"), RejectUnfit, "is to stop already")
}

func TestDevicesOutOfPlacement(t *testing.T) {
	f := newFixture(t)
	f.editNode("n1", func(n *fleetv1.Node) {
		d := n.GetFacts().GetDevices()
		d[0].Quarantined, d[2].ParentId = true, "d1"
		n.Facts.Devices = append(d, &fleetv1.Device{Id: "d4", ParentId: "d1", Health: fleetv1.Healthy}, &fleetv1.Device{Id: "d5", Health: fleetv1.Healthy})
		n.Spec = &fleetv1.NodeSpec{DeviceCordons: []*fleetv1.DeviceCordon{{DeviceId: "d1"}, {DeviceId: "d5"}}}
	})
	for device, detail := range map[string]string{
		"d0": "is quarantined", "d1": "is cordoned", "d2": "is cordoned", "d4": "is cordoned", "d5": "is cordoned", "d3": "is unhealthy",
	} {
		f.refused(planCommand("a", testInstance("x", "a", "n1", device)), RejectUnfit, "device "+device+" of node n1 "+detail)
	}
	f.editNode("n1", func(n *fleetv1.Node) { n.Spec.DeviceCordons = nil })
	f.refused(planCommand("a", testInstance("x", "a", "n1", "d1")), RejectUnfit, "is cut into slices")
	f.must(planCommand("a", testInstance("x", "a", "n1", "d4")))
	f.editNode("n1", func(n *fleetv1.Node) { n.Spec.Drain = &fleetv1.Drain{} })
	f.refused(planCommand("a", testInstance("y", "a", "n1")), RejectUnfit, "being drained")
}

func TestQuotas(t *testing.T) {
	f := newFixture(t)
	set := func(edit func(*fleetv1.QuotaSpec)) {
		f.must(writeCommand(1, Put(f.View().Quota("default").GetMeta().GetRevision(), testQuota(edit))))
	}
	big := func() *fleetv1.Instance {
		i := testInstance("x", "a", "n1", "d0", "d2")
		i.Spec.CpuMillis, i.Spec.MemoryBytes = 2500, 700
		return i
	}
	for detail, edit := range map[string]func(*fleetv1.QuotaSpec){
		"quota of project default would be exceeded: instances: 0 of 0 are held, 1 more are asked for": func(s *fleetv1.QuotaSpec) { s.Instances = proto.Int64(0) },
		"CPU: 0 cores of 2.4 cores are held, 2.5 cores more":                                           func(s *fleetv1.QuotaSpec) { s.CpuMillis = proto.Int64(2400) },
		"memory: 0 bytes of 699 bytes are held, 700 bytes more":                                        func(s *fleetv1.QuotaSpec) { s.MemoryBytes = proto.Int64(699) },
		"devices ?100: 0 of 1 are held, 2 more": func(s *fleetv1.QuotaSpec) {
			s.Devices = []*fleetv1.DeviceQuota{{Model: "B*"}, {Model: "?100", Count: 1}}
		},
		"devices A100: 0 of 0 are held, 1 more": func(s *fleetv1.QuotaSpec) {
			s.Devices = []*fleetv1.DeviceQuota{{Model: "H100", Count: 1}, {Model: "A100"}}
		},
	} {
		set(edit)
		lying := big()
		lying.Spec.DeviceModels = []string{"X", "X"}
		f.refused(planCommand("a", big()), RejectQuota, detail)
		f.refused(planCommand("a", lying), RejectQuota, detail)
	}
	// Parts see what the parts before them took, and a gang is refused as a whole.
	set(func(s *fleetv1.QuotaSpec) { s.Instances = proto.Int64(3) })
	c := planCommand("g", testGang("k", "g")...)
	c.GetPlan().Parts = append(c.GetPlan().Parts, planCommand("g", testGang("l", "g")...).GetPlan().Parts[0],
		planCommand("a", big()).GetPlan().Parts[0])
	r, _ := f.apply(c)
	if len(r.Rejections) != 1 || r.Rejections[0].Part != 1 || !strings.Contains(r.Rejections[0].Detail, "2 of 3 are held, 2 more") {
		t.Errorf("%+v", r.Rejections)
	}
	// A quota that shrinks takes nothing away, and keeps nothing out that it doesn't limit.
	set(func(s *fleetv1.QuotaSpec) { s.Devices = []*fleetv1.DeviceQuota{{Model: "H*", Count: 0}} })
	f.must(planCommand("a", testInstance("y", "a", "n1")))
	if u := f.View().ProjectUsage("default"); u.Instances != 4 || u.Matching("*") != 2 || u.Matching("H100") != 1 || len(f.View().Quotas()) != 1 {
		t.Errorf("usage %+v", u)
	}
	f.refused(planCommand("a", testInstance("z", "a", "n1", "d1")), RejectQuota, "devices H*: 1 of 0 are held")
	// What is reaped no longer counts, however often its revision changes afterwards.
	for seq := range uint64(2) {
		f.must(reportCommand("n1", &fleetv1.InstanceReport{InstanceId: "x", Observed: &fleetv1.InstanceObserved{Sequence: seq + 1, State: fleetv1.InstanceReaped}}))
	}
	if u := f.View().ProjectUsage("default"); u.Instances != 3 || len(u.Devices) != 0 {
		t.Errorf("usage %+v", u)
	}
	stored := proto.CloneOf(f.View().Quota("default"))
	stored.Usage = &fleetv1.QuotaUsage{Instances: 5}
	f.must(writeCommand(1, Put(stored.GetMeta().GetRevision(), stored)))
	if f.View().Quota("default").GetUsage() != nil {
		t.Error("usage was stored")
	}
	f.refused(writeCommand(1, Delete(1, Key{fleetv1.KindQuota, "default"})), RejectRevision, "quota default")
}

func TestMatchesModel(t *testing.T) {
	for _, tt := range []struct {
		pattern, model string
		want           bool
	}{
		{"H100-80GB", "H100-80GB", true}, {"H100*", "H100-80GB", true}, {"?100*", "H100-80GB", true}, {"H100", "H100-80GB", false},
		{"[", "H100", false}, {"*", "", true}, {"H100*", "", false},
		// Every device of a glob, or not surely each.
		{"H100*", "H100*", true}, {"H*", "H100*", true}, {"*", "?100*", true}, {"H100*", "H*", false}, {"?100*", "H100*", false}, {"H100-80GB", "H100*", false},
	} {
		if got := MatchesModel(tt.pattern, tt.model); got != tt.want {
			t.Errorf("%q, %q: %v", tt.pattern, tt.model, got)
		}
	}
}

// What is kept once in place of what is alike stays what it was.
func TestStoredObjectsAreWhatWasSent(t *testing.T) {
	f := newFixture(t)
	node := largeNode(1)
	node.Facts.Devices[3].Links[2].Kind, node.Facts.Devices[4].Links[2].Count = "sys", 2
	f.must(decoded(t, writeCommand(1, Put(0, node))))
	var sent []*fleetv1.Instance
	for k, edit := range []func(*fleetv1.InstanceSpec){
		func(*fleetv1.InstanceSpec) {}, func(*fleetv1.InstanceSpec) {},
		func(s *fleetv1.InstanceSpec) { s.Env["MODEL"] = "other" }, func(s *fleetv1.InstanceSpec) { s.Env = nil },
		func(s *fleetv1.InstanceSpec) { s.Health.Url, s.Limits, s.Command = "/", nil, nil }, func(s *fleetv1.InstanceSpec) { s.Image = "x" },
		func(s *fleetv1.InstanceSpec) { s.Mounts = []*fleetv1.Mount{{Source: "/a", Path: "/b"}} },
		func(s *fleetv1.InstanceSpec) { s.Mounts = []*fleetv1.Mount{{Source: "/a", Path: "/c"}} },
	} {
		i := largeInstance(k, node, node.GetFacts().GetDevices()[k])
		edit(i.Spec)
		f.must(decoded(t, planCommand("a", i)))
		i.Spec.Epoch, i.Meta.Revision, i.Meta.UpdateTime = f.index, f.index, at(1)
		sent = append(sent, i)
	}
	for round, v := range []ReadView{f.View(), restored(t, f.Store).View()} {
		for k, i := range sent {
			if got := v.Instance(i.GetMeta().GetName()); !proto.Equal(got, i) {
				t.Errorf("round %d, instance %d: %v\nsent %v", round, k, got, i)
			}
		}
		if got := v.Node(node.GetMeta().GetName()).GetFacts(); !proto.Equal(got, node.GetFacts()) {
			t.Errorf("round %d, node: %v", round, got)
		}
	}
}

func restored(t *testing.T, s *Store) *Store {
	t.Helper()
	again := New()
	if err := again.Restore(strings.NewReader(string(snapshotOf(t, s)))); err != nil {
		t.Fatal(err)
	}
	return again
}

// Copies forget nothing, not even fields that this version of the program doesn't know.
func TestCopiesAreWhole(t *testing.T) {
	for _, m := range []proto.Message{&fleetv1.Meta{}, &fleetv1.InstanceSpec{}, &fleetv1.NodeStatus{}, &fleetv1.Event{}, &fleetv1.InstanceDesired{}} {
		fill(m.ProtoReflect())
		m.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 0x01})
		var copied proto.Message
		switch m := m.(type) {
		case *fleetv1.Meta:
			copied = copyMeta(m)
		case *fleetv1.InstanceSpec:
			copied = copySpec(m)
		case *fleetv1.NodeStatus:
			copied = copyStatus(m)
		case *fleetv1.Event:
			copied = copyEvent(m)
		case *fleetv1.InstanceDesired:
			copied = shallow(m)
		}
		if !proto.Equal(copied, m) || copied == m || len(copied.ProtoReflect().GetUnknown()) != 3 {
			t.Errorf("%v\nof %v", copied, m)
		}
	}
}

// fill sets every field to something that it isn't when it is left out.
func fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		switch f := fields.Get(i); {
		case f.IsMap():
			m.Mutable(f).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString("v"))
		case f.IsList() && f.Message() != nil:
			m.Mutable(f).List().AppendMutable()
		case f.IsList():
			m.Mutable(f).List().Append(protoreflect.ValueOfString("v"))
		case f.Message() != nil:
			m.Mutable(f)
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString("v"))
		case f.Kind() == protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(true))
		case f.Kind() == protoreflect.Int32Kind:
			m.Set(f, protoreflect.ValueOfInt32(7))
		case f.Kind() == protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(7))
		case f.Kind() == protoreflect.Uint64Kind:
			m.Set(f, protoreflect.ValueOfUint64(7))
		default:
			panic("a field of another kind: " + string(f.FullName()))
		}
	}
}
