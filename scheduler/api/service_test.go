package api

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

func TestDeployCompletesTheSpec(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	resp, err := w.deploy(iris(nil), "r1")
	if err != nil {
		t.Fatal(err)
	}
	s := resp.GetService()
	want := &fleetv1.ServiceSpec{Pool: "own", Network: "bridge", MaxInvalidInstances: 1, GracePeriodSeconds: proto.Int32(30),
		OnDisconnect: &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(60), Keep: proto.Bool(true)}, Versions: []*fleetv1.ServiceVersion{
			{Model: "iris", ModelVersion: "0.0.2", Weight: 100, Flavor: "cpu.1u1g", Instances: 1, TimeoutMinutes: 20, Nodes: 1}}}
	if !proto.Equal(s.GetSpec(), want) {
		t.Errorf("spec %v\nwant %v", s.GetSpec(), want)
	}
	m := s.GetMeta()
	if m.GetGeneration() != 1 || m.GetCreatedBy() != "root" || m.GetProject() != "default" || m.GetId() == "" || m.GetRevision() == 0 ||
		!m.GetCreateTime().AsTime().Equal(start) {
		t.Errorf("meta %v", m)
	}
	if s.GetDesired().GetState() != "running" || s.GetStatus().GetState() != "Deploying" || !resp.GetChanged() {
		t.Errorf("desired %v, status %v, changed %v", s.GetDesired(), s.GetStatus(), resp.GetChanged())
	}
	index := w.store.View().Index()
	for _, id := range []string{"r1", ""} {
		again, err := w.deploy(iris(nil), id)
		if err != nil || again.GetService().GetMeta().GetId() != m.GetId() || w.store.View().Index() != index {
			t.Errorf("again with request ID %q: %v, %v", id, again, err)
		}
		if changed := again.GetChanged(); changed != (id == "r1") {
			t.Errorf("again with request ID %q: changed is %v", id, changed)
		}
	}
}

