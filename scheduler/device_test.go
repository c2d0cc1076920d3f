package scheduler_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

// withDevice is what node n1 says when it has the device.
func withDevice(id string) *fleetv1.SessionRequest {
	f := facts()
	f.Devices = []*fleetv1.Device{{Id: id, Vendor: "nvidia", Model: "H100-80GB", Health: fleetv1.Healthy}}
	return &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Facts{Facts: f}}
}

// A cordon stays through the restart of the scheduler, the return of the agent and the absence of the device; what
// an agent says never sets or lifts one.
func TestDeviceCordonOutlivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := run(t, dir)
	cordon := func(req *fleetv1.SetDeviceCordonRequest) error {
		_, err := fleetv1.NewDeviceServiceClient(r.conn).SetDeviceCordon(r.admin(), req)
		return err
	}
	device := func() (*fleetv1.DeviceInfo, error) {
		resp, err := fleetv1.NewDeviceServiceClient(r.conn).GetDevice(r.admin(), &fleetv1.GetDeviceRequest{Id: "GPU-0"})
		return resp.GetDevice(), err
	}
	listed := func(want bool) *fleetv1.DeviceInfo {
		t.Helper()
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if d, err := device(); (err == nil) == want {
				return d
			}
		}
		t.Fatalf("listed: not %v", want)
		return nil
	}
	agentToken := r.token(scheduler.AgentTokenFile)
	a := connect(t, r.conn, agentToken)
	a.send(withDevice("GPU-0"))
	listed(true)
	asAgent := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+agentToken)
	if _, err := fleetv1.NewDeviceServiceClient(r.conn).SetDeviceCordon(asAgent, &fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an agent may cordon: %v", err)
	}
	ask := &fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true, Reason: "new fan", RequestId: "one"}
	if err := cordon(ask); err != nil {
		t.Fatal(err)
	}
	a.close()
	r.stop()

	r = run(t, dir)
	if d, err := device(); err != nil || !d.GetCordoned() || d.GetCordonReason() != "new fan" {
		t.Errorf("after the restart: %v, %v", d, err)
	}
	if err := cordon(ask); err != nil {
		t.Errorf("the same again: %v", err)
	}
	connect(t, r.conn, agentToken).send(withDevice("GPU-1"))
	listed(false)
	b := connect(t, r.conn, agentToken)
	b.send(withDevice("GPU-0"))
	if d := listed(true); !d.GetCordoned() || d.GetState() != fleetv1.DeviceFree {
		t.Errorf("it is back: %v", d)
	}
	if err := cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-0"}); err != nil {
		t.Error(err)
	}
	if d, err := device(); err != nil || d.GetCordoned() {
		t.Errorf("uncordoned: %v, %v", d, err)
	}
	want := "DeviceCordoned admin closed device GPU-0 for placement: new fan\nDeviceUncordoned admin opened device GPU-0 for placement again\n"
	told := r.cordonEvents()
	for end := time.Now().Add(patience); told != want && time.Now().Before(end); time.Sleep(time.Millisecond) {
		told = r.cordonEvents()
	}
	if told != want {
		t.Errorf("told %q, want %q", told, want)
	}
}

// cordonEvents are what is told of the cordons of node n1's devices, a line each.
func (r *running) cordonEvents() string {
	r.t.Helper()
	events, err := fleetv1.NewEventServiceClient(r.conn).ListEvents(r.admin(), &fleetv1.ListEventsRequest{Filter: &fleetv1.EventFilter{Kind: fleetv1.KindNode, Name: "n1"}})
	if err != nil {
		r.t.Fatal(err)
	}
	var told string
	for _, e := range events.GetEvents() {
		if e.GetReason() == "DeviceCordoned" || e.GetReason() == "DeviceUncordoned" {
			told += fmt.Sprintln(e.GetReason(), e.GetMessage())
		}
	}
	return told
}
