package state

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// write applies a Write in the order of its mutations, or answers the first one that is refused. What
// it did before that one must be aborted.
func (a *applying) write(w *fleetv1.Write) *Rejection {
	for _, n := range w.GetNeeds() {
		if key := (Key{n.GetKind(), n.GetId()}); a.t.object(key) == nil && !standing(key) {
			return &Rejection{Reason: RejectNotFound, Detail: fmt.Sprintf("%s does not exist", key)}
		}
	}
	for i, m := range w.GetMutations() {
		var reason RejectReason
		var detail string
		switch c := m.GetChange().(type) {
		case *fleetv1.Mutation_Put:
			reason, detail = a.writePut(m.GetExpectRevision(), c.Put)
		case *fleetv1.Mutation_Delete:
			reason, detail = a.writeDelete(m.GetExpectRevision(), c.Delete)
		default:
			reason, detail = RejectUnknownCommand, "mutation of an unknown type (made by a newer version?)"
		}
		if reason != "" {
			return &Rejection{Part: i, Reason: reason, Detail: detail}
		}
	}
	for _, e := range w.GetEvents() {
		a.event(e)
	}
	return nil
}

func (a *applying) writePut(expect uint64, put *fleetv1.Object) (RejectReason, string) {
	if err := checkObject(put); err != nil {
		return RejectInvalid, err.Error()
	}
	key := KeyOf(put)
	before := a.t.object(key)
	if reason, detail := expected(expect, key, before); reason != "" {
		return reason, detail
	}
	o := proto.CloneOf(put)
	switch k := o.GetKind().(type) {
	case *fleetv1.Object_Node:
		storedStatus(k.Node, before.GetNode())
		a.alike.node(k.Node, before.GetNode())
	case *fleetv1.Object_Pool:
		k.Pool.Nodes = nil
	case *fleetv1.Object_Quota:
		k.Quota.Usage = nil
	case *fleetv1.Object_Service:
		a.alike.service(k.Service, before.GetService())
		if missing := a.missing(k.Service, before.GetService()); missing != "" {
			return RejectNotFound, fmt.Sprintf("service %s needs %s, which does not exist", key.Key, missing)
		}
	case *fleetv1.Object_Job:
		if missing := a.missingOfJob(k.Job, before.GetJob()); missing != "" {
			return RejectNotFound, fmt.Sprintf("job %s needs %s, which does not exist", key.Key, missing)
		}
	case *fleetv1.Object_Instance:
		if reason, detail := a.devicesFree(k.Instance); reason != "" {
			return reason, detail
		}
		a.alike.instance(k.Instance, before.GetInstance())
	}
	a.put(o)
	return "", ""
}

// expected compares the stored revision with what the proposer saw.
func expected(expect uint64, key Key, stored *fleetv1.Object) (RejectReason, string) {
	switch revision := metaOf(stored).GetRevision(); {
	case stored == nil && expect == 0:
		return "", ""
	case stored == nil:
		return RejectNotFound, fmt.Sprintf("%s does not exist", key)
	case expect == 0:
		return RejectExists, fmt.Sprintf("%s exists already", key)
	case revision != expect:
		return RejectRevision, fmt.Sprintf("%s has changed: it is at revision %d, not %d", key, revision, expect)
	}
	return "", ""
}

// storedStatus keeps what is filled in on reads out of the store, and the assignment generation, which
// the store alone writes, as it is.
func storedStatus(n, before *fleetv1.Node) {
	if n.Status == nil {
		n.Status = &fleetv1.NodeStatus{}
	}
	s := n.Status
	s.AllocatedCpuMillis, s.AllocatedMemoryBytes, s.AllocatedDiskBytes = 0, 0, 0
	s.AllocatedDevices, s.Instances, s.HeartbeatTime = 0, 0, nil
	s.AssignmentGeneration = before.GetStatus().GetAssignmentGeneration()
}

// missing names what a service refers to and the store doesn't have. Only new references are looked
// at: what is in use can't be deleted.
func (a *applying) missing(s, before *fleetv1.Service) string {
	if before != nil && proto.Equal(s.GetSpec(), before.GetSpec()) {
		return ""
	}
	if pool := s.GetSpec().GetPool(); pool != "" && a.Pool(pool) == nil {
		return "pool " + pool
	}
	for _, v := range s.GetSpec().GetVersions() {
		if v.GetFlavor() != "" && a.Flavor(v.GetFlavor()) == nil {
			return "flavor " + v.GetFlavor()
		}
		if v.GetModel() != "" && a.Model(s.GetMeta().GetProject(), v.GetModel(), v.GetModelVersion()) == nil {
			return "model " + v.GetModel() + " " + v.GetModelVersion()
		}
	}
	return ""
}

// devicesFree refuses a second holder of a device.
func (a *applying) devicesFree(i *fleetv1.Instance) (RejectReason, string) {
	if !Holds(i) {
		return "", ""
	}
	for _, d := range i.GetSpec().GetDeviceIds() {
		holder := a.DeviceHolder(i.GetSpec().GetNode(), d)
		if holder != nil && holder.GetMeta().GetId() != i.GetMeta().GetId() {
			return RejectInUse, fmt.Sprintf("device %s of node %s is held by instance %s",
				d, i.GetSpec().GetNode(), holder.GetMeta().GetName())
		}
	}
	return "", ""
}