func TestDeployRefusals(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	before := w.store.View().Index()
	v0 := func(edit func(*fleetv1.ServiceVersion)) func(*fleetv1.Service) {
		return func(s *fleetv1.Service) { edit(s.Spec.Versions[0]) }
	}
	mount := func(source, path string) func(*fleetv1.Service) {
		return v0(func(v *fleetv1.ServiceVersion) { v.Mounts = []*fleetv1.Mount{{Source: source, Path: path}} })
	}
	const invalid, precondition, absent = codes.InvalidArgument, codes.FailedPrecondition, codes.NotFound
	for _, c := range []struct {
		name, field, words string
		code               codes.Code
		edit               func(*fleetv1.Service)
	}{
		{"no name", "service.meta.name", "missing", invalid, func(s *fleetv1.Service) { s.Meta.Name = "" }},
		{"long name", "service.meta.name", "65 characters", invalid, func(s *fleetv1.Service) { s.Meta.Name = strings.Repeat("a", 65) }},
		{"dot in name", "service.meta.name", `'.'`, invalid, func(s *fleetv1.Service) { s.Meta.Name = "a.b" }},
		{"umlaut in name", "service.meta.name", `'ü'`, invalid, func(s *fleetv1.Service) { s.Meta.Name = "grün" }},
		{"project", "service.meta.project", `' '`, invalid, func(s *fleetv1.Service) { s.Meta.Project = "a b" }},
		{"tag", `service.meta.tags[""]`, "key", invalid, func(s *fleetv1.Service) { s.Meta.Tags = map[string]string{"": "x"} }},
		{"description", "service.spec.description", "101", invalid, func(s *fleetv1.Service) { s.Spec.Description = strings.Repeat("é", 101) }},
		{"no pool", "service.spec.pool", "missing", invalid, func(s *fleetv1.Service) { s.Spec.Pool = "" }},
		{"unknown pool", "service.spec.pool", `did you mean "own"`, absent, func(s *fleetv1.Service) { s.Spec.Pool = "owm" }},
		{"another account's pool", "", `there is no pool "theirs"; there are: own, shared`, codes.NotFound, func(s *fleetv1.Service) { s.Spec.Pool = "theirs" }},
		{"network", "service.spec.network", "bridge", invalid, func(s *fleetv1.Service) { s.Spec.Network = "none" }},
		{"auto stop", "service.spec.auto_stop_hours", "0–24", invalid, func(s *fleetv1.Service) { s.Spec.AutoStopHours = 25 }},
		{"max invalid", "service.spec.max_invalid_instances", "-1", invalid, func(s *fleetv1.Service) { s.Spec.MaxInvalidInstances = -1 }},
		{"grace", "service.spec.grace_period_seconds", "0–180", invalid, func(s *fleetv1.Service) { s.Spec.GracePeriodSeconds = proto.Int32(181) }},
		{"on_disconnect", "service.spec.on_disconnect.replace_after_seconds", "-1", invalid, func(s *fleetv1.Service) {
			s.Spec.OnDisconnect = &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(-1)}
		}},
		{"said twice", "service.spec.reschedule_after_seconds", "leave it out", invalid, func(s *fleetv1.Service) {
			s.Spec.OnDisconnect, s.Spec.RescheduleAfterSeconds = &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(5)}, proto.Int32(6)
		}},
		{"no versions", "service.spec.versions", "0 entries", invalid, func(s *fleetv1.Service) { s.Spec.Versions = nil }},
		{"weight", "service.spec.versions[0].weight", "120 is out of range 0–100; weights must add up to 100", invalid,
			v0(func(v *fleetv1.ServiceVersion) { v.Weight = 120 })},
		{"weights", "service.spec.versions", "add up to 99", invalid, func(s *fleetv1.Service) {
			s.Spec.Versions = []*fleetv1.ServiceVersion{{Model: "iris", ModelVersion: "0.0.1", Flavor: "cpu.1u1g", Weight: 49},
				{Model: "iris", ModelVersion: "0.0.2", Flavor: "cpu.1u1g", Weight: 50}}
		}},
		{"one weight below", "service.spec.versions", "add up to 50", invalid, v0(func(v *fleetv1.ServiceVersion) { v.Weight = 50 })},
		{"same version twice", "service.spec.versions[1]", "same model version", invalid, func(s *fleetv1.Service) {
			s.Spec.Versions = []*fleetv1.ServiceVersion{{Model: "iris", ModelVersion: "0.0.2", Flavor: "cpu.1u1g", Weight: 50},
				{Model: "iris", Flavor: "cpu.1u1g", Weight: 50}}
		}},
		{"instances", "service.spec.versions[0].instances", "-1", invalid, v0(func(v *fleetv1.ServiceVersion) { v.Instances = -1 })},
		{"many instances", "service.spec.versions[0].instances", "1–100000", invalid, v0(func(v *fleetv1.ServiceVersion) { v.Instances = 100001 })},
		{"timeout", "service.spec.versions[0].timeout_minutes", "3–120", invalid, v0(func(v *fleetv1.ServiceVersion) { v.TimeoutMinutes = 2 })},
		{"version form", "service.spec.versions[0].model_version", "x.y.z", invalid, v0(func(v *fleetv1.ServiceVersion) { v.ModelVersion = "1.0" })},
		{"env", `service.spec.versions[0].env["1A"]`, "digit", invalid, v0(func(v *fleetv1.ServiceVersion) { v.Env = map[string]string{"1A": ""} })},
		{"PORT with host network", `service.spec.versions[0].env["PORT"]`, "set by the node", invalid, func(s *fleetv1.Service) {
			s.Spec.Network, s.Spec.Versions[0].Env = "host", map[string]string{"PORT": "1"}
		}},
		{"limits", "service.spec.versions[0].limits.pids", "-1", invalid, v0(func(v *fleetv1.ServiceVersion) { v.Limits = &fleetv1.Limits{Pids: -1} })},
		{"no model", "service.spec.versions[0].model", "missing", invalid, v0(func(v *fleetv1.ServiceVersion) { v.Model = "" })},
		{"unknown model", "service.spec.versions[0].model", `did you mean "iris"`, absent, v0(func(v *fleetv1.ServiceVersion) { v.Model = "iriss" })},
		{"unknown version", "service.spec.versions[0].model_version", "there are: 0.0.1, 0.0.2", absent, v0(func(v *fleetv1.ServiceVersion) { v.ModelVersion = "777.0.0" })},
		{"unknown flavor", "service.spec.versions[0].flavor", `did you mean "gpu.1"`, absent, v0(func(v *fleetv1.ServiceVersion) { v.Flavor = "gpu.2" })},
		{"batch model", "service.spec.versions[0].model", "not as real-time", precondition, v0(func(v *fleetv1.ServiceVersion) { v.Model = "batch" })},
		{"abnormal model", "service.spec.versions[0].model_version", "Abnormal (gone)", precondition, v0(func(v *fleetv1.ServiceVersion) { v.Model = "broken" })},
		{"no accelerator", "service.spec.versions[0].flavor", "no accelerator", precondition, v0(func(v *fleetv1.ServiceVersion) { v.Model = "needy" })},
		{"other accelerator", "service.spec.versions[0].flavor", "needs one of nvidia", precondition, v0(func(v *fleetv1.ServiceVersion) { v.Model, v.Flavor = "needy", "gpu.1" })},
		{"architecture", "service.spec.versions[0].flavor", "is for arm64", precondition, v0(func(v *fleetv1.ServiceVersion) { v.Model, v.Flavor = "x86", "arm" })},
		{"never fits", "service.spec.versions[0].flavor", "can ever hold", precondition, v0(func(v *fleetv1.ServiceVersion) { v.Flavor = "cpu.huge" })},
		{"mount onto /", "service.spec.versions[0].mounts[0].path", `"/"`, invalid, mount("/data/models", "/.")},
		{"mount onto /proc", "service.spec.versions[0].mounts[0].path", "system directory /proc", invalid, mount("/data/models", "/proc")},
		{"mount below /dev", "service.spec.versions[0].mounts[0].path", "system directory /dev", invalid, mount("/data/models", "//dev//shm")},
		{"mount onto /var/run", "service.spec.versions[0].mounts[0].path", "system directory", invalid, mount("/data/models", "/var/run/")},
		{"mount path with parent", "service.spec.versions[0].mounts[0].path", "..", invalid, mount("/data/models", "/a/../etc")},
		{"mount path relative", "service.spec.versions[0].mounts[0].path", "start with", invalid, mount("/data/models", "models")},
		{"mount path character", "service.spec.versions[0].mounts[0].path", `':'`, invalid, mount("/data/models", "/a:b")},
		{"mount path length", "service.spec.versions[0].mounts[0].path", "1025", invalid, mount("/data/models", "/"+strings.Repeat("a", 1024))},
		{"mount source with parent", "service.spec.versions[0].mounts[0].source", "..", invalid, mount("/data/models/../x", "/models")},
		{"mount not allowed", "service.spec.versions[0].mounts[0].source", "below /data/models", precondition, mount("/data/models2", "/models")},
		{"mount in public pool", "service.spec.versions[0].mounts", "dedicated pools only", precondition, func(s *fleetv1.Service) {
			mount("/data/models", "/models")(s)
			s.Spec.Pool = "shared"
		}},
		{"no spec", "service.spec", "missing", invalid, func(s *fleetv1.Service) { s.Spec = nil }},
	} {
		_, err := w.deploy(iris(c.edit), "refused-"+c.name)
		w.refused(c.name, err, c.code, c.field, c.words, before)
	}
	if _, err := w.deploy(iris(mount("/data/models/iris", "/models")), ""); err != nil {
		t.Errorf("allowed mount: %v", err)
	}
}

