package reconcile

import (
	"strings"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// instances is a ReadView of which only instances are asked for, by "PROJECT/NAME".
type instances struct{ state.ReadView }

func (instances) Instance(id string) *fleetv1.Instance {
	project, name, _ := strings.Cut(id, "/")
	return &fleetv1.Instance{Meta: &fleetv1.Meta{Name: name, Id: id, Project: project}, Spec: &fleetv1.InstanceSpec{Node: "n1"}}
}

func (instances) Node(string) *fleetv1.Node { return nil }

// Who is stopped for another project, and for whom, is not told by name.
func TestPreemptionAcrossProjects(t *testing.T) {
	w := &wish{svc: &fleetv1.Service{Meta: &fleetv1.Meta{Name: "high", Project: "a"}}, version: &fleetv1.ServiceVersion{Priority: 50}}
	part := preemption(instances{}, w, []string{"n1"}, []string{"a/own", "b/hidden", "c/hidden"}, time.Unix(0, 0))
	for i, want := range []string{"preempted by service high, which has priority 50", "preempted by a service of another project, which has priority 50",
		"preempted by a service of another project, which has priority 50"} {
		if p, e := part.GetPreemptions()[i], part.GetEvents()[i]; p.GetReason() != want || e.GetMessage() != want {
			t.Errorf("%s is told %q, %q", p.GetInstanceId(), p.GetReason(), e.GetMessage())
		}
	}
	if m := part.GetEvents()[3].GetMessage(); m != "3 instances of less priority are stopped to make room on n1: own, 2 of other projects" {
		t.Errorf("the service is told %q", m)
	}
}
