package main

import (
	"context"
	"time"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// completionTimeout: a shell that waits longer than this for names is worse than one without them.
const completionTimeout = time.Second

// metaNames answers the names of listed objects.
func metaNames[T interface{ GetMeta() *fleetv1.Meta }](objects []T, err error) ([]string, error) {
	names := make([]string, len(objects))
	for i, o := range objects {
		names[i] = o.GetMeta().GetName()
	}
	return names, err
}

func nodeNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Nodes.ListNodes(ctx, &fleetv1.ListNodesRequest{})
	return metaNames(resp.GetNodes(), err)
}

func flavorNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Flavors.ListFlavors(ctx, &fleetv1.ListFlavorsRequest{})
	return metaNames(resp.GetFlavors(), err)
}

func poolNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Pools.ListPools(ctx, &fleetv1.ListPoolsRequest{})
	return metaNames(resp.GetPools(), err)
}

func (a *app) serviceNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Services.ListServices(ctx, &fleetv1.ListServicesRequest{Project: a.project})
	return metaNames(resp.GetServices(), err)
}

func (a *app) jobNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Jobs.ListJobs(ctx, &fleetv1.ListJobsRequest{Project: a.project})
	var names []string
	for _, s := range resp.GetJobs() {
		names = append(names, s.GetJob().GetMeta().GetName())
	}
	return names, err
}

func (a *app) instanceNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Instances.ListInstances(ctx, &fleetv1.ListInstancesRequest{Project: a.project})
	return metaNames(resp.GetInstances(), err)
}

func deviceNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Devices.ListDevices(ctx, &fleetv1.ListDevicesRequest{})
	var names []string
	for _, d := range resp.GetDevices() {
		names = append(names, d.GetDevice().GetId())
	}
	return names, err
}

// cordonedDeviceNames are those with a cordon of their own, also those that are away.
func cordonedDeviceNames(ctx context.Context, cl *client.Client) ([]string, error) {
	resp, err := cl.Nodes.ListNodes(ctx, &fleetv1.ListNodesRequest{})
	var names []string
	for _, n := range resp.GetNodes() {
		for _, c := range n.GetSpec().GetDeviceCordons() {
			names = append(names, c.GetDeviceId())
		}
	}
	return names, err
}