// A flavor that only full nodes could hold is admitted and waits; one that none can ever hold is not.
func TestDeployOnAFullNode(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.put(&fleetv1.Instance{Meta: meta("full"), Spec: &fleetv1.InstanceSpec{Node: "n1", ServiceId: "x", CpuMillis: 4000},
		Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning}})
	if s := w.mustDeploy(iris(nil)); s.GetStatus().GetState() != fleetv1.ServiceDeploying {
		t.Errorf("state %q", s.GetStatus().GetState())
	}
}

func TestRedeploy(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.mustDeploy(iris(nil))
	w.setState("iris", fleetv1.ServiceRunning)
	w.put(model("iris", "0.0.3", nil)) // "latest" stays what was deployed
	before := w.store.View().Index()
	if resp, err := w.deploy(iris(nil), ""); err != nil || resp.GetChanged() || w.store.View().Index() != before {
		t.Errorf("the same again: %v, %v", resp, err)
	}
	_, err := w.deploy(iris(func(s *fleetv1.Service) { s.Spec.Versions[0].ModelVersion = "0.0.3" }), "")
	w.refused("other version", err, codes.FailedPrecondition, "", `spec.versions[0].model_version ("0.0.2" → "0.0.3"): updating a running service isn't available yet`, before)
	_, err = w.deploy(iris(func(s *fleetv1.Service) { s.Meta.Tags = map[string]string{"a": "b"} }), "")
	w.refused("tags", err, codes.FailedPrecondition, "", "meta.tags", before)
	resp, err := w.deploy(iris(func(s *fleetv1.Service) { s.Spec.Versions[0].Instances = 3 }), "")
	if err != nil || !resp.GetChanged() || resp.GetService().GetMeta().GetGeneration() != 2 || resp.GetService().GetSpec().GetVersions()[0].GetInstances() != 3 {
		t.Fatalf("scaled: %v, %v", resp, err)
	}
	if e := w.events[len(w.events)-1]; e.GetReason() != "Scaled" || !strings.Contains(e.GetMessage(), "root scaled iris 0.0.2 from 1 to 3") {
		t.Errorf("event %v", e)
	}
	if _, err := w.services().DeleteService(t.Context(), &fleetv1.DeleteServiceRequest{Name: "iris"}); err != nil {
		t.Fatal(err)
	}
	before = w.store.View().Index()
	_, err = w.deploy(iris(nil), "")
	w.refused("being deleted", err, codes.FailedPrecondition, "", "is being deleted", before)
}

