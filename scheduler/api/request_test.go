package api

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/registry"
)

// A request that finds everything as asked uses its ID up all the same.
func TestRequestIDOfARequestThatChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.mustDeploy(iris(nil))
	if resp, err := w.deploy(iris(nil), "r"); err != nil || resp.GetChanged() {
		t.Fatalf("%v, %v", resp, err)
	}
	before := w.store.View().Index()
	if _, err := w.deploy(iris(nil), "r"); err != nil || w.store.View().Index() != before {
		t.Errorf("the same again: %v", err)
	}
	_, err := w.deploy(iris(func(s *fleetv1.Service) { s.Meta.Name = "other" }), "r")
	w.refused("other body", err, codes.FailedPrecondition, "", `request ID "r" was used`, before)
}

// A CreateModel that is sent again answers the version that it made, though its registry is gone and there are
// newer versions.
func TestRepeatedCreateModel(t *testing.T) {
	w := newWorld(t)
	create := func(image, id string) (*fleetv1.Model, error) {
		resp, err := fleetv1.NewModelServiceClient(w.conn).CreateModel(t.Context(), &fleetv1.CreateModelRequest{RequestId: id,
			Model: &fleetv1.Model{Meta: &fleetv1.Meta{Name: "m"}, Spec: &fleetv1.ModelSpec{Image: image}}})
		return resp.GetModel(), err
	}
	first, err := create("reg/iris:1", "r1")
	if err != nil {
		t.Fatal(err)
	}
	second, err := create("reg/iris:2", "r2")
	if err != nil || second.GetSpec().GetVersion() != "0.0.2" {
		t.Fatalf("%v, %v", second, err)
	}
	clear(w.images)
	before := w.store.View().Index()
	for id, want := range map[string]*fleetv1.Model{"r1": first, "r2": second} {
		again, err := create(want.GetSpec().GetImage(), id)
		if err != nil || again.GetMeta().GetId() != want.GetMeta().GetId() {
			t.Errorf("%s again: %v, %v", id, again, err)
		}
	}
	if _, err := create("reg/iris:1", "r3"); err == nil {
		t.Error("a new request needs no registry")
	}
	if now := w.store.View().Index(); now != before {
		t.Errorf("the store went from %d to %d", before, now)
	}
}

func TestImagesThatCannotBeResolved(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	cause := errors.New("connection refused")
	w.broken = map[string]error{
		"reg/down:1":   &registry.Error{Image: "reg/down:1", Host: "reg", Kind: registry.ErrUnreachable, Err: cause, Hint: "check that it runs"},
		"reg/secret:1": &registry.Error{Image: "reg/secret:1", Host: "reg", Kind: registry.ErrUnauthorized, Hint: "log in again"},
	}
	before := w.store.View().Index()
	for image, want := range map[string]struct {
		code  codes.Code
		words string
	}{
		"reg/down:1":   {codes.Unavailable, `image "reg/down:1": registry reg gave no answer: connection refused; check that it runs`},
		"reg/secret:1": {codes.FailedPrecondition, `image "reg/secret:1": reg refused access; log in again`},
		"reg/absent:1": {codes.NotFound, `image "reg/absent:1" was not found at reg; push it`},
	} {
		_, err := fleetv1.NewModelServiceClient(w.conn).CreateModel(t.Context(), &fleetv1.CreateModelRequest{RequestId: image,
			Model: &fleetv1.Model{Meta: &fleetv1.Meta{Name: "new"}, Spec: &fleetv1.ModelSpec{Image: image}}})
		w.refused(image, err, want.code, "", want.words, before)
	}
}

// The ID of another tenant's request is free, and nothing is told of it.
func TestRequestIDsOfTenants(t *testing.T) {
	w := newWorld(t)
	w.settle()
	w.put(&fleetv1.Cluster{Meta: meta("cluster")})
	token := func(project string) string {
		resp, err := w.credentials().CreateToken(t.Context(), &fleetv1.CreateTokenRequest{Name: project, User: "ann", Scopes: []*fleetv1.Scope{scope(project, fleetv1.RoleDeployer)}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetSecret()
	}
	project := &fleetv1.Project{Meta: &fleetv1.Meta{Name: "speech", Account: "acme"}}
	if _, err := w.tenants().CreateProject(t.Context(), &fleetv1.CreateProjectRequest{Project: project}); err != nil {
		t.Fatal(err)
	}
	create := func(secret, name string) error {
		_, err := fleetv1.NewModelServiceClient(w.conn).CreateModel(bearing(t.Context(), secret), &fleetv1.CreateModelRequest{RequestId: "r",
			Model: &fleetv1.Model{Meta: &fleetv1.Meta{Name: name}, Spec: &fleetv1.ModelSpec{Image: "reg/iris:1"}}})
		return err
	}
	for _, name := range []string{"vision", "speech"} {
		secret := token(name)
		if err := create(secret, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(w.store.View().Models(name, "")) != 1 {
			t.Errorf("%s has %v", name, w.store.View().Models(name, ""))
		}
		before := w.store.View().Index()
		if err := create(secret, name); err != nil || w.store.View().Index() != before {
			t.Errorf("%s again: %v", name, err)
		}
		w.refused("another body", create(secret, "other"), codes.FailedPrecondition, "", `request ID "r" was used`, before)
	}
}
