package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

type poolServer struct {
	*API
	fleetv1.UnimplementedPoolServiceServer
}

func (s *poolServer) CreatePool(ctx context.Context, req *fleetv1.CreatePoolRequest) (*fleetv1.CreatePoolResponse, error) {
	asked := proto.CloneOf(req.GetPool())
	if spec := asked.GetSpec(); spec.GetType() == fleetv1.PoolDedicated && spec.GetAccount() == "" {
		spec.Account = newMeta(ctx, nil, time.Time{}).GetAccount()
	}
	var v violations
	v.pool("pool", asked)
	if err := v.err(); err != nil {
		return nil, err
	}
	name := asked.GetMeta().GetName()
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, now time.Time) (*fleetv1.Write, error) {
		if old := view.Pool(name); old != nil {
			return nil, unchanged("pool", name, old.GetMeta(), asked.GetMeta(), old.GetSpec(), asked.GetSpec())
		}
		p := &fleetv1.Pool{Meta: newMeta(ctx, asked.GetMeta(), now), Spec: asked.GetSpec()}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, p)}}, nil
	})
	if err != nil {
		return nil, err
	}
	return shownPool(s.view(), name, func(p *fleetv1.Pool) *fleetv1.CreatePoolResponse { return &fleetv1.CreatePoolResponse{Pool: p} })
}

func (s *poolServer) ListPools(context.Context, *fleetv1.ListPoolsRequest) (*fleetv1.ListPoolsResponse, error) {
	view := s.view()
	resp := &fleetv1.ListPoolsResponse{}
	for _, p := range view.Pools() {
		resp.Pools = append(resp.Pools, withNodes(view, p))
	}
	return resp, nil
}

func (s *poolServer) GetPool(_ context.Context, req *fleetv1.GetPoolRequest) (*fleetv1.GetPoolResponse, error) {
	return shownPool(s.view(), req.GetName(), func(p *fleetv1.Pool) *fleetv1.GetPoolResponse { return &fleetv1.GetPoolResponse{Pool: p} })
}

func (s *poolServer) DeletePool(ctx context.Context, req *fleetv1.DeletePoolRequest) (*fleetv1.DeletePoolResponse, error) {
	err := s.mutate(ctx, req, func(_ context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		p, err := findPool(view, req.GetName())
		if err != nil {
			return nil, err
		}
		err = inUse(view, "pool", req.GetName(), func(service *fleetv1.Service, _ *fleetv1.ServiceVersion) bool {
			return service.GetSpec().GetPool() == req.GetName()
		})
		if err != nil {
			return nil, err
		}
		key := state.Key{Kind: fleetv1.KindPool, Key: req.GetName()}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Delete(p.GetMeta().GetRevision(), key)}}, nil
	})
	return &fleetv1.DeletePoolResponse{}, err
}

func findPool(view state.ReadView, name string) (*fleetv1.Pool, error) {
	if name == "" {
		return nil, invalid("name", "is missing")
	}
	if p := view.Pool(name); p != nil {
		return p, nil
	}
	return nil, missing("", "pool", name, namesOf(view.Pools()))
}

func shownPool[T any](view state.ReadView, name string, answer func(*fleetv1.Pool) *T) (*T, error) {
	p, err := findPool(view, name)
	if err != nil {
		return nil, err
	}
	return answer(withNodes(view, p)), nil
}

func withNodes(view state.ReadView, p *fleetv1.Pool) *fleetv1.Pool {
	p = proto.CloneOf(p)
	p.Nodes = namesOf(view.PoolNodes(p))
	return p
}

func (v *violations) pool(field string, p *fleetv1.Pool) {
	v.meta(field, p.GetMeta(), false)
	spec, at := p.GetSpec(), field+".spec"
	v.oneOf(at+".type", spec.GetType(), fleetv1.PoolPublic, fleetv1.PoolDedicated)
	switch {
	case spec.GetAccount() == "":
	case spec.GetType() == fleetv1.PoolPublic:
		v.add(at+".account", "is only for dedicated pools")
	default:
		v.name(at+".account", spec.GetAccount(), false)
	}
	if (len(spec.GetNodes()) == 0) == (len(spec.GetSelector()) == 0) {
		v.add(at, "needs exactly one of nodes and selector")
	}
	for i, n := range spec.GetNodes() {
		here := fmt.Sprintf("%s.nodes[%d]", at, i)
		v.name(here, n, true)
		if slices.Contains(spec.GetNodes()[:i], n) {
			v.add(here, "%q stands twice", n)
		}
	}
	v.tags(at+".selector", spec.GetSelector())
}