func TestQuota(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	for i := range 3 {
		w.mustDeploy(iris(func(s *fleetv1.Service) { s.Meta.Name = fmt.Sprint("s", i) }))
	}
	_, err := w.deploy(iris(nil), "")
	if s := status.Convert(err); s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), "3 real-time services") {
		t.Errorf("got %v", err)
	}
	if w.store.View().Service(fleetv1.Default, "iris") != nil {
		t.Error("it was made all the same")
	}
	if e := w.events[len(w.events)-1]; e.GetReason() != "QuotaExceeded" || e.GetType() != fleetv1.EventWarning {
		t.Errorf("event %v", e)
	}
	if _, err := w.deploy(iris(func(s *fleetv1.Service) { s.Meta.Name = "s1" }), ""); err != nil {
		t.Errorf("deploying what stands needs no place: %v", err)
	}
}

// TestOperations goes through SPEC §3's table of states and operations.
func TestOperations(t *testing.T) {
	table := map[string]string{ // start stop restart update delete
		fleetv1.ServiceDeploying: "no yes no no yes",
		fleetv1.ServiceRunning:   "no yes yes yes yes",
		fleetv1.ServiceAlarm:     "no yes yes yes yes",
		fleetv1.ServiceAbnormal:  "yes yes no yes yes",
		fleetv1.ServiceStopping:  "no no no no yes",
		fleetv1.ServiceStopped:   "yes no no yes yes",
	}
	ctx := t.Context()
	calls := []struct {
		name string
		do   func(fleetv1.ServiceServiceClient) error
		done func(*fleetv1.Service) bool
	}{
		{"start", func(c fleetv1.ServiceServiceClient) error {
			_, err := c.StartService(ctx, &fleetv1.StartServiceRequest{Name: "iris", RequestId: "op"})
			return err
		}, func(s *fleetv1.Service) bool { return s.GetDesired().GetState() == fleetv1.DesiredRunning }},
		{"stop", func(c fleetv1.ServiceServiceClient) error {
			_, err := c.StopService(ctx, &fleetv1.StopServiceRequest{Name: "iris", RequestId: "op"})
			return err
		}, func(s *fleetv1.Service) bool { return s.GetDesired().GetState() == fleetv1.DesiredStopped }},
		{"restart", func(c fleetv1.ServiceServiceClient) error {
			_, err := c.RestartService(ctx, &fleetv1.RestartServiceRequest{Name: "iris", RequestId: "op"})
			return err
		}, func(s *fleetv1.Service) bool { return s.GetDesired().GetRestart() == 1 }},
		{"scale", func(c fleetv1.ServiceServiceClient) error {
			_, err := c.ScaleService(ctx, &fleetv1.ScaleServiceRequest{Name: "iris", Instances: 2, RequestId: "op"})
			return err
		}, func(s *fleetv1.Service) bool {
			return s.GetSpec().GetVersions()[0].GetInstances() == 2 && s.GetMeta().GetGeneration() == 2
		}},
		{"delete", func(c fleetv1.ServiceServiceClient) error {
			_, err := c.DeleteService(ctx, &fleetv1.DeleteServiceRequest{Name: "iris", RequestId: "op"})
			return err
		}, func(s *fleetv1.Service) bool { return s.GetDesired().GetState() == fleetv1.DesiredDeleted }},
	}
	for serviceState, row := range table {
		for i, answer := range strings.Fields(row) {
			call := calls[i]
			t.Run(serviceState+"/"+call.name, func(t *testing.T) {
				w := newWorld(t)
				w.furnish()
				w.mustDeploy(iris(nil))
				if serviceState == fleetv1.ServiceStopping || serviceState == fleetv1.ServiceStopped {
					s := w.store.View().Service(fleetv1.Default, "iris")
					after := proto.CloneOf(s)
					after.Desired.State = fleetv1.DesiredStopped
					w.write(state.Put(s.GetMeta().GetRevision(), after))
				}
				w.setState("iris", serviceState)
				before := w.store.View().Index()
				err := call.do(w.services())
				if answer == "no" {
					w.refused(call.name, err, codes.FailedPrecondition, "", `service "iris" is `+serviceState, before)
					return
				}
				if err != nil || !call.done(w.store.View().Service(fleetv1.Default, "iris")) {
					t.Fatalf("%v; %v", err, w.store.View().Service(fleetv1.Default, "iris"))
				}
				// The same request again finds another state, and must be answered all the same.
				after := w.store.View().Index()
				if err := call.do(w.services()); err != nil || w.store.View().Index() != after {
					t.Errorf("repeated: %v", err)
				}
			})
		}
	}
}

