package api

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

// editNode changes a stored node past the API.
func (w *world) editNode(name string, edit func(*fleetv1.Node)) {
	w.t.Helper()
	n := proto.CloneOf(w.store.View().Node(name))
	if n.Spec == nil {
		n.Spec = &fleetv1.NodeSpec{}
	}
	edit(n)
	w.write(state.Put(n.GetMeta().GetRevision(), n))
}

func (w *world) devices() fleetv1.DeviceServiceClient { return fleetv1.NewDeviceServiceClient(w.conn) }

func (w *world) cordon(req *fleetv1.SetDeviceCordonRequest) (*fleetv1.DeviceInfo, error) {
	resp, err := w.devices().SetDeviceCordon(w.t.Context(), req)
	return resp.GetDevice(), err
}

// cordons are those of a node, as "ID reason".
func (w *world) cordons(node string) string {
	var all []string
	for _, c := range w.store.View().Node(node).GetSpec().GetDeviceCordons() {
		all = append(all, strings.TrimSpace(c.GetDeviceId()+" "+c.GetReason()))
	}
	return strings.Join(all, ", ")
}

func device(id, parent string) *fleetv1.Device {
	return &fleetv1.Device{Id: id, Vendor: "nvidia", Model: "H100", Health: fleetv1.Healthy, ParentId: parent}
}

func TestDeviceCordon(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.editNode("n1", func(n *fleetv1.Node) { n.Facts.Devices = append(n.Facts.Devices, device("GPU-1", "")) })
	for _, step := range []struct {
		req     *fleetv1.SetDeviceCordonRequest
		cordons string
		event   string // the last one; empty when the step makes none
	}{
		{&fleetv1.SetDeviceCordonRequest{Id: "GPU-1", Cordoned: true}, "GPU-1", "DeviceCordoned: root closed device GPU-1 for placement"},
		{&fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true, Reason: "new fan"}, "GPU-0 new fan, GPU-1", "DeviceCordoned: root closed device GPU-0 for placement: new fan"},
		{&fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true, Reason: "new fan"}, "GPU-0 new fan, GPU-1", ""},
		{&fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true, Reason: "no fan"}, "GPU-0 no fan, GPU-1", "DeviceCordoned: root closed device GPU-0 for placement: no fan"},
		{&fleetv1.SetDeviceCordonRequest{Id: "GPU-1"}, "GPU-0 no fan", "DeviceUncordoned: root opened device GPU-1 for placement again"},
		{&fleetv1.SetDeviceCordonRequest{Id: "GPU-1"}, "GPU-0 no fan", ""},
	} {
		index, told := w.store.View().Index(), len(w.events)
		got, err := w.cordon(step.req)
		if err != nil || got.GetNode() != "n1" || got.GetDevice().GetId() != step.req.GetId() || got.GetCordoned() != step.req.GetCordoned() || got.GetCordonReason() != step.req.GetReason() {
			t.Fatalf("%v: %v, %v", step.req, got, err)
		}
		if have := w.cordons("n1"); have != step.cordons {
			t.Errorf("%v: cordons %q, want %q", step.req, have, step.cordons)
		}
		var event string
		for _, e := range w.events[told:] {
			event += e.GetReason() + ": " + e.GetMessage()
			if o := e.GetObjects(); len(o) != 1 || o[0].GetKind() != fleetv1.KindNode || o[0].GetName() != "n1" || o[0].GetId() != "n1-id" {
				t.Errorf("event of %v", o)
			}
		}
		if event != step.event || step.event == "" && w.store.View().Index() != index {
			t.Errorf("%v: event %q, want %q; index %d → %d", step.req, event, step.event, index, w.store.View().Index())
		}
	}
	if c := w.store.View().Node("n1").GetSpec().GetDeviceCordons()[0]; c.GetCaller() != "root" || !c.GetTime().AsTime().Equal(start) {
		t.Errorf("stored %v", c)
	}
	// The cordon of the node and that of its devices don't touch each other.
	for _, cordoned := range []bool{true, false} {
		if _, err := fleetv1.NewNodeServiceClient(w.conn).SetNodeCordon(t.Context(), &fleetv1.SetNodeCordonRequest{Name: "n1", Cordoned: cordoned}); err != nil {
			t.Fatal(err)
		}
		if got := w.cordons("n1"); got != "GPU-0 no fan" {
			t.Errorf("node cordoned %v: cordons %q", cordoned, got)
		}
		if _, err := w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-1"}); err != nil || w.store.View().Node("n1").GetSpec().GetCordoned() != cordoned {
			t.Errorf("node cordoned %v: %v", cordoned, err)
		}
	}
}

