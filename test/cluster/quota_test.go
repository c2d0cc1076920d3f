package cluster

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A quota refuses what would exceed it when it is deployed, and keeps it waiting when the quota shrank meanwhile.
func TestQuota(t *testing.T) {
	f := startFleet(t, 1, "4xH100-80GB")
	set := func(devices int64) *fleetv1.Quota {
		t.Helper()
		resp, err := f.Client.Quotas.SetQuota(f.ctx, &fleetv1.SetQuotaRequest{Quota: &fleetv1.Quota{
			Meta: &fleetv1.Meta{Name: "default"}, Spec: &fleetv1.QuotaSpec{Devices: []*fleetv1.DeviceQuota{{Model: "H100*", Count: devices}}},
		}})
		f.must(err)
		return resp.GetQuota()
	}
	set(3)
	first := f.run("first", "gpu.2", 1, nil)
	if used := set(3).GetUsage().GetDevices(); len(used) != 1 || used[0].GetCount() != 2 {
		t.Errorf("used %v", used)
	}
	err := f.ask("more", "gpu.2", 1, nil)
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "H100*") || !strings.Contains(err.Error(), "2 of 3") {
		t.Errorf("refused with %v", err)
	}
	f.told("QuotaExceeded", fleetv1.KindService, "more")

	f.cordon(f.Nodes[0].Name, true)
	f.deploy("next", "gpu.1", 1, nil)
	f.waiting("next", "cordoned")
	set(2)
	f.cordon(f.Nodes[0].Name, false)
	f.waiting("next", "quota of project default")
	set(1)
	if now := f.running("first"); now[0].GetMeta().GetId() != first[0].GetMeta().GetId() {
		t.Errorf("what is placed does not stay when the quota shrinks: %v", now)
	}
	f.waiting("next", "quota of project default")
	set(3)
	f.running("next")
}
