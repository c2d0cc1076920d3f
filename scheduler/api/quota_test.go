package api

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

func (w *world) quotas() fleetv1.QuotaServiceClient { return fleetv1.NewQuotaServiceClient(w.conn) }

func quotaOf(project string, edit func(*fleetv1.QuotaSpec)) *fleetv1.Quota {
	q := &fleetv1.Quota{Meta: &fleetv1.Meta{Name: project}, Spec: &fleetv1.QuotaSpec{}}
	edit(q.Spec)
	return q
}

func (w *world) setQuota(edit func(*fleetv1.QuotaSpec)) {
	w.t.Helper()
	if _, err := w.quotas().SetQuota(w.t.Context(), &fleetv1.SetQuotaRequest{Quota: quotaOf("default", edit)}); err != nil {
		w.t.Fatal(err)
	}
}

func instances(n int64) func(*fleetv1.QuotaSpec) {
	return func(s *fleetv1.QuotaSpec) { s.Instances = proto.Int64(n) }
}

func TestQuotaService(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	ctx, c := t.Context(), w.quotas()
	limits := func(s *fleetv1.QuotaSpec) {
		s.CpuMillis = proto.Int64(9000)
		s.Devices = []*fleetv1.DeviceQuota{{Model: "H100*", Count: 2}, {Model: "*", Count: 0}}
	}
	req := &fleetv1.SetQuotaRequest{Quota: quotaOf("default", limits), RequestId: "q1"}
	first, err := c.SetQuota(ctx, req)
	if err != nil || first.GetQuota().GetMeta().GetGeneration() != 1 || first.GetQuota().GetMeta().GetProject() != "default" || first.GetQuota().GetMeta().GetCreatedBy() != "root" {
		t.Fatalf("%v, %v", first, err)
	}
	w.put(&fleetv1.Instance{Meta: meta("i1"), Spec: &fleetv1.InstanceSpec{Node: "n1", CpuMillis: 1500, MemoryBytes: 7, DeviceIds: []string{"GPU-0"}, DeviceModels: []string{"H100-80GB"}}})
	index := w.store.View().Index()
	for _, id := range []string{"q1", ""} { // again changes nothing
		req.RequestId = id
		if _, err := c.SetQuota(ctx, req); err != nil || w.store.View().Index() != index {
			t.Errorf("again with request ID %q: %v, index %d → %d", id, err, index, w.store.View().Index())
		}
	}
	got, err := c.GetQuota(ctx, &fleetv1.GetQuotaRequest{})
	want := &fleetv1.QuotaUsage{CpuMillis: 1500, MemoryBytes: 7, Instances: 1, Devices: []*fleetv1.DeviceQuota{{Model: "H100*", Count: 1}, {Model: "*", Count: 1}}}
	if err != nil || !proto.Equal(got.GetQuota().GetUsage(), want) {
		t.Errorf("%v, %v", got, err)
	}
	if list, err := c.ListQuotas(ctx, &fleetv1.ListQuotasRequest{}); err != nil || len(list.GetQuotas()) != 1 || list.GetQuotas()[0].GetUsage().GetInstances() != 1 {
		t.Errorf("%v, %v", list, err)
	}
	// A change keeps who made it, and raises the generation; one that comes between is no obstacle.
	w.before = func() {
		q := proto.CloneOf(w.store.View().Quota("default"))
		q.Meta.Tags = map[string]string{"by": "another"}
		w.write(state.Put(q.GetMeta().GetRevision(), q))
	}
	second, err := c.SetQuota(ctx, &fleetv1.SetQuotaRequest{Quota: quotaOf("default", instances(0))})
	if q := second.GetQuota(); err != nil || q.GetMeta().GetGeneration() != 2 || q.GetMeta().GetId() != first.GetQuota().GetMeta().GetId() || q.GetSpec().CpuMillis != nil || q.GetSpec().Instances == nil {
		t.Errorf("%v, %v", q, err)
	}
	index = w.store.View().Index()
	_, err = c.GetQuota(ctx, &fleetv1.GetQuotaRequest{Project: "default1"})
	w.refused("absent", err, codes.NotFound, "", `did you mean "default"?`, index)
	_, err = c.DeleteQuota(ctx, &fleetv1.DeleteQuotaRequest{})
	w.refused("nothing named", err, codes.InvalidArgument, "project", "missing", index)
	for range 2 {
		if _, err := c.DeleteQuota(ctx, &fleetv1.DeleteQuotaRequest{Project: "default", RequestId: "gone"}); err != nil || w.store.View().Quota("default") != nil {
			t.Errorf("delete: %v", err)
		}
	}
	_, err = c.DeleteQuota(ctx, &fleetv1.DeleteQuotaRequest{Project: "default"})
	w.refused("gone", err, codes.NotFound, "", "none exists yet", w.store.View().Index())
}

