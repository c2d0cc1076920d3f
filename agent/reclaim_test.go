package agent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// heard is what a scheduler was told, in its order: facts that came before a report are in when the report is.
type heard struct {
	facts  *fleetv1.NodeFacts
	node   []string // reasons of the node's events
	inst   []string // and of the instance's
	state  string
	states []string
}

// listen takes in what the agent sends until ok is satisfied.
func (s *scheduler) listen(what string, h *heard, ok func() bool) {
	s.t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case h.facts = <-s.facts:
		case r := <-s.reports:
			for more := true; more; { // what came before the report
				select {
				case h.facts = <-s.facts:
				default:
					more = false
				}
			}
			for _, ev := range r.GetNodeEvents() {
				h.node = append(h.node, ev.GetReason())
			}
			for _, in := range r.GetInstances() {
				for _, ev := range in.GetEvents() {
					h.inst = append(h.inst, ev.GetReason())
				}
				h.state = in.GetObserved().GetState()
				h.states = append(h.states, h.state)
			}
		case <-deadline:
			s.t.Fatalf("not %s: %+v", what, h)
		}
	}
}

func (h *heard) quarantined(i int) bool {
	return h.facts != nil && h.facts.GetDevices()[i].GetQuarantined()
}

// again boots the node's agent with other settings.
func (n *node) again(fleet string, change func()) {
	n.end()
	n.fleet = fleet
	if change != nil {
		change()
	}
	n.boot(nil)
}

// A device on which something is left is known to be in quarantine before its holder is known to be gone, stays so
// over a restart of the agent, and is back once it's free.
func TestDeviceThatIsLeftInUse(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	<-s.hellos
	const leaks = "2xH100-80GB;0s:0:leak"
	n.again("2xH100-80GB", func() { n.cfg.ReclaimTimeout = time.Second })
	in := instance()
	in.Spec.DeviceIds = []string{(<-s.hellos).GetFacts().GetDevices()[0].GetId()}
	s.send(1, in)
	s.until("ready", ready)
	if err := n.accelerators.Inject(0, "leak"); err != nil {
		t.Fatal(err)
	}
	in.Desired.State = fleetv1.DesiredStopped
	s.send(2, in)
	h := &heard{}
	s.listen("reaped", h, func() bool { return h.state == fleetv1.InstanceReaped })
	if !slices.Contains(h.states, fleetv1.InstanceReclaiming) || !h.quarantined(0) || h.quarantined(1) {
		t.Errorf("states %v, facts %v", h.states, h.facts.GetDevices())
	}
	if d := h.facts.GetDevices()[0]; d.GetHealth() != fleetv1.Unhealthy || d.GetAction() != fleetv1.ActionDrain || d.GetHealthReason() != "quarantined: process 1000000 still uses it" {
		t.Errorf("device %v", d)
	}
	if !slices.Contains(h.inst, "DeviceQuarantined") {
		t.Errorf("events of the instance %v", h.inst)
	}
	s.listen("told of the node", h, func() bool { return slices.Contains(h.node, "DeviceQuarantined") })
	n.again(leaks, nil)
	if d := (<-s.hellos).GetFacts().GetDevices()[0]; !d.GetQuarantined() || !strings.Contains(d.GetHealthReason(), "process 1000000") {
		t.Errorf("after a restart: %v", d)
	}
	if err := n.accelerators.Inject(0, "recover"); err != nil {
		t.Fatal(err)
	}
	h = &heard{}
	s.listen("released", h, func() bool { return h.facts != nil && !h.quarantined(0) && slices.Contains(h.node, "DeviceRecovered") })
	if d := h.facts.GetDevices()[0]; d.GetHealth() != fleetv1.Healthy || d.GetAction() != "" {
		t.Errorf("device %v", d)
	}
	n.again(leaks, nil)
	if d := (<-s.hellos).GetFacts().GetDevices()[0]; d.GetQuarantined() {
		t.Errorf("its quarantine came back: %v", d)
	}
}

