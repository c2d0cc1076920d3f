package state

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// alike keeps one copy of what many objects say in the same way: every decoded object brings its own. What
// is stored doesn't depend on it. Its methods change the objects that they are given, which nobody else may
// have yet.
type alike struct {
	words  map[string]string
	placed map[versionOf]*fleetv1.Instance // the last one
}

// versionOf names a version of a service.
type versionOf struct{ service, model, version string }

// alikeLimit is how many words and versions are known at most; past it, they are learnt anew.
const alikeLimit = 4096

func remember[K comparable, V any](m *map[K]V, key K, value V) {
	if *m == nil || len(*m) >= alikeLimit {
		*m = map[K]V{}
	}
	(*m)[key] = value
}

// word replaces a string by the first one like it.
func (x *alike) word(s *string) {
	if *s == "" {
		return
	}
	known, ok := x.words[*s]
	if !ok {
		known = *s
		remember(&x.words, known, known)
	}
	*s = known
}

func same(s *string, as string) {
	if *s == as {
		*s = as
	}
}

// meta takes what it can from the object before, which may be nil.
func (x *alike) meta(m, before *fleetv1.Meta) {
	x.word(&m.Account)
	x.word(&m.Project)
	x.word(&m.CreatedBy)
	same(&m.Name, before.GetName())
	same(&m.Id, before.GetId())
	m.CreateTime = either(m.CreateTime, before.GetCreateTime())
}

// either is the message before when the new one equals it.
func either[M proto.Message](m, before M) M {
	if proto.Equal(m, before) {
		return before
	}
	return m
}

// service takes what it can from the service before: its status is written far more often than the rest.
func (x *alike) service(s, before *fleetv1.Service) {
	x.meta(s.Meta, before.GetMeta())
	if before != nil {
		s.Spec, s.Desired = either(s.Spec, before.Spec), either(s.Desired, before.Desired)
	}
}

// instance takes what it can from the instance before, or else from another one of its version.
func (x *alike) instance(i, before *fleetv1.Instance) {
	x.meta(i.Meta, before.GetMeta())
	if before != nil {
		i.Spec, i.Desired = either(i.Spec, before.Spec), either(i.Desired, before.Desired)
		i.Observed = either(i.Observed, before.Observed)
		return
	}
	s := i.GetSpec()
	if s == nil {
		return
	}
	key := versionOf{s.GetServiceId(), s.GetModel(), s.GetModelVersion()}
	other := x.placed[key]
	remember(&x.placed, key, i)
	o := other.GetSpec()
	if o == nil {
		return
	}
	for _, word := range []struct {
		s  *string
		as string
	}{
		{&s.ServiceId, o.ServiceId}, {&s.ServiceName, o.ServiceName}, {&s.Model, o.Model}, {&s.ModelVersion, o.ModelVersion},
		{&s.Flavor, o.Flavor}, {&s.Image, o.Image}, {&s.ImageDigest, o.ImageDigest}, {&s.Network, o.Network},
	} {
		same(word.s, word.as)
	}
	s.Limits, s.Api, s.Health = either(s.Limits, o.Limits), either(s.Api, o.Api), either(s.Health, o.Health)
	s.OnDisconnect = either(s.OnDisconnect, o.OnDisconnect)
	i.Desired = either(i.Desired, other.Desired)
	if slices.Equal(s.Command, o.Command) {
		s.Command = o.Command
	}
	if maps.Equal(s.Env, o.Env) {
		s.Env = o.Env
	}
	if slices.EqualFunc(s.Mounts, o.Mounts, func(a, b *fleetv1.Mount) bool { return proto.Equal(a, b) }) {
		s.Mounts = o.Mounts
	}
	if slices.Equal(s.DeviceModels, o.DeviceModels) {
		s.DeviceModels = o.DeviceModels
	}
	i.Meta.CreateTime = either(i.Meta.CreateTime, other.Meta.CreateTime)
}