func TestQuotaRefusals(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		field, words string
		edit         func(*fleetv1.Quota)
	}{
		{"quota.meta.name", "missing", func(q *fleetv1.Quota) { q.Meta.Name = "" }},
		{"quota.meta.name", "' '", func(q *fleetv1.Quota) { q.Meta.Name = "a b" }},
		{"quota.meta.project", "is not the quota's name", func(q *fleetv1.Quota) { q.Meta.Project = "other" }},
		{"quota.spec", "limits nothing", func(q *fleetv1.Quota) { q.Spec = nil }},
		{"quota.spec.cpu_millis", "-1", func(q *fleetv1.Quota) { q.Spec.CpuMillis = proto.Int64(-1) }},
		{"quota.spec.memory_bytes", "-1", func(q *fleetv1.Quota) { q.Spec.MemoryBytes = proto.Int64(-1) }},
		{"quota.spec.instances", "-1", func(q *fleetv1.Quota) { q.Spec.Instances = proto.Int64(-1) }},
		{"quota.spec.devices[0].model", `"*" stands for every model`, func(q *fleetv1.Quota) { q.Spec.Devices = []*fleetv1.DeviceQuota{{Count: 1}} }},
		{"quota.spec.devices[0].model", "neither a model nor a pattern", func(q *fleetv1.Quota) { q.Spec.Devices = []*fleetv1.DeviceQuota{{Model: "["}} }},
		{"quota.spec.devices[0].count", "-2", func(q *fleetv1.Quota) { q.Spec.Devices = []*fleetv1.DeviceQuota{{Model: "a", Count: -2}} }},
		{"quota.spec.devices[1].model", "by devices[0] already", func(q *fleetv1.Quota) { q.Spec.Devices = []*fleetv1.DeviceQuota{{Model: "a"}, {Model: "a"}} }},
		{"quota.spec.devices", "65 entries", func(q *fleetv1.Quota) {
			for i := range 65 {
				q.Spec.Devices = append(q.Spec.Devices, &fleetv1.DeviceQuota{Model: fmt.Sprint("m", i)})
			}
		}},
	} {
		q := quotaOf("default", instances(1))
		c.edit(q)
		_, err := w.quotas().SetQuota(t.Context(), &fleetv1.SetQuotaRequest{Quota: q})
		w.refused(c.field+" "+c.words, err, codes.InvalidArgument, c.field, c.words, 0)
	}
}

// exceeded checks a refusal by the project's quota, and the event that tells of it.
func (w *world) exceeded(what string, err error, words string) {
	w.t.Helper()
	s := status.Convert(err)
	if s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), words) || strings.Contains(s.Message(), "\n") {
		w.t.Errorf("%s: got %v %q; want %q", what, s.Code(), s.Message(), words)
	}
	if e := w.events[len(w.events)-1]; e.GetReason() != "QuotaExceeded" || e.GetType() != fleetv1.EventWarning || e.GetMessage() != s.Message() {
		w.t.Errorf("%s: event %v", what, e)
	}
}

