package reconcile

import (
	"context"
	"fmt"
	"maps"
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
	defaultGrace     = 30
	defaultPort      = 8080
	maxPartsPerEntry = 256 // instances placed by one log entry
)

// wish is one instance that is missing.
type wish struct {
	svc     *fleetv1.Service
	version *versionCensus
	flavor  *fleetv1.Flavor
	model   *fleetv1.Model
}

// place places what the services lack, and notes why the rest waits.
func (l *serviceLoop) place(ctx context.Context, ids []string, now time.Time) {
	view := l.cfg.State.View()
	var wishes []wish
	var requests []place.Request
	for _, id := range ids {
		svc := view.ServiceByID(id)
		if svc == nil {
			continue
		}
		m := l.remembered(id)
		clear(m.waiting)
		clear(m.remedies)
		for _, v := range take(view, svc, id, now).versions {
			missing := v.missing()
			if missing <= 0 {
				continue
			}
			if hold := m.failures[v.key].until(); now.Before(hold) {
				l.wakeAt(id, hold)
				continue
			}
			one := wish{svc, v, view.Flavor(v.spec.GetFlavor()), view.Model(svc.GetMeta().GetProject(), v.spec.GetModel(), v.spec.GetModelVersion())}
			if one.flavor == nil || one.model == nil {
				m.waiting[v.key] = fmt.Sprintf("flavor %q or model %s %s does not exist", v.spec.GetFlavor(), v.spec.GetModel(), v.spec.GetModelVersion())
				continue
			}
			r := place.NewRequest(id, svc.GetSpec(), v.spec, one.flavor, one.model)
			r.Avoid = m.failures[v.key].avoid(now)
			for range missing {
				wishes, requests = append(wishes, one), append(requests, r)
			}
		}
	}
	if len(wishes) == 0 {
		return
	}
	var parts []*fleetv1.PlanPart
	index := place.NewIndex(view)
	for i, p := range index.Plan(requests) {
		if len(p.Members) != 1 { // gangs: no loop makes them yet
			m, key := l.remembered(wishes[i].svc.GetMeta().GetId()), wishes[i].version.key
			why := index.Explain(&requests[i])
			m.waiting[key], m.remedies[key] = why.GetSummary(), strings.Join(why.GetRemedies(), "; ")
			continue
		}
		parts = append(parts, l.part(view, wishes[i], p.Members[0], now))
	}
	for len(parts) > 0 {
		n := min(len(parts), maxPartsPerEntry)
		l.proposePlan(ctx, now, parts[:n])
		parts = parts[n:]
	}
}

// proposePlan commits parts; the services of those that fail or are refused are looked at again.
func (l *serviceLoop) proposePlan(ctx context.Context, now time.Time, parts []*fleetv1.PlanPart) {
	result, err := l.propose(ctx, &fleetv1.Command{Op: &fleetv1.Command_Plan{Plan: &fleetv1.Plan{Parts: parts}}})
	again := now.Add(retryDelay)
	if err != nil {
		if ctx.Err() == nil {
			l.cfg.Logger.Warn("plan not committed", "parts", len(parts), "error", err)
		}
		for _, p := range parts {
			l.wakeAt(p.GetServiceId(), again)
		}
		return
	}
	for _, r := range result.Rejections {
		id := parts[r.Part].GetServiceId()
		l.cfg.Logger.Info("placement refused", "service", id, "reason", r.Reason, "detail", r.Detail)
		l.wakeAt(id, again)
	}
}

// part is the plan of one instance.
func (l *serviceLoop) part(view state.ReadView, one wish, p place.Member, now time.Time) *fleetv1.PlanPart {
	svc, id := one.svc, l.cfg.NewID()
	meta := svc.GetMeta()
	inst := &fleetv1.Instance{
		Meta: &fleetv1.Meta{Name: meta.GetName() + "-" + id[:8], Id: id, Account: meta.GetAccount(), Project: meta.GetProject(),
			Generation: 1, CreateTime: timestamppb.New(now), CreatedBy: "scheduler"},
		Spec:    l.instanceSpec(one, p),
		Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
	}
	message := "on node " + p.Node
	if len(p.DeviceIDs) > 0 {
		message += " with " + strings.Join(p.DeviceIDs, ", ")
	}
	return &fleetv1.PlanPart{
		ServiceId: meta.GetId(), ServiceGeneration: meta.GetGeneration(), Instances: []*fleetv1.Instance{inst},
		Events: []*fleetv1.Event{instanceEvent(inst, view.Node(p.Node), now, fleetv1.EventNormal, "InstancePlaced", message)},
	}
}

// instanceSpec is all that the node needs to know, with every default filled in.
func (l *serviceLoop) instanceSpec(one wish, p place.Member) *fleetv1.InstanceSpec {
	svc, v, m, f := one.svc, one.version.spec, one.model.GetSpec(), one.flavor.GetSpec()
	s := &fleetv1.InstanceSpec{
		ServiceId: svc.GetMeta().GetId(), ServiceName: svc.GetMeta().GetName(), ServiceGeneration: svc.GetMeta().GetGeneration(),
		Model: v.GetModel(), ModelVersion: v.GetModelVersion(), Flavor: v.GetFlavor(), Node: p.Node, DeviceIds: p.DeviceIDs, DeviceModels: p.DeviceModels,
		Image: m.GetImage(), ImageDigest: one.model.GetStatus().GetImageDigest(), Command: m.GetCommand(), Env: maps.Clone(v.GetEnv()),
		CpuMillis: f.GetCpuMillis(), MemoryBytes: f.GetMemoryBytes(), DiskBytes: f.GetDiskBytes(), Limits: limits(f.GetLimits(), v.GetLimits()),
		Network: svc.GetSpec().GetNetwork(), Api: api(m.GetApi()), Health: health(m.GetHealth()), Mounts: v.GetMounts(),
		ReadOnlyRoot: m.GetReadOnlyRoot(), GracePeriodSeconds: defaultGrace,
		WithdrawSeconds: int32((l.cfg.LookupMaxAge + time.Second - 1) / time.Second),
	}
	if s.Network == "" {
		s.Network = fleetv1.NetworkBridge
	}
	if svc.GetSpec().GracePeriodSeconds != nil {
		s.GracePeriodSeconds = svc.GetSpec().GetGracePeriodSeconds()
	}
	return s
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
