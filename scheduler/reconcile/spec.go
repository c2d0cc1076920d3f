package reconcile

import (
	"maps"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Defaults of fields that a service or model leaves out.
const (
	defaultGrace = 30
	defaultPort  = 8080
)

// part is the plan of one logical instance: a single one, or all members of a gang.
func (l *serviceLoop) part(view state.ReadView, w *wish, members []place.Member, now time.Time) *fleetv1.PlanPart {
	svc := w.svc.GetMeta()
	part := &fleetv1.PlanPart{ServiceId: svc.GetId(), ServiceGeneration: svc.GetGeneration()}
	var gang []*fleetv1.Gang
	if len(members) > 1 {
		gang = l.gang(view, members)
	}
	for rank, m := range members {
		id := l.cfg.NewID()
		inst := &fleetv1.Instance{
			Meta: &fleetv1.Meta{Name: svc.GetName() + "-" + id[:8], Id: id, Account: svc.GetAccount(), Project: svc.GetProject(),
				Generation: 1, CreateTime: timestamppb.New(now), CreatedBy: "scheduler"},
			Spec:    w.member(m),
			Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
		}
		message := "on node " + m.Node
		if len(m.DeviceIDs) > 0 {
			message += " with " + strings.Join(m.DeviceIDs, ", ")
		}
		if gang != nil {
			inst.Spec.Gang, inst.Spec.Env = gang[rank], gangEnv(inst.Spec.Env, gang[rank])
			message += ", rank " + strconv.Itoa(rank) + " of " + strconv.Itoa(len(members))
		}
		part.Instances = append(part.Instances, inst)
		part.Events = append(part.Events, instanceEvent(inst, view.Node(m.Node), now, fleetv1.EventNormal, "InstancePlaced", message))
	}
	return part
}

// gang is what each member knows of its gang, by rank.
func (l *serviceLoop) gang(view state.ReadView, members []place.Member) []*fleetv1.Gang {
	id := l.cfg.NewID()
	addresses := make([]string, len(members))
	for rank, m := range members {
		addresses[rank] = view.Node(m.Node).GetFacts().GetAdvertiseAddress()
	}
	all := make([]*fleetv1.Gang, len(members))
	for rank := range members {
		all[rank] = &fleetv1.Gang{Id: id, Rank: int32(rank), Size: int32(len(members)), Addresses: addresses}
	}
	return all
}

// gangEnv is the environment of a member, by which it finds the others.
func gangEnv(env map[string]string, g *fleetv1.Gang) map[string]string {
	out := maps.Clone(env)
	if out == nil {
		out = map[string]string{}
	}
	out["DROVER_GANG_ID"] = g.GetId()
	out["DROVER_GANG_RANK"] = strconv.Itoa(int(g.GetRank()))
	out["DROVER_GANG_SIZE"] = strconv.Itoa(int(g.GetSize()))
	out["DROVER_GANG_ADDRESSES"] = strings.Join(g.GetAddresses(), ",")
	return out
}

// specOf is all that nodes need to know of an instance of the version, with every default filled in; not where it is.
func (l *serviceLoop) specOf(svc *fleetv1.Service, v *fleetv1.ServiceVersion, flavor *fleetv1.Flavor, model *fleetv1.Model) *fleetv1.InstanceSpec {
	m, f := model.GetSpec(), flavor.GetSpec()
	s := &fleetv1.InstanceSpec{
		ServiceId: svc.GetMeta().GetId(), ServiceName: svc.GetMeta().GetName(), ServiceGeneration: svc.GetMeta().GetGeneration(),
		Model: v.GetModel(), ModelVersion: v.GetModelVersion(), Flavor: v.GetFlavor(),
		Image: m.GetImage(), ImageDigest: model.GetStatus().GetImageDigest(), Command: m.GetCommand(), Env: v.GetEnv(),
		CpuMillis: f.GetCpuMillis(), MemoryBytes: f.GetMemoryBytes(), DiskBytes: f.GetDiskBytes(), Limits: limits(f.GetLimits(), v.GetLimits()),
		Network: svc.GetSpec().GetNetwork(), Api: api(m.GetApi()), Health: health(m.GetHealth()), Mounts: v.GetMounts(),
		ReadOnlyRoot: m.GetReadOnlyRoot(), GracePeriodSeconds: defaultGrace,
		WithdrawSeconds: int32((l.cfg.LookupMaxAge + time.Second - 1) / time.Second),
		Priority:        v.GetPriority(), Preemptible: v.GetPreemptible(), OnDisconnect: policyOf(svc), JobId: svc.GetSpec().GetJobId(),
	}
	if s.Network == "" {
		s.Network = fleetv1.NetworkBridge
	}
	if svc.GetSpec().GracePeriodSeconds != nil {
		s.GracePeriodSeconds = svc.GetSpec().GetGracePeriodSeconds()
	}
	return s
}

// member is the spec of one member. All but where it is it shares with the version's other instances.
func (w *wish) member(m place.Member) *fleetv1.InstanceSpec {
	b := w.base
	return &fleetv1.InstanceSpec{
		ServiceId: b.ServiceId, ServiceName: b.ServiceName, ServiceGeneration: b.ServiceGeneration,
		Model: b.Model, ModelVersion: b.ModelVersion, Flavor: b.Flavor, Image: b.Image, ImageDigest: b.ImageDigest, Command: b.Command, Env: b.Env,
		CpuMillis: b.CpuMillis, MemoryBytes: b.MemoryBytes, DiskBytes: b.DiskBytes, Limits: b.Limits,
		Network: b.Network, Api: b.Api, Health: b.Health, Mounts: b.Mounts, ReadOnlyRoot: b.ReadOnlyRoot,
		GracePeriodSeconds: b.GracePeriodSeconds, WithdrawSeconds: b.WithdrawSeconds, Priority: b.Priority, Preemptible: b.Preemptible,
		OnDisconnect: b.OnDisconnect, JobId: b.JobId, Node: m.Node, DeviceIds: m.DeviceIDs, DeviceModels: m.DeviceModels,
	}
}

// limits are the flavor's, each overridden by the version's.
func limits(flavor, version *fleetv1.Limits) *fleetv1.Limits {
	pick := func(v, f int64) int64 {
		if v != 0 {
			return v
		}
		return f
	}
	return &fleetv1.Limits{
		ShmBytes:     pick(version.GetShmBytes(), flavor.GetShmBytes()),
		MemlockBytes: pick(version.GetMemlockBytes(), flavor.GetMemlockBytes()),
		Nofile:       pick(version.GetNofile(), flavor.GetNofile()),
		Pids:         pick(version.GetPids(), flavor.GetPids()),
		Rdma:         version.GetRdma() || flavor.GetRdma(),
	}
}

func api(a *fleetv1.ModelAPI) *fleetv1.ModelAPI {
	out := &fleetv1.ModelAPI{Protocol: "http", Port: defaultPort}
	proto.Merge(out, a)
	return out
}

// health is the check with SPEC §2's defaults, or nil without one.
func health(h *fleetv1.HealthCheck) *fleetv1.HealthCheck {
	if h == nil {
		return nil
	}
	out := &fleetv1.HealthCheck{PeriodSeconds: 10, TimeoutSeconds: 5, FailureThreshold: 3}
	if h.GetCheckMethod() == "HTTP" {
		out.Protocol, out.Url = "http", "/health"
	}
	proto.Merge(out, h)
	return out
}