func TestDeviceCordonRefusals(t *testing.T) {
	w := newWorld(t)
	_, err := w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true})
	w.refused("no device anywhere", err, codes.NotFound, "", `there is no device "GPU-0"`, 0)
	w.furnish()
	index := w.store.View().Index()
	for _, c := range []struct {
		name, field, words string
		code               codes.Code
		req                *fleetv1.SetDeviceCordonRequest
	}{
		{"no ID", "id", "missing", codes.InvalidArgument, &fleetv1.SetDeviceCordonRequest{Cordoned: true}},
		{"reason to uncordon", "reason", "only for cordoning", codes.InvalidArgument, &fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Reason: "x"}},
		{"long reason", "reason", "at most 100", codes.InvalidArgument, &fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true, Reason: strings.Repeat("é", 101)}},
		{"long request ID", "request_id", "at most 128", codes.InvalidArgument, &fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true, RequestId: strings.Repeat("r", 129)}},
		{"near", "", `did you mean "GPU-0"`, codes.NotFound, &fleetv1.SetDeviceCordonRequest{Id: "GPU-O", Cordoned: true}},
		{"far", "", "there are: GPU-0", codes.NotFound, &fleetv1.SetDeviceCordonRequest{Id: "something\nelse", Cordoned: true}},
		{"nothing to lift", "", `did you mean "GPU-0"`, codes.NotFound, &fleetv1.SetDeviceCordonRequest{Id: "GPU-7"}},
	} {
		_, err := w.cordon(c.req)
		w.refused(c.name, err, c.code, c.field, c.words, index)
	}
}

func TestDeviceCordonIsCarriedOutOnce(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	ask := &fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true, Reason: "r", RequestId: "one"}
	w.fault = raftstore.ErrUnknown
	_, err := w.cordon(ask)
	w.refused("outcome unknown", err, codes.Unknown, "", "the same request ID", w.store.View().Index())
	if _, err := w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-0"}); err != nil { // by somebody else
		t.Fatal(err)
	}
	index := w.store.View().Index()
	if got, err := w.cordon(ask); err != nil || got.GetCordoned() || w.store.View().Index() != index {
		t.Errorf("sent again: %v, %v", got, err)
	}
	_, err = w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-0", RequestId: "one"})
	w.refused("another body", err, codes.FailedPrecondition, "", `request ID "one" was used`, index)

	// A change of the node between the look and the write is not lost.
	w.before = func() { w.editNode("n1", func(n *fleetv1.Node) { n.Facts.Kernel = "6.1" }) }
	if _, err := w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true}); err != nil {
		t.Fatal(err)
	}
	if n := w.store.View().Node("n1"); n.GetFacts().GetKernel() != "6.1" || w.cordons("n1") != "GPU-0" {
		t.Errorf("node %v", n)
	}
}

func TestCordonOutlivesTheDevice(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	if _, err := w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true, Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	w.editNode("n1", func(n *fleetv1.Node) { n.Facts.Devices = nil })
	if got, err := w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: true, Reason: "sent in"}); err != nil || !got.GetCordoned() ||
		got.GetNode() != "n1" || got.GetCordonReason() != "sent in" || got.GetState() != "" {
		t.Errorf("%v, %v", got, err)
	}
	_, err := w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-1"})
	w.refused("a cordoned device is suggested", err, codes.NotFound, "", `did you mean "GPU-0"`, w.store.View().Index())
	lift := &fleetv1.SetDeviceCordonRequest{Id: "GPU-0", RequestId: "lift"}
	for i := range 2 {
		if got, err := w.cordon(lift); err != nil || got.GetCordoned() || got.GetDevice().GetId() != "GPU-0" || w.cordons("n1") != "" {
			t.Errorf("%d: %v, %v, cordons %q", i, got, err, w.cordons("n1"))
		}
	}
	_, err = w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-0"})
	w.refused("nothing is known of it now", err, codes.NotFound, "", "no device", w.store.View().Index())
}