func TestRequestIDOfAnotherRequest(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	if _, err := w.deploy(iris(nil), "r"); err != nil {
		t.Fatal(err)
	}
	before := w.store.View().Index()
	_, err := w.deploy(iris(func(s *fleetv1.Service) { s.Meta.Name = "other" }), "r")
	w.refused("other body", err, codes.FailedPrecondition, "", `request ID "r" was used`, before)
	_, err = w.services().StopService(t.Context(), &fleetv1.StopServiceRequest{Name: "iris", RequestId: "r"})
	w.refused("other method", err, codes.FailedPrecondition, "", `request ID "r" was used`, before)
	_, err = w.services().StopService(t.Context(), &fleetv1.StopServiceRequest{Name: "iris", RequestId: strings.Repeat("x", 129)})
	w.refused("long ID", err, codes.InvalidArgument, "request_id", "129", before)
}

func TestConflictIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.mustDeploy(iris(nil))
	w.before = func() { w.setState("iris", fleetv1.ServiceRunning) } // the service loop comes in between
	if _, err := w.services().StopService(t.Context(), &fleetv1.StopServiceRequest{Name: "iris"}); err != nil {
		t.Fatal(err)
	}
	if s := w.store.View().Service(fleetv1.Default, "iris"); s.GetDesired().GetState() != fleetv1.DesiredStopped || s.GetStatus().GetState() != fleetv1.ServiceRunning {
		t.Errorf("%v", s)
	}
}

func TestFaultsOfTheLog(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.fault = fmt.Errorf("propose: %w", raftstore.ErrUnknown)
	_, err := w.deploy(iris(nil), "lost")
	if s := status.Convert(err); s.Code() != codes.Unknown || !strings.Contains(s.Message(), "same request ID") {
		t.Errorf("outcome unknown: %v", err)
	}
	if resp, err := w.deploy(iris(nil), "lost"); err != nil || resp.GetService() == nil {
		t.Errorf("sent again: %v", err)
	}
	w.fault = fmt.Errorf("propose: %w", raftstore.ErrDiskFull)
	if _, err := w.deploy(iris(nil), "full"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("disk full: %v", err)
	}
	w.fault = &raftstore.NotLeaderError{Leader: "10.0.0.9:7402"}
	_, err = w.services().DeleteService(t.Context(), &fleetv1.DeleteServiceRequest{Name: "iris"})
	if s := status.Convert(err); s.Code() != codes.Unavailable || !strings.Contains(s.Message(), "not the leader: ask another one") || strings.Contains(s.Message(), "7402") {
		t.Errorf("not the leader: %v", err)
	}
}