// node takes what it can from the node before, which may be nil.
func (x *alike) node(n, before *fleetv1.Node) {
	x.meta(n.Meta, before.GetMeta())
	n.Spec = either(n.Spec, before.GetSpec())
	if proto.Equal(n.Facts, before.GetFacts()) {
		n.Facts = before.GetFacts()
		return
	}
	f := n.GetFacts()
	if f == nil {
		return
	}
	for _, s := range []*string{&f.Arch, &f.Os, &f.Kernel, &f.AgentVersion, &f.Runtime, &f.HttpAddress} {
		x.word(s)
	}
	for i := range f.ImageDigests {
		x.word(&f.ImageDigests[i])
	}
	ids := map[string]string{}
	for _, d := range f.GetDevices() {
		ids[d.GetId()] = d.GetId()
		for _, s := range []*string{&d.Vendor, &d.Model, &d.Health, &d.Action, &d.Profile, &d.CpuAffinity, &d.DriverVersion,
			&d.RuntimeVersion, &d.ComputeCapability, &d.PciAddress, &d.HealthReason} {
			x.word(s)
		}
	}
	links := map[string]*fleetv1.DeviceLink{} // the last one by its peer: every device links to it alike
	for _, d := range f.GetDevices() {
		same(&d.ParentId, ids[d.GetParentId()])
		for i, l := range d.GetLinks() {
			same(&l.Peer, ids[l.GetPeer()])
			x.word(&l.Kind)
			d.Links[i] = either(l, links[l.GetPeer()])
			links[l.GetPeer()] = d.Links[i]
		}
	}
}

// copyMeta and copySpec are shallow for what is copied for each instance. They name the fields, and so are five
// times faster; a test counts them.
func copyMeta(m *fleetv1.Meta) *fleetv1.Meta {
	c := &fleetv1.Meta{
		Name: m.GetName(), Id: m.GetId(), Account: m.GetAccount(), Project: m.GetProject(), Revision: m.GetRevision(),
		Generation: m.GetGeneration(), CreateTime: m.GetCreateTime(), UpdateTime: m.GetUpdateTime(), CreatedBy: m.GetCreatedBy(), Tags: m.GetTags(),
	}
	if unknown := m.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		c.ProtoReflect().SetUnknown(unknown)
	}
	return c
}

func copySpec(s *fleetv1.InstanceSpec) *fleetv1.InstanceSpec {
	c := &fleetv1.InstanceSpec{
		ServiceId: s.GetServiceId(), ServiceName: s.GetServiceName(), ServiceGeneration: s.GetServiceGeneration(), Model: s.GetModel(),
		ModelVersion: s.GetModelVersion(), Flavor: s.GetFlavor(), Node: s.GetNode(), DeviceIds: s.GetDeviceIds(), Image: s.GetImage(),
		ImageDigest: s.GetImageDigest(), Command: s.GetCommand(), Env: s.GetEnv(), CpuMillis: s.GetCpuMillis(),
		MemoryBytes: s.GetMemoryBytes(), DiskBytes: s.GetDiskBytes(), Limits: s.GetLimits(), Network: s.GetNetwork(), Api: s.GetApi(),
		Health: s.GetHealth(), Mounts: s.GetMounts(), ReadOnlyRoot: s.GetReadOnlyRoot(), GracePeriodSeconds: s.GetGracePeriodSeconds(),
		WithdrawSeconds: s.GetWithdrawSeconds(), Epoch: s.GetEpoch(), Priority: s.GetPriority(), Preemptible: s.GetPreemptible(),
		Gang: s.GetGang(), DeviceModels: s.GetDeviceModels(), OnDisconnect: s.GetOnDisconnect(), JobId: s.GetJobId(),
	}
	if unknown := s.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		c.ProtoReflect().SetUnknown(unknown)
	}
	return c
}

func copyStatus(s *fleetv1.NodeStatus) *fleetv1.NodeStatus {
	c := &fleetv1.NodeStatus{
		State: s.GetState(), Reason: s.GetReason(), StateTime: s.GetStateTime(), AssignmentGeneration: s.GetAssignmentGeneration(),
		AllocatedCpuMillis: s.GetAllocatedCpuMillis(), AllocatedMemoryBytes: s.GetAllocatedMemoryBytes(), AllocatedDiskBytes: s.GetAllocatedDiskBytes(),
		AllocatedDevices: s.GetAllocatedDevices(), Instances: s.GetInstances(), HeartbeatTime: s.GetHeartbeatTime(),
	}
	if unknown := s.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		c.ProtoReflect().SetUnknown(unknown)
	}
	return c
}

func copyEvent(e *fleetv1.Event) *fleetv1.Event {
	c := &fleetv1.Event{
		Id: e.GetId(), Time: e.GetTime(), Type: e.GetType(), Reason: e.GetReason(), Message: e.GetMessage(), Objects: e.GetObjects(),
	}
	if unknown := e.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		c.ProtoReflect().SetUnknown(unknown)
	}
	return c
}

// shallow copies the fields of a message and shares what they point to.
func shallow[M proto.Message](m M) M {
	from := m.ProtoReflect()
	to := from.New()
	from.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		to.Set(f, v)
		return true
	})
	to.SetUnknown(from.GetUnknown())
	return to.Interface().(M)
}