func (a *applying) writeDelete(expect uint64, ref *fleetv1.ObjectRef) (RejectReason, string) {
	key := Key{ref.GetKind(), ref.GetId()}
	if !slices.Contains(objectKinds(), key.Kind) || key.Kind == fleetv1.KindCluster {
		return RejectInvalid, fmt.Sprintf("objects of kind %q can't be deleted", key.Kind)
	}
	before := a.t.object(key)
	if before == nil {
		return RejectNotFound, fmt.Sprintf("%s does not exist", key)
	}
	if reason, detail := expected(expect, key, before); reason != "" {
		return reason, detail
	}
	if user := a.user(before); user != "" {
		return RejectInUse, fmt.Sprintf("%s is in use: %s", key, user)
	}
	a.delete(key)
	return "", ""
}

// user says who refers to an object, or "". Deletions are rare: it looks at every service and instance.
func (a *applying) user(o *fleetv1.Object) string {
	switch k := o.GetKind().(type) {
	case *fleetv1.Object_Node:
		return someInstance("placed here", a.InstancesOnNode(k.Node.GetMeta().GetName()))
	case *fleetv1.Object_Service:
		return someInstance("not asked to stop", toRun(a.InstancesOfService(k.Service.GetMeta().GetId())))
	case *fleetv1.Object_Pool:
		name := k.Pool.GetMeta().GetName()
		return a.userOf(func(s *fleetv1.Service) bool { return s.GetSpec().GetPool() == name },
			func(*fleetv1.Instance) bool { return false })
	case *fleetv1.Object_Flavor:
		name := k.Flavor.GetMeta().GetName()
		return a.userOf(anyVersion(func(_ *fleetv1.Service, v *fleetv1.ServiceVersion) bool { return v.GetFlavor() == name }),
			func(i *fleetv1.Instance) bool { return i.GetSpec().GetFlavor() == name })
	case *fleetv1.Object_Model:
		project, name := k.Model.GetMeta().GetProject(), k.Model.GetMeta().GetName()
		version := k.Model.GetSpec().GetVersion()
		return a.userOf(anyVersion(func(s *fleetv1.Service, v *fleetv1.ServiceVersion) bool {
			return s.GetMeta().GetProject() == project && v.GetModel() == name && v.GetModelVersion() == version
		}), func(i *fleetv1.Instance) bool {
			return i.GetMeta().GetProject() == project && i.GetSpec().GetModel() == name && i.GetSpec().GetModelVersion() == version
		})
	}
	return a.userOfTenant(o)
}

// missingOfJob is missing for a job.
func (a *applying) missingOfJob(j, before *fleetv1.Job) string {
	spec := j.GetSpec()
	return a.missing(&fleetv1.Service{Meta: j.GetMeta(), Spec: referredBy(spec)}, &fleetv1.Service{Spec: referredBy(before.GetSpec())})
}

// referredBy is what a job refers to, as a service would.
func referredBy(spec *fleetv1.JobSpec) *fleetv1.ServiceSpec {
	if spec == nil {
		return nil
	}
	return &fleetv1.ServiceSpec{Pool: spec.GetPool(), Versions: []*fleetv1.ServiceVersion{{Model: spec.GetModel(), ModelVersion: spec.GetModelVersion(), Flavor: spec.GetFlavor()}}}
}

func anyVersion(uses func(*fleetv1.Service, *fleetv1.ServiceVersion) bool) func(*fleetv1.Service) bool {
	return func(s *fleetv1.Service) bool {
		for _, v := range s.GetSpec().GetVersions() {
			if uses(s, v) {
				return true
			}
		}
		return false
	}
}

func (a *applying) userOf(service func(*fleetv1.Service) bool, instance func(*fleetv1.Instance) bool) string {
	for _, s := range a.Services("") {
		if service(s) {
			return "service " + s.GetMeta().GetProject() + "/" + s.GetMeta().GetName() + " uses it"
		}
	}
	for _, j := range a.Jobs("") {
		if service(&fleetv1.Service{Meta: j.GetMeta(), Spec: referredBy(j.GetSpec())}) {
			return "job " + j.GetMeta().GetProject() + "/" + j.GetMeta().GetName() + " uses it"
		}
	}
	for _, i := range toRun(a.Instances()) {
		if instance(i) {
			return "instance " + i.GetMeta().GetName() + " uses it"
		}
	}
	return ""
}

// toRun leaves out the instances that have been asked to stop: all that they need is in their own spec.
func toRun(all []*fleetv1.Instance) []*fleetv1.Instance {
	return slices.DeleteFunc(all, func(i *fleetv1.Instance) bool { return i.GetDesired().GetState() == fleetv1.DesiredStopped })
}

func someInstance(what string, all []*fleetv1.Instance) string {
	if len(all) == 0 {
		return ""
	}
	if len(all) == 1 {
		return fmt.Sprintf("instance %s is %s", all[0].GetMeta().GetName(), what)
	}
	return fmt.Sprintf("%d instances are %s, for example %s", len(all), what, all[0].GetMeta().GetName())
}
