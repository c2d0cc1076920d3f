package api

import (
	"cmp"
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
		needs := need(fleetv1.KindAccount, cmp.Or(asked.GetSpec().GetAccount(), fleetv1.Default))
		if owner := asked.GetSpec().GetAccount(); owner != "" && view.Account(owner) == nil {
			return nil, missing("pool.spec.account", "account", owner, namesOf(view.Accounts()))
		}
		p := &fleetv1.Pool{Meta: newMeta(ctx, asked.GetMeta(), now), Spec: asked.GetSpec()}
		return &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, p)}, Needs: needs}, nil
	})
	if err != nil {
		return nil, err
	}
	return shownPool(s.view(), name, func(p *fleetv1.Pool) *fleetv1.CreatePoolResponse { return &fleetv1.CreatePoolResponse{Pool: p} })
}

func (s *poolServer) ListPools(ctx context.Context, _ *fleetv1.ListPoolsRequest) (*fleetv1.ListPoolsResponse, error) {
	view := s.view()
	resp := &fleetv1.ListPoolsResponse{}
	for _, p := range seenPools(ctx, view) {
		resp.Pools = append(resp.Pools, withNodes(view, p))
	}
	return resp, nil
}

func (s *poolServer) GetPool(ctx context.Context, req *fleetv1.GetPoolRequest) (*fleetv1.GetPoolResponse, error) {
	// Not even the names of other accounts' pools are suggested.
	if p := s.view().Pool(req.GetName()); !caller(ctx).Everywhere() && (p == nil || !openTo(p, caller(ctx).Account)) {
		return nil, missing("", "pool", req.GetName(), namesOf(seenPools(ctx, s.view())))
	}
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

// openTo says whether services of an account may run in the pool.
func openTo(p *fleetv1.Pool, account string) bool {
	return p.GetSpec().GetType() != fleetv1.PoolDedicated || p.GetSpec().GetAccount() == account
}

// poolsOf are the pools that are open to an account.
func poolsOf(view state.ReadView, account string) []*fleetv1.Pool {
	return slices.DeleteFunc(view.Pools(), func(p *fleetv1.Pool) bool { return !openTo(p, account) })
}

// seenPools are the pools that the caller may see.
func seenPools(ctx context.Context, view state.ReadView) []*fleetv1.Pool {
	if c := caller(ctx); !c.Everywhere() {
		return poolsOf(view, c.Account)
	}
	return view.Pools()
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
