package api

import (
	"context"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

type clusterServer struct {
	*API
	fleetv1.UnimplementedClusterServiceServer
}

func (s *clusterServer) GetClusterStatus(context.Context, *fleetv1.GetClusterStatusRequest) (*fleetv1.GetClusterStatusResponse, error) {
	resp, view := s.cfg.Members.ClusterStatus(), s.view()
	resp.ClusterId, resp.RestoreEpoch = view.Cluster().GetMeta().GetId(), view.Cluster().GetRestoreEpoch()
	for _, n := range view.Nodes() {
		resp.NodesTotal++
		if n.GetStatus().GetState() == fleetv1.NodeReady {
			resp.NodesReady++
		}
	}
	resp.Services, resp.Instances = int64(len(view.Services(""))), int64(len(view.Instances()))
	return resp, nil
}