func TestAdmissionByProjectQuota(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	ctx := t.Context()
	called := func(name string, edit func(*fleetv1.ServiceVersion)) *fleetv1.Service {
		return iris(func(s *fleetv1.Service) {
			s.Meta.Name = name
			if edit != nil {
				edit(s.Spec.Versions[0])
			}
		})
	}
	w.setQuota(func(s *fleetv1.QuotaSpec) {
		s.Instances, s.CpuMillis, s.MemoryBytes = proto.Int64(4), proto.Int64(3500), proto.Int64(64<<30)
		s.Devices = []*fleetv1.DeviceQuota{{Model: "H100*", Count: 1}, {Model: "*", Count: 2}}
	})
	_, err := w.deploy(called("big", func(v *fleetv1.ServiceVersion) { v.Instances = 5 }), "")
	w.exceeded("instances", err, `quota of project "default" would be exceeded: instances: 0 of 4 are taken by services and jobs that are to run, 5 more are asked for`)
	_, err = w.deploy(called("big", func(v *fleetv1.ServiceVersion) { v.Instances = 4 }), "")
	w.exceeded("CPU", err, "CPU: 0 cores of 3.5 cores are taken by services and jobs that are to run, 4 cores more")
	_, err = w.deploy(called("any", func(v *fleetv1.ServiceVersion) { v.Flavor, v.Instances = "gpu.1", 3 }), "")
	w.exceeded("any device", err, "devices *: 0 of 2 are taken")
	w.put(flavor("gpu.h", func(s *fleetv1.FlavorSpec) { s.Accelerator = &fleetv1.Accelerator{Model: "H100-*", Count: 2} }))
	w.put(&fleetv1.Node{Meta: meta("n2"), Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady}})
	_, err = w.deploy(called("glob", func(v *fleetv1.ServiceVersion) { v.Flavor = "gpu.h" }), "")
	if err == nil || !strings.Contains(err.Error(), "can ever hold") { // fitness comes before the quota
		t.Errorf("two devices on a node of one: %v", err)
	}
	if w.store.View().Service(fleetv1.Default, "big") != nil {
		t.Error("a refused service was made")
	}

	w.mustDeploy(called("one", nil))
	w.mustDeploy(called("two", func(v *fleetv1.ServiceVersion) { v.Instances = 2 }))
	w.setState("two", fleetv1.ServiceRunning)
	_, err = w.services().ScaleService(ctx, &fleetv1.ScaleServiceRequest{Name: "two", Instances: 3})
	w.exceeded("scale", err, "CPU: 3 cores of 3.5 cores are taken by services and jobs that are to run, 1 cores more")
	_, err = w.deploy(called("two", func(v *fleetv1.ServiceVersion) { v.Instances = 3 }), "")
	w.exceeded("redeploy", err, "CPU: 3 cores")

	// What is stopped asks for nothing; to start it again asks anew.
	if _, err := w.services().StopService(ctx, &fleetv1.StopServiceRequest{Name: "one"}); err != nil {
		t.Fatal(err)
	}
	w.setState("one", fleetv1.ServiceStopped)
	if _, err := w.services().ScaleService(ctx, &fleetv1.ScaleServiceRequest{Name: "two", Instances: 3}); err != nil {
		t.Errorf("there is room now: %v", err)
	}
	if _, err := w.services().ScaleService(ctx, &fleetv1.ScaleServiceRequest{Name: "one", Instances: 50}); err != nil {
		t.Errorf("a stopped service asks for nothing: %v", err)
	}
	_, err = w.services().StartService(ctx, &fleetv1.StartServiceRequest{Name: "one"})
	w.exceeded("start", err, "instances: 3 of 4 are taken by services and jobs that are to run, 50 more")

	// A quota that shrinks stops nothing: less may still be asked for, and what stands may be deployed again.
	w.setQuota(instances(1))
	if _, err := w.services().ScaleService(ctx, &fleetv1.ScaleServiceRequest{Name: "two", Instances: 2}); err != nil {
		t.Errorf("scaled down: %v", err)
	}
	if resp, err := w.deploy(called("two", func(v *fleetv1.ServiceVersion) { v.Instances = 2 }), ""); err != nil || resp.GetChanged() {
		t.Errorf("the same again: %v, %v", resp, err)
	}
}

func TestGangsCountOnEachNode(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.put(&fleetv1.Pool{Meta: meta("empty"), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolPublic, Selector: map[string]string{"no": "node"}}})
	w.setQuota(instances(5))
	_, err := w.deploy(iris(func(s *fleetv1.Service) {
		s.Spec.Pool, s.Spec.Versions[0].Nodes, s.Spec.Versions[0].Instances = "empty", 3, 2
	}), "")
	w.exceeded("gangs", err, "instances: 0 of 5 are taken by services and jobs that are to run, 6 more")
}

// However many ask at once, together they get no more than there is, and not less either.
func TestAdmissionAtOnce(t *testing.T) {
	for _, quota := range []int64{0, 2} {
		w := newWorld(t)
		w.furnish()
		want := 3 // of the user's own quota
		if quota > 0 {
			w.setQuota(instances(quota))
			want = int(quota)
		}
		var calls sync.WaitGroup
		var mu sync.Mutex
		made := 0
		for i := range 8 {
			calls.Go(func() {
				_, err := w.deploy(iris(func(s *fleetv1.Service) { s.Meta.Name = fmt.Sprint("s", i) }), "")
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made++
				} else if status.Code(err) != codes.ResourceExhausted {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if stand := len(w.store.View().Services("")); made != want || stand != want {
			t.Errorf("quota %d: %d of 8 were admitted, %d stand, want %d", quota, made, stand, want)
		}
	}
}

// A plan leaves the place alone that a call at the same time has taken for the service.
func TestPlanTakesNoPlace(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.setQuota(instances(3))
	w.mustDeploy(iris(nil))
	w.setState("iris", fleetv1.ServiceRunning)
	w.before = func() {
		w.plan(iris(nil))
		_, err := w.deploy(iris(func(s *fleetv1.Service) { s.Meta.Name, s.Spec.Versions[0].Instances = "other", 2 }), "")
		w.exceeded("beside a scaling", err, "instances: 2 of 3 are taken by services and jobs that are to run, 2 more")
	}
	if _, err := w.services().ScaleService(t.Context(), &fleetv1.ScaleServiceRequest{Name: "iris", Instances: 2}); err != nil {
		t.Fatal(err)
	}
}
