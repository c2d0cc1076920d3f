package api

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/registry"
)

func newIris(edit func(*fleetv1.Model)) *fleetv1.Model {
	m := &fleetv1.Model{Meta: &fleetv1.Meta{Name: "fresh"}, Spec: &fleetv1.ModelSpec{Image: "reg/iris:1"}}
	if edit != nil {
		edit(m)
	}
	return m
}

func (w *world) models() fleetv1.ModelServiceClient { return fleetv1.NewModelServiceClient(w.conn) }

func (w *world) create(m *fleetv1.Model) (*fleetv1.Model, error) {
	resp, err := w.models().CreateModel(w.t.Context(), &fleetv1.CreateModelRequest{Model: m})
	return resp.GetModel(), err
}

func TestCreateModelCompletesTheSpec(t *testing.T) {
	w := newWorld(t)
	m, err := w.create(newIris(func(m *fleetv1.Model) {
		m.Spec.Health = &fleetv1.HealthCheck{CheckMethod: "HTTP"}
		m.Spec.Apis = []*fleetv1.APIRoute{{Request: &fleetv1.APISchema{}}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := &fleetv1.ModelSpec{Version: "0.0.1", Image: "reg/iris:1", Api: &fleetv1.ModelAPI{Protocol: "http", Port: 8080},
		Health:      &fleetv1.HealthCheck{CheckMethod: "HTTP", Protocol: "http", Url: "/health", PeriodSeconds: 10, TimeoutSeconds: 5, FailureThreshold: 3},
		DeployTypes: []string{"real-time"}, RequestMode: "sync",
		Apis: []*fleetv1.APIRoute{{Url: "/", Method: "POST", Request: &fleetv1.APISchema{ContentType: "application/json"}}}}
	if !proto.Equal(m.GetSpec(), want) {
		t.Errorf("spec %v\nwant %v", m.GetSpec(), want)
	}
	wantStatus := &fleetv1.ModelStatus{State: "Normal", ImageDigest: "sha256:aa", Arches: []string{"amd64", "arm64"}}
	if !proto.Equal(m.GetStatus(), wantStatus) {
		t.Errorf("status %v", m.GetStatus())
	}
}

func TestModelVersions(t *testing.T) {
	w := newWorld(t)
	version := func(what string, edit func(*fleetv1.Model), want string) {
		t.Helper()
		if m, err := w.create(newIris(edit)); err != nil || m.GetSpec().GetVersion() != want {
			t.Errorf("%s: version %q, %v; want %s", what, m.GetSpec().GetVersion(), err, want)
		}
	}
	version("first", nil, "0.0.1")
	index := w.store.View().Index()
	version("the same without a version", nil, "0.0.1")
	version("the same with its version", func(m *fleetv1.Model) { m.Spec.Version = "0.0.1" }, "0.0.1")
	if w.store.View().Index() != index {
		t.Error("what stands was written again")
	}
	_, err := w.create(newIris(func(m *fleetv1.Model) { m.Spec.Version, m.Spec.Image = "0.0.1", "reg/iris:2" }))
	w.refused("another image", err, codes.AlreadyExists, "", `versions are immutable; it differs in spec.image ("reg/iris:1" → "reg/iris:2")`, index)
	w.images["reg/iris:1"] = registry.Image{Digest: "sha256:moved", Arches: []string{"amd64", "arm64"}}
	_, err = w.create(newIris(func(m *fleetv1.Model) { m.Spec.Version = "0.0.1" }))
	w.refused("a moved tag", err, codes.AlreadyExists, "", "sha256:moved", index)
	version("a moved tag without a version", nil, "0.0.2")
	version("a jump", func(m *fleetv1.Model) { m.Spec.Version, m.Spec.Description = "1.10.0", "x" }, "1.10.0")
	version("after the jump", nil, "1.10.1")

	resp, err := w.models().GetModel(t.Context(), &fleetv1.GetModelRequest{Name: "fresh"})
	if err != nil || resp.GetModel().GetSpec().GetVersion() != "1.10.1" {
		t.Errorf("the latest: %v, %v", resp, err)
	}
	if _, err := w.models().DeleteModel(t.Context(), &fleetv1.DeleteModelRequest{Name: "fresh"}); err != nil {
		t.Fatal(err)
	}
	if left := w.store.View().Models(fleetv1.Default, "fresh"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestCreateModelRefusals(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	before := w.store.View().Index()
	health := func(h *fleetv1.HealthCheck) func(*fleetv1.Model) {
		return func(m *fleetv1.Model) { m.Spec.Health = h }
	}
	const invalid = codes.InvalidArgument
	for _, c := range []struct {
		name, field, words string
		code               codes.Code
		edit               func(*fleetv1.Model)
	}{
		{"no spec", "model.spec", "missing", invalid, func(m *fleetv1.Model) { m.Spec = nil }},
		{"name", "model.meta.name", `'/'`, invalid, func(m *fleetv1.Model) { m.Meta.Name = "a/b" }},
		{"version", "model.spec.version", "x.y.z", invalid, func(m *fleetv1.Model) { m.Spec.Version = "v1.0.0" }},
		{"leading zero", "model.spec.version", "x.y.z", invalid, func(m *fleetv1.Model) { m.Spec.Version = "1.02.0" }},
		{"no image", "model.spec.image", "missing", invalid, func(m *fleetv1.Model) { m.Spec.Image = "" }},
		{"image form", "model.spec.image", "not an image reference", invalid, func(m *fleetv1.Model) { m.Spec.Image = "A B" }},
		{"absent image", "", "not found", codes.NotFound, func(m *fleetv1.Model) { m.Spec.Image = "reg/absent:1" }},
		{"architecture not offered", "model.spec.arch", "it offers amd64", codes.FailedPrecondition, func(m *fleetv1.Model) { m.Spec.Image, m.Spec.Arch = "reg/iris:2", "arm64" }},
		{"unknown architecture", "model.spec.arch", "amd64", invalid, func(m *fleetv1.Model) { m.Spec.Arch = "x86" }},
		{"protocol", "model.spec.api.protocol", "grpc", invalid, func(m *fleetv1.Model) { m.Spec.Api = &fleetv1.ModelAPI{Protocol: "udp"} }},
		{"port", "model.spec.api.port", "65536", invalid, func(m *fleetv1.Model) { m.Spec.Api = &fleetv1.ModelAPI{Port: 65536} }},
		{"no method", "model.spec.health.check_method", "missing", invalid, health(&fleetv1.HealthCheck{})},
		{"method", "model.spec.health.check_method", "EXEC", invalid, health(&fleetv1.HealthCheck{CheckMethod: "http"})},
		{"period", "model.spec.health.period_seconds", "-1", invalid, health(&fleetv1.HealthCheck{CheckMethod: "TCP", PeriodSeconds: -1})},
		{"delay", "model.spec.health.initial_delay_seconds", "0–2147483647", invalid, health(&fleetv1.HealthCheck{CheckMethod: "TCP", InitialDelaySeconds: -1})},
		{"threshold", "model.spec.health.failure_threshold", "1–2147483647", invalid, health(&fleetv1.HealthCheck{CheckMethod: "TCP", FailureThreshold: -3})},
		{"health path", "model.spec.health.url", "URL path", invalid, health(&fleetv1.HealthCheck{CheckMethod: "HTTP", Url: "//host/health"})},
		{"no exec command", "model.spec.health.command", "needs one", invalid, health(&fleetv1.HealthCheck{CheckMethod: "EXEC"})},
		{"url for TCP", "model.spec.health.url", "HTTP", invalid, health(&fleetv1.HealthCheck{CheckMethod: "TCP", Url: "/x"})},
		{"command", "model.spec.command[0]", "not empty", invalid, func(m *fleetv1.Model) { m.Spec.Command = []string{""} }},
		{"deploy type", "model.spec.deploy_types[0]", "batch", invalid, func(m *fleetv1.Model) { m.Spec.DeployTypes = []string{"edge"} }},
		{"deploy type twice", "model.spec.deploy_types[1]", "twice", invalid, func(m *fleetv1.Model) { m.Spec.DeployTypes = []string{"batch", "batch"} }},
		{"mode", "model.spec.request_mode", "async", invalid, func(m *fleetv1.Model) { m.Spec.RequestMode = "x" }},
		{"four documents", "model.spec.documents", "4 entries", invalid, func(m *fleetv1.Model) {
			for range 4 {
				m.Spec.Documents = append(m.Spec.Documents, &fleetv1.Document{Name: "d", Url: "https://docs.example.org"})
			}
		}},
		{"document", "model.spec.documents[0].url", "URL", invalid, func(m *fleetv1.Model) { m.Spec.Documents = []*fleetv1.Document{{Name: "d", Url: "docs"}} }},
		{"route", "model.spec.apis[0].method", "POST", invalid, func(m *fleetv1.Model) { m.Spec.Apis = []*fleetv1.APIRoute{{Method: "CALL"}} }},
		{"route twice", "model.spec.apis[1]", "twice", invalid, func(m *fleetv1.Model) { m.Spec.Apis = []*fleetv1.APIRoute{{}, {}} }},
		{"content type", "model.spec.apis[0].request.Content-type", "multipart", invalid, func(m *fleetv1.Model) {
			m.Spec.Apis = []*fleetv1.APIRoute{{Request: &fleetv1.APISchema{ContentType: "text/csv"}}}
		}},
		{"score", "model.spec.metrics.recall", "0–1", invalid, func(m *fleetv1.Model) { m.Spec.Metrics = &fleetv1.Scores{Recall: proto.Float64(1.01)} }},
		{"score that is no number", "model.spec.metrics.f1", "0–1", invalid, func(m *fleetv1.Model) { m.Spec.Metrics = &fleetv1.Scores{F1: proto.Float64(math.NaN())} }},
		{"accelerator", "model.spec.accelerator", "nvidia", invalid, func(m *fleetv1.Model) { m.Spec.Accelerator = "gpu" }},
		{"description", "model.spec.description", "101", invalid, func(m *fleetv1.Model) { m.Spec.Description = strings.Repeat("x", 101) }},
	} {
		_, err := w.create(newIris(c.edit))
		w.refused(c.name, err, c.code, c.field, c.words, before)
	}
}

func TestModelInUse(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.mustDeploy(iris(nil))
	before := w.store.View().Index()
	for _, version := range []string{"0.0.2", ""} {
		_, err := w.models().DeleteModel(t.Context(), &fleetv1.DeleteModelRequest{Name: "iris", Version: version})
		w.refused("used version "+version, err, codes.FailedPrecondition, "", "service default/iris uses it", before)
	}
	if _, err := w.models().DeleteModel(t.Context(), &fleetv1.DeleteModelRequest{Name: "iris", Version: "0.0.1"}); err != nil {
		t.Errorf("the other version: %v", err)
	}
	_, err := w.models().DeleteModel(t.Context(), &fleetv1.DeleteModelRequest{Name: "iris", Version: "0.0.1"})
	w.refused("gone", err, codes.NotFound, "", `did you mean "0.0.2"`, w.store.View().Index())
}

func FuzzValidVersion(f *testing.F) {
	for _, s := range []string{"", "0.0.1", "1.2", "1.2.3.4", "01.2.3", "1.2.-3", "999999999.0.0", "4294967296.0.0", "1.2.3 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !validVersion(s) {
			return
		}
		if next, err := nextVersion(s); err == nil && !validVersion(next) {
			t.Errorf("after %q comes %q", s, next)
		}
	})
}

func FuzzMountPath(f *testing.F) {
	for _, s := range []string{"", "/", "//", "/.", "/a/..", "/proc", "/procs", "/dev//shm", `/a\b`, "/a b", "/var/run", "/var/runs", "/models"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var v violations
		v.mountPath("p", s)
		if len(v.list) > 0 {
			return
		}
		if !strings.HasPrefix(s, "/") || strings.ContainsAny(s, " :\x00\n") || strings.HasPrefix(s+"/", "/proc/") {
			t.Errorf("%q is accepted", s)
		}
	})
}
