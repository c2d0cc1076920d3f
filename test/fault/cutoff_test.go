package fault

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

// An agent without a scheduler stops what is not to be kept, when its time has come, also when it was killed and started
// again meanwhile: what it was told is in its journal. What is kept keeps its process.
func TestAnAgentWithoutASchedulerStopsWhatIsNotKept(t *testing.T) {
	t.Parallel()
	const after = 6 * time.Second
	m := machine.Start(t, machine.Options{})
	before := identities(t, m.DeployRunning(machine.Deployment{Name: "kept"}))
	fenced := m.DeployRunning(machine.Deployment{Name: "fenced",
		OnDisconnect: &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(int32(after / time.Second)), Keep: proto.Bool(false)}})[0]
	m.Scheduler.Kill()
	lost := time.Now()
	m.Within(limit, "the agent has noticed, and journalled when", func() error {
		if !strings.Contains(m.Agent.Log(), "no session with a scheduler") {
			return errors.New("it takes the scheduler for connected")
		}
		return nil
	})
	m.Agent.Kill()
	m.LaunchAgent()
	m.Within(after+20*time.Second, "the agent stops the instance that is not kept", func() error {
		if list := m.Containers(); len(list) != 1 {
			return fmt.Errorf("there are %d containers", len(list))
		}
		return nil
	})
	if took := time.Since(lost); took < after-time.Second {
		t.Errorf("stopped after %s, before its time", took)
	}
	if err := identitiesNow(t, before); err != nil {
		t.Errorf("the instance that is kept: %v", err)
	}
	m.StartScheduler()
	m.WaitService(limit, "kept", fleetv1.ServiceRunning)
	m.WaitEvent(limit, "fenced", "InstanceCutOff", "no scheduler")
	m.Within(limit, "another instance takes its place", func() error {
		for _, i := range m.Instances("fenced") {
			if i.GetMeta().GetId() != fenced.GetMeta().GetId() && i.GetObserved().GetReady() {
				return nil
			}
		}
		return fmt.Errorf("there are %v", m.Instances("fenced"))
	})
	if err := identitiesNow(t, before); err != nil {
		t.Errorf("the instance that is kept: %v", err)
	}
}

// identitiesNow says which of the processes isn't the one that it was.
func identitiesNow(t *testing.T, before map[string]string) error {
	t.Helper()
	for id, was := range before {
		var pid int
		if _, err := fmt.Sscanf(was, "%d@", &pid); err != nil {
			return err
		}
		now, err := startTime(pid)
		if err != nil {
			return err
		}
		if fmt.Sprintf("%d@%s", pid, now) != was {
			return fmt.Errorf("instance %s had the process %s, now %d@%s", id, was, pid, now)
		}
	}
	return nil
}
