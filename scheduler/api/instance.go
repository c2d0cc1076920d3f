package api

import (
	"context"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

type instanceServer struct {
	*API
	fleetv1.UnimplementedInstanceServiceServer
}

func (s *instanceServer) ListInstances(ctx context.Context, req *fleetv1.ListInstancesRequest) (*fleetv1.ListInstancesResponse, error) {
	view, in := s.view(), project(ctx, req.GetProject())
	var from []*fleetv1.Instance
	switch {
	case req.GetService() != "":
		service, err := findService(view, in, req.GetService())
		if err != nil {
			return nil, err
		}
		from = view.InstancesOfService(service.GetMeta().GetId())
	case req.GetNode() == "":
		from = view.Instances()
	}
	node := ""
	if req.GetNode() != "" {
		n, err := findNode(view, req.GetNode())
		switch {
		case err == nil:
			node = n.GetMeta().GetName()
		case caller(ctx).Everywhere():
			return nil, err
		default: // who may not see nodes learns no names of them
			node = req.GetNode()
		}
		if req.GetService() == "" {
			from = view.InstancesOnNode(node)
		}
	}
	resp := &fleetv1.ListInstancesResponse{}
	for _, i := range from {
		if i.GetMeta().GetProject() == in && (node == "" || i.GetSpec().GetNode() == node) {
			resp.Instances = append(resp.Instances, i)
		}
	}
	return resp, nil
}

func (s *instanceServer) GetInstance(ctx context.Context, req *fleetv1.GetInstanceRequest) (*fleetv1.GetInstanceResponse, error) {
	i, err := findInstance(s.view(), project(ctx, req.GetProject()), req.GetName())
	return &fleetv1.GetInstanceResponse{Instance: i}, err
}

func findInstance(view state.ReadView, project, name string) (*fleetv1.Instance, error) {
	if name == "" {
		return nil, invalid("name", "is missing")
	}
	if i := view.Instance(name); i.GetMeta().GetProject() == project && i != nil {
		return i, nil
	}
	var names []string
	for _, i := range view.Instances() {
		if i.GetMeta().GetProject() == project {
			names = append(names, i.GetMeta().GetName())
		}
	}
	return nil, missing("", "instance", name, names)
}