func TestWatchService(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	id := w.mustDeploy(iris(nil)).GetMeta().GetId()
	stream, err := w.services().WatchService(t.Context(), &fleetv1.WatchServiceRequest{Name: "iris"})
	if err != nil {
		t.Fatal(err)
	}
	next := func(what string, ok func(*fleetv1.WatchServiceResponse) bool) {
		t.Helper()
		for {
			resp, err := stream.Recv()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if ok(resp) {
				return
			}
		}
	}
	next("first", func(r *fleetv1.WatchServiceResponse) bool {
		return r.GetService().GetStatus().GetState() == "Deploying"
	})
	w.put(&fleetv1.Instance{Meta: &fleetv1.Meta{Id: "i1", Name: "iris-i1", Project: fleetv1.Default}, Spec: &fleetv1.InstanceSpec{ServiceId: id, Node: "n1"}})
	next("instance", func(r *fleetv1.WatchServiceResponse) bool { return len(r.GetInstances()) == 1 })
	w.pulled("i1", 7)
	next("pull", func(r *fleetv1.WatchServiceResponse) bool {
		return len(r.GetPulls()) == 1 && r.GetPulls()[0].GetDoneBytes() == 7
	})
	w.setState("iris", fleetv1.ServiceRunning)
	next("state", func(r *fleetv1.WatchServiceResponse) bool { return r.GetService().GetStatus().GetState() == "Running" })
	w.write(state.Delete(w.store.View().Instance("i1").GetMeta().GetRevision(), state.InstanceKey("i1")))
	w.write(state.Delete(w.store.View().ServiceByID(id).GetMeta().GetRevision(), state.ServiceKey(fleetv1.Default, "iris")))
	for err == nil {
		_, err = stream.Recv()
	}
	if s := status.Convert(err); s.Code() != codes.NotFound || !strings.Contains(s.Message(), "is gone") {
		t.Errorf("the end: %v", err)
	}
}

func TestListServicesByTags(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.mustDeploy(iris(func(s *fleetv1.Service) { s.Meta.Tags = map[string]string{"team": "a", "tier": "1"} }))
	for tags, want := range map[string]int{"team=a": 1, "team=b": 0, "": 1, "team=a,tier=1": 1, "team=a,tier=2": 0} {
		filter := map[string]string{}
		for pair := range strings.SplitSeq(tags, ",") {
			if k, v, ok := strings.Cut(pair, "="); ok {
				filter[k] = v
			}
		}
		resp, err := w.services().ListServices(t.Context(), &fleetv1.ListServicesRequest{Tags: filter})
		if err != nil || len(resp.GetServices()) != want {
			t.Errorf("%q: %d services, %v; want %d", tags, len(resp.GetServices()), err, want)
		}
	}
	if resp, err := w.services().ListEndpoints(t.Context(), &fleetv1.ListEndpointsRequest{Name: "iris"}); err != nil || len(resp.GetEndpoints()) != 1 {
		t.Errorf("endpoints: %v, %v", resp, err)
	}
}

// Older clients send reschedule_after_seconds, and older schedulers have stored it: it means the same.
func TestRescheduleAfterIsUnderstood(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	resp, err := w.deploy(iris(func(s *fleetv1.Service) { s.Spec.RescheduleAfterSeconds = proto.Int32(5) }), "")
	if err != nil {
		t.Fatal(err)
	}
	if s := resp.GetService().GetSpec(); s.RescheduleAfterSeconds != nil || s.GetOnDisconnect().GetReplaceAfterSeconds() != 5 || !s.GetOnDisconnect().GetKeep() {
		t.Errorf("deployed %v", s)
	}
	older := proto.CloneOf(w.store.View().Service("default", "iris"))
	older.Spec.OnDisconnect, older.Spec.RescheduleAfterSeconds = nil, proto.Int32(5)
	w.write(state.Put(older.GetMeta().GetRevision(), older))
	got, err := w.services().GetService(t.Context(), &fleetv1.GetServiceRequest{Name: "iris"})
	if err != nil || got.GetService().GetSpec().GetOnDisconnect().GetReplaceAfterSeconds() != 5 || got.GetService().GetSpec().RescheduleAfterSeconds != nil {
		t.Errorf("shown as %v, %v", got.GetService().GetSpec(), err)
	}
	again, err := w.deploy(iris(func(s *fleetv1.Service) {
		s.Spec.OnDisconnect = &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(5)}
	}), "")
	if err != nil || again.GetChanged() {
		t.Errorf("the same in new words: changed %t, %v", again.GetChanged(), err)
	}
}
