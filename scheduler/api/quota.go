package api

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

type quotaServer struct {
	*API
	fleetv1.UnimplementedQuotaServiceServer
}

func (s *quotaServer) SetQuota(ctx context.Context, req *fleetv1.SetQuotaRequest) (*fleetv1.SetQuotaResponse, error) {
	var v violations
	v.quota("quota", req.GetQuota())
	if err := v.err(); err != nil {
		return nil, err
	}
	asked, of := req.GetQuota(), req.GetQuota().GetMeta().GetName()
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		old := view.Quota(of)
		if old == nil {
			q := &fleetv1.Quota{Meta: newMeta(ctx, asked.GetMeta(), now), Spec: asked.GetSpec()}
			q.Meta.Project = of
			if p := view.Project(of); p != nil { // else it waits for its project
				q.Meta.Account = p.GetMeta().GetAccount()
			}
			return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, q)}}, nil
		}
		after := proto.CloneOf(old)
		after.Spec, after.Meta.Tags = asked.GetSpec(), asked.GetMeta().GetTags()
		if proto.Equal(old, after) {
			return nil, nil
		}
		after.Meta.Generation++
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(old.GetMeta().GetRevision(), after)}}, nil
	})
	if err != nil {
		return nil, err
	}
	q, err := findQuota(ctx, s.view(), of)
	return &fleetv1.SetQuotaResponse{Quota: q}, err
}

func (s *quotaServer) ListQuotas(ctx context.Context, _ *fleetv1.ListQuotasRequest) (*fleetv1.ListQuotasResponse, error) {
	view := s.view()
	resp := &fleetv1.ListQuotasResponse{}
	for _, q := range seenQuotas(ctx, view) {
		resp.Quotas = append(resp.Quotas, withUsage(view, q))
	}
	return resp, nil
}

func (s *quotaServer) GetQuota(ctx context.Context, req *fleetv1.GetQuotaRequest) (*fleetv1.GetQuotaResponse, error) {
	q, err := findQuota(ctx, s.view(), project(ctx, req.GetProject()))
	return &fleetv1.GetQuotaResponse{Quota: q}, err
}

// DeleteQuota lifts the limits of a project, which must be named: nobody should lift his own by leaving it out.
func (s *quotaServer) DeleteQuota(ctx context.Context, req *fleetv1.DeleteQuotaRequest) (*fleetv1.DeleteQuotaResponse, error) {
	if req.GetProject() == "" {
		return nil, invalid("project", "is missing")
	}
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		q, err := findQuota(ctx, view, req.GetProject())
		if err != nil {
			return nil, err
		}
		key := state.Key{Kind: fleetv1.KindQuota, Key: req.GetProject()}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Delete(q.GetMeta().GetRevision(), key)}}, nil
	})
	return &fleetv1.DeleteQuotaResponse{}, err
}

// findQuota answers the quota with what is used of it.
func findQuota(ctx context.Context, view state.ReadView, project string) (*fleetv1.Quota, error) {
	if q := view.Quota(project); q != nil {
		return withUsage(view, q), nil
	}
	return nil, missing("", "quota of project", project, namesOf(seenQuotas(ctx, view)))
}

// seenQuotas are those of the projects that the caller may look into.
func seenQuotas(ctx context.Context, view state.ReadView) []*fleetv1.Quota {
	return slices.DeleteFunc(view.Quotas(), func(q *fleetv1.Quota) bool { return !caller(ctx).May(fleetv1.RoleViewer, q.GetMeta().GetName()) })
}

func withUsage(view state.ReadView, q *fleetv1.Quota) *fleetv1.Quota {
	q = proto.CloneOf(q)
	held := view.ProjectUsage(q.GetMeta().GetName())
	q.Usage = &fleetv1.QuotaUsage{CpuMillis: held.CPUMillis, MemoryBytes: held.MemoryBytes, Instances: held.Instances}
	for _, d := range q.GetSpec().GetDevices() {
		q.Usage.Devices = append(q.Usage.Devices, &fleetv1.DeviceQuota{Model: d.GetModel(), Count: held.Matching(d.GetModel())})
	}
	return q
}

// maxQuota is the most of anything that a limit may name; maxDeviceQuotas how many models may be limited.
const (
	maxQuota        = 1 << 60
	maxDeviceQuotas = 64
)

func (v *violations) quota(field string, q *fleetv1.Quota) {
	v.meta(field, q.GetMeta(), false)
	if p := q.GetMeta().GetProject(); p != "" && p != q.GetMeta().GetName() {
		v.add(field+".meta.project", "%q is not the quota's name: a quota is called like the project that it limits", p)
	}
	spec, at := q.GetSpec(), field+".spec"
	if proto.Size(spec) == 0 {
		v.add(at, "limits nothing: set cpu_millis, memory_bytes, instances or devices, or delete the quota")
	}
	v.between(at+".cpu_millis", spec.GetCpuMillis(), 0, maxQuota)
	v.between(at+".memory_bytes", spec.GetMemoryBytes(), 0, maxQuota)
	v.between(at+".instances", spec.GetInstances(), 0, maxQuota)
	if n := len(spec.GetDevices()); n > maxDeviceQuotas {
		v.add(at+".devices", "has %d entries, at most %d are allowed", n, maxDeviceQuotas)
	}
	seen := map[string]int{}
	for i, d := range spec.GetDevices() {
		here := fmt.Sprintf("%s.devices[%d]", at, i)
		if d.GetModel() == "" {
			v.add(here+".model", "is missing; \"*\" stands for every model")
		} else {
			v.deviceModel(here+".model", d.GetModel())
		}
		if first, twice := seen[d.GetModel()]; twice {
			v.add(here+".model", "%q is limited by devices[%d] already", d.GetModel(), first)
		} else {
			seen[d.GetModel()] = i
		}
		v.between(here+".count", d.GetCount(), 0, maxQuota)
	}
}

// deviceModel checks an exact model or a pattern.
func (v *violations) deviceModel(field, s string) {
	if _, err := path.Match(s, ""); err != nil || len(s) > maxName || hasControl(s) {
		v.add(field, "%q is neither a model nor a pattern of at most %d characters such as \"H100*\"", s, maxName)
	}
}