func TestDeclaredDevices(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	if f := (<-s.hellos).GetFacts(); len(f.GetDeviceShortfall()) > 0 {
		t.Errorf("nothing is declared: %v", f.GetDeviceShortfall())
	}
	n.again("2xH100-80GB", func() { n.cfg.DeclaredDevices = map[string]int{"fake": 3} })
	want := []string{"fewer devices than declared: 2 of fake where 3 are declared"}
	if f := (<-s.hellos).GetFacts(); !slices.Equal(f.GetDeviceShortfall(), want) {
		t.Errorf("shortfall %q, want %q", f.GetDeviceShortfall(), want)
	}
	h := &heard{}
	s.listen("told at the start", h, func() bool { return slices.Contains(h.node, "DevicesMissing") })
	n.again("2xH100-80GB", func() { n.cfg.DeclaredDevices = map[string]int{"fake": 2} })
	if f := (<-s.hellos).GetFacts(); len(f.GetDeviceShortfall()) > 0 {
		t.Errorf("all are there: %v", f.GetDeviceShortfall())
	}
	if err := n.accelerators.Inject(1, "lost"); err != nil {
		t.Fatal(err)
	}
	h = &heard{}
	s.listen("missed", h, func() bool {
		return slices.Contains(h.node, "DevicesMissing") && len(h.facts.GetDeviceShortfall()) == 1
	})
	if err := n.accelerators.Inject(1, "recover"); err != nil {
		t.Fatal(err)
	}
	s.listen("complete", h, func() bool {
		return slices.Contains(h.node, "DevicesComplete") && len(h.facts.GetDeviceShortfall()) == 0
	})
}

// A driver that takes its time has not lost its devices.
func TestSlowDriverMissesNoDevices(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	<-s.hellos
	n.again("2xH100-80GB;0s:all:unresponsive", func() { n.cfg.DeclaredDevices = map[string]int{"fake": 2} })
	if f := (<-s.hellos).GetFacts(); len(f.GetDevices())+len(f.GetDeviceShortfall()) > 0 {
		t.Errorf("before the driver has answered: %v, %q", f.GetDevices(), f.GetDeviceShortfall())
	}
	if err := n.accelerators.Inject(-1, "recover"); err != nil {
		t.Fatal(err)
	}
	if err := n.accelerators.Inject(0, "xid 63"); err != nil {
		t.Fatal(err)
	}
	h := &heard{}
	s.listen("told of the signal", h, func() bool { return slices.Contains(h.node, "DeviceSignal") && len(h.facts.GetDevices()) == 2 })
	if len(h.facts.GetDeviceShortfall()) > 0 || slices.Contains(h.node, "DevicesMissing") {
		t.Errorf("shortfall %q, events %v", h.facts.GetDeviceShortfall(), h.node)
	}
}

// A device that is only to be drained is told to who holds it.
func TestHolderHearsOfItsDevice(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	in := instance()
	in.Spec.DeviceIds = []string{(<-s.hellos).GetFacts().GetDevices()[1].GetId()}
	s.send(1, in)
	s.until("ready", ready)
	if err := n.accelerators.Inject(1, "ecc"); err != nil {
		t.Fatal(err)
	}
	h := &heard{}
	s.listen("told", h, func() bool { return slices.Contains(h.inst, "DeviceFailed") })
	if err := n.accelerators.Inject(1, "recover"); err != nil {
		t.Fatal(err)
	}
	s.listen("told", h, func() bool { return slices.Contains(h.inst, "DeviceRecovered") })
	if h.state != fleetv1.InstanceRunning || slices.Contains(h.node, "DeviceFailed") {
		t.Errorf("the instance is %s; events of the node alone: %v", h.state, h.node)
	}
}

// A device that went while no agent ran is left as one that is lost.
func TestDeviceGoesWhileNoAgentRuns(t *testing.T) {
	s := newScheduler(t, "127.0.0.1:0", "")
	n := newNode(t, s.addr)
	in := instance()
	in.Spec.DeviceIds = []string{(<-s.hellos).GetFacts().GetDevices()[1].GetId()}
	s.send(1, in)
	s.until("ready", ready)
	n.again("1xH100-80GB", nil)
	<-s.hellos
	o := s.until("failed", func(o *fleetv1.InstanceObserved) bool { return o.GetState() == fleetv1.InstanceFailed })
	if o.GetReady() || !strings.Contains(o.GetReason(), "not on this node any more") || len(n.rt.Containers()) > 0 {
		t.Errorf("instance %v, containers %v", o, n.rt.Containers())
	}
}