func TestSlicesAreCordonedWithTheWhole(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.editNode("n1", func(n *fleetv1.Node) {
		n.Facts.Devices = append(n.Facts.Devices, device("GPU-9", ""), device("MIG-1", "GPU-9"))
	})
	shown := func(id string) string {
		t.Helper()
		resp, err := w.devices().GetDevice(t.Context(), &fleetv1.GetDeviceRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.GetDevice().GetCordoned(), " ", resp.GetDevice().GetCordonReason())
	}
	must := func(req *fleetv1.SetDeviceCordonRequest) {
		t.Helper()
		if _, err := w.cordon(req); err != nil {
			t.Fatal(err)
		}
	}
	must(&fleetv1.SetDeviceCordonRequest{Id: "MIG-1", Cordoned: true, Reason: "own"})
	if a, b := shown("MIG-1"), shown("GPU-9"); a != "true own" || b != "false " {
		t.Errorf("slice %q, whole %q", a, b)
	}
	must(&fleetv1.SetDeviceCordonRequest{Id: "GPU-9", Cordoned: true, Reason: "all"})
	must(&fleetv1.SetDeviceCordonRequest{Id: "MIG-1"})
	if got := shown("MIG-1"); got != "true with GPU-9: all" {
		t.Errorf("slice %q", got)
	}
	_, err := w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "MIG-1"})
	w.refused("no cordon of its own", err, codes.FailedPrecondition, "", `"GPU-9", which it is cut from, is cordoned`, w.store.View().Index())
	must(&fleetv1.SetDeviceCordonRequest{Id: "GPU-9"})
	if got := shown("MIG-1"); got != "false " {
		t.Errorf("slice %q", got)
	}
}

// A device that was moved is still listed by the node that it came from.
func TestDeviceOnTwoNodes(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.put(&fleetv1.Node{Meta: meta("n2"), Facts: &fleetv1.NodeFacts{Devices: []*fleetv1.Device{device("GPU-0", "")}}})
	for _, want := range []string{"GPU-0", ""} {
		if _, err := w.cordon(&fleetv1.SetDeviceCordonRequest{Id: "GPU-0", Cordoned: want != ""}); err != nil || w.cordons("n1") != want || w.cordons("n2") != want {
			t.Errorf("%v: %q, %q, want %q", err, w.cordons("n1"), w.cordons("n2"), want)
		}
	}
	if len(w.events) != 4 {
		t.Errorf("%d events", len(w.events))
	}
}

// A device that is cut into slices isn't free: nobody can hold it whole.
func TestFreeDevices(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.editNode("n1", func(n *fleetv1.Node) {
		n.Facts.Devices = []*fleetv1.Device{device("GPU-0", ""), device("GPU-1", ""), device("MIG-0", "GPU-1"), device("MIG-1", "GPU-1")}
	})
	w.place(w.mustDeploy(iris(nil)), fleetv1.InstanceRunning, "MIG-0")
	resp, err := w.devices().ListDevices(t.Context(), &fleetv1.ListDevicesRequest{Free: true})
	var free []string
	for _, d := range resp.GetDevices() {
		free = append(free, d.GetDevice().GetId())
	}
	if got := strings.Join(free, " "); err != nil || got != "GPU-0 MIG-1" {
		t.Errorf("%q, %v; want GPU-0 and MIG-1", got, err)
	}
}

func TestDeviceStates(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.editNode("n1", func(n *fleetv1.Node) {
		q := device("GPU-2", "")
		q.Quarantined = true
		n.Facts.Devices = append(n.Facts.Devices, device("GPU-1", ""), q)
		n.Facts.Devices[0].Quarantined = true // who holds it goes first
		n.Spec.DeviceCordons = []*fleetv1.DeviceCordon{{DeviceId: "GPU-1"}}
	})
	w.place(w.mustDeploy(iris(nil)), fleetv1.InstanceRunning, "GPU-0")
	list := func(free bool) string {
		t.Helper()
		resp, err := w.devices().ListDevices(t.Context(), &fleetv1.ListDevicesRequest{Free: free})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, d := range resp.GetDevices() {
			all = append(all, strings.TrimSpace(d.GetState()+" "+d.GetInstanceName()))
		}
		return strings.Join(all, ", ")
	}
	observed := func(to string) {
		i := proto.CloneOf(w.store.View().Instance("i1"))
		i.Observed.State = to
		w.write(state.Put(i.GetMeta().GetRevision(), i))
	}
	for _, c := range []struct{ observed, want string }{
		{fleetv1.InstanceStopping, "allocated iris-i1, free, quarantined"},
		{fleetv1.InstanceReclaiming, "reclaiming iris-i1, free, quarantined"},
		{fleetv1.InstanceReaped, "quarantined, free, quarantined"},
	} {
		observed(c.observed)
		if got := list(false); got != c.want {
			t.Errorf("%s: %s, want %s", c.observed, got, c.want)
		}
		if got := list(true); got != "free" {
			t.Errorf("%s: free are %s", c.observed, got)
		}
	}
}
