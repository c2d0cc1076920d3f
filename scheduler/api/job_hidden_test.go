package api

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// TestServicesOfJobsAreHidden: of a job's service nothing is seen but what its job shows.
func TestServicesOfJobsAreHidden(t *testing.T) {
	w := newWorldOf(t, 1)
	w.furnishJobs()
	j := w.mustSubmit(w.scoring(nil))
	hidden := &fleetv1.Service{Meta: &fleetv1.Meta{Name: "job.score", Id: "hidden", Project: "default", Account: "default", CreatedBy: "root"},
		Spec: &fleetv1.ServiceSpec{JobId: j.GetMeta().GetId(), Pool: "shared",
			Versions: []*fleetv1.ServiceVersion{{Model: "rows", ModelVersion: "0.0.2", Flavor: "cpu.huge", Instances: 1, Nodes: 1}}},
		Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning},
		Status:  &fleetv1.ServiceStatus{Versions: []*fleetv1.ServiceVersionStatus{{Model: "rows", ModelVersion: "0.0.2", WaitingReason: "no room"}}}}
	task := &fleetv1.Instance{Meta: meta("job.score-1"), Spec: &fleetv1.InstanceSpec{ServiceId: "hidden", ServiceName: "job.score", JobId: j.GetMeta().GetId(), Node: "n1"},
		Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning}}
	w.put(hidden, task)
	stored := w.store.View().Job("default", "score")
	after := proto.CloneOf(stored)
	after.Status.ServiceId = "hidden"
	w.write(state.Put(stored.GetMeta().GetRevision(), after))

	got, err := w.jobClient().GetJob(t.Context(), &fleetv1.GetJobRequest{Name: "score"})
	if err != nil || len(got.GetInstances()) != 1 || got.GetWaiting().GetSummary() == "" {
		t.Errorf("the job: %v, %v", got, err)
	}
	w.mustDeploy(iris(nil)) // the only one that root may have
	before := w.store.View().Index()
	list, err := w.services().ListServices(t.Context(), &fleetv1.ListServicesRequest{})
	if err != nil || len(list.GetServices()) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	for _, name := range []string{"job.score", "hidden"} {
		calls := map[string]error{}
		_, calls["show"] = w.services().GetService(t.Context(), &fleetv1.GetServiceRequest{Name: name})
		_, calls["endpoints"] = w.services().ListEndpoints(t.Context(), &fleetv1.ListEndpointsRequest{Name: name})
		_, calls["stop"] = w.services().StopService(t.Context(), &fleetv1.StopServiceRequest{Name: name})
		_, calls["scale"] = w.services().ScaleService(t.Context(), &fleetv1.ScaleServiceRequest{Name: name, Instances: 2})
		_, calls["delete"] = w.services().DeleteService(t.Context(), &fleetv1.DeleteServiceRequest{Name: name})
		_, calls["instances"] = fleetv1.NewInstanceServiceClient(w.conn).ListInstances(t.Context(), &fleetv1.ListInstancesRequest{Service: name})
		stream, err := w.services().WatchService(t.Context(), &fleetv1.WatchServiceRequest{Name: name})
		if err == nil {
			_, err = stream.Recv()
		}
		calls["watch"] = err
		for what, err := range calls {
			w.refused(what+" "+name, err, codes.NotFound, "", "there is no service", before)
			if err != nil && strings.Contains(err.Error(), "there are: iris, job") {
				t.Errorf("%s: the name is told: %v", what, err)
			}
		}
	}
	_, err = w.credentials().CreateApp(t.Context(), &fleetv1.CreateAppRequest{App: &fleetv1.App{Meta: &fleetv1.Meta{Name: "a"}, Services: []string{"job.score"}}})
	if err == nil || !strings.Contains(err.Error(), `no service "job.score"`) {
		t.Errorf("bind an app: %v", err)
	}
	_, err = w.deploy(iris(func(s *fleetv1.Service) { s.Spec.JobId = j.GetMeta().GetId() }), "")
	w.refused("deploy one", err, codes.InvalidArgument, "service.spec.job_id", "leave it out", before)
	instances, err := fleetv1.NewInstanceServiceClient(w.conn).ListInstances(t.Context(), &fleetv1.ListInstancesRequest{})
	if err != nil || len(instances.GetInstances()) != 1 {
		t.Errorf("the instances are seen: %v, %v", instances, err)
	}
	for what, do := range map[string]func() error{
		"model": func() error {
			_, err := fleetv1.NewModelServiceClient(w.conn).DeleteModel(t.Context(), &fleetv1.DeleteModelRequest{Name: "rows", Version: "0.0.2"})
			return err
		},
		"pool": func() error {
			_, err := fleetv1.NewPoolServiceClient(w.conn).DeletePool(t.Context(), &fleetv1.DeletePoolRequest{Name: "shared"})
			return err
		},
	} {
		w.refused("delete its "+what, do(), codes.FailedPrecondition, "", "job default/score uses it: delete it first", before)
	}
}
